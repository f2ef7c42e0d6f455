"""What a stopped process is, as a record of its image: from proc(5), or by calls that it makes.

The process is left as it was, but that its registers may say that an interrupted call is made
again: what a stop does to some calls is not for the program to see (stubs.migration.interrupted).
"""

from __future__ import annotations

import ctypes
import resource
import struct

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.libc import syscall
from stubs.abi.prctl import (
    PR_GET_CHILD_SUBREAPER,
    PR_GET_DUMPABLE,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG,
    PR_GET_THP_DISABLE,
    PR_GET_TID_ADDRESS,
    PR_GET_TIMERSLACK,
)
from stubs.abi.x86_64 import USER_REGS
from stubs.migration.areas import record_areas
from stubs.migration.executor import Room, Table
from stubs.migration.image import Process, Thread, Timer
from stubs.migration.injection import Injection, deliverable_to, rseq_of
from stubs.migration.interrupted import (
    UnknownCallError,
    for_elsewhere,
    interrupted_by_stop,
    made_again,
)
from stubs.migration.proc import Vma, read_file, read_status
from stubs.migration.reasons import Unmovable, reason
from stubs.migration.shared import look
from stubs.migration.tracee import (
    REGS,
    Tracee,
    read_memory,
)
from stubs.migration.vdso import parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.areas import Opens
    from stubs.migration.freeze import Stopped
    from stubs.migration.proc import Stat
    from stubs.migration.shared import View

_ACTION_BYTES, _ITIMER_BYTES, _STACK_BYTES = 32, 32, 24
_SIGNALS = range(1, 65)
_QUERY_PERSONALITY = 0xFFFFFFFF
_SIGSET_BYTES = 8

# prctl(2) options that return a value, and those that store one of 32 bits.
_RETURNED = (PR_GET_NO_NEW_PRIVS, PR_GET_THP_DISABLE, PR_GET_TIMERSLACK)
_STORED = (PR_GET_PDEATHSIG, PR_GET_CHILD_SUBREAPER)

_U32, _U64, _I64_PAIR = struct.Struct("=I"), struct.Struct("=Q"), struct.Struct("=qq")
_LIMITS = 16  # RLIM_NLIMITS

# SIGEV_*, include/uapi/asm-generic/siginfo.h, as /proc/PID/timers names them.
_NOTIFY = {"signal": 0, "none": 1, "thread": 2}
SIGEV_THREAD_ID = 4

_get_robust_list = syscall(nr.NR_get_robust_list, ctypes.c_long, *[ctypes.c_void_p] * 2)


class Questions:
    """Calls that a process makes about itself."""

    def __init__(self, pid: int, timers: list[Timer]) -> None:
        """Lay them out."""
        table = self.table = Table()
        self.actions = [Room(_ACTION_BYTES) for _ in _SIGNALS]
        for signo, room in zip(_SIGNALS, self.actions):
            table.call(nr.NR_rt_sigaction, signo, 0, room, _SIGSET_BYTES)
        self.itimers = [Room(_ITIMER_BYTES) for _ in range(3)]
        for which, room in enumerate(self.itimers):
            table.call(nr.NR_getitimer, which, room)
        self._brk = table.call(nr.NR_brk, 0)
        self._personality = table.call(nr.NR_personality, _QUERY_PERSONALITY)
        self._dumpable = table.call(nr.NR_prctl, PR_GET_DUMPABLE)
        self._returned = [table.call(nr.NR_prctl, option, optional=True) for option in _RETURNED]
        self._stored = [Room(_U32.size) for _ in _STORED]
        for option, room in zip(_STORED, self._stored):
            table.call(nr.NR_prctl, option, room)
        self.timers = [Room(_ITIMER_BYTES) for _ in timers]
        for timer, room in zip(timers, self.timers):
            table.call(nr.NR_timer_gettime, timer.number, room)

    @property
    def brk(self) -> int:
        """The end of the heap."""
        return self.table.results[self._brk]

    @property
    def personality(self) -> int:
        """As personality(2) has it."""
        return self.table.results[self._personality]

    @property
    def dumpable(self) -> int:
        """As PR_GET_DUMPABLE has it."""
        return self.table.results[self._dumpable]

    def settings(self) -> list[int]:
        """Return pairs of option and value."""
        found = []
        for option, row in zip(_RETURNED, self._returned):
            if self.table.results[row] >= 0:
                found += [option, self.table.results[row]]
        for option, room in zip(_STORED, self._stored):
            found += [option, _U32.unpack_from(room.data)[0]]
        return found


