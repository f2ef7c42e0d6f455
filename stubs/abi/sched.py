"""Linux ABI: namespaces and clone.

Names, values and layouts are those of include/uapi/linux/sched.h. clone3(2) with set_tid needs
Linux 5.5; where it is missing (ENOSYS, also from a seccomp filter) os.fork still works.
"""

from __future__ import annotations

import ctypes
import os
import signal

from stubs.abi.libc import function
from stubs.abi.x86_64 import NR_clone, NR_clone3

CLONE_NEWNS = 0x00020000
CLONE_PARENT = 0x00008000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000


class clone_args(ctypes.Structure):
    """struct clone_args, as of CLONE_ARGS_SIZE_VER1 and later."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("pidfd", ctypes.c_uint64),
        ("child_tid", ctypes.c_uint64),
        ("parent_tid", ctypes.c_uint64),
        ("exit_signal", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("stack_size", ctypes.c_uint64),
        ("tls", ctypes.c_uint64),
        ("set_tid", ctypes.c_uint64),
        ("set_tid_size", ctypes.c_uint64),
        ("cgroup", ctypes.c_uint64),
    )


unshare = function("unshare", ctypes.c_int)

# The interpreter's lock is kept over the call: a child that had to take it again first would
# need what os.fork repairs. With a single thread nothing else of os.fork is missed.
_raw = ctypes.PyDLL(None, use_errno=True).syscall
_raw.restype = ctypes.c_long


def clone(flags: int) -> int:
    """Fork by clone(2) with CLONE_* `flags`; returns 0 in the child. One thread only."""
    number = ctypes.c_long(NR_clone)
    zero = ctypes.c_long(0)
    pid: int = _raw(number, ctypes.c_long(flags | signal.SIGCHLD), zero, zero, zero, zero)
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "clone")
    return pid


def clone_with_pid(pid: int) -> int:
    """Fork so that the child has `pid` in our namespace; returns 0 in the child. One thread only.

    Raises OSError: EEXIST when the pid is taken, EINVAL beyond pid_max, EPERM without
    CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE over the namespace, ENOSYS before Linux 5.5.
    """
    wanted = ctypes.c_int(pid)
    args = clone_args(exit_signal=signal.SIGCHLD)
    args.set_tid = ctypes.addressof(wanted)
    args.set_tid_size = 1
    size = ctypes.c_size_t(ctypes.sizeof(args))
    child: int = _raw(ctypes.c_long(NR_clone3), ctypes.byref(args), size)
    if child < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "clone3")
    return child
