"""Stops of tracees that need no thought, answered by machine code (x86-64).

Of the five times that a tracee which forks, execs and ends is stopped, three have always the same
answer: its first stop, its parent's fork event, and the SIGCHLD that its parent gets. In Python
each costs sixty microseconds, most of which goes into waking up, and a build has thousands. Here
they are answered, and forks noted; every other stop, and every end, is handed out. Layouts are
those of ptrace(2), waitid(2) and include/uapi/asm-generic/siginfo.h.
"""

from __future__ import annotations

import ctypes
import select

from stubs.abi import machinecode

# Events that are noted until they are taken.
ROOM = 256

# What `wait` returns.
NOTHING, LOOK, STOP = 0, 1, 2

_NO_WAIT = -2

# long wait(struct Station *rdi): answer stops until another descriptor is ready or the time is over
# (0), something has ended or 64 were answered (1), or one has stopped who needs thought (2). Signal
# 17 is SIGCHLD; 0x8005 is PTRACE_EVENT_STOP << 8 | SIGTRAP, 0x105 to 0x305 those of fork, vfork and
# clone. The calls: poll, read (of the signal), waitid(WSTOPPED), PTRACE_GETEVENTMSG, PTRACE_CONT,
# and waitid(WEXITED | WNOWAIT), both with __WALL and WNOHANG. What has stopped without being traced
# (si_code is not CLD_TRAPPED, 4) is nobody's business: wait4(2) would not tell of it either.
_CODE = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4889fb"  # mov rbx, rdi
    "41bc40000000"  # mov r12d, 64
    "837b08fe"  # cmp dword ptr [rbx + 8], -2
    "7437"  # je next
    # again:
    "4889df"  # mov rdi, rbx
    "be01000000"  # mov esi, 1
    "8b5308"  # mov edx, [rbx + 8]
    "b807000000"  # mov eax, 7
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "0f8e2c010000"  # jle none
    "8b7b10"  # mov edi, [rbx + 16]
    "488db3b8000000"  # lea rsi, [rbx + 184]
    "ba80000000"  # mov edx, 128
    "31c0"  # xor eax, eax
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "0f8e10010000"  # jle none
    # next:
    "41ffcc"  # dec r12d
    "0f8812010000"  # js look
    "31ff"  # xor edi, edi
    "488d5330"  # lea rdx, [rbx + 48]
    "41ba03000040"  # mov r10d, 0x40000003
    "4531c0"  # xor r8d, r8d
    "b8f7000000"  # mov eax, 247
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "0f88f3000000"  # js look
    "8b7340"  # mov esi, [rbx + 64]
    "85f6"  # test esi, esi
    "0f84b5000000"  # jz ended
    "837b3804"  # cmp dword ptr [rbx + 56], 4
    "75c7"  # jne next
    "8b4b14"  # mov ecx, [rbx + 20]
    "488b5318"  # mov rdx, [rbx + 24]
    # scan:
    "85c9"  # test ecx, ecx
    "740c"  # jz usual
    "ffc9"  # dec ecx
    "39348a"  # cmp [rdx + rcx * 4], esi
    "75f5"  # jne scan
    "e9c4000000"  # jmp stop
    # usual:
    "8b4348"  # mov eax, [rbx + 72]
    "4531d2"  # xor r10d, r10d
    "83f811"  # cmp eax, 17
    "7505"  # jne told
    "4189c2"  # mov r10d, eax
    "eb75"  # jmp go_on
    # told:
    "8b4b28"  # mov ecx, [rbx + 40]
    "3b4b2c"  # cmp ecx, [rbx + 44]
    "0f83a8000000"  # jae stop
    "4889b3b0000000"  # mov [rbx + 176], rsi
    "3d05800000"  # cmp eax, 0x8005
    "7437"  # je note
    "8d88fbfeffff"  # lea ecx, [rax - 0x105]
    "84c9"  # test cl, cl
    "0f858c000000"  # jnz stop
    "81f900020000"  # cmp ecx, 0x200
    "0f8780000000"  # ja stop
    "bf01420000"  # mov edi, 0x4201
    "31d2"  # xor edx, edx
    "4c8d93b0000000"  # lea r10, [rbx + 176]
    "b865000000"  # mov eax, 101
    "0f05"  # syscall
    "4531d2"  # xor r10d, r10d
    "4885c0"  # test rax, rax
    "7824"  # js go_on
    # note:
    "8b4b28"  # mov ecx, [rbx + 40]
    "ff4328"  # inc dword ptr [rbx + 40]
    "488d0c49"  # lea rcx, [rcx + rcx * 2]
    "488b5320"  # mov rdx, [rbx + 32]
    "488d148a"  # lea rdx, [rdx + rcx * 4]
    "8932"  # mov [rdx], esi
    "0fb64349"  # movzx eax, byte ptr [rbx + 73]
    "894204"  # mov [rdx + 4], eax
    "8b83b0000000"  # mov eax, [rbx + 176]
    "894208"  # mov [rdx + 8], eax
    # go_on:
    "bf07000000"  # mov edi, 7
    "31d2"  # xor edx, edx
    "b865000000"  # mov eax, 101
    "0f05"  # syscall
    "e918ffffff"  # jmp next
    # ended:
    "31ff"  # xor edi, edi
    "488d5330"  # lea rdx, [rbx + 48]
    "41ba05000041"  # mov r10d, 0x41000005
    "b8f7000000"  # mov eax, 247
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "781b"  # js look
    "837b4000"  # cmp dword ptr [rbx + 64], 0
    "7515"  # jne look
    "837b08ff"  # cmp dword ptr [rbx + 8], -1
    "0f84b9feffff"  # je again
    # none:
    "31c0"  # xor eax, eax
    "eb0c"  # jmp out
    # stop:
    "b802000000"  # mov eax, 2
    "eb05"  # jmp out
    # look:
    "b801000000"  # mov eax, 1
    # out:
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
)