def capture(
    process: Stopped, stat: Stat, ppid: int, vmas: list[Vma], opens: Opens
) -> tuple[Process, list[View]]:
    """Return the record of a process that `settle` has seen, and the shared memory it has mapped.

    Raises Unmovable if it cannot be moved.
    """
    pid = process.pid
    timers = _timers(pid)
    areas = record_areas(pid, vmas, opens)
    questions = Questions(pid, timers)
    deliverable = {thread.tid: deliverable_to(thread) for thread in process.threads}
    for thread in process.threads:
        if interrupted_by_stop(thread.regs, deliverable[thread.tid]):
            thread.regs = made_again(thread.regs, thread.regs["orig_rax"])
    with Injection(process, vmas):
        process.leader.run(questions.table)
        views = look(process.leader, vmas, areas)
        own = [_own_answers(thread, process.leader.scratch) for thread in process.threads]
    for timer, room in zip(timers, questions.timers):
        timer.interval, timer.remaining = (_ns(room.data, at) for at in (0, 16))
    actions = b"".join([room.data for room in questions.actions])
    stat.mm[5] = questions.brk
    status = read_status(pid)
    record = Process(
        pid=pid,
        ppid=ppid,
        pgid=stat.pgid,
        sid=stat.sid,
        zombie=0,
        status=0,
        exe=opens.executable(pid),
        cwd=opens.directory(pid),
        umask=int(status["Umask"], 8),
        personality=questions.personality,
        nice=stat.nice,
        dumpable=questions.dumpable,
        stopped=process.leader.job_stop,
        vdso=[start for start, _ in parts_of(vmas)],
        mm=stat.mm,
        auxv=read_file(f"/proc/{pid}/auxv"),
        settings=questions.settings(),
        capabilities=[int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff")],
        limits=_limits(pid),
        actions=actions,
        pending=ptrace.peeksiginfo(pid, ptrace.PTRACE_PEEKSIGINFO_SHARED),
        itimers=b"".join([room.data for room in questions.itimers]),
        timers=[timer.encode() for timer in timers],
        areas=[area.encode() for area in areas],
        descriptors=[int(number) for each in opens.descriptors(pid) for number in each],
        threads=[
            _thread(thread, answers, deliverable[thread.tid], actions).encode()
            for thread, answers in zip(process.threads, own)
        ],
    )
    return record, views


def record_zombie(stat: Stat, ppid: int) -> Process:
    """Return the record of a process that has ended."""
    return Process(
        pid=stat.pid,
        ppid=ppid,
        pgid=stat.pgid,
        sid=stat.sid,
        zombie=1,
        status=stat.status,
        exe=0,
        cwd=0,
        umask=0,
        personality=0,
        nice=0,
        dumpable=0,
        stopped=0,
        vdso=[],
        mm=[],
        auxv=b"",
        settings=[],
        capabilities=[],
        limits=[],
        actions=b"",
        pending=[],
        itimers=b"",
        timers=[],
        areas=[],
        descriptors=[],
        threads=[],
    )


def _own_answers(thread: Tracee, scratch: int) -> tuple[bytes, int]:
    """Return (stack_t, the address that set_tid_address(2) was given)."""
    table = Table()
    stack, address = Room(_STACK_BYTES), Room(_U64.size)
    table.call(nr.NR_sigaltstack, 0, stack)
    table.call(nr.NR_prctl, PR_GET_TID_ADDRESS, address)
    thread.scratch = scratch
    thread.run(table)
    return stack.data[:_STACK_BYTES], _U64.unpack_from(address.data)[0]


def _thread(thread: Tracee, answers: tuple[bytes, int], deliverable: int, actions: bytes) -> Thread:
    regs = thread.regs
    try:
        code = read_memory(thread.pid, regs["rip"] - 7, 5)
    except OSError:
        code = bytes(5)  # at the start of a mapping
    try:
        regs = for_elsewhere(regs, code, thread.waits, deliverable, actions)
    except UnknownCallError as error:
        what = "goes on with a system call that cannot be told"
        raise Unmovable(reason("unknown_call", thread.pid, what)) from error
    head, size = ctypes.c_uint64(), ctypes.c_uint64()
    _get_robust_list(thread.tid, ctypes.addressof(head), ctypes.addressof(size))
    rseq = rseq_of(thread)
    return Thread(
        tid=thread.tid,
        comm=read_file(f"/proc/{thread.pid}/task/{thread.tid}/comm")[:-1],
        regs=REGS.pack(*[regs[name] & (1 << 64) - 1 for name in USER_REGS]),
        xstate=ptrace.getregset(thread.tid, ptrace.NT_X86_XSTATE),
        blocked=thread.blocked,
        pending=ptrace.peeksiginfo(thread.tid),
        altstack=answers[0],
        clear_tid=answers[1],
        robust=head.value,
        robust_bytes=size.value,
        rseq=rseq[0],
        rseq_bytes=rseq[1],
        rseq_signature=rseq[2],
    )


def _limits(pid: int) -> list[int]:
    found = []
    for number in range(_LIMITS):
        found += [value & (1 << 64) - 1 for value in resource.prlimit(pid, number)]
    return found


def _timers(pid: int) -> list[Timer]:
    """Return the POSIX timers of a process; their times are still to be asked for."""
    found: list[Timer] = []
    for line in read_file(f"/proc/{pid}/timers").decode().splitlines():
        name, _, value = line.partition(": ")
        if name == "ID":
            found.append(Timer(int(value), 0, 0, 0, 0, 0, 0, 0))
        elif name == "signal":
            signo, _, pointer = value.partition("/")
            found[-1].signo, found[-1].value = int(signo), int(pointer, 16)
        elif name == "notify":
            how, _, whom = value.partition("/")
            kind, _, number = whom.partition(".")
            found[-1].notify = _NOTIFY[how]
            if kind == "tid":
                found[-1].notify, found[-1].tid = SIGEV_THREAD_ID, int(number)
        elif name == "ClockID":
            found[-1].clock = int(value)
    return found


def _ns(data: bytes, at: int) -> int:
    seconds, ns = _I64_PAIR.unpack_from(data, at)
    return int(seconds * 1_000_000_000 + ns)
