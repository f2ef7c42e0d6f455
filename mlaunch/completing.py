"""What a shell may put for a word of a command line: names of nodes, programs, pids of bodies.

Called by click when a shell asks for completions. Then nothing may be said, started or waited for:
what cannot be known at once is no completion.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from mlaunch import client, config
from mlaunch.errors import LaunchError
from stubs.link import runtime

if TYPE_CHECKING:
    import click

# A daemon that is that busy is not waited for.
PATIENCE_S = 0.5
# Of a command line.
WORDS = 6


def configured(context: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the nodes of the configuration whose names begin with `word`."""
    try:
        found = config.load(runtime.config_path()).nodes
    except LaunchError:
        return []  # the command itself will say it
    return [node.name for node in found if node.name.startswith(word)]


def nodes(context: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return them, and home and local, which are always there."""
    others = [name for name in ("home", "local") if name.startswith(word)]
    return configured(context, parameter, word) + others


def targets(context: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return where a program can be moved."""
    others = [name for name in ("auto", "home") if name.startswith(word)]
    return configured(context, parameter, word) + others


def pids(
    context: click.Context, parameter: click.Parameter, word: str
) -> list[CompletionItem[str]]:
    """Return the pids of all bodies there are, each with its command line."""
    try:
        answer = client.ask_if_running({"do": "observe", "words": WORDS}, PATIENCE_S) or {}
    except LaunchError:
        return []  # it is busy
    return [
        CompletionItem(str(body["pid"]), help=f"{' '.join(body['argv'])} on {body['node']}")
        for body in answer.get("bodies", ())
        if str(body["pid"]).startswith(word)
    ]


def programs(context: click.Context, parameter: click.Parameter, word: str) -> list[str]:
    """Return the names of programs that have a profile."""
    path = os.path.join(runtime.state_dir(), "profiles.sqlite")
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE_S)
        with contextlib.closing(database):
            rows = database.execute("SELECT DISTINCT exe FROM program").fetchall()
    except sqlite3.Error:
        return []  # nothing is known so far
    names = {os.path.basename(str(exe)) for (exe,) in rows}
    return sorted(name for name in names if name.startswith(word))


def pids_and_programs(
    context: click.Context, parameter: click.Parameter, word: str
) -> list[CompletionItem[str]]:
    """Return both."""
    named = [CompletionItem(name) for name in programs(context, parameter, word)]
    return pids(context, parameter, word) + named