class Station(ctypes.Structure):
    """What the machine code works on; its offsets are written into the code."""

    _fields_ = (
        # struct pollfd
        ("poll", ctypes.c_int),
        ("poll_events", ctypes.c_uint32),
        ("timeout", ctypes.c_int64),  # milliseconds; -1: none; -2: do not wait at all
        ("children", ctypes.c_int),  # a signalfd
        ("known_count", ctypes.c_uint32),
        ("known", ctypes.c_uint64),  # int32_t[], pids
        ("noted", ctypes.c_uint64),  # int32_t[][3]
        ("noted_count", ctypes.c_uint32),
        ("room", ctypes.c_uint32),
        # siginfo_t, 128 bytes
        ("si_signo", ctypes.c_int),
        ("si_errno", ctypes.c_int),
        ("si_code", ctypes.c_int),
        ("si_padding", ctypes.c_int),
        ("si_pid", ctypes.c_int),
        ("si_uid", ctypes.c_uint32),
        ("si_status", ctypes.c_int),
        ("si_rest", ctypes.c_char * 100),
        ("message", ctypes.c_uint64),
        ("signal", ctypes.c_char * 128),  # struct signalfd_siginfo
    )


class TraceStops:
    """The machine code at work on all children of this thread."""

    def __init__(self, children: int) -> None:
        """Have `children`, a signalfd that does not block, tell of SIGCHLD.

        OSError where nothing may be made executable.
        """
        self._call = machinecode.function_of_struct(_CODE)
        self._handed: set[int] = set()
        self._noted = (ctypes.c_int32 * (3 * ROOM))()
        self._station = Station(
            poll_events=select.POLLIN,
            children=children,
            noted=ctypes.addressof(self._noted),
            room=ROOM,
        )
        self._address = ctypes.addressof(self._station)

    def wait(self, other: int, timeout_ms: int) -> int:
        """Answer stops until there is something to do: NOTHING here, LOOK for ends, or a STOP.

        `other` is ready when any descriptor is, `children` among them. With a timeout this may
        return early.
        """
        self._station.poll = other
        return self._answer(timeout_ms)

    def look(self) -> int:
        """Answer the stops there are, without waiting; return as `wait`."""
        return self._answer(_NO_WAIT)

    def _answer(self, timeout: int) -> int:
        self._station.timeout = timeout
        return self._call(self._address)

    def stop(self) -> tuple[int, int]:
        """Return the pid that has stopped, and its status as wait4(2) has it."""
        return self._station.si_pid, self._station.si_status << 8 | 0x7F

    def take_noted(self) -> list[tuple[int, int, int]]:
        """Return (pid, PTRACE_EVENT_*, what it is about) of the events since the last time.

        A first stop is noted as PTRACE_EVENT_STOP about itself.
        """
        count = self._station.noted_count
        if not count:
            return []
        self._station.noted_count = 0
        numbers = iter(self._noted[: 3 * count])
        return list(zip(numbers, numbers, numbers))

    def hand_out(self, pid: int) -> None:
        """Answer no stop of this one."""
        self._handed.add(pid)
        self._know()

    def forget(self, pid: int) -> None:
        """Answer for it as for all others."""
        if pid in self._handed:
            self._handed.remove(pid)
            self._know()

    def _know(self) -> None:
        self._known = (ctypes.c_int32 * len(self._handed))(*self._handed)
        self._station.known = ctypes.addressof(self._known)
        self._station.known_count = len(self._handed)


def trace_stops(children: int) -> TraceStops | None:
    """Return what answers simple stops; None where nothing may be made executable."""
    try:
        return TraceStops(children)
    except OSError:
        return None
