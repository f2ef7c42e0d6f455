"""Linux ABI: ptrace(2).

Names, values and layouts are those of include/uapi/linux/ptrace.h and
arch/x86/include/uapi/asm/ptrace-abi.h. All requests must come from the thread that seized the
tracee, which must be stopped (except for SEIZE and INTERRUPT): else they fail with ESRCH.
"""

from __future__ import annotations

import ctypes
import struct

from stubs.abi.libc import function, locked
from stubs.abi.x86_64 import USER_REGS

PTRACE_POKETEXT = 4
PTRACE_CONT = 7
PTRACE_SINGLESTEP = 9
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_DETACH = 17
PTRACE_SETOPTIONS = 0x4200
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_GETREGSET = 0x4204
PTRACE_SETREGSET = 0x4205
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F

PTRACE_PEEKSIGINFO_SHARED = 1

# Sets of registers, include/uapi/linux/elf.h.
NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202

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

# struct iovec; struct ptrace_peeksiginfo_args: off, flags, nr; struct ptrace_rseq_configuration:
# rseq_abi_pointer, rseq_abi_size, signature, flags, pad.
_IOVEC = struct.Struct("=QQ")
_PEEK = struct.Struct("=QIi")
_RSEQ = struct.Struct("=QIIII")
# More than the state of any processor yet.
_MOST_REGSET = 1 << 16

# The interpreter's lock is kept: giving it up and taking it costs more than the call.
_ptrace = function(
    "ptrace",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_void_p,
    result=ctypes.c_long,
    library=locked,
)


def seize(pid: int, options: int) -> None:
    """Trace `pid` from now on, without stopping it. PermissionError if that is not allowed."""
    _ptrace(PTRACE_SEIZE, pid, 0, options)


def setoptions(pid: int, options: int) -> None:
    """Trace a stopped tracee with these options instead of those that it has."""
    _ptrace(PTRACE_SETOPTIONS, pid, 0, options)


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


def getsigmask(pid: int) -> int:
    """Return the tracee's blocked signals: bit signo-1."""
    buffer = ctypes.c_uint64()
    _ptrace(PTRACE_GETSIGMASK, pid, _WORD, ctypes.addressof(buffer))
    return buffer.value


def singlestep(pid: int, signo: int = 0) -> None:
    """Let a stopped tracee run one instruction; a system call is one."""
    _ptrace(PTRACE_SINGLESTEP, pid, 0, signo)


def getregset(pid: int, kind: int) -> bytes:
    """Return a set of registers, NT_*; OSError ENODEV where this processor has none such."""
    buffer = ctypes.create_string_buffer(_MOST_REGSET)
    iovec = ctypes.create_string_buffer(_IOVEC.pack(ctypes.addressof(buffer), _MOST_REGSET))
    _ptrace(PTRACE_GETREGSET, pid, kind, ctypes.addressof(iovec))
    return buffer.raw[: _IOVEC.unpack_from(iovec.raw)[1]]


def setregset(pid: int, kind: int, data: bytes) -> None:
    """Set a set of registers; of NT_X86_XSTATE all of it, OSError EFAULT or EINVAL otherwise."""
    buffer = ctypes.create_string_buffer(data, len(data))
    iovec = ctypes.create_string_buffer(_IOVEC.pack(ctypes.addressof(buffer), len(data)))
    _ptrace(PTRACE_SETREGSET, pid, kind, ctypes.addressof(iovec))


def peeksiginfo(pid: int, flags: int = 0) -> list[bytes]:
    """Return siginfo_t of every pending signal of a thread, or with ..._SHARED of its process."""
    found: list[bytes] = []
    buffer = ctypes.create_string_buffer(_SIGINFO_SIZE * 32)
    while True:
        args = ctypes.create_string_buffer(_PEEK.pack(len(found), flags, 32))
        count = _ptrace(PTRACE_PEEKSIGINFO, pid, ctypes.addressof(args), ctypes.addressof(buffer))
        raw = buffer.raw
        found += [raw[_SIGINFO_SIZE * n : _SIGINFO_SIZE * (n + 1)] for n in range(count)]
        if count < 32:
            return found


def get_rseq_configuration(pid: int) -> tuple[int, int, int]:
    """Return (address, size, signature) of rseq(2), address 0: none; OSError before Linux 5.13."""
    buffer = ctypes.create_string_buffer(_RSEQ.size)
    _ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, _RSEQ.size, ctypes.addressof(buffer))
    address, size, signature, _, _ = _RSEQ.unpack_from(buffer.raw)
    return address, size, signature
