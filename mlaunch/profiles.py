"""Profiles: what programs cost, learned at each end of one, known at the next exec of it.

A profile belongs to an executable and a shape of its arguments (mlaunch.shape); all shapes of an
executable are pooled besides, for arguments of a shape never seen. All of it is in memory: `lookup`
and `learn` read and write no disk but for one stat(2) in `learn`; `flush` writes what has changed.
Not for several threads.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaunch.profilestore import COLUMNS, Store, default_path, is_sound
from mlaunch.shape import shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    Key = tuple[str, str]

MOST_ROWS = 20_000

# The last eight runs count for most of a mean: a project grows, a file system is cold once.
MEMORY_OF_RUNS = 8
# An upgraded executable is as well known as one that has run so often.
RUNS_AFTER_UPGRADE = 2
# Once there is a mean worth the name, a single run counts for no more than so many times of it.
OUTLIER = 4.0
RUNS_BEFORE_OUTLIERS = 3

# A row for all shapes: no shape has parentheses around it.
POOL = "(any)"

# A starter: it has several children at once, or many, and leaves the work to them.
STARTER_PEAK = 1.5
STARTER_CHILDREN = 8
STARTER_SHARE = 0.20

HOME, NODE = "home", "node"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run that has ended.

    `where` it ran: "home" or "node". `cpu_s` its own CPU time and that of the children it waited
    for, in seconds of a CPU of home: who measured on a node corrects for its speed. `own_cpu_s`
    without the children, below 0 if that is not known. `children` processes it started, directly or
    not, and `peak_children` most of them at once, 0 if that is not known (on a node it is not).
    `cold`: the node had to be brought the program's files, so its traffic tells of no other run.
    """

    where: str
    cpu_s: float
    wall_s: float = 0.0
    maxrss_kib: int = 0
    children: int = 0
    peak_children: int = 0
    round_trips: int = 0
    bytes_to_node: int = 0
    bytes_to_home: int = 0
    own_cpu_s: float = -1.0
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """What is expected of the next run.

    Means of the last runs, but `memory` in bytes is what nearly all of them got by with, and
    `cpu_spread` the mean distance from the mean. Round trips and bytes are those of a run that
    found its files on the node; one of the first `node_runs` did not. `pooled`: of other
    arguments, so that it says less.
    """

    runs: int
    cpu_s: float
    cpu_spread: float
    wall_s: float
    memory: int
    children: float
    peak_children: float
    node_runs: int
    round_trips: float
    bytes_to_node: float
    bytes_to_home: float
    starter: bool
    pooled: bool


class _Row:
    """A profile that grows; the attributes are the columns of the file."""

    __slots__ = (*COLUMNS, "profile")

    def __init__(self, exe: str, shape: str) -> None:
        self.exe = exe
        self.shape = shape
        self.identity = ""
        self.runs = self.node_runs = self.used = 0
        self.cpu_s = self.cpu_spread = self.wall_s = self.memory = 0.0
        self.own_share = 1.0
        self.children = self.peak_children = 0.0
        self.round_trips = self.bytes_to_node = self.bytes_to_home = 0.0
        self.profile: Profile | None = None

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> _Row:
        """Return a row as it was written."""
        row = cls(values[0], values[1])
        for name, value in zip(COLUMNS, values, strict=True):
            setattr(row, name, value)
        return row

    def values(self) -> tuple[Any, ...]:
        """Return what is written."""
        return tuple(getattr(self, name) for name in COLUMNS)

    def take(self, sample: Sample, identity: str) -> None:
        """Let one more run count."""
        if identity and self.identity and identity != self.identity:
            self.runs = min(self.runs, RUNS_AFTER_UPGRADE)
            self.node_runs = min(self.node_runs, RUNS_AFTER_UPGRADE)
        self.identity = identity or self.identity
        self.used = int(time.time())
        self.profile = None
        self.runs += 1
        weight = 1 / min(self.runs, MEMORY_OF_RUNS)
        cpu_s = max(0.0, sample.cpu_s)
        if self.runs > RUNS_BEFORE_OUTLIERS and self.cpu_s:
            cpu_s = min(cpu_s, self.cpu_s * OUTLIER)
        before = self.cpu_s if self.runs > 1 else cpu_s
        self.cpu_s += (cpu_s - self.cpu_s) * weight
        self.cpu_spread += (abs(cpu_s - before) - self.cpu_spread) * weight
        self.wall_s += (max(0.0, sample.wall_s) - self.wall_s) * weight
        # Up at once, down slowly: who gets too little memory is worse off than who waits.
        memory = float(max(0, sample.maxrss_kib) << 10)
        self.memory = max(memory, self.memory + (memory - self.memory) / MEMORY_OF_RUNS)
        if sample.own_cpu_s >= 0:
            share = min(1.0, sample.own_cpu_s / sample.cpu_s) if sample.cpu_s > 0 else 0.0
            self.own_share += (share - self.own_share) * weight
        if sample.where == HOME or sample.children:
            self.children += (sample.children - self.children) * weight
            self.peak_children += (sample.peak_children - self.peak_children) * weight
        if sample.where == NODE and not sample.cold:
            self._take_traffic(sample)

    def _take_traffic(self, sample: Sample) -> None:
        self.node_runs += 1
        first = self.node_runs == 1
        for name in ("round_trips", "bytes_to_node", "bytes_to_home"):
            before, now = getattr(self, name), float(getattr(sample, name))
            # Down at once, up slowly: a first run on a node brings the program's files there, and
            # who takes that for its nature never sends it again to see the second.
            if not first:
                now = min(now, before + (now - before) / MEMORY_OF_RUNS)
            setattr(self, name, now)

    def known(self) -> Profile:
        """Return it as others see it."""
        if self.profile is None:
            many = self.peak_children > STARTER_PEAK or self.children > STARTER_CHILDREN
            self.profile = Profile(
                runs=self.runs,
                cpu_s=self.cpu_s,
                cpu_spread=self.cpu_spread,
                wall_s=self.wall_s,
                memory=int(self.memory),
                children=self.children,
                peak_children=self.peak_children,
                node_runs=self.node_runs,
                round_trips=self.round_trips,
                bytes_to_node=self.bytes_to_node,
                bytes_to_home=self.bytes_to_home,
                starter=many and self.own_share < STARTER_SHARE,
                pooled=self.shape == POOL,
            )
        return self.profile


