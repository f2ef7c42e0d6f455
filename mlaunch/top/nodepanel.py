"""The panel of nodes: a heading and a line for each node, those with trouble in red."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaunch.top import styles
from mlaunch.top.lines import Line, cells, fit, line
from mlaunch.top.quantities import rate, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.top.lines import Part
    from mlaunch.top.model import Node

    # Title, width, text.
    Column = tuple[str, int, Callable[[Node], str]]

# The last ones go first when the terminal is narrow.
_COLUMNS: tuple[Column, ...] = (
    ("GUESTS", 6, lambda node: str(node.guests)),
    ("FREE", 4, lambda node: size(node.memory_bytes)),
    ("RTT", 6, lambda node: _milliseconds(node.rtt_ms)),
    ("TO NODE", 7, lambda node: rate(node.to_node)),
    ("TO HOME", 7, lambda node: rate(node.to_home)),
    ("OWNER", 6, lambda node: "active" if node.owner_active else ""),
)
_STATE_WIDTH = 10
_CPUS_WIDTH = 4
_PERCENT_WIDTH = 4
_LEAST_BAR, _MOST_BAR = 10, 40
_LEGEND = "LOAD (# guests | others)"
_LONGEST_NAME = 14


def node_lines(nodes: list[Node], width: int, height: int) -> list[Line]:
    """Return at most `height` lines; of more nodes those with trouble or guests come first."""
    if height < 1 or not nodes:
        return []
    name_width = min(_LONGEST_NAME, max(4, *(len(node.name) for node in nodes)))
    left = width - name_width - _STATE_WIDTH - _CPUS_WIDTH - _PERCENT_WIDTH - 4
    columns = []
    for column in _COLUMNS:
        if left - column[1] - 1 < _LEAST_BAR:
            break
        columns.append(column)
        left -= column[1] + 1
    bar = max(0, min(_MOST_BAR, left))
    shown = nodes
    if len(nodes) > height - 1:
        shown = sorted(nodes, key=lambda node: (not node.problem, -node.guests))[: height - 2]
    lines = [_heading(name_width, bar, columns, width)]
    lines += [_node(node, name_width, bar, columns, width) for node in shown]
    if len(shown) < len(nodes) and height > 1:
        more = f"… and {len(nodes) - len(shown)} more nodes"
        lines.append(fit(line((more, styles.QUIET)), width))
    return lines


def _heading(name_width: int, bar: int, columns: list[Column], width: int) -> Line:
    load = bar + _PERCENT_WIDTH
    words = [
        cells("NODE", name_width),
        cells("STATE", _STATE_WIDTH),
        cells("CPUS", _CPUS_WIDTH, right=True),
        cells(_LEGEND if load >= len(_LEGEND) else "LOAD", load),
        *(cells(title, wide, right=True) for title, wide, _ in columns),
    ]
    return fit(line((" ".join(words), styles.HEADING)), width, styles.HEADING)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.{1 if value < 99.95 else 0}f}ms"


def _node(node: Node, name_width: int, bar: int, columns: list[Column], width: int) -> Line:
    name = cells(node.name, name_width) + " "
    state = cells(node.state, _STATE_WIDTH)
    if node.problem or node.state in ("lost", "unusable"):
        return fit(line((f"{name}{state} {node.problem}", styles.BAD)), width)
    parts = line(name, (state, styles.STATES.get(node.state, styles.QUIET)), " ")
    if node.cpus is None:
        return fit(parts, width)
    parts += line(cells(f"{round(node.cpus, 1):g}", _CPUS_WIDTH, right=True), " ", *_bar(node, bar))
    rest = "".join(" " + cells(text(node), wide, right=True) for _, wide, text in columns)
    return fit([*parts, *line(rest)], width)


def _bar(node: Node, width: int) -> list[Part]:
    """Return a load bar of `width` cells and the percentage behind it."""
    cpus = node.cpus or 1.0
    busy = min(1.0, (node.guests_cpus + node.others_cpus) / cpus)
    room = max(0, width - 2)
    filled = round(room * busy)
    guests = min(filled, round(room * node.guests_cpus / cpus))
    percent = cells(f"{busy * 100:.0f}%", _PERCENT_WIDTH, right=True)
    if not room:
        return [percent]
    ours, others = ("#" * guests, styles.GOOD), ("|" * (filled - guests), styles.OTHERS)
    return ["[", ours, others, " " * (room - filled), "]", percent]
