"""The status line of `mrun --progress`: what it says of a body."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import Usage

    # Name, bytes read, size.
    Reading = tuple[bytes, int, int]

# A file that is not worth a bar is read at once.
BIG_FILE = 8 << 20

_BAR = 24


def line(node: str, usage: Usage, reading: Reading | None, width: int) -> bytes:
    """Return the line, of fewer than `width` characters, all of which can be printed.

    `reading` is the file that the body read last, if that is known.
    """
    seconds = usage.cpu_us // 1_000_000
    hours, minutes = divmod(seconds // 60, 60)
    clock = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
    parts = [
        f"mrun: {node}",
        f"CPU {clock}",
        f"{_size(usage.bytes_to_node)} there, {_size(usage.bytes_to_home)} back",
    ]
    if reading is not None and reading[2] >= BIG_FILE:
        name, offset, size = reading
        done = min(1.0, offset / size)
        bar = "#" * int(done * _BAR)
        parts.append(f"{os.fsdecode(name)} [{bar:.<{_BAR}}] {int(done * 100)}%")
    text = "  ".join(parts)
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain[: max(0, width - 1)].encode(errors="replace")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
