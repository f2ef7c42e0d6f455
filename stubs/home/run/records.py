"""Records: what is known about each program of a run, for its receipt and for its story.

One record for a body on a node, and one for a program that ran at home. Two writers make files of
them: stubs.home.run.receipt (`mrun --stats`) and stubs.home.run.story (`mrun --trace`). Neither
is loaded unless it is asked for.

A build may have 100 000 programs: a record takes some hundred bytes, whatever the arguments, and
programs of an eye-blink at home leave none.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stubs.home.run.body import Body
    from stubs.home.run.output import Output

    # A writer gets the records and the status as wait4(2) has it.
    Writer = Callable[["Records", int], Iterable[str]]

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


def of_body(body: Body, most: int) -> Record:
    """Return the record of a body that has ended, or was lost."""
    departure = body.departure
    record = Record(body.pid, departure.program.argv, departure.node, departure.reason, most)
    record.is_away = True
    record.migrations = tuple(body.migrations)
    stays = list(body.stays)
    if body.arrived:
        record.began, record.ended = body.arrived, time.monotonic()
    else:
        # Lost, and no other node was found: that stay was its last.
        record.node, record.began, record.ended, _ = stays.pop()
    record.wall_s = body.wall_s
    record.departure_s = body.began - departure.began
    record.restarts = departure.restarts
    record.stays = tuple(stays)
    if record.migrations:
        # What has come home runs on the embedded node.
        record.node = _place(record.node)
        record.stays = tuple((_place(stay[0]), *stay[1:]) for stay in stays)
    exited = body.exited
    # Of a lost one it will never be known what it used.
    if exited is not None:
        record.status = exited.status
        record.cpu_s = record.own_s = (exited.utime_us + exited.stime_us) / 1e6
        record.maxrss_kib = exited.maxrss_kib
        record.round_trips = exited.round_trips
        record.bytes_to_node = exited.bytes_to_node
        record.bytes_to_home = exited.bytes_to_home
    return record


def _place(node: str) -> str:
    return HOME if node == LOCAL else node


class Records:
    """Those of one mrun, and the files that shall be written of them."""

    def __init__(self, argv: list[bytes], stats: str | None, trace: str | None) -> None:
        """Start the clock. MrunError when a path could not be written in the end."""
        self.argv = argv  # what mrun was started for; of an inner one it is not known yet
        self.began = time.monotonic()
        self.began_at = time.time()
        self.all: list[Record] = []  # of what has ended, in this order
        self.running: dict[int, Record] = {}  # at home, by pid
        self.program: Record | None = None  # of the program that mrun was started for, if at home
        self.has_story = trace is not None
        self.most = MOST_ARGUMENTS if stats is None else 0
        self._writers: list[tuple[Output, Writer]] = []
        if stats is not None:
            from stubs.home.run import receipt

            self._add_writer(stats, "receipt", receipt.pieces)
        if trace is not None:
            from stubs.home.run import story

            self._add_writer(trace, "story", story.pieces)

    def _add_writer(self, path: str, name: str, writer: Writer) -> None:
        from stubs.home.run.output import Output

        self._writers.append((Output(path, name), writer))

    @property
    def wanted(self) -> bool:
        """Whether there is a file to be written."""
        return bool(self._writers)

    def add_only(self, pid: int, argv: list[bytes], why: str, status: int, cpu_s: float) -> None:
        """Note the run of a program at home which nobody traced."""
        record = Record(pid, argv, HOME, why, self.most)
        record.began = self.began
        record.end_at_home(status, cpu_s, cpu_s, 0)
        self.all.append(record)
        self.program = record

    def write(self, status: int) -> None:
        """Write what there is to be written; `status` is mrun's, as wait4(2) has it."""
        for output, writer in self._writers:
            output.write(writer(self, status))


def outcome(status: int) -> dict[str, int | None]:
    """Return a wait4(2) status as both files have it."""
    signaled = os.WIFSIGNALED(status)
    return {
        "exit": None if signaled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signaled else None,
    }
