"""Hashes of home's files, by which a node knows contents that it has already.

A file has one SHA-256 for each unit of it, so that a node may have part of it. They are computed a
unit at a time, between other work of the loop, and kept in a small SQLite file of the user's by
device, inode, size, mtime and ctime. ctime cannot be set back; but what changes within one tick
of the clock does not change it, so a file that was changed in the last seconds is not hashed
(git calls that racy), nor is one on a network file system, whose clock is another's.

Nothing depends on the store: one that is corrupt is set aside, and what is not known is sent.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque

from stubs.home.files.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from stubs.link.loop import Loop

UNIT = 128 << 10
HASH_BYTES = 32

# Smaller files are sent sooner than asked about; larger ones are data, and hardly come again.
SMALLEST, LARGEST = 64 << 10, 256 << 20

# A file must have been left alone for so long.
RACY_NS = 2_000_000_000

# A unit takes some 0.1 to 0.4 ms; between two the loop does what else there is.
PACE_SECONDS = 0.001

MAX_QUEUED = 4096
MAX_ROWS = 50_000

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS hashes (dev INTEGER, ino INTEGER, size INTEGER,"
    " mtime INTEGER, ctime INTEGER, made REAL, units BLOB, PRIMARY KEY (dev, ino))",
    "CREATE INDEX IF NOT EXISTS by_age ON hashes (made)",
)


class Hashes:
    """The store, and the files that are being hashed."""

    def __init__(self, loop: Loop, directory: str) -> None:
        """Keep the store in `directory`, which is made when there is something to keep."""
        self._loop = loop
        self._stored = Store(os.path.join(directory, "hashes.sqlite"), *_SCHEMA)
        self._queue: deque[tuple[Callable[[], int], tuple[int, ...]]] = deque()
        self._queued: set[tuple[int, ...]] = set()
        self._fd = -1
        self._key: tuple[int, ...] = ()
        self._parts: list[bytes] = []
        self._busy = False

    def close(self) -> None:
        """Stop, and close the store."""
        self._queue.clear()
        self._stop()
        self._stored.close()

    # asking

    def units(self, status: os.stat_result) -> bytes:
        """Return the hashes of the file with this status, joined; empty when not known."""
        if not SMALLEST <= status.st_size <= LARGEST:
            return b""

        def find(connection: sqlite3.Connection) -> tuple[object] | None:
            found: tuple[object] | None = connection.execute(
                "SELECT units FROM hashes WHERE dev = ? AND ino = ? AND size = ?"
                " AND mtime = ? AND ctime = ?",
                _stored(_key(status)),
            ).fetchone()
            return found

        row = self._stored.look(find, None)
        count = -(-status.st_size // UNIT)
        units = row[0] if row is not None else b""
        return units if isinstance(units, bytes) and len(units) == count * HASH_BYTES else b""

    def learn(self, status: os.stat_result, opened: Callable[[], int]) -> None:
        """Hash a file some time soon; `opened` returns a descriptor of it, which is taken over."""
        key = _key(status)
        if not SMALLEST <= status.st_size <= LARGEST or key in self._queued:
            return
        if len(self._queue) < MAX_QUEUED and not self.units(status):
            self._queue.append((opened, key))
            self._queued.add(key)
            self._go_on()

    # hashing

    def _go_on(self) -> None:
        if not self._busy and (self._queue or self._fd >= 0):
            self._busy = True
            self._loop.call_later(PACE_SECONDS, self._step)

    def _step(self) -> None:
        self._busy = False
        try:
            if self._fd < 0 and self._queue:
                self._begin()
            elif self._fd >= 0:
                self._hash()
        except OSError:
            self._stop()  # gone, or not to be read: it has no hash
        self._go_on()

    def _begin(self) -> None:
        opened, self._key = self._queue.popleft()
        self._queued.discard(self._key)
        self._fd = opened()
        if not self._settled():
            self._stop()

    def _settled(self) -> bool:
        """Tell whether the open file is the one meant, and was not changed lately."""
        status = os.fstat(self._fd)
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        return _key(status) == self._key and time.time_ns() - changed > RACY_NS

    def _hash(self) -> None:
        data = os.pread(self._fd, UNIT, len(self._parts) * UNIT)
        if data:
            self._parts.append(hashlib.sha256(data).digest())
        if len(data) < UNIT:
            if self._settled():
                self._store(self._key, b"".join(self._parts))
            self._stop()

    def _stop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._parts = []

    # the store

    def _store(self, key: tuple[int, ...], units: bytes) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_stored(key), time.time(), units),
            )
            connection.execute(
                "DELETE FROM hashes WHERE made <="
                " (SELECT made FROM hashes ORDER BY made DESC LIMIT 1 OFFSET ?)",
                (MAX_ROWS,),
            )

        self._stored.change(keep)


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _stored(key: tuple[int, ...]) -> tuple[int, ...]:
    """Return the key as SQLite can hold it: device and inode numbers may have 64 bits."""
    return tuple(number - (1 << 64) if number >= 1 << 63 else number for number in key)
