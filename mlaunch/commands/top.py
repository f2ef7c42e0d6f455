"""`mlaunch top`: the live dashboard of remote children."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "-d",
    "--delay",
    type=click.FloatRange(min=0.1, max=3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between two looks.",
)
def top(delay: float) -> None:
    """Show nodes and remote children, live: where everything is, why, and what it costs.

    Keys are those of htop; ? shows them. Into a pipe, or on a terminal without cursor control
    (TERM=dumb), one frame is printed as plain text.
    """
    from mlaunch.top.live import run

    run(delay)
