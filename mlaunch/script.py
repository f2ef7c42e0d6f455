"""What execve(2) makes of a script: its interpreter, with the script as an argument."""

from __future__ import annotations

import os
import shutil

# BINPRM_BUF_SIZE of the kernel, and as deep as it goes.
LONGEST_LINE = 256
DEEPEST = 5


def interpreted(path: str, argv: list[str]) -> tuple[str, list[str]]:
    """Return the executable and the command line that running `path` comes to.

    `env NAME`, the usual way to name an interpreter without its path, is followed as well.
    """
    for _ in range(DEEPEST):
        words = _first_line(path)
        if not words:
            break
        argv = [*words, path, *argv[1:]]
        path = words[0]
        if os.path.basename(path) == "env" and len(words) == 2:
            found = shutil.which(words[1])
            if found is None:
                break
            path, argv = found, argv[1:]
        # That is how the kernel calls an image that was not started by its own name.
        path = os.path.realpath(path)
    return path, argv


def _first_line(path: str) -> list[str]:
    """Return what follows `#!`, an interpreter and at most one argument; empty if nothing does."""
    try:
        with open(path, "rb") as file:
            line = file.read(LONGEST_LINE).split(b"\n", 1)[0]
    except OSError:
        return []
    return [os.fsdecode(word) for word in line[2:].split(None, 1)] if line[:2] == b"#!" else []
