"""Signals by name or number, and what became of one that was sent."""

from __future__ import annotations

import os
import signal


def parse_signal(text: str) -> int | None:
    """Return the number of a signal that is named as kill(1) would: 15, TERM, sigterm; or None."""
    word = text.strip().upper()
    if word.isdecimal():
        number = int(word)
        return number if number in signal.valid_signals() else None
    name = word if word.startswith("SIG") else f"SIG{word}"
    found = signal.Signals.__members__.get(name)
    return None if found is None else int(found)


def send(pid: int, number: int) -> str:
    """Send a signal to a process; return what to tell the user."""
    try:
        name = signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        name = str(number)  # a real-time one
    try:
        os.kill(pid, number)
    except OSError as error:
        return f"{name} was not sent to {pid}: {(error.strerror or str(error)).lower()}"
    return f"{name} sent to {pid}"
