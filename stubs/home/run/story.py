"""The story of a run, for `mrun --trace FILE`: when and where its programs ran.

The file is in the JSON Trace Event Format (Chrome, https://ui.perfetto.dev), one event a line:

- home and each node are processes ("pid" 1, 2, …; home is 1), their slots are threads ("tid" from
  1): lanes in which no two bars overlap, so that there are as many as programs ran at once;
- a bar ("ph": "X", "cat" "home" or "body") is a stay of a program at one place. Its args are pid,
  argv, why, end, and, where the program has ended there, status, cpu_s and so on (see `_args`);
  where it has moved from, frozen_ms and image_bytes. `why` is that of the last move before;
- an arrow ("ph": "s" and "f") leads from parent to child ("cat" "parent"), from where a body was
  lost to where it was started again ("restart"), and from node to node ("migration");
- "ts" and "dur" are in us from the start of the run;
- "otherData" has the run as a whole; "format" says that all this holds.
"""

from __future__ import annotations

# As slow to load as all the rest of mrun's start: this module is loaded only where it is needed.
import json
import os
import time
from heapq import heappop, heappush

from stubs.home.run.record import HOME, LOST, MOVED, outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stubs.home.run.record import Migration, Record, Run

FORMAT = "mlaunch-story-1"

# How a bar ends, besides LOST and MOVED.
EXITED = "exited"
REPLACED = "replaced"  # by another program, in the same process
LEFT = "left"  # it still ran when mrun ended

_ARROWS = {LOST: "restart", MOVED: "migration"}


class Bar:
    """A stay of a program at one place; us from the start of the run."""

    __slots__ = ("begin", "end", "how", "lane", "migration", "node", "record", "why")

    def __init__(self, record: Record, node: str, begin: int, end: int, how: str) -> None:
        """Make it last for 1 us at least: arrows need something to hold on to."""
        self.record = record
        self.node = node
        self.begin = begin
        self.end = max(end, begin + 1)
        self.how = how
        self.lane = 0
        self.why = record.why
        self.migration: Migration | None = None  # with which it ended


def pieces(run: Run, status: int) -> Iterator[str]:
    """Yield the file; `status` is mrun's, as wait4(2) has it."""
    now = time.monotonic()
    bars = _bars(run, now)
    yield '{"displayTimeUnit":"ms","otherData":'
    yield _dump(_whole(run, status, now))
    yield ',"traceEvents":[\n'
    separator = ""
    for event in _events(bars):
        yield separator + _dump(event)
        separator = ",\n"
    yield "\n]}\n"


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole(run: Run, status: int, now: float) -> dict[str, object]:
    """Return what concerns the run as a whole."""
    program = run.program
    return {
        "format": FORMAT,
        "argv": _words(run.argv),
        "began": round(run.began_at, 3),  # seconds since 1970
        "wall_s": round(now - run.began, 6),
        # With all that it waited for, be it ever so brief; a body's is in its bar.
        "home_cpu_s": round(program.cpu_s, 6) if program is not None else 0.0,
        **outcome(status),
    }


def _bars(run: Run, now: float) -> dict[int, list[Bar]]:
    """Return the bars of each program in the order of time, by the id() of its record."""
    began = run.began

    def us(moment: float) -> int:
        return max(0, int((moment - began) * 1e6))

    bars = {}
    for record in [*run.all, *run.running.values()]:
        stays = [Bar(record, n, us(a), us(b), how) for n, a, b, how in record.stays]
        if record.ended is None:
            last, how = now, LEFT
        else:
            last, how = record.ended, EXITED
            if record.status is None:
                how = LOST if record.is_away else REPLACED
        stays.append(Bar(record, record.node, us(record.began), us(last), how))
        _tell_moves(record, stays)
        bars[id(record)] = stays
    return bars


def _tell_moves(record: Record, bars: list[Bar]) -> None:
    """Give each bar that ended with a move what that cost, and the next one its reason."""
    migrations = iter(record.migrations)
    for before, after in zip(bars, bars[1:]):
        after.why = before.why
        if before.how == MOVED:
            before.migration = next(migrations, None)
            if before.migration is not None:
                after.why = f"moved: {before.migration.why}"


