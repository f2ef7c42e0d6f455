"""System calls prepared by a parent and made by its child, from clone to execve.

A forked interpreter costs milliseconds: its page tables are copied, and then every page that
has reference counts on it. A child that shares the parent's memory (vfork(2)) costs a tenth, but
must not run Python there. So the calls it has to make are laid out as data, and a few bytes of
machine code (x86-64) make them. Where that code may not be mapped the same calls are made by a
forked interpreter.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct

from stubs.abi import machinecode
from stubs.abi.sched import clone_args, clone_with_pid
from stubs.abi.x86_64 import NR_dup2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_VM = 0x00000100
CLONE_VFORK = 0x00004000
CLONE_CHILD_SETTID = 0x01000000

# What becomes of a call's result: normally a failure ends the child.
MAY_FAIL = 1
ENDS_CHOICE = 2  # when it succeeds, the call after it is left out

_STATUS = 127  # of a child whose calls failed, as the shell has it

# One call: its number, six arguments, flags.
_CALL = struct.Struct("=8Q")

_FAILURE = struct.Struct("=i")

# long run(struct clone_args *rdi, size_t rsi, call *rdx, long *rcx): clone3, and in the child the
# calls, until one does not return. The child pushes nothing, for the stack is the parent's.
_CODE = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4155"  # push r13
    "4989d4"  # mov r12, rdx
    "4989cd"  # mov r13, rcx
    "b8b3010000"  # mov eax, NR_clone3
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7406"  # jz child
    "415d"  # pop r13
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
    # child:
    "498b0424"  # mov rax, [r12]
    "498b7c2408"  # mov rdi, [r12 + 8]
    "498b742410"  # mov rsi, [r12 + 16]
    "498b542418"  # mov rdx, [r12 + 24]
    "4d8b542420"  # mov r10, [r12 + 32]
    "4d8b442428"  # mov r8, [r12 + 40]
    "4d8b4c2430"  # mov r9, [r12 + 48]
    "498b5c2438"  # mov rbx, [r12 + 56]
    "0f05"  # syscall
    "4983c440"  # add r12, 64
    "4885c0"  # test rax, rax
    "780b"  # js failed
    "f6c302"  # test bl, ENDS_CHOICE
    "74c9"  # jz child
    "4983c440"  # add r12, 64
    "ebc3"  # jmp child
    # failed:
    "f6c301"  # test bl, MAY_FAIL
    "75be"  # jnz child
    "49894500"  # mov [r13], rax
    "bf7f000000"  # mov edi, 127
    "b8e7000000"  # mov eax, NR_exit_group
    "0f05"  # syscall
)

# A prototype that keeps the interpreter's lock: the thread that would take it again is the one that
# is stopped until the child has gone its own way.
_CODE_TYPE = ctypes.PYFUNCTYPE(
    ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
)

# The result is kept apart from errno, and nothing is raised: see Calls._perform.
_syscall = ctypes.CDLL(None, use_errno=True)["syscall"]
_syscall.argtypes = (ctypes.c_long, *[ctypes.c_ulong] * 6)
_syscall.restype = ctypes.c_long


def map_code() -> int:
    """Return the address of the machine code; OSError where nothing may be made executable."""
    return machinecode.load(_CODE)


class Calls:
    """What a child shall do; the last call is execve(2)."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.own_pid = ctypes.c_int(0)  # where the child finds its pid, as its namespace has it
        self._calls: list[tuple[int, ...]] = []
        self._kept: list[object] = []

    def add(self, number: int, *arguments: int | bytes, flags: int = 0) -> None:
        """Add a call; bytes are passed by their address (and ended by NUL)."""
        values = [self._address(value) for value in arguments]
        values += [0] * (6 - len(values))
        self._calls.append((number, *[value & 0xFFFFFFFFFFFFFFFF for value in values], flags))

    def keep(self, value: object) -> None:
        """Keep alive what an argument points to."""
        self._kept.append(value)

    def run(self, pid: int, code: int) -> tuple[int, int]:
        """Clone a child that makes the calls; return its pid, and the errno if one failed.

        `pid` is what it shall be, 0 any; `code` comes from map_code, 0 without. Returns when the
        child has called execve, or ended. One thread only. Raises OSError as clone_with_pid.
        """
        if code:
            failure = ctypes.c_long(0)
            child = self._clone(CLONE_VM | CLONE_VFORK, pid, code, failure)
            return child, -failure.value
        return self._fork(lambda: clone_with_pid(pid) if pid else os.fork())

    def start(self, code: int, pid: int = 0) -> int:
        """Clone a child that makes the calls, and return its pid at once; `pid` as in `run`.

        This object must be kept until the child has ended or called execve: it is where the calls
        are. Raises OSError as clone_with_pid.
        """
        if code:
            return self._clone(CLONE_VM, pid, code, ctypes.c_long(0))
        child = clone_with_pid(pid) if pid else os.fork()
        if child == 0:
            self._perform()
            os._exit(_STATUS)
        return child

    def _address(self, value: int | bytes) -> int:
        if isinstance(value, int):
            return value
        buffer = ctypes.create_string_buffer(value)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _clone(self, flags: int, pid: int, code: int, failure: ctypes.c_long) -> int:
        wanted = ctypes.c_int(pid)
        args = clone_args(
            flags=flags | CLONE_CHILD_SETTID,
            child_tid=ctypes.addressof(self.own_pid),
            exit_signal=signal.SIGCHLD,
        )
        if pid:
            args.set_tid, args.set_tid_size = ctypes.addressof(wanted), 1
        calls = ctypes.create_string_buffer(b"".join([_CALL.pack(*call) for call in self._calls]))
        self._kept += (calls, failure)
        child: int = _CODE_TYPE(code)(
            ctypes.byref(args), ctypes.sizeof(args), calls, ctypes.byref(failure)
        )
        if child < 0:
            raise OSError(-child, os.strerror(-child), "clone3")
        return child

    def _fork(self, fork: Callable[[], int]) -> tuple[int, int]:
        reading, writing = os.pipe()
        # Out of the way of what the child puts in its place.
        targets = [call[2] for call in self._calls if call[0] == NR_dup2]
        moved = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, max(targets, default=2) + 1)
        os.close(writing)
        child = fork()
        if child == 0:
            self.own_pid.value = os.getpid()
            failure = self._perform()
            os.write(moved, _FAILURE.pack(failure))
            os._exit(_STATUS)
        os.close(moved)
        with open(reading, "rb") as file:
            data = file.read()
        return child, _FAILURE.unpack(data)[0] if data else 0

    def _perform(self) -> int:
        """Make the calls; returns only with the errno of one that failed."""
        number = 0
        while number < len(self._calls):
            *call, flags = self._calls[number]
            number += 1
            if _syscall(*call) >= 0:
                number += bool(flags & ENDS_CHOICE)
            elif not flags & MAY_FAIL:
                break
        return ctypes.get_errno()
