"""The examination of home and of nodes: step by step, over connections of its own.

Nodes are looked at in parallel, one thread each; their links are measured one after another, since
all of them begin with home's CPUs and home's line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlaunch import bootstrap, client, config, homechecks, local, sshconfig, suggest
from mlaunch.errors import LaunchError, plain
from mlaunch.findings import BAD, GOOD, NOTE, Finding, size
from mlaunch.placement import HOME
from stubs.link import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlaunch.ssh import Connection

AGENT_WAIT_S = 12.0
SPEED_WAIT_S = 15.0
LOCAL_TIMEOUT_S = 20

# Names of what is not in the configuration.
SPECIAL = (HOME, local.NAME)

# More than that a program may notice that compares the time with that of its files.
MOST_CLOCK_S = 1.0

_VERSION = "import sys;print('%d.%d'%sys.version_info[:2])"


class Doctor:
    """One examination."""

    def __init__(self, name: str | None, *, quick: bool) -> None:
        """Examine home and all nodes (with none configured, `local`), or one of them.

        `quick` leaves out what takes seconds. LaunchError when there is no such node, or the
        configuration is wrong.
        """
        configured = config.load(runtime.config_path())
        self._config = configured
        self._home = name in (None, HOME)
        self._nodes = _chosen(configured, name)
        self._quick = quick
        self._line = threading.Lock()  # held by who measures

    @property
    def names(self) -> list[str]:
        """Who is examined, in order."""
        return [HOME] * self._home + [node.name for node in self._nodes]

    def examine(self) -> Iterator[list[Finding]]:
        """Yield what is found, for each of `names` in that order, as soon as it is known."""
        # First: it forks, and its question finds the daemon as it was.
        if self._home:
            yield homechecks.examine(self._config)
        if self._nodes:
            with ThreadPoolExecutor(len(self._nodes)) as pool:
                yield from pool.map(self._examine_node, self._nodes)

    def _examine_node(self, node: config.Node) -> list[Finding]:
        findings = _examine_local(node) if node.name == local.NAME else _examine_remote(node)
        if not all(finding.good for finding in findings):
            return findings
        agent = _ask_agent(node)
        findings.append(agent)
        if agent.good and not self._quick:
            with self._line:
                findings.append(_measure(node))
        return findings


def _chosen(configured: config.Config, name: str | None) -> list[config.Node]:
    here = config.Node(local.NAME, local.NAME)
    if name is None:
        return list(configured.nodes) or [here]
    if name == HOME:
        return []
    if name == local.NAME:
        return [here]
    found = configured.node(name)
    if found is None:
        raise suggest.unknown_node(name, [node.name for node in configured.nodes], SPECIAL)
    return [found]


def _examine_local(node: config.Node) -> list[Finding]:
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", _checks()],
        capture_output=True,
        text=True,
        timeout=LOCAL_TIMEOUT_S,
        check=False,
    )
    return _findings(node, done.stdout, done.stderr, began)


def _examine_remote(node: config.Node) -> list[Finding]:
    from mlaunch.ssh import Connection, LoginError

    try:
        host = sshconfig.lookup(node.host, node.user, node.port)
        connection = Connection(host)
    except LoginError as error:
        return [
            Finding(node.name, "ssh", GOOD, "sshd answers, its host key is known"),
            Finding(node.name, "key", BAD, error.text, error.hint),
        ]
    except LaunchError as error:
        return [Finding(node.name, "ssh", BAD, error.text, error.hint)]
    try:
        there = f"{host.hostname} port {host.port}, host key known, {connection.software}"
        findings = [
            Finding(node.name, "ssh", GOOD, there),
            Finding(node.name, "key", GOOD, f"logged in as {host.user}"),
        ]
        return findings + _examine_python(node, connection)
    finally:
        connection.close()


def _examine_python(node: config.Node, connection: Connection) -> list[Finding]:
    try:
        asked = connection.run(bootstrap.python_command(_VERSION))
        version = asked.read_all().decode(errors="replace").strip().rpartition("\n")[2]
        numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
        if not numbers:
            raise bootstrap.explain(asked.failure())
        if numbers < bootstrap.OLDEST_PYTHON:
            raise bootstrap.too_old(plain(version))
        began = time.time()
        checks = connection.run(bootstrap.python_command(_checks()))
        output = checks.read_all().decode(errors="replace")
        return _findings(node, output, checks.failure(), began)
    except LaunchError as error:
        return [Finding(node.name, "python", BAD, error.text, error.hint)]


def _findings(node: config.Node, output: str, errors: str, began: float) -> list[Finding]:
    """Read what nodechecks printed, on the last line: login scripts may print something before.

    It was started at `began` and has just ended.
    """
    try:
        told = json.loads(output.strip().rpartition("\n")[2])
        findings = [
            Finding(node.name, plain(check), _state(state), plain(text), plain(remedy))
            for check, (state, text, remedy) in told["found"].items()
        ]
        return [*findings, _clock(node, float(told["clock"]), began)]
    except (ValueError, AttributeError, TypeError, KeyError):
        return [Finding(node.name, "python", BAD, plain(f"the checks do not run: {errors}"))]


def _state(told: str) -> str:
    return told if told in (GOOD, NOTE) else BAD


def _clock(node: config.Node, told: float, began: float) -> Finding:
    """Compare the node's clock with ours: what it told it read between `began` and now."""
    ended = time.time()
    apart = max(began - told, told - ended, 0.0)
    if apart <= MOST_CLOCK_S:
        return Finding(node.name, "clock", GOOD, "as at home")
    text = f"{apart:.0f} s {'behind' if told < began else 'ahead of'} home's"
    remedy = "let both run NTP: timedatectl set-ntp true"
    return Finding(node.name, "clock", NOTE, text, remedy)


def _checks() -> str:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nodechecks.py")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _ask_agent(node: config.Node) -> Finding:
    """Have the daemon connect to it for real."""
    answer = client.ask({"do": "nodes", "name": node.name, "wait": AGENT_WAIT_S})["nodes"][0]
    if answer["state"] == "ready":
        away = f", {answer['rtt_ms']:.1f} ms away" if answer["rtt_ms"] is not None else ""
        return Finding(node.name, "agent", GOOD, f"ready{away}")
    return Finding(node.name, "agent", BAD, answer["reason"] or answer["state"], answer["remedy"])


def _measure(node: config.Node) -> Finding:
    """Have the daemon measure its link."""
    try:
        values = client.ask({"do": "speed", "name": node.name, "wait": SPEED_WAIT_S})
    except LaunchError as error:
        return Finding(node.name, "speed", BAD, error.text, error.hint)
    there, back = values["to_node_bytes_per_s"], values["to_home_bytes_per_s"]
    parts = [f"{values['rtt_ms']:.1f} ms away", f"{size(there)}/s there, {size(back)}/s back"]
    if values["speed"] and values["home_speed"]:
        parts.append(f"a CPU is {values['speed'] / values['home_speed']:.2f} times home's")
    return Finding(node.name, "speed", GOOD, ", ".join(parts), values=values)
