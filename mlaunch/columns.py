"""Plain tables, as ps(1) prints them: for people and for awk alike, no colour, no lines.

No cell but the last is empty or has a space in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Column(NamedTuple):
    """A heading; numbers stand at the right."""

    name: str
    number: bool = False


def lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the heading and a line for each row, cut off at `width` unless that is None."""
    table = [[column.name for column in columns], *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(columns))]
    found = []
    for row in table:
        cells = [
            cell.rjust(space) if column.number else cell.ljust(space)
            for cell, space, column in zip(row, widths, columns, strict=True)
        ]
        found.append(" ".join(cells).rstrip()[:width])
    return found


def printable(text: str) -> str:
    """Return it on one line, with nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def clock(seconds: float) -> str:
    """Return a time as ps does: 0:07, 12:34, 1:02:03, 2-03:04:05."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def size(count: float) -> str:
    """Return bytes in three or four characters: 512, 85K, 1.2M, 340M, 2.1G."""
    for unit in ("", "K", "M", "G"):
        if count < 999.5:
            return f"{count:.1f}{unit}" if unit and count < 9.95 else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}T"
