"""What is known about one program of a run, and of the run as a whole.

A build may have 100 000 programs: a record takes some hundred bytes, whatever the arguments, and
programs of an eye-blink at home leave none.
"""

from __future__ import annotations

import os
import time

HOME = "home"
LOCAL = "local"

# What runs at home for a shorter time is left out of a story: a build has tens of thousands.
BRIEF_SECONDS = 0.005

# So much of the arguments is kept for a story, in bytes. A receipt has them whole.
MOST_ARGUMENTS = 400

# How a stay ended that was not the last one of a body.
LOST = "lost"
MOVED = "moved"


class Migration:
    """A move of a program from one place to another: why, and what it cost."""

    __slots__ = ("bytes", "freeze_ms", "source", "target", "why")

    def __init__(self, source: str, target: str, why: str, freeze_ms: float, bytes: int) -> None:
        """Note it; places are HOME and names of nodes."""
        self.source = source
        self.target = target
        self.why = why
        self.freeze_ms = freeze_ms
        self.bytes = bytes


class Record:
    """One program. Times are seconds of the monotonic clock, `status` is as wait4(2) has it."""

    __slots__ = (
        "_argv",
        "began",
        "bytes_to_home",
        "bytes_to_node",
        "cpu_s",
        "departure_s",
        "ended",
        "is_away",
        "maxrss_kib",
        "migrations",
        "node",
        "own_s",
        "parent",
        "pid",
        "restarts",
        "round_trips",
        "status",
        "stays",
        "wall_s",
        "why",
    )

    def __init__(self, pid: int, argv: list[bytes], node: str, why: str, most: int = 0) -> None:
        """Begin now; `most` bytes of the arguments are kept, 0: all."""
        joined = b"\0".join(argv)
        # A word of its own says that there were more.
        self._argv = joined if not most or len(joined) <= most else joined[:most] + b"\0..."
        self.pid = pid
        self.node = node
        self.why = why
        self.is_away = node != HOME  # it is, or was in the end, a body
        self.parent: Record | None = None  # of what started it; for a story only
        self.began = time.monotonic()
        self.ended: float | None = None
        self.wall_s = 0.0
        self.status: int | None = None  # not known: it was lost, or another program took its place
        self.cpu_s = 0.0  # with the children that it waited for
        self.own_s = 0.0  # without those at home
        self.maxrss_kib = 0
        self.departure_s = 0.0  # from its exec to its body's begin
        self.round_trips = 0
        self.bytes_to_node = 0
        self.bytes_to_home = 0
        self.restarts = 0
        self.stays: tuple[tuple[str, float, float, str], ...] = ()  # before: node, from, to, how
        self.migrations: tuple[Migration, ...] = ()  # one for each stay that ended as MOVED

    @property
    def argv(self) -> list[bytes]:
        """The program's arguments, or as many of them as are kept."""
        return self._argv.split(b"\0")

    def end_at_home(self, status: int, cpu_s: float, own_s: float, maxrss_kib: int) -> None:
        """Note its end at home."""
        self.ended = time.monotonic()
        self.status = status
        self.cpu_s = cpu_s
        self.own_s = own_s
        self.maxrss_kib = maxrss_kib


class Run:
    """What ran under one mrun; times in seconds, `began` of the monotonic clock."""

    def __init__(self, argv: list[bytes]) -> None:
        """Start the clock."""
        self.argv = argv  # what mrun was started for; of an inner one it is not known yet
        self.began = time.monotonic()
        self.began_at = time.time()
        self.all: list[Record] = []  # of what has ended, in this order
        self.running: dict[int, Record] = {}  # at home, by pid
        self.program: Record | None = None  # of the program that mrun was started for, if at home


def outcome(status: int) -> dict[str, int | None]:
    """Return a wait4(2) status as both files have it."""
    signaled = os.WIFSIGNALED(status)
    return {
        "exit": None if signaled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signaled else None,
    }
