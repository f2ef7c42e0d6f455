"""The mount points of our namespace, and which of them came, went, or became read-only.

inotify does not tell of a file system that is mounted over a directory, nor of one that is taken
off again while somebody still has a file of it open.
"""

from __future__ import annotations

import re
import select

# Blanks, tabs, newlines and backslashes are written so in proc(5).
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """What /proc/self/mountinfo said when it was last looked at."""

    def __init__(self) -> None:
        """Look for the first time."""
        self._file = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._poll.poll(0)
        self._points = self._read()

    def close(self) -> None:
        """Look no more."""
        self._file.close()

    def changed(self) -> list[bytes]:
        """Return the mount points with something else on top, or other options, than last time."""
        if not self._poll.poll(0):
            return []
        before, self._points = self._points, self._read()
        places = before.keys() | self._points.keys()
        return sorted(at for at in places if before.get(at) != self._points.get(at))

    def _read(self) -> dict[bytes, bytes]:
        """Return the id and options of the mount on top at each mount point."""
        self._file.seek(0)
        points = {}
        for line in self._file.read().splitlines():
            fields = line.split(b" ")
            number, point, options = fields[0], fields[4], fields[5]
            point = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), point)
            points[point] = b" ".join((number, options, fields[-1]))
        return points
