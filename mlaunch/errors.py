"""Errors that end a command: one line for the user, a hint, an exit status."""

from __future__ import annotations

# mrun(1), mlaunch(1): we failed, as opposed to the program.
FAILED = 125

# Nobody reads a longer line.
MOST_TEXT = 400


class LaunchError(Exception):
    """What the user must know: one line, what to do about it, and the exit status.

    As a string it is both, on one line.
    """

    def __init__(self, text: str, hint: str = "", exit_code: int = FAILED) -> None:
        """Take a line without a full stop at its end; `hint` says how to go on, or is empty."""
        super().__init__(f"{text} ({hint})" if hint else text)
        self.text = text
        self.hint = hint
        self.exit_code = exit_code


def plain(raw: bytes | str) -> str:
    """Return what a node says as one line of printable text: no terminal is to obey it."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    text = " ".join(text[:MOST_TEXT].split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
