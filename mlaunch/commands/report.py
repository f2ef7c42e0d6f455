"""`mlaunch report`: a page of the story that `mrun --trace` wrote."""

from __future__ import annotations

import os
import sys

import click

from mlaunch.errors import LaunchError


@click.command()
@click.argument("file")
@click.option("-o", "--output", help="Write there; - for standard output. Default: FILE, as .html")
def report(file: str, output: str | None) -> None:
    """Make an HTML page of the story of a run that mrun --trace wrote into FILE.

    The page needs nothing else, and no network.
    """
    from mlaunch.report import page, story

    data = page.html(story.load(file)).encode()
    if output == "-":
        sys.stdout.buffer.write(data)
        return
    path = output if output is not None else f"{file.removesuffix('.json')}.html"
    if os.path.exists(path) and os.path.samefile(path, file):
        raise LaunchError(f"{path}: that is the story itself", "-o PAGE.html")
    try:
        with open(path, "wb") as target:
            target.write(data)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