class Profiles:
    """All profiles of a user."""

    def __init__(self, path: str = "", most: int = MOST_ROWS) -> None:
        """Read those at `path`, the user's own if empty; keep the `most` used last."""
        self._store = Store(path or default_path())
        self._most = most
        self._changed: set[Key] = set()
        self._dropped: set[Key] = set()
        # As they were read until somebody asks: thousands, of which a build needs a few.
        self._rows: OrderedDict[Key, _Row | tuple[Any, ...]] = OrderedDict(
            (values[:2], values) for values in self._store.load(most)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, exe: str, argv: Sequence[str], cwd: str = "") -> Profile | None:
        """Return what is known of such a run, else of the executable, None of one never seen."""
        exe = _storable(exe)
        pool = self._find((exe, POOL))
        if pool is None:
            return None
        row = self._find((exe, shape(exe, argv, cwd)))
        return (row or pool).known()

    def learn(self, exe: str, argv: Sequence[str], sample: Sample, cwd: str = "") -> None:
        """Let a run that has ended count; written by the next `flush`."""
        identity = _identity(exe)
        exe = _storable(exe)
        for key in ((exe, shape(exe, argv, cwd)), (exe, POOL)):
            row = self._find(key)
            if row is None:
                row = self._rows[key] = _Row(*key)
                self._dropped.discard(key)
            row.take(sample, identity)
            self._changed.add(key)
        while len(self._rows) > self._most:
            key, _ = self._rows.popitem(last=False)
            self._changed.discard(key)
            self._dropped.add(key)

    def _find(self, key: Key) -> _Row | None:
        """Return a row, now the one used last; None if there is none, or none that makes sense."""
        row = self._rows.get(key)
        if row is None:
            return None
        if isinstance(row, tuple):
            if not is_sound(row):
                del self._rows[key]
                self._changed.discard(key)
                return None
            row = self._rows[key] = _Row.of(row)
        self._rows.move_to_end(key)
        return row

    def flush(self) -> None:
        """Write what has changed; what cannot be written now is kept for the next time."""
        if not self._changed and not self._dropped:
            return
        rows = [self._values(key) for key in self._changed]
        if self._store.write(rows, self._dropped):
            self._changed.clear()
            self._dropped.clear()
        if self._store.begun_anew:
            self._store.begun_anew = False
            self._changed = {key for key in list(self._rows) if self._find(key)}

    def _values(self, key: Key) -> tuple[Any, ...]:
        row = self._rows[key]
        return row if isinstance(row, tuple) else row.values()

    def close(self) -> None:
        """Write what has changed, and close the file."""
        self.flush()
        self._store.close()


def _storable(path: str) -> str:
    """Return a path that may hold bytes which are no UTF-8 as text that SQLite takes."""
    if path.isascii():
        return path
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _identity(exe: str) -> str:
    """Return what tells a version of an executable from the next; empty when it is gone."""
    try:
        found = os.stat(exe)
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"
