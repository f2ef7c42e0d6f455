"""What a process has beside its memory: made by calls that its stub makes when that is in place."""

from __future__ import annotations

import os
import resource
import struct

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.capability import HEADER, pack
from stubs.abi.prctl import (
    MM_MAP,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_GET_CHILD_SUBREAPER,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG,
    PR_GET_THP_DISABLE,
    PR_GET_TIMERSLACK,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_MM,
    PR_SET_MM_MAP,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_THP_DISABLE,
    PR_SET_TIMERSLACK,
    PR_TIMER_CREATE_RESTORE_IDS,
)
from stubs.abi.sched import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
)
from stubs.abi.sigaction import SIGKILL, SIGSTOP
from stubs.abi.x86_64 import USER_REGS
from stubs.migration.cpu import fit_xstate
from stubs.migration.errors import RestoreError
from stubs.migration.executor import Room, Table
from stubs.migration.image import Thread, Timer
from stubs.migration.interrupted import NO_CALL
from stubs.migration.proc import read_status
from stubs.migration.tracee import REGS, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.executor import Argument
    from stubs.migration.image import Process
    from stubs.migration.rebuild import Stub

_THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM

_SETTINGS = {
    PR_GET_NO_NEW_PRIVS: PR_SET_NO_NEW_PRIVS,
    PR_GET_THP_DISABLE: PR_SET_THP_DISABLE,
    PR_GET_TIMERSLACK: PR_SET_TIMERSLACK,
    PR_GET_PDEATHSIG: PR_SET_PDEATHSIG,
    PR_GET_CHILD_SUBREAPER: PR_SET_CHILD_SUBREAPER,
}

_ACTION_BYTES, _ITIMER_BYTES, _SIGINFO_BYTES, _SIGSET_BYTES = 32, 32, 128, 8
_FDS_END = 0xFFFFFFFF
_MOST_LIMITS = 16
_NS = 1_000_000_000
_SIGNO = struct.Struct("=i")


def raise_limit(pid: int) -> None:
    """Let a stub have as many descriptors as it may, until its own limits are set."""
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def place_descriptors(table: Table, stub: Stub, process: Process, control: int) -> None:
    """Put descriptors to their numbers, and close all others."""
    wanted = [
        tuple(process.descriptors[at : at + 3]) for at in range(0, len(process.descriptors), 3)
    ]
    numbers = {number for number, _, _ in wanted}
    above = max(numbers | set(stub.fds.values()) | {control}, default=2) + 1
    where = dict(stub.fds)
    for index, fd in stub.fds.items():
        if fd in numbers:
            # Another is to be put there before this has been copied.
            table.call(nr.NR_dup3, fd, above, os.O_CLOEXEC)
            where[index], above = above, above + 1
    for number, index, cloexec in wanted:
        table.call(nr.NR_dup3, where[index], number, os.O_CLOEXEC if cloexec else 0)
    table.call(nr.NR_fchdir, where[process.cwd])
    first = 0
    for number in sorted(numbers):
        if number > first:
            table.call(nr.NR_close_range, first, number - 1, 0)
        first = number + 1
    table.call(nr.NR_close_range, first, _FDS_END, 0)


def set_identity(table: Table, process: Process) -> None:
    """Give it what proc(5), sigaction(2), umask(2), prctl(2), setrlimit(2) … tell of it."""
    auxv = process.auxv
    packed = MM_MAP.pack(*process.mm, 0, len(auxv), _FDS_END)
    words: list[Argument] = list(struct.unpack(f"={len(packed) // 8}Q", packed))
    words[11] = Room(auxv)
    # Without CONFIG_CHECKPOINT_RESTORE the heap cannot grow by brk(2) any more; malloc(3) has
    # another way.
    table.call(nr.NR_prctl, PR_SET_MM, PR_SET_MM_MAP, words, len(packed), 0, optional=True)
    table.call(nr.NR_umask, process.umask)
    table.call(nr.NR_personality, process.personality)
    table.call(nr.NR_setpriority, os.PRIO_PROCESS, 0, process.nice, optional=True)
    for signo in range(1, 65):
        at = (signo - 1) * _ACTION_BYTES
        if signo not in (SIGKILL, SIGSTOP):
            action = Room(process.actions[at : at + _ACTION_BYTES])
            table.call(nr.NR_rt_sigaction, signo, action, 0, _SIGSET_BYTES)
    pairs = zip(process.settings[::2], process.settings[1::2])
    for option, value in pairs:
        # no_new_privs and THP_DISABLE cannot be set to what they are by nature.
        if option in _SETTINGS and (value or option == PR_GET_TIMERSLACK):
            table.call(nr.NR_prctl, _SETTINGS[option], value, 0, 0, 0, optional=True)
    if process.dumpable in (0, 1):
        table.call(nr.NR_prctl, PR_SET_DUMPABLE, process.dumpable)


