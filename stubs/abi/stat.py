"""Linux ABI: what Python's os module lacks of sys/stat.h, linux/fs.h and linux/falloc.h."""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

AT_FDCWD = -100


class timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_utimensat = function(
    "utimensat", ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(timespec), ctypes.c_int
)
_fallocate = function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_renameat2 = function(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)


def split_ns(time_ns: int) -> tuple[int, int]:
    """Return a time in nanoseconds as (tv_sec, tv_nsec); also before 1970."""
    return divmod(time_ns, 1_000_000_000)


def utimensat(path: bytes, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set both times, (tv_sec, tv_nsec) each; tv_nsec may be UTIME_NOW or UTIME_OMIT."""
    _utimensat(AT_FDCWD, path, (timespec * 2)(timespec(*atime), timespec(*mtime)), 0)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate or punch space in a file; `mode` is a sum of FALLOC_FL_*."""
    _fallocate(fd, mode, offset, length)


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """Rename with `flags`, a sum of RENAME_*."""
    _renameat2(old_dir, old, new_dir, new, flags)