def lay_out(bars: list[Bar]) -> list[str]:
    """Give each bar a lane of its node in which no other is at that time.

    Return the nodes, home first.
    """
    free: dict[str, list[int]] = {}
    taken: dict[str, list[tuple[int, int]]] = {}
    for bar in sorted(bars, key=lambda bar: (bar.begin, bar.end)):
        lanes, busy = free.setdefault(bar.node, []), taken.setdefault(bar.node, [])
        while busy and busy[0][0] <= bar.begin:
            heappush(lanes, heappop(busy)[1])
        bar.lane = heappop(lanes) if lanes else len(busy) + 1
        heappush(busy, (bar.end, bar.lane))
    return [HOME, *sorted(node for node in free if node != HOME)]


def _events(bars: dict[int, list[Bar]]) -> Iterator[dict[str, object]]:
    every = [bar for stays in bars.values() for bar in stays]
    nodes = lay_out(every)
    pids = {node: number for number, node in enumerate(nodes, 1)}
    for node, pid in pids.items():
        yield _named("process_name", pid, 0, {"name": node})
        yield _named("process_sort_index", pid, 0, {"sort_index": pid})
        lanes = max((bar.lane for bar in every if bar.node == node), default=0)
        for lane in range(1, lanes + 1):
            yield _named("thread_name", pid, lane, {"name": f"slot {lane}"})
            yield _named("thread_sort_index", pid, lane, {"sort_index": lane})
    arrows = 0
    for stays in bars.values():
        for bar in stays:
            yield _bar(bar, pids[bar.node])
        for kind, source, moment, target in _arrows(stays, bars):
            arrows += 1
            start = {"ph": "s", "pid": pids[source.node], "tid": source.lane, "ts": moment}
            end = {"ph": "f", "bp": "e", "pid": pids[target.node], "tid": target.lane}
            common = {"cat": kind, "name": kind, "id": arrows}
            yield {**start, **common}
            yield {**end, "ts": target.begin, **common}


def _named(what: str, pid: int, tid: int, args: dict[str, object]) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _bar(bar: Bar, pid: int) -> dict[str, object]:
    record = bar.record
    return {
        "ph": "X",
        "cat": "body" if record.is_away else "home",
        "name": os.path.basename(record.argv[0]).decode(errors="replace") or "?",
        "pid": pid,
        "tid": bar.lane,
        "ts": bar.begin,
        "dur": bar.end - bar.begin,
        "args": _args(bar),
    }


def _args(bar: Bar) -> dict[str, object]:
    """Return what a click shows; `status` as Python's returncode: -N for a signal N."""
    record = bar.record
    args: dict[str, object] = {
        "pid": record.pid,
        "argv": _words(record.argv),
        "why": bar.why,
        "end": bar.how,
    }
    if bar.migration is not None:
        args["frozen_ms"] = round(bar.migration.freeze_ms, 3)
        args["image_bytes"] = bar.migration.bytes
    if bar.how != EXITED:
        return args
    assert record.status is not None
    args["status"] = os.waitstatus_to_exitcode(record.status)
    args["cpu_s"] = round(record.own_s, 6)
    args["maxrss_bytes"] = record.maxrss_kib * 1024
    if record.is_away:
        args["departure_s"] = round(record.departure_s, 6)
        args["round_trips"] = record.round_trips
        args["bytes_to_node"] = record.bytes_to_node
        args["bytes_to_home"] = record.bytes_to_home
        args["restarts"] = record.restarts
    return args


def _arrows(stays: list[Bar], bars: dict[int, list[Bar]]) -> Iterator[tuple[str, Bar, int, Bar]]:
    """Yield the arrows that lead to a program's bars: kind, from which bar, when, to which."""
    first = stays[0]
    parent = first.record.parent
    while parent is not None and id(parent) not in bars:
        parent = parent.parent  # too brief to be told of
    if parent is not None:
        (source,) = bars[id(parent)]
        if source.begin <= first.begin < source.end:
            yield "parent", source, first.begin, first
    for before, after in zip(stays, stays[1:]):
        yield _ARROWS[before.how], before, before.end - 1, after


def _words(argv: list[bytes]) -> list[str]:
    """Return arguments as text that every reader of JSON takes: no lone surrogates."""
    return [word.decode(errors="replace") for word in argv]
