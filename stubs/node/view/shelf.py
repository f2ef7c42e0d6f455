"""The node's own copies of contents: a cache on its disk, and files that it has anyway.

The cache is a directory of the node's user, one file for each unit of contents, named after its
SHA-256; agents of several homes use it at once, and it outlives them. The node's own files are
those of the distribution (below /usr and its like, readable by everybody): one with the same path
and size as home's is likely to have the same bytes. Whatever comes from either is hashed before it
is given out, so neither a damaged entry, nor another home, nor another version can pass for what
home has. Runs in a process of its own: it reads, writes and hashes what would keep the agent's
loop from its round trips.

What no other agent would look for goes into a file without a name (stubs.node.view.spool).

Entries that were not used for longest are removed when the cache is larger than it may be: a few
GiB, and no more than a share of what the disk has left. On a disk that is full, or that may not be
written, nothing is kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time

from stubs.node.view.spool import MAX_BYTES as SPOOL_BYTES
from stubs.node.view.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES = 4 << 30
SHARE = 10  # the cache may have one part in so many of the free space

# Below these a node has the files of its distribution.
OWN = (b"/usr/", b"/lib/", b"/lib64/", b"/bin/", b"/sbin/")

# What is left of a writer that was killed.
_TEMPORARY = ".new-"
_STALE_SECONDS = 3600.0

# An entry that is read is marked as used, unless it was in the last hour.
_USED_SECONDS = 3600.0

HASH_BYTES = 32

# What file systems give to a file at a time.
_BLOCK = 4096


class Shelf:
    """Finds contents by their hash, and keeps them."""

    def __init__(self, directory: str, most: int = MAX_BYTES) -> None:
        """Use `directory`, made when something is to be kept; `most` bytes at the utmost."""
        self._directory = directory
        self._most = most
        self._size = -1  # of all entries, about: others add to them, too; -1: not known yet
        self._usable = True
        self._spool: Spool | None = None
        self._for_spool = 0  # bytes that it may have

    # finding

    def find(self, digest: bytes, length: int, path: bytes, size: int, offset: int) -> bytes | None:
        """Return the contents with this hash, or None.

        `path`, `size` and `offset` say where home has them.
        """
        data = self._spooled(digest)
        if data is None:
            data = self._cached(digest, length)
        if data is None:
            data = self._own(digest, length, path, size, offset)
        return data

    def _spooled(self, digest: bytes) -> bytes | None:
        try:
            return self._spool.find(digest) if self._spool is not None else None
        except OSError:
            return None  # unreadable: as good as none

    def _cached(self, digest: bytes, length: int) -> bytes | None:
        place = self._place(digest)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.read(fd, length + 1)
            if hashlib.sha256(data).digest() != digest:
                self._remove(place)
                return None
            if time.time() - os.fstat(fd).st_mtime > _USED_SECONDS:
                os.utime(fd)
            return data
        except OSError:
            return None  # unreadable: as good as none
        finally:
            os.close(fd)

    def _own(self, digest: bytes, length: int, path: bytes, size: int, offset: int) -> bytes | None:
        if b"\0" in path or not path.startswith(OWN):
            return None
        try:
            path = os.path.realpath(path)
            if not path.startswith(OWN):
                return None
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            public = stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH
            if not public or status.st_size != size:
                return None
            data = os.pread(fd, length, offset)
        except (OSError, OverflowError):
            return None
        finally:
            os.close(fd)
        return data if hashlib.sha256(data).digest() == digest else None

    # keeping

    def keep(self, data: bytes, lasting: bool = True) -> bytes:
        """Keep contents if there is room; return their hash, empty if nothing can be kept.

        Unless they are `lasting`, no other agent will find them.
        """
        if not self._usable:
            return b""
        digest = hashlib.sha256(data).digest()
        try:
            if self._size < 0:
                self._open()
            if lasting:
                self._enter(digest, data)
            else:
                self._put_aside(digest, data)
        except OSError:
            # Full, read-only, not ours: it goes without a cache.
            self._usable = False
            return b""
        return digest

    def _enter(self, digest: bytes, data: bytes) -> None:
        place = self._place(digest)
        if os.path.exists(place):
            return
        self._make_room(_room(len(data)))
        os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
        temporary = self._temporary(digest.hex()[:16])
        try:
            with open(temporary, "wb", opener=_private) as file:
                file.write(data)
            os.rename(temporary, place)
        except OSError:
            self._remove(temporary)
            raise
        self._size += _room(len(data))

    def _put_aside(self, digest: bytes, data: bytes) -> None:
        if self._spool is None:
            temporary = self._temporary("spool")
            fd = _private(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.unlink(temporary)
            self._for_spool = min(SPOOL_BYTES, self._limit() // SHARE)
            self._spool = Spool(fd, self._for_spool)
        self._spool.keep(digest, data)

    def _open(self) -> None:
        """Make the directory and see how much is in it; OSError unless it is ours alone."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        found = os.lstat(self._directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NotADirectoryError(self._directory)
        if found.st_mode & 0o077:
            os.chmod(self._directory, 0o700)
        self._size = sum(size for _, size, _ in self._entries())

    def _limit(self) -> int:
        free = os.statvfs(self._directory)
        share = (free.f_bavail * free.f_frsize + self._size) // SHARE
        return min(self._most, share) - self._for_spool

    def _make_room(self, length: int) -> None:
        """Remove what was not used for longest; OSError if that is not enough."""
        limit = self._limit()
        if self._size + length <= limit:
            return
        entries = sorted(self._entries())
        self._size = sum(size for _, size, _ in entries)
        # Some more than is needed, so that it is not to be done for each.
        goal = limit - limit // 10 - length
        for _, size, place in entries:
            if self._size <= goal:
                break
            self._remove(place)
            self._size -= size
        if self._size + length > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _entries(self) -> Iterable[tuple[float, int, str]]:
        """Yield when each entry was last used, its size and its path; remove old rubbish."""
        for directory, _, names in os.walk(self._directory):
            for name in names:
                place = os.path.join(directory, name)
                try:
                    found = os.lstat(place)
                except FileNotFoundError:
                    continue  # another agent has removed it
                if not name.startswith(_TEMPORARY):
                    yield found.st_mtime, _room(found.st_size), place
                elif time.time() - found.st_mtime > _STALE_SECONDS:
                    self._remove(place)

    def _temporary(self, name: str) -> str:
        return os.path.join(self._directory, f"{_TEMPORARY}{os.getpid()}-{name}")

    def _place(self, digest: bytes) -> str:
        name = digest.hex()
        return os.path.join(self._directory, name[:2], name[2:])

    def _remove(self, place: str) -> None:
        try:
            os.unlink(place)
        except OSError:
            pass  # another agent has removed it, or nobody may: it is checked at each use


def _room(size: int) -> int:
    """Return what a file of this size takes of the disk: headers are small, and many."""
    return -(-size // _BLOCK) * _BLOCK


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
