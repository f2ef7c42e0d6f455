"""What tables look like; the only module that imports rich."""

from __future__ import annotations

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlaunch.errors import LaunchError
from mlaunch.findings import BAD, GOOD, NOTE, Finding

_STATES = {"ready": "green", "connecting": "yellow", "unusable": "red", "lost": "red"}

_MARKS = {GOOD: "green", NOTE: "yellow", BAD: "bold red"}
_LONGEST_CHECK = len("namespaces")

# Into a pipe nothing is cut off or broken into lines.
_PIPE_WIDTH = 1000


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None if not sys.stdout.isatty() else box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column in ("cpus", "idle", "load", "memory", "rtt", "guests", "cpu", "rss", "pid")
        table.add_column(column, justify="right" if number else "left", no_wrap=number)
    return table


def show_nodes(nodes: list[dict[str, Any]]) -> None:
    """Print the state of nodes, as the daemon tells it."""
    table = _table("node", "host", "state", "cpus", "idle", "load", "memory", "rtt", "guests", "")
    for node in nodes:
        reason = str(LaunchError(node["reason"], node["remedy"]))
        table.add_row(
            node["name"],
            node["host"],
            Text(node["state"], style=_STATES.get(node["state"], "")),
            _number(node["cpus"], "g"),
            _number(node["idle_cpus"], ".1f"),
            _number(node["load1"], ".2f"),
            _bytes(node["memory_available_bytes"]),
            _number(node["rtt_ms"], ".1f", " ms"),
            str(node["guests"]),
            Text(reason),
        )
    _console().print(table)


def show_processes(rows: list[tuple[str, int, float, int, str]]) -> None:
    """Print the processes of the daemon: name, pid, CPU seconds, resident bytes, remark."""
    table = _table("process", "pid", "cpu", "rss", "")
    for name, pid, cpu_s, rss, remark in rows:
        table.add_row(name, str(pid), f"{cpu_s:.1f} s", _bytes(rss), Text(remark))
    _console().print(table)


def show_findings(findings: list[Finding], width: int) -> None:
    """Print what doctor found on one machine; `width` is that of the longest name of all.

    On a terminal a text is broken within its column; into a pipe goes one line for each finding, so
    that who looks for what fails finds the remedy, too.
    """
    console = _console()
    table = Table.grid(padding=(0, 2))
    for column in (width, _LONGEST_CHECK, len(BAD), None):
        table.add_column(width=column)
    for finding in findings:
        remedy = f"remedy: {finding.remedy}" if finding.remedy else ""
        if console.is_terminal:
            mark = Text(finding.state, style=_MARKS[finding.state])
            text = "\n".join(filter(None, (finding.text, remedy)))
            table.add_row(finding.node, finding.check, mark, Text(text))
        else:
            text = "; ".join(filter(None, (finding.text, remedy)))
            start = f"{finding.node:{width}}  {finding.check:{_LONGEST_CHECK}}"
            print(f"{start}  {finding.state:{len(BAD)}}  {text}")
    if console.is_terminal:
        console.print(table)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


def _bytes(value: int | None) -> str:
    if value is None:
        return ""
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
