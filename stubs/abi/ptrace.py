"""Linux ABI: ptrace(2).

Names, values and layouts are those of include/uapi/linux/ptrace.h and
arch/x86/include/uapi/asm/ptrace-abi.h. All requests must come from the thread that seized the
tracee, which must be stopped (except for SEIZE and INTERRUPT): else they fail with ESRCH.
"""

from __future__ import annotations

import ctypes
import struct

from stubs.abi.libc import function
from stubs.abi.x86_64 import USER_REGS

PTRACE_POKETEXT = 4
PTRACE_CONT = 7
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_DETACH = 17
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_SETSIGMASK = 0x420B

PTRACE_O_TRACEFORK = 1 << 1
PTRACE_O_TRACEVFORK = 1 << 2
PTRACE_O_TRACECLONE = 1 << 3
PTRACE_O_TRACEEXEC = 1 << 4
PTRACE_O_EXITKILL = 1 << 20

PTRACE_EVENT_FORK = 1
PTRACE_EVENT_VFORK = 2
PTRACE_EVENT_CLONE = 3
PTRACE_EVENT_EXEC = 4
PTRACE_EVENT_STOP = 128

_WORD = 8
_REGS = struct.Struct(f"={len(USER_REGS)}Q")
_SIGINFO_SIZE = 128
# si_signo, si_errno, si_code, padding; then what kill(2) and the terminal fill in: si_pid, si_uid.
_SIGINFO = struct.Struct("=iii4xiI")

_ptrace = function(
    "ptrace",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_void_p,
    result=ctypes.c_long,
)


def seize(pid: int, options: int) -> None:
    """Trace `pid` from now on, without stopping it. PermissionError if that is not allowed."""
    _ptrace(PTRACE_SEIZE, pid, 0, options)


def interrupt(pid: int) -> None:
    """Have a running or listening tracee stop with PTRACE_EVENT_STOP."""
    _ptrace(PTRACE_INTERRUPT, pid, 0, 0)


def cont(pid: int, signo: int = 0) -> None:
    """Let a stopped tracee run on, with `signo` delivered unless it is 0."""
    _ptrace(PTRACE_CONT, pid, 0, signo)


def listen(pid: int) -> None:
    """Leave a tracee in its group-stop, so that its parent sees it stopped and SIGCONT wakes it."""
    _ptrace(PTRACE_LISTEN, pid, 0, 0)


def detach(pid: int, signo: int = 0) -> None:
    """Trace no longer, and let it run, with `signo` delivered unless it is 0."""
    _ptrace(PTRACE_DETACH, pid, 0, signo)


def getregs(pid: int) -> dict[str, int]:
    """Return struct user_regs_struct by the kernel's names."""
    buffer = ctypes.create_string_buffer(_REGS.size)
    _ptrace(PTRACE_GETREGS, pid, 0, ctypes.addressof(buffer))
    return dict(zip(USER_REGS, _REGS.unpack(buffer.raw)))


def setregs(pid: int, regs: dict[str, int]) -> None:
    """Set all registers to those of `regs`, as `getregs` returned them."""
    values = [regs[name] & 0xFFFFFFFFFFFFFFFF for name in USER_REGS]
    buffer = ctypes.create_string_buffer(_REGS.pack(*values), _REGS.size)
    _ptrace(PTRACE_SETREGS, pid, 0, ctypes.addressof(buffer))


def poke(pid: int, address: int, data: bytes) -> None:
    """Write `data`, read-only text included; whole words, so up to 7 zero bytes are added."""
    for at in range(0, len(data), _WORD):
        (word,) = struct.unpack("=Q", data[at : at + _WORD].ljust(_WORD, b"\0"))
        _ptrace(PTRACE_POKETEXT, pid, address + at, word)


def geteventmsg(pid: int) -> int:
    """Return what an event is about: the new process of a fork, the former thread of an exec."""
    buffer = ctypes.c_ulong()
    _ptrace(PTRACE_GETEVENTMSG, pid, 0, ctypes.addressof(buffer))
    return buffer.value


def getsiginfo(pid: int) -> tuple[int, int, int]:
    """Return (si_signo, si_code, si_pid) of the signal that stopped the tracee."""
    buffer = ctypes.create_string_buffer(_SIGINFO_SIZE)
    _ptrace(PTRACE_GETSIGINFO, pid, 0, ctypes.addressof(buffer))
    signo, _, code, sender, _ = _SIGINFO.unpack_from(buffer.raw)
    return signo, code, sender


def setsigmask(pid: int, mask: int) -> None:
    """Set the tracee's blocked signals: bit signo-1."""
    buffer = ctypes.create_string_buffer(struct.pack("=Q", mask), _WORD)
    _ptrace(PTRACE_SETSIGMASK, pid, _WORD, ctypes.addressof(buffer))
