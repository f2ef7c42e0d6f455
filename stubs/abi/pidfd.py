"""Linux ABI: descriptors of another process: pidfd_getfd(2) and kcmp(2).

pidfd_open(2) is os.pidfd_open. Values are those of include/uapi/linux/kcmp.h.
"""

from __future__ import annotations

import ctypes

from stubs.abi.libc import syscall
from stubs.abi.x86_64 import NR_kcmp, NR_pidfd_getfd

KCMP_FILE = 0

_pidfd_getfd = syscall(NR_pidfd_getfd, *[ctypes.c_long] * 3)
_kcmp = syscall(NR_kcmp, *[ctypes.c_long] * 5)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return our own descriptor (close-on-exec) for the open file that is `fd` there.

    Raises OSError as pidfd_getfd(2): a tracer may; EBADF when there is none.
    """
    return _pidfd_getfd(pidfd, fd, 0)


def same_open_file(pid: int, fd: int, other: int) -> bool:
    """Tell whether two descriptors of `pid` share one open file; OSError without kcmp(2)."""
    return _kcmp(pid, pid, KCMP_FILE, fd, other) == 0
