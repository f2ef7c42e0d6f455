"""The examination of nodes: step by step, over connections of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlaunch import bootstrap, client, config, local, sshconfig
from mlaunch.errors import LaunchError, plain
from stubs.link import runtime

if TYPE_CHECKING:
    from mlaunch.ssh import Connection

AGENT_WAIT_S = 12.0
LOCAL_TIMEOUT_S = 20

_VERSION = "import sys;print('%d.%d'%sys.version_info[:2])"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one node."""

    node: str
    check: str
    good: bool
    text: str
    remedy: str = ""


def examine(name: str | None) -> list[Finding]:
    """Look at the node of that name, or at all of them (with none configured, at `local`)."""
    configured = config.load(runtime.config_path())
    if name is None:
        nodes = list(configured.nodes) or [config.Node(local.NAME, local.NAME)]
    elif name == local.NAME:
        nodes = [config.Node(local.NAME, local.NAME)]
    else:
        found = configured.node(name)
        if found is None:
            known = ", ".join(node.name for node in configured.nodes)
            raise LaunchError(f"no node {name}", f"known are: {known}" if known else "")
        nodes = [found]
    with ThreadPoolExecutor(len(nodes)) as pool:
        results = list(pool.map(_examine_one, nodes))
    return [finding for result in results for finding in result]


def _examine_one(node: config.Node) -> list[Finding]:
    findings = _examine_local(node) if node.name == local.NAME else _examine_remote(node)
    if all(finding.good for finding in findings):
        findings.append(_ask_agent(node))
    return findings


def _examine_local(node: config.Node) -> list[Finding]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", _checks()],
        capture_output=True,
        text=True,
        timeout=LOCAL_TIMEOUT_S,
        check=False,
    )
    return _findings(node, done.stdout, done.stderr)


def _examine_remote(node: config.Node) -> list[Finding]:
    from mlaunch.ssh import Connection, LoginError

    try:
        host = sshconfig.lookup(node.host, node.user, node.port)
        connection = Connection(host)
    except LoginError as error:
        return [
            Finding(node.name, "ssh", True, "sshd answers, its host key is known"),
            Finding(node.name, "key", False, error.text, error.hint),
        ]
    except LaunchError as error:
        return [Finding(node.name, "ssh", False, error.text, error.hint)]
    try:
        findings = [
            Finding(node.name, "ssh", True, f"{host.hostname} port {host.port}, host key known"),
            Finding(node.name, "key", True, f"logged in as {host.user}"),
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
        checks = connection.run(bootstrap.python_command(_checks()))
        return _findings(node, checks.read_all().decode(errors="replace"), checks.failure())
    except LaunchError as error:
        return [Finding(node.name, "python", False, error.text, error.hint)]


def _findings(node: config.Node, output: str, errors: str) -> list[Finding]:
    """Read what nodechecks printed, on the last line: login scripts may print something before."""
    try:
        found = json.loads(output.strip().rpartition("\n")[2])
        return [
            Finding(node.name, str(check), bool(good), plain(str(text)), plain(str(remedy)))
            for check, (good, text, remedy) in found.items()
        ]
    except (ValueError, AttributeError, TypeError):
        return [Finding(node.name, "python", False, plain(f"the checks do not run: {errors}"))]


def _checks() -> str:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nodechecks.py")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _ask_agent(node: config.Node) -> Finding:
    """Have the daemon connect to it for real."""
    answer = client.ask({"do": "nodes", "name": node.name, "wait": AGENT_WAIT_S})["nodes"][0]
    if answer["state"] == "ready":
        away = f", {answer['rtt_ms']:.1f} ms away" if answer["rtt_ms"] is not None else ""
        return Finding(node.name, "agent", True, f"ready{away}")
    return Finding(node.name, "agent", False, answer["reason"] or answer["state"], answer["remedy"])
