"""Linux ABI: tee(2), and the size of pipes; values of include/linux/splice.h and fcntl.h."""

from __future__ import annotations

import ctypes
import fcntl

from stubs.abi.libc import function

SPLICE_F_NONBLOCK = 2

F_SETPIPE_SZ = 1031
F_GETPIPE_SZ = 1032

_tee = function(
    "tee",
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_size_t,
    ctypes.c_uint,
    result=ctypes.c_ssize_t,
)


def tee(source: int, target: int, length: int) -> int:
    """Copy up to `length` bytes of a pipe into another, leaving them there; return how many.

    BlockingIOError when the source has none, or the target no room.
    """
    return _tee(source, target, length, SPLICE_F_NONBLOCK)


def pipe_size(fd: int) -> int:
    """Return the capacity of a pipe in bytes; OSError EBADF when it is none."""
    return fcntl.fcntl(fd, F_GETPIPE_SZ)


def set_pipe_size(fd: int, size: int) -> None:
    """Set the capacity; PermissionError past the user's limit, BlockingIOError below what is in."""
    fcntl.fcntl(fd, F_SETPIPE_SZ, size)
