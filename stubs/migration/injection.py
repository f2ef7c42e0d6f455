"""A stopped process made ready to make calls for us: the executor is in it for that time only.

What a stop does to some calls is not for the program to see: its registers may then say that they
are made again (stubs.migration.interrupted).
"""

from __future__ import annotations

import contextlib
import struct

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.mman import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from stubs.migration.areas import find_code
from stubs.migration.executor import SCRATCH_BYTES, SYSCALL
from stubs.migration.freeze import Stopped
from stubs.migration.interrupted import interrupted_by_stop, made_again
from stubs.migration.proc import read_status, read_vmas
from stubs.migration.reasons import Unmovable, reason
from stubs.migration.tracee import (
    CallFailedError,
    Tracee,
    TraceeGoneError,
    read_memory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stubs.migration.proc import Vma

_U64 = struct.Struct("=Q")
_RSEQ_CS = struct.Struct("=IIQQQ")  # version, flags, start_ip, post_commit_offset, abort_ip
_RSEQ_CS_AT = 8
_VDSO_STEPS = 10000


def settle(process: Stopped, vmas: list[Vma]) -> None:
    """Bring every thread to where it may be taken from: no critical section, not in the vDSO."""
    vdso = next((vma for vma in vmas if vma.path == b"[vdso]"), None)
    for thread in process.threads:
        rseq = rseq_of(thread)
        if rseq[0]:
            _abort_section(thread, rseq[0])
        if vdso is not None:
            _leave(thread, vdso)


def rseq_of(thread: Tracee) -> tuple[int, int, int]:
    """Return (address, size, signature) of what rseq(2) was given, address 0: nothing."""
    try:
        return ptrace.get_rseq_configuration(thread.tid)
    except OSError:
        return 0, 0, 0  # before Linux 5.13: nothing uses it there


def _abort_section(thread: Tracee, rseq: int) -> None:
    """Do what the kernel does to a restartable sequence (rseq(2)) that is interrupted."""
    try:
        (section,) = _U64.unpack(read_memory(thread.pid, rseq + _RSEQ_CS_AT, _U64.size))
        if section:
            _, _, start, length, abort = _RSEQ_CS.unpack(
                read_memory(thread.pid, section, _RSEQ_CS.size)
            )
            if start <= thread.regs["rip"] < start + length:
                thread.regs["rip"] = abort
    except OSError:
        pass  # the program has unmapped what it registered: there is no section


def _leave(thread: Tracee, vdso: Vma) -> None:
    """Have a thread leave the vDSO, for elsewhere another may be at its place."""
    for _ in range(_VDSO_STEPS):
        if not vdso.start <= thread.regs["rip"] < vdso.end:
            return
        thread.step()
    raise Unmovable(reason("unknown_call", thread.pid, "does not leave the vDSO"))


class Injection:
    """The executor in a stopped process, for as long as a `with` block."""

    def __init__(self, process: Stopped, vmas: list[Vma]) -> None:
        """Work out where it can make its first call."""
        self._leader = process.leader
        self._syscall = find_code(process.pid, vmas, SYSCALL)

    def __enter__(self) -> None:
        """Map the executor. Unmovable where that is not allowed."""
        protection = PROT_READ | PROT_WRITE | PROT_EXEC
        flags = MAP_PRIVATE | MAP_ANONYMOUS
        values = (0, SCRATCH_BYTES, protection, flags, -1, 0)
        at = self._leader.step_call(self._syscall, nr.NR_mmap, *values)
        if at < 0:
            what = "may not make memory executable"
            raise Unmovable(reason("no_executable_memory", self._leader.pid, what))
        self._leader.install(at)

    def __exit__(self, *_: object) -> None:
        """Unmap it."""
        self._leader.scratch_call(nr.NR_munmap, self._leader.scratch, SCRATCH_BYTES)
        self._leader.scratch = 0


@contextlib.contextmanager
def visit(pid: int) -> Iterator[Tracee]:
    """Stop the first thread of a process for a moment, to have it make calls.

    OSError when it may not be traced or has ended, TimeoutError when it does not stop.
    """
    process = Stopped(pid)
    leader = Tracee(pid, pid)
    try:
        leader.seize()
        leader.interrupt()
        leader.stop()
    except TraceeGoneError as error:
        raise ProcessLookupError(str(error)) from error
    process.threads.append(leader)
    leader.begin()
    try:
        section = rseq_of(leader)[0]
        if section:
            _abort_section(leader, section)
        if interrupted_by_stop(leader.regs, deliverable_to(leader)):
            leader.regs = made_again(leader.regs, leader.regs["orig_rax"])
        with Injection(process, read_vmas(pid, "maps")):
            yield leader
    except (CallFailedError, TraceeGoneError, Unmovable) as error:
        raise OSError(f"process {pid}: {error}") from error
    finally:
        leader.put_back()
        leader.detach()


def deliverable_to(thread: Tracee) -> int:
    """Return the signals that are pending for a thread, and not blocked."""
    status = read_status(thread.pid, thread.tid)
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return pending & ~thread.blocked
