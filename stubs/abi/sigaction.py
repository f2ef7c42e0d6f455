"""Linux ABI: dispositions and masks of signals, as sets of 64 bits (bit signo-1).

Values and layouts are those of include/uapi/asm-generic/signal.h. The system calls are used
because Python's signal module, and glibc, keep signals 32 and 33 from us.
"""

from __future__ import annotations

import ctypes
import struct

from stubs.abi.libc import syscall
from stubs.abi.x86_64 import NR_rt_sigaction, NR_rt_sigprocmask

SIG_DFL = 0
SIG_IGN = 1
SIG_SETMASK = 2

SIGKILL = 9
SIGSTOP = 19
_NSIG = 64
ALL = (1 << _NSIG) - 1

# struct sigaction of the kernel: sa_handler, sa_flags, sa_restorer, sa_mask.
_SIGACTION = struct.Struct("=4Q")

_rt_sigaction = syscall(
    NR_rt_sigaction, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
)
_rt_sigprocmask = syscall(
    NR_rt_sigprocmask, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
)


def reset_actions() -> None:
    """Give every signal its default action."""
    _set_action(ALL, SIG_DFL)


def ignore(signals: int) -> None:
    """Ignore the signals of the set."""
    _set_action(signals, SIG_IGN)


def _set_action(signals: int, handler: int) -> None:
    action = _SIGACTION.pack(handler, 0, 0, 0)
    for signo in range(1, _NSIG + 1):
        if signals >> (signo - 1) & 1 and signo not in (SIGKILL, SIGSTOP):
            _rt_sigaction(signo, action, None, 8)


def set_mask(blocked: int) -> None:
    """Block exactly the signals of the set."""
    _rt_sigprocmask(SIG_SETMASK, struct.pack("=Q", blocked), None, 8)
