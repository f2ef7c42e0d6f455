"""Locks on files that the tree holds, as fdinfo shows them, and how they are taken again.

fdinfo lists what this kernel keeps itself. A file system whose server keeps the locks, as that of
the home view does, shows none here: its locks are moved by that server.
"""

from __future__ import annotations

import fcntl
import os

from stubs.abi.fcntl import F_RDLCK, F_SETLK, F_WRLCK, OFFSET_MAX, pack_flock, set_lock
from stubs.abi.x86_64 import NR_fcntl
from stubs.migration.image import FileLock, OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Holder(Protocol):
        """What is to be known of a descriptor: its fdinfo, and whose it is."""

        pid: int
        lines: list[str]

        def refuse(self, name: str, what: str) -> Exception:
            """Return the error that says that this process `what`."""


# FileLock.kind
POSIX, FLOCK, OFD = 1, 2, 3

_KINDS = {"POSIX": POSIX, "FLOCK": FLOCK, "OFDLCK": OFD}
_TYPES = {"READ": F_RDLCK, "WRITE": F_WRLCK}


def describe_locks(found: Holder) -> list[bytes]:
    """Return what is locked by way of a descriptor, FileLocks; Unmovable when it has a lease."""
    locks = []
    for line in found.lines:
        if not line.startswith("lock:"):
            continue
        # "lock: 1: POSIX  ADVISORY  WRITE 12345 08:01:123 0 EOF"
        _, _, kind, _, access, _, _, start, end = line.split()
        if kind not in _KINDS or access not in _TYPES:
            raise found.refuse("lease", "holds a lease on a file")
        lock = FileLock(
            kind=_KINDS[kind],
            type=_TYPES[access],
            start=int(start),
            end=OFFSET_MAX if end == "EOF" else int(end),
            pid=found.pid if kind == "POSIX" else 0,
        )
        locks.append(lock.encode())
    return locks


def take_locks(file: OpenFile, fd: int) -> None:
    """Take those that belong to the open file; OSError that names it when another is in the way."""
    try:
        for lock in map(FileLock.decode, file.locks):
            if lock.kind == FLOCK:
                wanted = fcntl.LOCK_SH if lock.type == F_RDLCK else fcntl.LOCK_EX
                fcntl.flock(fd, wanted | fcntl.LOCK_NB)
            elif lock.kind == OFD:
                set_lock(fd, lock.type, lock.start, lock.end)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), file.path) from error


def lock_calls(file: OpenFile, pid: int, number: int) -> list[tuple[int | bytes, ...]]:
    """Return the system calls by which a process takes those that are its own, at `number`."""
    return [
        (NR_fcntl, number, F_SETLK, pack_flock(lock.type, lock.start, lock.end))
        for lock in map(FileLock.decode, file.locks)
        if lock.kind == POSIX and lock.pid == pid
    ]
