"""Linux ABI: descriptors of another process: pidfd_getfd(2) and kcmp(2).

Values are those of include/uapi/linux/kcmp.h and
pidfd.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from stubs.abi.libc import syscall
from stubs.abi.x86_64 import NR_kcmp, NR_pidfd_getfd, NR_pidfd_open

KCMP_FILE = 0
KCMP_VM = 1
KCMP_FILES = 2
KCMP_EPOLL_TFD = 7

PIDFD_NONBLOCK = os.O_NONBLOCK
PIDFD_THREAD = os.O_EXCL  # Linux 6.9

_EPOLL_SLOT = struct.Struct("=III")  # struct kcmp_epoll_slot: efd, tfd, toff

_pidfd_getfd = syscall(NR_pidfd_getfd, *[ctypes.c_long] * 3)
_kcmp = syscall(NR_kcmp, *[ctypes.c_long] * 5)
_kcmp_slot = syscall(NR_kcmp, *[ctypes.c_long] * 4, ctypes.c_char_p)
_pidfd_open = syscall(NR_pidfd_open, ctypes.c_long, ctypes.c_long)


def pidfd_open(pid: int, flags: int = 0) -> int:
    """As os.pidfd_open, with `flags` before Python 3.12 as well; always close-on-exec."""
    return _pidfd_open(pid, flags)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return our own descriptor (close-on-exec) for the open file that is `fd` there.

    Raises OSError as pidfd_getfd(2): a tracer may; EBADF when there is none.
    """
    return _pidfd_getfd(pidfd, fd, 0)


def same_open_file(pid: int, fd: int, other: int) -> bool:
    """Tell whether two descriptors of `pid` share one open file; OSError without kcmp(2)."""
    return is_same_file(pid, fd, pid, other)


def is_same_file(pid: int, fd: int, other_pid: int, other: int) -> bool:
    """Tell whether descriptors of two processes share one open file; OSError without kcmp(2)."""
    return _kcmp(pid, other_pid, KCMP_FILE, fd, other) == 0


def have_same(what: int, tid: int, other: int) -> bool:
    """Tell whether two threads share one table of descriptors (KCMP_FILES) or memory (KCMP_VM)."""
    return _kcmp(tid, other, what, 0, 0) == 0


def is_watched(pid: int, epoll: int, fd: int, nth: int) -> bool:
    """Tell whether `fd` of `pid` is what the `nth` entry for that number in an epoll of it is."""
    slot = _EPOLL_SLOT.pack(epoll, fd, nth)
    return _kcmp_slot(pid, pid, KCMP_EPOLL_TFD, fd, slot) == 0
