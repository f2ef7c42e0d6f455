"""Linux ABI: locks of parts of files, include/uapi/asm-generic/fcntl.h on x86-64."""

from __future__ import annotations

import fcntl
import struct

F_RDLCK = 0
F_WRLCK = 1
F_UNLCK = 2

F_SETLK = 6

F_OFD_GETLK = 36
F_OFD_SETLK = 37
F_OFD_SETLKW = 38

# Of a memfd: nothing of it can be written any more, include/uapi/linux/fcntl.h.
F_SEAL_WRITE = 0x0008

# struct flock: l_type, l_whence, l_start, l_len, l_pid. l_pid must be 0 for F_OFD_*.
FLOCK = struct.Struct("hh4xqqi4x")

# The largest offset, loff_t; as the end of a lock it means the end of the file.
OFFSET_MAX = (1 << 63) - 1


def pack_flock(kind: int, start: int, end: int) -> bytes:
    """Return struct flock for a lock of `start`..`end` inclusive."""
    length = 0 if end == OFFSET_MAX else end - start + 1
    return FLOCK.pack(kind, 0, start, length, 0)


def set_lock(fd: int, kind: int, start: int, end: int) -> None:
    """F_OFD_SETLK of `start`..`end` inclusive; BlockingIOError when another lock is in the way."""
    fcntl.fcntl(fd, F_OFD_SETLK, pack_flock(kind, start, end))


def get_lock(fd: int, kind: int, start: int, end: int) -> tuple[int, int, int, int]:
    """F_OFD_GETLK: return (type, start, end, pid) of a lock in the way, type F_UNLCK if none.

    pid is -1 when the lock belongs to an open file rather than to a process.
    """
    answer = fcntl.fcntl(fd, F_OFD_GETLK, pack_flock(kind, start, end))
    found, _, begin, length, pid = FLOCK.unpack(answer)
    return found, begin, OFFSET_MAX if length == 0 else begin + length - 1, pid
