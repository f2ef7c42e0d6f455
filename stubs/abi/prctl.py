"""Linux ABI: prctl(2). Names and values are those of include/uapi/linux/prctl.h."""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_prctl = function(
    "prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong
)


def prctl(option: int, argument: int = 0) -> int:
    """Set or get one attribute of this process, where the argument is a number."""
    return _prctl(option, argument, 0, 0, 0)
