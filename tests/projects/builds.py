"""A build at home, natively or under mrun, and all that can be seen of it afterwards."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster import Host
from tests.projects.catalog import Project, Step

SNAPSHOT = Path(__file__).with_name("snapshot.py").read_text()
RECEIPT = "/home/alice/build-receipt.json"
STEP_TIMEOUT = 550  # seconds; a test has little more

Tree = dict[str, list[str]]


@dataclass(frozen=True)
class Outcome:
    """What must be the same however a project was built."""

    statuses: list[int]
    outputs: list[list[str]]  # of each step: what it said, sorted, as parallel commands say it
    tree: Tree

    def dump(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> Outcome:
        """Read what `dump` wrote."""
        return Outcome(**json.loads(text))


def mrun(*options: str) -> tuple[str, ...]:
    """Return the words before a command that let its children spread.

    With MLAUNCH_BUILDS_NATIVELY in the environment there are none: native must equal native, or
    a comparison says nothing about mrun.
    """
    return () if natively() else ("mrun", *options)


def natively() -> bool:
    """Tell whether builds "under mrun" are native ones, to check the checks."""
    return "MLAUNCH_BUILDS_NATIVELY" in os.environ


def lay(home: Host, project: Project) -> None:
    """Put a project's source, times included, where it is built."""
    script = 'rm -rf "$2"; mkdir -p "${2%/*}"; cp -r --preserve=mode,timestamps "$1" "$2"'
    argv = ("sh", "-ec", script, "sh", project.source(), project.directory)
    home.run(argv, check=True, timeout=180)


def run_step(
    home: Host, project: Project, step: Step, jobs: int, prefix: tuple[str, ...]
) -> tuple[int, list[str]]:
    """Run one command; return its status and the lines that must be the same, sorted."""
    done = home.run(
        (*prefix, *step.command(jobs)),
        cwd=project.directory,
        env=project.environment,
        timeout=STEP_TIMEOUT,
    )
    return done.returncode, steady_lines(step, done.stdout + done.stderr)


def steady_lines(step: Step, said: bytes) -> list[str]:
    """Return those lines of what a command said that must be the same, sorted."""
    lines = said.decode(errors="replace").splitlines()
    unsteady = [re.compile(pattern) for pattern in step.unsteady_lines]
    return sorted(line for line in lines if not any(p.search(line) for p in unsteady))


def snapshot(home: Host, project: Project, directory: str = "") -> Tree:
    """Return what the project's directory holds now, or another one like it."""
    rules = json.dumps(project.unsteady), json.dumps(project.unordered)
    argv = ("/usr/bin/python3", "-c", SNAPSHOT, directory or project.directory, *rules)
    tree: Tree = json.loads(home.run(argv, check=True, timeout=180).stdout)
    return tree


def build(home: Host, project: Project, jobs: int, under_mrun: bool) -> tuple[Outcome, list[Any]]:
    """Build a project that has been laid; return its outcome and the bodies of all receipts."""
    statuses, outputs, bodies = [], [], []
    for step in project.steps:
        prefix = mrun("--stats", RECEIPT) if under_mrun else ()
        status, said = run_step(home, project, step, jobs, prefix)
        statuses.append(status)
        outputs.append(said)
        if prefix:
            bodies += read_bodies(home)
    return Outcome(statuses, outputs, snapshot(home, project)), bodies


def read_bodies(home: Host, path: str = RECEIPT) -> list[Any]:
    """Return what a receipt tells of each body."""
    bodies: list[Any] = json.loads(home.read(path))["bodies"]
    return bodies


def decode(text: bytes) -> list[Any]:
    """Return a JSON list."""
    rows: list[Any] = json.loads(text)
    return rows


def on_nodes(bodies: list[Any]) -> list[Any]:
    """Return those bodies that were not at home."""
    return [body for body in bodies if body["node"] != "home"]


def differences(native: Tree, other: Tree) -> list[str]:
    """Return what is not the same in two trees, one line for each name."""
    names = sorted(native.keys() | other.keys())
    return [
        f"{name}: natively {native.get(name)}, now {other.get(name)}"
        for name in names
        if native.get(name) != other.get(name)
    ]


def assert_same(native: Outcome, other: Outcome) -> None:
    """Fail unless two builds did the same."""
    assert other.statuses == native.statuses, other.outputs
    for theirs, ours in zip(native.outputs, other.outputs, strict=True):
        assert ours == theirs
    assert differences(native.tree, other.tree) == []
