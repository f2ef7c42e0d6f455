"""Numbers and foreign text as a few cells of a terminal; "" for what is not known."""

from __future__ import annotations

_UNITS = "BKMGTPE"


def printable(text: str) -> str:
    """Return text that no terminal obeys: controls and what does not print are spelled out."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def size(count: float | None) -> str:
    """Return bytes in at most 4 cells: 812B, 9.5K, 120M; units are powers of 1024."""
    if count is None:
        return ""
    value = float(max(0, count))
    unit = 0
    # What would be written with four digits belongs to the next unit.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    digits = 1 if unit and value < 9.95 else 0
    return f"{value:.{digits}f}{_UNITS[unit]}"


def rate(bytes_per_s: float | None) -> str:
    """Return bytes per second in at most 6 cells."""
    return "" if bytes_per_s is None else f"{size(bytes_per_s)}/s"


def span(seconds: float | None) -> str:
    """Return a time in at most 7 cells: 0.42s, 12.3s, 4:05, 2:03:11, 12h07m, 3d04h."""
    if seconds is None:
        return ""
    value = max(0.0, seconds)
    if value < 9.995:
        return f"{value:.2f}s"
    if value < 59.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 36000:
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with that many digits after the point."""
    return "" if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """Return a count in at most 5 cells: 99999, then 123k, 45M."""
    if value is None:
        return ""
    if value < 100_000:
        return str(value)
    return f"{value // 1000}k" if value < 10_000_000 else f"{value // 1_000_000}M"
