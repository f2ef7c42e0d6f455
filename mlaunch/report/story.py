"""A story as it is read back: the bars of a run, and their arrows.

stubs.home.run.story says what such a file holds. It may come from anybody: whatever is not as it
says is refused with one line, and what is shown of it has no character that steers anything.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from mlaunch.errors import LaunchError
from stubs.home.run.story import FORMAT

HINT = "mrun --trace FILE PROGRAM writes such a file"

# What a bar tells of a program that has ended there, or moved; 0 where it does not say.
NUMBERS = (
    "cpu_s",
    "maxrss_bytes",
    "departure_s",
    "round_trips",
    "bytes_to_node",
    "bytes_to_home",
    "restarts",
    "frozen_ms",
    "image_bytes",
)


@dataclass(frozen=True)
class Bar:
    """A stay of a program at one place; times in us from the start of the run."""

    node: int  # as an index
    lane: int  # from 0
    begin: int
    dur: int
    program: str
    argv: tuple[str, ...]
    pid: int
    why: str
    end: str
    status: int | None
    away: bool
    numbers: dict[str, float]

    @property
    def failed(self) -> bool:
        """Whether it did not end as programs should."""
        return self.end == "lost" or bool(self.status)


@dataclass(frozen=True)
class Arrow:
    """From one bar to another, as indices: "parent", "restart" or "migration"."""

    kind: str
    source: int
    target: int


@dataclass
class Story:
    """All of a run."""

    argv: tuple[str, ...]
    began: float  # seconds since 1970
    wall_us: int
    home_cpu_s: float
    exit: int | None
    signal: int | None
    nodes: list[str] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)  # of each node
    bars: list[Bar] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)


class _WrongError(Exception):
    """The file is not as stubs.home.run.story says."""


def load(path: str) -> Story:
    """Read a file; LaunchError when it cannot be read, or is none of ours."""
    try:
        with open(path, "rb") as file:
            return decode(json.load(file))
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LaunchError(f"{path}: not JSON, or cut off", HINT) from error
    except _WrongError as error:
        raise LaunchError(f"{path}: not a story of a run: {error}", HINT) from error


def decode(found: object) -> Story:
    """Return what a file's JSON tells; _WrongError when it is none of ours."""
    whole = _get(found, "otherData", dict)
    if whole.get("format") != FORMAT:
        raise _WrongError(f"its format is not {FORMAT}")
    story = Story(
        argv=_words(whole),
        began=_number(whole, "began"),
        wall_us=int(_number(whole, "wall_s") * 1e6),
        home_cpu_s=_number(whole, "home_cpu_s"),
        exit=_optional(whole, "exit"),
        signal=_optional(whole, "signal"),
    )
    events = _get(found, "traceEvents", list)
    pids = _take_nodes(story, events)
    _take_bars(story, events, pids)
    _take_arrows(story, events, pids)
    # mrun's own clock may have stopped a moment before the last bar's.
    story.wall_us = max([story.wall_us, 1, *(bar.begin + bar.dur for bar in story.bars)])
    return story


def _take_nodes(story: Story, events: list[Any]) -> dict[int, int]:
    """Enter the nodes; return their indices by the pids that events have."""
    pids = {}
    for event in events:
        if _get(event, "ph", str) == "M" and event.get("name") == "process_name":
            pids[_get(event, "pid", int)] = len(story.nodes)
            story.nodes.append(plain(_get(_get(event, "args", dict), "name", str)))
    story.lanes = [0] * len(story.nodes)
    return pids


def _place(event: Any, pids: dict[int, int]) -> tuple[int, int]:
    """Return the node and the lane of an event."""
    node, lane = pids.get(_get(event, "pid", int)), _get(event, "tid", int) - 1
    if node is None or not 0 <= lane < 100_000:
        raise _WrongError("an event is on no known row")
    return node, lane


def _take_bars(story: Story, events: list[Any], pids: dict[int, int]) -> None:
    for event in events:
        if event["ph"] != "X":
            continue
        args = _get(event, "args", dict)
        node, lane = _place(event, pids)
        story.lanes[node] = max(story.lanes[node], lane + 1)
        bar = Bar(
            node=node,
            lane=lane,
            begin=int(_number(event, "ts")),
            dur=max(1, int(_number(event, "dur"))),
            program=plain(_get(event, "name", str)),
            argv=_words(args),
            pid=_get(args, "pid", int),
            why=plain(_get(args, "why", str)),
            end=plain(_get(args, "end", str)),
            status=_optional(args, "status"),
            away=event.get("cat") == "body",
            numbers={name: _number(args, name) for name in NUMBERS if name in args},
        )
        story.bars.append(bar)


def _take_arrows(story: Story, events: list[Any], pids: dict[int, int]) -> None:
    rows: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for number, bar in enumerate(story.bars):
        row = rows.setdefault((bar.node, bar.lane), [])
        row.append((bar.begin, bar.begin + bar.dur, number))
    for row in rows.values():
        row.sort()
    starts: dict[int, int] = {}
    for event in events:
        if event["ph"] not in ("s", "f"):
            continue
        number = _under(rows.get(_place(event, pids), []), _number(event, "ts"))
        if event["ph"] == "s":
            starts[_get(event, "id", int)] = number
            continue
        source = starts.pop(_get(event, "id", int), None)
        if source is None:
            raise _WrongError("an arrow has no beginning")
        story.arrows.append(Arrow(plain(_get(event, "cat", str)), source, number))


def _under(row: list[tuple[int, int, int]], moment: float) -> int:
    """Return the bar of a row at a moment."""
    at = bisect_right(row, moment, key=lambda span: span[0]) - 1
    if at < 0 or row[at][1] <= moment:
        raise _WrongError("an arrow leads nowhere")
    return row[at][2]


def _get(found: Any, name: str, kind: type) -> Any:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _WrongError(f"{name} is missing")
    return value


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    # Not as large as what no run can be: NaN and infinity, which Python reads, are neither.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise _WrongError(f"{name} is no number")
    return value


def _optional(found: dict[str, Any], name: str) -> int | None:
    value = found.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _WrongError(f"{name} is no number")
    return value


def _words(found: dict[str, Any]) -> tuple[str, ...]:
    words = _get(found, "argv", list)
    if not all(isinstance(word, str) for word in words):
        raise _WrongError("argv is no list of words")
    return tuple(words)


def plain(text: str) -> str:
    r"""Return text with every character that is not to be seen written as \x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
