"""`mlaunch migrate` and `bring`: move a program that runs, to a node or home."""

from __future__ import annotations

from typing import Any

import click

from mlaunch import client, completing
from mlaunch.columns import printable
from mlaunch.errors import LaunchError

# A large program on a slow link takes its time.
LONGEST_S = 3600.0


@click.command()
@click.argument("pid", type=int, shell_complete=completing.pids)
@click.argument("node", metavar="NODE|home|auto", shell_complete=completing.targets)
def migrate(pid: int, node: str) -> int:
    """Move a program that runs to NODE, home, or (auto) to wherever it would run best.

    PID is that of a program under mrun, or of an mrun: then all its bodies move.
    """
    return tell(ask({"do": "migrate", "pid": pid, "node": node}, pid))


@click.command()
@click.argument("pid", type=int, shell_complete=completing.pids)
def bring(pid: int) -> int:
    """Move a program home: the same as `mlaunch migrate PID home`."""
    return tell(ask({"do": "migrate", "pid": pid, "node": "home"}, pid))


def ask(question: dict[str, Any], pid: int) -> dict[str, Any]:
    """Ask about a process; without a daemon nothing can be known of it."""
    answer = client.ask_if_running(question, LONGEST_S)
    if answer is None:
        text = f"no program of pid {pid} is known: there is no home daemon"
        raise LaunchError(text, "what runs: mlaunch ps --all", 1)
    return answer


def tell(answer: dict[str, Any]) -> int:
    """Say what became of each; return the exit status."""
    failed = False
    for outcome in answer["outcomes"]:
        if outcome["error"]:
            failed = True
            click.echo(f"mlaunch: {said(outcome)}", err=True)
        else:
            click.echo(said(outcome))
    return int(failed)


def said(outcome: dict[str, Any]) -> str:
    """Return a line about a move, or about one that could not be made."""
    which = f"{outcome['pid']} ({printable(outcome['name'])})"
    target = printable(outcome["to"])
    if outcome["error"]:
        to = "home" if target == "home" else f"to {target}"
        what = "not written" if outcome["path"] else f"not moved {to}"
        return f"{which} {what}: {printable(outcome['error'])}"
    if not outcome["path"] and outcome["from"] == outcome["to"]:
        return f"{which} is best where it is: {'at home' if target == 'home' else f'on {target}'}"
    cost = f"{outcome['frozen_ms']:.0f} ms frozen, {outcome['bytes'] / 1e6:.1f} MB"
    if outcome["path"]:
        return f"written {which} to {printable(outcome['path'])}: {cost}"
    return f"moved {which} from {printable(outcome['from'])} to {target}: {cost}"
