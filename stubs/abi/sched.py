"""Linux ABI: namespaces and clone, and the scheduler's slice.

Names, values and layouts are those of include/uapi/linux/sched.h and sched/types.h. clone3(2) with
set_tid needs Linux 5.5; where it is missing (ENOSYS, also from a seccomp filter) os.fork still
works.
"""

from __future__ import annotations

import ctypes
import os
import signal

from stubs.abi.libc import function, syscall
from stubs.abi.x86_64 import NR_clone, NR_clone3, NR_sched_setattr

CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_SIGHAND = 0x00000800
CLONE_PARENT = 0x00008000
CLONE_THREAD = 0x00010000
CLONE_NEWNS = 0x00020000
CLONE_SYSVSEM = 0x00040000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWTIME = 0x00000080

# personality(2), include/uapi/linux/personality.h.
ADDR_NO_RANDOMIZE = 0x0040000

SCHED_FLAG_RESET_ON_FORK = 0x01


class sched_attr(ctypes.Structure):
    """struct sched_attr, as of SCHED_ATTR_SIZE_VER0."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


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
# By a pidfd several at once, from Linux 5.8 on.
setns = function("setns", ctypes.c_int, ctypes.c_int)
_sched_setattr = syscall(NR_sched_setattr, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)

# The least that the kernel takes.
_SHORT_SLICE_NS = 100_000


def take_short_slices(tid: int = 0) -> None:
    """Have a thread of ours, 0: this one, scheduled in short turns; what it starts is not.

    Who is ready for a moment only, while others wait for that, is then chosen before those that
    compute (EEVDF, Linux 6.12; sched(7)). Its share of the CPU stays the same. Where the kernel
    does not know this, or another policy than the usual one is in force, nothing happens.
    """
    try:
        if os.sched_getscheduler(tid) != os.SCHED_OTHER:
            return
        attr = sched_attr(
            size=ctypes.sizeof(sched_attr),
            sched_policy=os.SCHED_OTHER,
            sched_flags=SCHED_FLAG_RESET_ON_FORK,
            sched_nice=os.getpriority(os.PRIO_PROCESS, tid),
            sched_runtime=_SHORT_SLICE_NS,
        )
        _sched_setattr(tid, ctypes.addressof(attr), 0)
    except OSError:
        return  # the thread has ended, or a filter forbids it: it is scheduled as others are


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