def set_limits(pid: int, process: Process) -> None:
    """Set its limits, as far as this machine allows."""
    for number in range(min(len(process.limits) // 2, _MOST_LIMITS)):
        hard = resource.prlimit(pid, number)[1] & NO_CALL
        wanted = [min(value, hard) for value in process.limits[2 * number : 2 * number + 2]]
        signed = tuple(-1 if value == NO_CALL else value for value in wanted)
        resource.prlimit(pid, number, (signed[0], signed[1]))


def start_timers(table: Table, process: Process) -> None:
    """Make and start the timers of timer_create(2) and setitimer(2)."""
    timers = [Timer.decode(data) for data in process.timers]
    if timers:
        table.call(nr.NR_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)
    for timer in timers:
        notify = timer.signo | timer.notify << 32
        event: list[Argument] = [timer.value, notify, timer.tid, *[0] * 5]
        number = Room(timer.number.to_bytes(4, "little", signed=True))
        table.call(nr.NR_timer_create, timer.clock, event, number)
        times: list[Argument] = []
        for ns in (timer.interval, timer.remaining):
            times += divmod(ns, _NS)
        table.call(nr.NR_timer_settime, timer.number, 0, times, 0)
    if timers:
        table.call(nr.NR_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0)
    for which in range(3):
        value = process.itimers[which * _ITIMER_BYTES : (which + 1) * _ITIMER_BYTES]
        if any(value):
            table.call(nr.NR_setitimer, which, Room(value), 0)


def make_threads(stub: Stub, threads: list[Thread]) -> None:
    """Make all threads but the first, each stopped before it does anything."""
    for thread in threads[1:]:
        born = Tracee(stub.clone(_THREAD, 0, thread.tid), stub.pid)
        if born.tid != thread.tid:
            raise RestoreError(f"thread {thread.tid} cannot have its number")
        born.stop()
        born.begin()
        born.scratch = stub.scratch
        stub.threads.append(born)


def own_capabilities(pid: int, process: Process) -> list[int]:
    """Return the sets that it had, as far as its stub has them."""
    most = int(read_status(pid)["CapPrm"], 16)
    return [each & most for each in process.capabilities]


def set_thread(tracee: Tracee, thread: Thread, capabilities: list[int]) -> None:
    """Have a thread set what is its own."""
    table = Table()
    table.call(nr.NR_set_tid_address, thread.clear_tid)
    if thread.robust:
        table.call(nr.NR_set_robust_list, thread.robust, thread.robust_bytes)
    if thread.rseq:
        values = (thread.rseq, thread.rseq_bytes, 0, thread.rseq_signature)
        table.call(nr.NR_rseq, *values)
    # SS_ONSTACK tells that it was in use; it is no flag to be set.
    stack = bytearray(thread.altstack)
    stack[8] &= ~1
    table.call(nr.NR_sigaltstack, Room(bytes(stack)), 0)
    table.call(nr.NR_prctl, PR_SET_NAME, thread.comm)
    # Last of what may need them: the stub has more than the program (stubs.migration.stub).
    table.call(nr.NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    table.call(nr.NR_capset, Room(HEADER), Room(pack(*capabilities)))
    for info in thread.pending:
        table.call(nr.NR_rt_tgsigqueueinfo, tracee.pid, tracee.tid, _signo(info), Room(info))
    tracee.run(table)


def queue_signals(table: Table, process: Process) -> None:
    """Have the signals of the process pending again, and none that came of its rebuilding."""
    everything = Room(b"\xff" * _SIGSET_BYTES)
    table.call(nr.NR_rt_sigtimedwait, everything, 0, [0, 0], _SIGSET_BYTES, optional=True)
    for info in process.pending:
        table.call(nr.NR_rt_sigqueueinfo, process.pid, _signo(info), Room(info))


def _signo(info: bytes) -> int:
    if len(info) != _SIGINFO_BYTES:
        raise RestoreError("a pending signal is not one")
    signo: int = _SIGNO.unpack_from(info)[0]
    return signo


def hand_over(tracee: Tracee, thread: Thread) -> None:
    """Give a thread its registers, for it to go on with when it is detached."""
    values = REGS.unpack(thread.regs)
    tracee.regs = {**dict(zip(USER_REGS, values)), "orig_rax": NO_CALL}
    for name, selector in _SELECTORS.items():
        if tracee.regs[name] != selector:
            raise RestoreError(f"a thread has {name} = {tracee.regs[name]:#x}")
    tracee.blocked = thread.blocked
    tracee.put_back()
    ours = ptrace.getregset(tracee.tid, ptrace.NT_X86_XSTATE)
    ptrace.setregset(tracee.tid, ptrace.NT_X86_XSTATE, fit_xstate(thread.xstate, ours))


# __USER_CS and __USER_DS of 64-bit programs.
_SELECTORS = {"cs": 0x33, "ss": 0x2B}
