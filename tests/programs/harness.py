"""The same program natively and under mrun, and what must then be the same.

A `Case` is a shell script. Natively it runs as it stands; on a node either the shell that runs it
is started by mrun, or, where the case says so with `$MRUN`, whatever follows that word is. Native
is the oracle: nothing here knows what a program should print.
"""

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import IO, Any

from tests.programs.nodes import on

CASES = "/home/alice/cases"
RECEIPT = "/home/alice/receipt.json"
DEADLINE = 60.0  # seconds; the slowest case takes one natively


@dataclass(frozen=True)
class Case:
    """One program, and what of it may differ."""

    name: str
    script: str
    setup: str = ""  # runs natively on both sides, in the same directory, beforehand
    stdin: str = ""  # as Latin-1
    # Runs at home under mrun too: the kernel refuses a set-user-ID program to whoever is traced,
    # and to whoever is in a user namespace that lacks its owner.
    at_home: bool = False
    # Differs from run to run natively, too; each use says why.
    replace: tuple[tuple[str, str], ...] = ()  # (regular expression, text) in output
    contents_differ: tuple[str, ...] = ()  # patterns of file names
    times_differ: tuple[str, ...] = ()  # patterns of names that are not written one after another

    @property
    def slug(self) -> str:
        """The name as pytest shows it and as its directory is called."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def says_where(self) -> bool:
        """Whether the script itself starts mrun, rather than mrun the script."""
        return "$MRUN" in self.script


@dataclass(frozen=True)
class Entry:
    """A name in the tree that a program left, and what is behind it."""

    path: str
    type: str
    mode: int
    size: int
    holds: str
    first_link: str
    mtime_ns: int


@dataclass(frozen=True)
class Result:
    """All that can be seen of a program when it has ended."""

    stdout: str
    stderr: str
    status: int
    tree: tuple[Entry, ...]
    began_ns: int
    ended_ns: int
    receipt: str  # what mrun wrote with --stats, empty if nothing


class CaseError(Exception):
    """A case did not come to its end, so that there is nothing to compare."""


class Runner:
    """The process at home that runs cases; see runner.py."""

    def __init__(self, requests: IO[bytes], replies: IO[bytes]) -> None:
        self._requests = requests
        self._replies = replies

    def run(self, case: Case, mrun: tuple[str, ...] = ()) -> Result:
        """Run a case in a fresh directory, with the words of `mrun` or none before the program."""
        # Not exported: what a program says of its environment is to be the same.
        words = f"MRUN='{' '.join(mrun)}'\n" if case.says_where else ""
        shell = ("bash", "-c", words + case.script)
        request = {
            "argv": shell if case.says_where else (*mrun, *shell),
            "setup": case.setup,
            "directory": f"{CASES}/{case.slug}",
            "receipt": RECEIPT,
            "stdin": case.stdin,
            "deadline": DEADLINE,
        }
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        reply: dict[str, Any] = json.loads(self._replies.readline())
        if "broken" in reply:
            raise CaseError(f"{case.name}: {reply['broken']}")
        tree = tuple(Entry(*row) for row in reply.pop("tree"))
        return Result(**reply, tree=tree)


def _output(case: Case, raw: str) -> str:
    for pattern, text in case.replace:
        raw = re.sub(pattern, text, raw)
    return raw


def _listing(case: Case, tree: tuple[Entry, ...]) -> list[str]:
    """One line per name, without its time."""
    lines = []
    for entry in tree:
        same = not any(fnmatchcase(entry.path, pattern) for pattern in case.contents_differ)
        what = f"{entry.size} {entry.holds}" if same else "(differs)"
        link = "" if entry.first_link == entry.path else f" = {entry.first_link}"
        lines.append(f"{entry.path!r} {entry.type} {entry.mode:04o} {what}{link}")
    return lines


def _timed(case: Case, result: Result) -> dict[str, int]:
    return {
        entry.path: entry.mtime_ns
        for entry in result.tree
        if not any(fnmatchcase(entry.path, pattern) for pattern in case.times_differ)
    }


def _disorder(case: Case, native: Result, other: Result) -> list[str]:
    """Pairs of files of which the one natively older is the newer one now."""
    times = _timed(case, other)
    old_first = sorted(_timed(case, native).items(), key=lambda item: item[1])
    swapped = []
    newest, newest_path = -1, ""
    group: list[str] = []
    for index, (path, stamp) in enumerate(old_first):
        group.append(path)
        # Files of one moment may come in any order among themselves.
        if index + 1 < len(old_first) and old_first[index + 1][1] == stamp:
            continue
        swapped += [f"{newest_path!r} before {late!r}" for late in group if times[late] < newest]
        top = max(group, key=lambda name: times[name])
        if times[top] > newest:
            newest, newest_path = times[top], top
        group = []
    return swapped


def assert_same(case: Case, native: Result, other: Result) -> None:
    """Fail unless a program did the same in both runs."""
    assert other.status == native.status, (other.status, native.status, other.stderr, other.stdout)
    assert _output(case, other.stderr) == _output(case, native.stderr)
    assert _output(case, other.stdout) == _output(case, native.stdout)
    assert _listing(case, other.tree) == _listing(case, native.tree)
    assert _disorder(case, native, other) == []
    set_natively = _times_set(case, native)
    times = _timed(case, other)
    assert {path: times[path] for path in set_natively} == set_natively


def _times_set(case: Case, result: Result) -> dict[str, int]:
    """Return the times outside of the run: only utimensat(2) makes those, so they are exact."""
    slack = 10**9  # a file's time comes from a clock that may lag by a tick
    begin, end = result.began_ns - slack, result.ended_ns + slack
    return {path: t for path, t in _timed(case, result).items() if not begin <= t <= end}


class Oracle:
    """Runs each case natively and on a node."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def compare(self, case: Case, node: str = "n1") -> None:
        """Fail unless the case does on a node what it does at home, and does it there."""
        native = self._runner.run(case)
        mrun = ("mrun",) if case.at_home else on(node)
        other = self._runner.run(case, (*mrun, "--stats", RECEIPT))
        assert_same(case, native, other)
        if not (case.at_home or case.says_where):
            assert [body["node"] for body in json.loads(other.receipt)["bodies"]] == [node]
