"""What only this agent looks for: contents in one file without a name, found by their hash.

Headers and the like, which are small and many: a file for each would cost a hundred times what they
cost here, and home does not offer them to any other agent. When the file is as large as it may be
it is begun anew.
"""

from __future__ import annotations

import hashlib
import os

MAX_BYTES = 256 << 20


class Spool:
    """Finds contents by their hash, and keeps them."""

    def __init__(self, fd: int, most: int = MAX_BYTES) -> None:
        """Keep contents in the empty file open as `fd`, `most` bytes at the utmost."""
        self._fd = fd
        self._most = most
        self._end = 0
        self._places: dict[bytes, tuple[int, int]] = {}  # hash -> offset, length

    def find(self, digest: bytes) -> bytes | None:
        """Return the contents with this hash, or None; OSError as pread(2)."""
        place = self._places.get(digest)
        if place is None:
            return None
        data = os.pread(self._fd, place[1], place[0])
        if hashlib.sha256(data).digest() == digest:
            return data
        del self._places[digest]
        return None

    def keep(self, digest: bytes, data: bytes) -> None:
        """Keep contents with this hash; OSError as pwrite(2)."""
        if digest in self._places:
            return
        if self._end + len(data) > self._most:
            os.ftruncate(self._fd, 0)
            self._end = 0
            self._places.clear()
        # Less than that has been written when the disk is full: then the hash is not found.
        os.pwrite(self._fd, data, self._end)
        self._places[digest] = self._end, len(data)
        self._end += len(data)
