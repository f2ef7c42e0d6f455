"""`mlaunch freeze` and `continue`: stop programs where they are, and let them go on."""

from __future__ import annotations

import os
import signal

import click

from mlaunch import completing
from mlaunch.commands.migrate import ask
from mlaunch.errors import LaunchError


@click.command()
@click.argument("pid", type=int, shell_complete=completing.pids)
def freeze(pid: int) -> None:
    """Stop a program wherever it runs, as SIGSTOP does.

    PID is that of a program under mrun, or of an mrun: then all its bodies stop.
    """
    _send(pid, signal.SIGSTOP)


@click.command("continue")
@click.argument("pid", type=int, shell_complete=completing.pids)
def go_on(pid: int) -> None:
    """Let a program go on that was stopped, as SIGCONT does.

    PID is that of a program under mrun, or of an mrun: then all its bodies go on.
    """
    _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    """Signal what stands for the programs at home: mrun hands it on."""
    programs = ask({"do": "programs", "pid": pid}, pid)
    if number == signal.SIGCONT:
        # An mrun stops with the program that it was started for, and then hands on nothing.
        for mrun in programs["mruns"]:
            _kill(mrun, number)
    for program in programs["programs"]:
        _kill(program, number)


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise LaunchError(f"{pid} has ended", exit_code=1) from None
    except PermissionError:
        raise LaunchError(f"{pid} is another user's", exit_code=1) from None
