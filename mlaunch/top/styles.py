"""The styles of the dashboard, by what they mean."""

from __future__ import annotations

from rich.style import Style

# The sixteen colours that every terminal has, in the shades that its user has chosen.
TITLE = Style(bold=True)
HEADING = Style(color="green", reverse=True)
CHOSEN = Style(color="green", reverse=True, bold=True, underline=True)
SELECTED = Style(color="cyan", reverse=True)
QUIET = Style(dim=True)
GOOD = Style(color="green")
WARNING = Style(color="yellow")
BAD = Style(color="red", bold=True)
OTHERS = Style(color="blue")
KEY = Style(bold=True)
LABEL = Style(color="cyan", reverse=True)

STATES = {
    "ready": GOOD,
    "running": GOOD,
    "home": GOOD,
    "connecting": WARNING,
    "starting": WARNING,
    "stopped": WARNING,
    "unusable": BAD,
    "lost": BAD,
}
