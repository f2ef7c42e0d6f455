"""`mlaunch expel`: move every program away from a node."""

from __future__ import annotations

import click

from mlaunch import client, completing
from mlaunch.commands.migrate import LONGEST_S, tell
from mlaunch.errors import LaunchError


@click.command()
@click.argument("node", shell_complete=completing.configured)
def expel(node: str) -> int:
    """Move every program away from NODE, wherever is best, home at the worst.

    Nothing is sent there until the command ends. That NODE is soon empty matters more than for how
    long a program stands still. The exit status is 1 if one could not move.
    """
    answer = client.ask_if_running({"do": "expel", "node": node}, LONGEST_S)
    if answer is None:
        raise LaunchError("nothing runs on any node: there is no home daemon", exit_code=1)
    return tell(answer)
