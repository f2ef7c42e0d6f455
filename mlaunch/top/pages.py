"""Pages that take the place of the table: help, and the details of one child."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlaunch.commands.why import process_lines
from mlaunch.top import styles
from mlaunch.top.lines import Line, fit, fold, line
from mlaunch.top.quantities import number, printable, size, span

if TYPE_CHECKING:
    from mlaunch.top.model import Child, Model

_HELP = (
    ("Up Down PageUp PageDown Home End", "choose a row"),
    ("Left Right", "move the commands sideways"),
    ("P M T N", "sort by CPU, memory, CPU time, pid"),
    ("F6 > <", "choose the column to sort by"),
    ("I", "invert the order"),
    ("F4 /", "show only rows with these words (command, node, state, pid)"),
    ("F5 t", "as a tree, by mrun and parent"),
    ("Enter", "details of the child"),
    ("F9 k", "send a signal to it (its deputy hands it on)"),
    ("f", "freeze it, or let a frozen one go on"),
    ("F8 m", "migrate it: to a node, home, or wherever is best"),
    ("F1 ? h", "this help"),
    ("F10 q Ctrl-C", "quit"),
)
_LEGEND = (
    ("PID", "of the deputy at home: kill, ps and the shell's jobs know the child by it"),
    ("CPU%", "of one CPU of its node, with all processes that it started there"),
    ("TIME MEM", "CPU time and memory on the node; AGE: since it was placed"),
    ("TRIPS", "how often it waited for home"),
    ("MIG", "how often it has moved to another node"),
    ("LOAD", "CPUs of the node at work: # for our guests, | for others"),
    ("OWNER", "active: somebody types at the node"),
)
_EVENTS = {
    "lost": styles.BAD,
    "node lost": styles.BAD,
    "node up": styles.GOOD,
    "refused": styles.WARNING,
    "could not move": styles.WARNING,
    "restarted": styles.WARNING,
}
_INDENT = 14


def help_lines(width: int) -> list[Line]:
    """Return the help, all of it."""
    found = [line(("Keys", styles.TITLE))]
    found += [line((f"  {keys:<33} ", styles.TITLE), text) for keys, text in _HELP]
    found += [line(), line(("What is shown", styles.TITLE))]
    found += [line((f"  {word:<10} ", styles.TITLE), text) for word, text in _LEGEND]
    return [fit(item, width) for item in found]


def detail_lines(
    model: Model, child: Child, why: dict[str, Any] | None, ended: bool, width: int
) -> list[Line]:
    """Return all that is known of a child; of one that has ended, what was known last.

    `why` is the daemon's answer to the question "why", once it is there.
    """
    state = "has ended" if ended else child.state
    style = styles.QUIET if ended else styles.STATES.get(state, styles.TITLE)
    found = [line((f"{child.pid} on {child.node} ", styles.TITLE), (state, style)), line()]
    for name, text in _facts(model, child, why):
        pieces = fold(printable(text), max(8, width - _INDENT))
        found.append(line((f"{name:<{_INDENT}}", styles.TITLE), pieces[0]))
        found += [line(" " * _INDENT, piece) for piece in pieces[1:]]
    if why is not None:
        # Its first two lines say what stands above already.
        words = process_lines(why)[2:]
        found += [line(), line(("The decision", styles.TITLE))]
        found += [line(" " + part) for text in words for part in fold(text, max(8, width - 1))]
    found += [line(), line(("Events", styles.TITLE))]
    events = {event["seq"]: event for event in (*model.notable, *model.events)}
    own = [event for event in events.values() if event["pid"] == child.pid]
    found += [event_line(event) for event in own] or [line(("  none", styles.QUIET))]
    return [fit(item, width) for item in found]


def _facts(model: Model, child: Child, why: dict[str, Any] | None) -> list[tuple[str, str]]:
    told = child.told
    # Rows have the first words only; the decision says why by itself.
    argv = (why or told)["argv"]
    reason = [] if why else [("why there", child.why or "not known")]
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told["started"]))
    mrun = model.mruns.get(child.mrun)
    of_mrun = f"mrun {child.mrun}" + (f" ({mrun.command})" if mrun else "")
    now = f", {number(child.cpu_percent, 1)} % of a CPU now" if child.cpu_percent else ""
    processes = "1 process" if told["processes"] == 1 else f"{told['processes']} processes"
    return [
        ("command", " ".join(argv)),
        ("program", told["exe"] or "not known"),
        *reason,
        ("started", f"{clock}, {span(child.age_s)} ago"),
        ("parent", f"{child.ppid}, of {of_mrun}; process group {told['pgrp']}"),
        ("CPU time", f"{span(child.cpu_s) or 'not known yet'}{now}"),
        ("memory", f"{size(child.rss_bytes) or 'not known yet'} in {processes}"),
        ("round trips", _or_unknown(child.round_trips)),
        ("traffic", _traffic(told)),
        ("restarts", _or_unknown(told["restarts"])),
        ("migrations", str(told["migrations"] or "none")),
    ]


def _or_unknown(value: int | None) -> str:
    return "not known yet" if value is None else str(value)


def _traffic(told: dict[str, Any]) -> str:
    to_node, to_home = size(told["bytes_to_node"]), size(told["bytes_to_home"])
    return f"{to_node or '?'} to the node, {to_home or '?'} to home"


def event_line(event: dict[str, Any]) -> Line:
    """Return an event: when, what, where, which, and a remark."""
    clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    which = f"{event['pid']} {event['argv0']}" if event["pid"] else event["argv0"]
    kind = (f" {event['kind']:<10}", _EVENTS.get(event["kind"]))
    return line((f" {clock}", styles.QUIET), kind, f"{event['node']:<6} {which}  {event['text']}")


def page(title: str, body: list[Line], offset: int, width: int, height: int) -> list[Line]:
    """Return `height` lines: a title and the body from line `offset` on."""
    shown = body[offset : offset + height - 1]
    more = f" ({len(body) - offset - len(shown)} more lines: Down)"
    words = title + (more if offset + len(shown) < len(body) else "")
    blank = [fit([], width)] * (height - 1 - len(shown))
    return [fit(line((words, styles.HEADING)), width, styles.HEADING), *shown, *blank][:height]
