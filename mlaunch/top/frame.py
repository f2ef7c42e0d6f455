"""The main frame: title, nodes, totals, table, events; as many lines as the terminal has.

Only what is visible is made. The last line belongs to whoever asks: keys, a prompt, a message.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaunch.top import styles, table
from mlaunch.top.lines import Line, fit, line
from mlaunch.top.nodepanel import node_lines
from mlaunch.top.pages import event_line
from mlaunch.top.quantities import number, size, span

if TYPE_CHECKING:
    from mlaunch.top.model import Model
    from mlaunch.top.order import Order, Row

_KEYS = (
    *(("F1", "Help"), ("F4", "Filter"), ("F5", "Tree"), ("F6", "Sort")),
    *(("F9", "Signal"), ("f", "Freeze"), ("Enter", "Details"), ("F10", "Quit")),
)
_PAGE_KEYS = (("Up", "Down"), ("PgUp", "PgDn"), ("Esc", "Back"))
_LEAST_TABLE = 6  # lines, with its heading
_MOST_EVENTS = 8

# How long a node that is lost is to be seen among the events of a build.
NOTABLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Shares:
    """How many lines each part gets, headings included; title, totals and keys get one each."""

    nodes: int
    table: int
    events: int


def shares(height: int, nodes: int) -> Shares:
    """Divide a terminal of `height` lines; the table is what matters most."""
    left = max(0, height - 3)
    events = 0 if left < 12 else min(1 + _MOST_EVENTS, left // 5)
    room = min(left - events - _LEAST_TABLE, max(9, (left - events) // 2))
    wanted = nodes + 1 if nodes else 0
    panel = min(wanted, room) if room >= 2 else 0
    return Shares(panel, left - events - panel, events)


@dataclass(frozen=True, slots=True)
class View:
    """What of the table is seen, and how."""

    rows: list[Row]
    order: Order
    selected: int  # the place of the chosen row
    first: int  # the place of the first visible row
    shift: int  # letters of the commands that are off to the left


def main_frame(model: Model, view: View, width: int, height: int) -> list[Line]:
    """Return all lines but the last, of a frame of `height`."""
    if model.problem:
        return problem_frame(model, width, height)
    part = shares(height, len(model.nodes))
    lines = [title(model, width)]
    lines += node_lines(model.nodes, width, part.nodes)
    lines.append(totals(model, width))
    if part.table:
        lines += _table(model, view, width, part.table)
    lines += event_lines(model, width, part.events)
    return lines[: height - 1]


def _table(model: Model, view: View, width: int, height: int) -> list[Line]:
    layout = table.layout(width, [node.name for node in model.nodes])
    lines = [table.heading(layout, view.order)]
    for place in range(view.first, min(len(view.rows), view.first + height - 1)):
        selected = place == view.selected
        lines.append(table.row_line(view.rows[place], layout, view.shift, selected))
    if not view.rows:
        none = f"no child matches {view.order.filter!r}" if model.children else "no child is away"
        lines.append(fit(line((f" {none}", styles.QUIET)), width))
    return [*lines, *[fit([], width)] * (height - len(lines))]


def problem_frame(model: Model, width: int, height: int) -> list[Line]:
    """Return all lines but the last of a frame that says why there is nothing to show."""
    problem = fit(line((f" {model.problem}", styles.BAD)), width)
    lines = [title(model, width), fit([], width), problem]
    return [*lines, *[fit([], width)] * (height - 1 - len(lines))][: height - 1]


def title(model: Model, width: int) -> Line:
    """Return the first line: the time, and what there is in a few words."""
    clock = time.strftime("%H:%M:%S", time.localtime(model.at or None))
    parts = line((f" mlaunch top  {clock}", styles.TITLE))
    if not model.problem:
        ready = sum(node.state == "ready" for node in model.nodes)
        of = _some(sum(node.state != "home" for node in model.nodes), "node")
        words = [f"{ready} of {of} ready", _some(len(model.children), "child", "children")]
        words.append(_some(len(model.mruns), "mrun"))
        text = ", ".join(words)
        commands = "; ".join(mrun.command for mrun in model.mruns.values())
        parts += line(f"  {text}", (f": {commands}" if commands else "", styles.QUIET))
    return fit(parts, width)


def _some(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


_COUNTS = ("placed", "stayed", "moved", "refused", "lost", "restarted")


def totals(model: Model, width: int) -> Line:
    """Return the line of totals since the daemon was started; what matters most comes first."""
    told = model.totals
    speed = "" if model.decisions_per_s is None else f"{number(model.decisions_per_s, 1)}/s"
    facts = [
        ("CPU gained", span(told["cpu_s_away"])),
        ("to nodes", size(told["bytes_to_node"])),
        ("to home", size(told["bytes_to_home"])),
        ("decisions", speed or "…"),
        *((name, str(told[name])) for name in _COUNTS),
    ]
    parts: Line = []
    for name, text in facts:
        bad = name == "lost" and told[name]
        parts += line((f" {name} ", styles.QUIET), (text, styles.BAD if bad else styles.TITLE))
    return fit(parts, width)


def last_events(model: Model, count: int) -> list[dict[str, Any]]:
    """Return the last events in order; what is rare is not swept away at once by the rest."""
    rare = [event for event in model.notable if event["at"] > model.at - NOTABLE_S]
    chosen = {event["seq"]: event for event in rare[-((count + 1) // 2) :]}
    for event in reversed(model.events):
        if len(chosen) == count:
            break
        chosen[event["seq"]] = event
    return [chosen[seq] for seq in sorted(chosen)]


def event_lines(model: Model, width: int, height: int) -> list[Line]:
    """Return a heading and the last events, the newest at the bottom."""
    if height < 2:
        return []
    events = last_events(model, height - 1)
    lines = [fit(line((" EVENTS", styles.HEADING)), width, styles.HEADING)]
    lines += [fit(event_line(event), width) for event in events]
    return [*lines, *[fit([], width)] * (height - len(lines))]


def key_bar(order: Order, width: int, page: bool = False) -> Line:
    """Return the last line when nothing is asked: keys, and the filter if there is one."""
    parts: Line = []
    if order.filter and not page:
        parts += line((f" only: {order.filter} ", styles.TITLE))
    for key, label in _PAGE_KEYS if page else _KEYS:
        parts += line((key, styles.KEY), (f"{label} ", styles.LABEL))
    return fit(parts, width, styles.LABEL)
