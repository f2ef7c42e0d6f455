"""The mlaunch command: groups, and errors turned into one line and an exit status.

What the commands do is in mlaunch.commands, one file each.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from mlaunch import __version__, suggest
from mlaunch.commands.checkpoint import checkpoint
from mlaunch.commands.completion import completion
from mlaunch.commands.daemon import daemon
from mlaunch.commands.doctor import doctor
from mlaunch.commands.expel import expel
from mlaunch.commands.freeze import freeze, go_on
from mlaunch.commands.migrate import bring, migrate
from mlaunch.commands.nodes import nodes
from mlaunch.commands.ps import ps
from mlaunch.commands.report import report
from mlaunch.commands.top import top
from mlaunch.commands.why import why
from mlaunch.errors import FAILED, LaunchError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlaunch", message="%(prog)s %(version)s")
def mlaunch() -> None:
    """Look after the nodes on which mrun runs programs."""


for command in (
    *(nodes, top, ps, why, report),
    *(migrate, bring, expel, freeze, go_on, checkpoint),
    *(doctor, daemon, completion),
):
    mlaunch.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0, 1 where the manual says so, 125 when something failed."""
    if "_MLAUNCH_COMPLETE" in os.environ:
        # A shell asks in the middle of a line that somebody types: nothing may be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        status = mlaunch.main(arguments, prog_name="mlaunch", standalone_mode=False)
    except LaunchError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        _complain(_misused(error))
        sys.exit(FAILED)
    except click.ClickException as error:
        _complain(LaunchError(error.format_message().rstrip(".")))
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (mlaunch nodes | head): say nothing, not even at the flush on exit.
        sys.stdout = None
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _misused(error: click.UsageError) -> LaunchError:
    """Say what is wrong with the command line, and what was meant or where to look."""
    context = error.ctx
    if context is None:
        return LaunchError(error.format_message().rstrip("."), "try: mlaunch --help")
    command = context.command
    wrong, known = "", []
    if isinstance(error, click.NoSuchOption):
        wrong = error.option_name
        known = [name for parameter in command.get_params(context) for name in parameter.opts]
    elif isinstance(command, click.Group):
        wrong, known = getattr(error, "command_name", ""), list(command.commands)
    # Where click has a suggestion, it is in other words than ours, and not in the bare message.
    text = error.message if wrong else error.format_message()
    hint = suggest.meant(wrong, known) or f"try: {context.command_path} --help"
    return LaunchError(text.rstrip("."), hint)


def _complain(error: LaunchError) -> None:
    print(f"mlaunch: {error}", file=sys.stderr)
