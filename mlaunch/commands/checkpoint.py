"""`mlaunch checkpoint`: write the image of a program that runs to a file."""

from __future__ import annotations

import os

import click

from mlaunch import completing
from mlaunch.commands.migrate import ask, tell


@click.command()
@click.argument("pid", type=int, shell_complete=completing.pids)
@click.argument("file", type=click.Path(dir_okay=False, writable=True))
def checkpoint(pid: int, file: str) -> int:
    """Write the image of a program to FILE; the program goes on where it is.

    `mrun --recover FILE` goes on from there. PID is that of a program under mrun.
    """
    path = os.path.abspath(file)
    return tell(ask({"do": "checkpoint", "pid": pid, "path": path}, pid))
