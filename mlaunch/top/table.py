"""The table of remote children: which columns fit, its heading, and its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlaunch.top import styles
from mlaunch.top.lines import Line, cells, fit, line
from mlaunch.top.quantities import count, number, size, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlaunch.top.model import Child
    from mlaunch.top.order import Order, Row


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what order.KEYS calls it, its width in cells, and what it shows."""

    name: str
    width: int
    text: Callable[[Child], str]
    right: bool = True


def _percent(child: Child) -> str:
    value = child.cpu_percent
    return number(value, 1 if value is not None and value < 99.95 else 0)


_FIXED = (
    Column("pid", 7, lambda child: str(child.pid)),
    Column("node", 4, lambda child: child.node, right=False),
    Column("state", 8, lambda child: child.state, right=False),
    Column("cpu%", 5, _percent),
    Column("time", 7, lambda child: span(child.cpu_s)),
    Column("mem", 5, lambda child: size(child.rss_bytes)),
    Column("age", 7, lambda child: span(child.age_s)),
    Column("trips", 5, lambda child: count(child.round_trips)),
    Column("mig", 3, lambda child: count(child.migrations)),
)
# What goes first where there is not the room for all and a command of this width.
_EXPENDABLE = ("mig", "trips", "age", "mem", "state", "node", "time")
_LEAST_COMMAND = 20
_LEAST_BOTH = 50  # of command and why
_LONGEST_NODE = 14


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one table, and the widths of command and why (0: not shown)."""

    columns: tuple[Column, ...]
    command: int
    why: int
    width: int


def layout(width: int, nodes: Iterable[str]) -> Layout:
    """Return what fits into `width` cells; `nodes` are the names that there may be."""
    longest = min(_LONGEST_NODE, max((len(name) for name in nodes), default=4))
    columns = [
        Column(item.name, max(4, longest), item.text, False) if item.name == "node" else item
        for item in _FIXED
    ]
    for name in _EXPENDABLE:
        if width - _taken(columns) >= _LEAST_COMMAND:
            break
        columns = [item for item in columns if item.name != name]
    left = max(0, width - _taken(columns))
    why = left * 2 // 5 if left >= _LEAST_BOTH else 0
    return Layout(tuple(columns), left - why - (1 if why else 0), why, width)


def _taken(columns: list[Column]) -> int:
    return sum(item.width + 1 for item in columns)


def heading(layout: Layout, order: Order) -> Line:
    """Return the titles, that of the column by which is sorted marked."""
    parts: Line = []
    for item in layout.columns:
        parts += _title(item.name, item.width, item.right, order)
    parts += _title("command", layout.command, False, order)
    if layout.why:
        parts += _title("why", layout.why, False, order)
    return fit(parts, layout.width, styles.HEADING)


def _title(name: str, width: int, right: bool, order: Order) -> Line:
    style = styles.CHOSEN if name == order.column else styles.HEADING
    return line((cells(name.upper(), width, right), style), (" ", styles.HEADING))


def row_line(row: Row, layout: Layout, shift: int, selected: bool) -> Line:
    """Return a row; `shift` cells of its command are off to the left."""
    if row.child is None:
        return _mrun_line(row, layout, selected)
    child = row.child
    parts: Line = []
    for item in layout.columns:
        text = cells(item.text(child), item.width, item.right) + " "
        parts += line((text, styles.STATES.get(child.state)) if item.name == "state" else text)
    command = row.prefix + child.command
    parts += line(cells(command[shift:], layout.command))
    if layout.why:
        parts += line((" " + cells(child.why, layout.why), styles.QUIET))
    return _finished(parts, layout, selected)


def _mrun_line(row: Row, layout: Layout, selected: bool) -> Line:
    """Return the line of an mrun in the tree: its age and what it has under it."""
    assert row.mrun is not None
    parts: Line = []
    mrun = row.mrun
    texts = {"pid": str(row.pid), "node": "home", "state": mrun.state, "time": span(mrun.cpu_s)}
    texts |= {"mem": size(mrun.rss_bytes), "age": span(mrun.age_s)}
    for item in layout.columns:
        parts += line(cells(texts.get(item.name, ""), item.width, item.right) + " ")
    words = f"mrun {mrun.command} ({mrun.bodies} away, {mrun.at_home} at home)"
    wide = layout.command + (layout.why + 1 if layout.why else 0)
    return _finished([*parts, *line((cells(words, wide), styles.TITLE))], layout, selected)


def _finished(parts: Line, layout: Layout, selected: bool) -> Line:
    if selected:
        text = "".join(segment.text for segment in parts)
        return fit(line((text, styles.SELECTED)), layout.width, styles.SELECTED)
    return fit(parts, layout.width)
