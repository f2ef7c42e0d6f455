"""The mlaunch command: groups, and errors turned into one line and an exit status.

What the commands do is in mlaunch.commands, one file each.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from mlaunch import __version__
from mlaunch.commands.daemon import daemon
from mlaunch.commands.doctor import doctor
from mlaunch.commands.nodes import nodes
from mlaunch.commands.ps import ps
from mlaunch.commands.report import report
from mlaunch.commands.why import why
from mlaunch.errors import FAILED, LaunchError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlaunch", message="%(prog)s %(version)s")
def mlaunch() -> None:
    """Look after the nodes on which mrun runs programs."""


for command in (nodes, ps, why, report, doctor, daemon):
    mlaunch.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0, 1 where the manual says so, 125 when something failed."""
    try:
        status = mlaunch.main(arguments, prog_name="mlaunch", standalone_mode=False)
    except LaunchError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "mlaunch"
        _complain(LaunchError(error.format_message().rstrip("."), f"try: {path} --help"))
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


def _complain(error: LaunchError) -> None:
    print(f"mlaunch: {error}", file=sys.stderr)
