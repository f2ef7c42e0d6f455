"""`mlaunch ps`: the bodies that there are, one line for each."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

import click

from mlaunch import client
from mlaunch.columns import Column, clock, lines, printable, size

# What `ps --json` prints of a body; scripts rely on it. Others may be added at the end.
KEYS = (
    "pid",
    "ppid",
    "argv",
    "node",
    "state",
    "started",
    "cpu_s",
    "rss_bytes",
    "migrations",
    "why",
    "processes",
    "threads",
    "round_trips",
    "bytes_to_node",
    "bytes_to_home",
    "restarts",
    "mrun",
    "measured_at",
)

COLUMNS = (
    Column("PID", True),
    Column("PPID", True),
    Column("NODE"),
    Column("STATE"),
    Column("ELAPSED", True),
    Column("TIME", True),
    Column("%CPU", True),
    Column("RSS", True),
    Column("TRIPS", True),
    Column("COMMAND"),
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead.")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Show programs that stayed at home as well."
)
def ps(as_json: bool, everything: bool) -> None:
    """Show every program that runs on a node: where, its state, what it has used.

    PID and PPID are those at home. TIME is CPU time, %CPU that of ELAPSED, RSS memory, all with
    what the program has started on its node; TRIPS is how often it waited for home.
    """
    answer = client.ask_if_running({"do": "observe", "all": everything})
    if answer is None:
        if as_json:
            click.echo("[]")
        click.echo("mlaunch: nothing runs: there is no home daemon", err=True)
        return
    rows = sorted(answer["bodies"] + answer.get("home_programs", []), key=_order)
    if as_json:
        click.echo(json.dumps([{key: row[key] for key in KEYS} for row in rows], indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(COLUMNS, [_cells(row, answer["at"]) for row in rows], width):
        click.echo(line)


def _order(row: dict[str, Any]) -> tuple[float, int]:
    return row["started"], row["pid"]


def _cells(row: dict[str, Any], now: float) -> list[str]:
    elapsed = max(0.0, now - row["started"])
    return [
        str(row["pid"]),
        str(row["ppid"]),
        printable(row["node"]),
        row["state"],
        clock(elapsed),
        clock(row["cpu_s"]),
        f"{100 * row['cpu_s'] / elapsed if elapsed else 0:.1f}",
        size(row["rss_bytes"]),
        str(row["round_trips"]),
        printable(" ".join(row["argv"]) or os.path.basename(row["exe"])),
    ]
