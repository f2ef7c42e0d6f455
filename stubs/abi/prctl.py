"""Linux ABI: prctl(2). Names and values are those of include/uapi/linux/prctl.h."""

from __future__ import annotations

import ctypes
import struct

from stubs.abi.libc import function

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_TIMERSLACK = 29
PR_GET_TIMERSLACK = 30
PR_SET_MM = 35
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_GET_TID_ADDRESS = 40
PR_SET_THP_DISABLE = 41
PR_GET_THP_DISABLE = 42
PR_CAP_AMBIENT = 47
PR_SET_MDWE = 65
PR_GET_MDWE = 66
PR_TIMER_CREATE_RESTORE_IDS = 77  # Linux 6.16

PR_SET_MM_MAP = 14

PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# struct prctl_mm_map: start_code … env_end, auxv, auxv_size, exe_fd.
MM_MAP = struct.Struct("=11QQII")

_prctl = function(
    "prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong
)


def prctl(option: int, argument: int = 0) -> int:
    """Set or get one attribute of this process, where the argument is a number."""
    return _prctl(option, argument, 0, 0, 0)
