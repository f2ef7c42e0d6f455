"""What mrun tells the user: lines of its own on standard error, and the error that ends it."""

from __future__ import annotations

import os

# mrun(1): mrun failed, as opposed to the program.
FAILED = 125


class MrunError(Exception):
    """mrun cannot do what it was asked to: a line for the user, a hint, an exit status."""

    def __init__(self, text: str, hint: str = "", status: int = FAILED) -> None:
        """`text` is one line without a full stop; `hint` may be empty."""
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.status = status

    def report(self) -> None:
        """Say it."""
        say(self.text)
        if self.hint:
            say(self.hint)


def say(text: str) -> None:
    """Write one line to standard error; if nobody can be told, so be it.

    Part of it may come from a node or be a file's name: what a terminal would obey is shown as "?".
    """
    plain = "".join(c if c.isprintable() else "?" for c in text)
    line = f"mrun: {plain}\n"
    try:
        os.write(2, line.encode(errors="surrogateescape"))
    except OSError:
        pass  # a reader that is gone, a full disk: the exit status still says it
