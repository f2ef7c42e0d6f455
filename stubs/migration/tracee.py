"""A thread that we trace: stopped wherever it is, it makes calls for us and then goes on.

What the thread was is in `regs` and `blocked`, which may be changed while it is stopped; `resume`
puts them back and lets it go. All requests come from the thread of ours that seized.

While calls are injected every signal but SIGTRAP is blocked: others would be delivered, and a
blocked SIGTRAP would make the kernel reset its action. Only SIGSTOP can then come in between; it
is given again at the end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time

from stubs.abi import ptrace
from stubs.abi.sigaction import ALL
from stubs.abi.uio import process_vm_readv, process_vm_writev
from stubs.abi.x86_64 import USER_REGS
from stubs.migration.executor import CODE, ROWS_AT, SYSCALL_AT, Table
from stubs.migration.interrupted import NO_CALL

# waitpid(2): children of any kind (include/uapi/linux/wait.h).
WALL = 0x40000000

# A thread that does not stop in this time waits in the kernel for something else.
STOP_SECONDS = 2.0

REGS = struct.Struct(f"={len(USER_REGS)}Q")
_BORN = (ptrace.PTRACE_EVENT_FORK, ptrace.PTRACE_EVENT_VFORK, ptrace.PTRACE_EVENT_CLONE)
_EFLAGS_TRAP_DIRECTION = 0x500
_INJECTING = ALL & ~(1 << (signal.SIGTRAP - 1))


class TraceeGoneError(Exception):
    """The thread has ended, or another process has taken it from us."""


class CallFailedError(Exception):
    """A call that was injected failed."""

    def __init__(self, number: int, errno: int) -> None:
        """Tell the number of the call, and its errno."""
        super().__init__(f"system call {number}: {os.strerror(errno)}")
        self.number, self.errno = number, errno


class Tracee:
    """One thread, `tid` of process `pid`. `stop` before anything else."""

    calls = 0  # injected by all of us so far, for people

    def __init__(self, tid: int, pid: int, kept: bool = False) -> None:
        """Note whom we mean; `seize` makes it ours unless it was born of a tracee.

        `kept`: it has been ours before, and stays ours when it goes on.
        """
        self.kept = kept
        self.tid, self.pid = tid, pid
        self.regs: dict[str, int] = {}
        self.blocked = 0
        self.scratch = 0  # where the executor is in its memory
        self.waits = b""  # in which function of the kernel it waited before it was stopped
        self.job_stop = 0  # the signal by which job control has stopped it
        self.born = 0  # whom it has created last
        self._held: list[int] = []

    def seize(self, options: int = 0) -> None:
        """Begin to trace it; PermissionError when that is not allowed."""
        if not self.kept:
            ptrace.seize(self.tid, options)

    def hold(self) -> None:
        """Have it end if we do: it may live elsewhere by then, and is not to run twice.

        Not before it has stopped. One that does not cannot be let go of, and is to live on.
        """
        if not self.kept:
            ptrace.setoptions(self.tid, ptrace.PTRACE_O_EXITKILL)

    def interrupt(self) -> None:
        """Have it stop soon, for `stop` to wait for."""
        self._request(ptrace.interrupt)

    def stop(self) -> None:
        """Wait until it has stopped after `interrupt`. TimeoutError when it does not."""
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            event, signo = self._wait(deadline)
            if event == ptrace.PTRACE_EVENT_STOP:
                self.job_stop = signo if signo != signal.SIGTRAP else 0
                return
            # A signal was about to be delivered, or an exec was just made: first that.
            self._request(ptrace.cont, signo if event == 0 else 0)
            self._request(ptrace.interrupt)

    def await_event(self, wanted: int) -> None:
        """Wait for this event of a running tracee, however long: an exec reads files of home."""
        while True:
            event, signo = self._wait(None)
            if event == wanted:
                return
            self._request(ptrace.cont, signo if event == 0 else 0)

    def cont(self, signo: int = 0) -> None:
        """Let it run on, as it is, with `signo` delivered."""
        self._request(ptrace.cont, signo)

    def begin(self) -> None:
        """Note what it is, and block signals; it must be stopped."""
        raw = ptrace.getregset(self.tid, ptrace.NT_PRSTATUS)
        self.regs = dict(zip(USER_REGS, REGS.unpack(raw)))
        self.blocked = ptrace.getsigmask(self.tid)
        ptrace.setsigmask(self.tid, _INJECTING)

    def step_call(self, at: int, number: int, *arguments: int) -> int:
        """Make one call by the syscall instruction at `at`, and return its result."""
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        self._set(rax=number, rip=at, **dict(zip(names, arguments)))
        self._request(ptrace.singlestep)
        self._wait_trap(ptrace.singlestep)
        Tracee.calls += 1
        result = ptrace.getregs(self.tid)["rax"]
        return result - (1 << 64) if result >> 63 else result

    def enter_call(self, at: int, number: int, *arguments: int) -> None:
        """Let it run into a call that does not return, by the syscall instruction at `at`."""
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        self._set(rax=number, rip=at, **dict(zip(names, arguments)))
        self._request(ptrace.cont)

    def step(self) -> None:
        """Run one instruction of the program itself."""
        self._set()
        self._request(ptrace.singlestep)
        self._wait_trap(ptrace.singlestep)
        self.regs = {**ptrace.getregs(self.tid), "orig_rax": NO_CALL}

    def install(self, scratch: int) -> None:
        """Put the executor to `scratch`, where it may write and execute."""
        self.scratch = scratch
        write_memory(self.pid, scratch, CODE)

    def run(self, table: Table) -> list[int]:
        """Make the calls of a table, and return their results.

        CallFailedError for the first that failed and is not optional; the others are made as well.
        """
        for part in table.parts():
            image = table.lay_out(self.scratch, part)
            write_memory(self.pid, self.scratch + ROWS_AT, image)
            count = part[1] - part[0]
            if count:
                self._set(rip=self.scratch, rbp=self.scratch + ROWS_AT, rbx=count)
                self._request(ptrace.cont)
                self._wait_trap(ptrace.cont)
            table.take(part, read_memory(self.pid, self.scratch + ROWS_AT, len(image)))
            Tracee.calls += count
        failure = table.failure()
        if failure is not None:
            raise CallFailedError(*failure)
        return table.results

    def call(self, number: int, *arguments: int | bytes) -> int:
        """Make one call by the executor."""
        table = Table()
        table.call(number, *arguments)
        return self.run(table)[0]

    def scratch_call(self, number: int, *arguments: int) -> int:
        """Make one call that may take the executor itself away: it is not run afterwards."""
        return self.step_call(self.scratch + SYSCALL_AT, number, *arguments)

    def leave(self, number: int, *arguments: int) -> None:
        """Let it make a last call, which does not return to us: execve(2) or exit(2)."""
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        values = dict(zip(names, arguments))
        self._set(rax=number, rip=self.scratch + SYSCALL_AT, **values)
        self._request(ptrace.cont)

    def await_end(self) -> None:
        """Wait until it has ended, whatever it does before."""
        while not self.has_ended():
            self.cont()

    def has_ended(self) -> bool:
        """Wait until it has ended or stopped, and tell which."""
        try:
            self._wait(None)
        except TraceeGoneError:
            return True
        return False

    def put_back(self) -> None:
        """Make it what `regs` and `blocked` say; it stays stopped."""
        values = [self.regs[name] & NO_CALL for name in USER_REGS]
        ptrace.setregset(self.tid, ptrace.NT_PRSTATUS, REGS.pack(*values))
        ptrace.setsigmask(self.tid, self.blocked)

    def detach(self) -> None:
        """Let it go on, not traced any more unless it is `kept`."""
        for signo in self._held:
            os.kill(self.pid, signo)
        self._held.clear()
        try:
            if self.kept:
                ptrace.cont(self.tid)
            else:
                ptrace.detach(self.tid)
        except ProcessLookupError:
            pass  # killed meanwhile: nothing of it goes on

    def _set(self, **changes: int) -> None:
        regs = {**self.regs, "orig_rax": NO_CALL, **changes}
        regs["eflags"] &= ~_EFLAGS_TRAP_DIRECTION
        try:
            ptrace.setregs(self.tid, regs)
        except ProcessLookupError as error:
            raise TraceeGoneError(f"process {self.pid} has ended") from error

    def _wait_trap(self, resume: object) -> None:
        """Wait for the trap at the end of what is injected."""
        while True:
            event, signo = self._wait(None)
            if event == 0 and signo == signal.SIGTRAP:
                return
            if event in _BORN:
                self.born = ptrace.geteventmsg(self.tid)
            elif event == 0:
                self._held.append(signo)
            self._request(resume)

    def _wait(self, deadline: float | None) -> tuple[int, int]:
        """Return (event, signal) of the next stop."""
        while True:
            try:
                pid, status = os.waitpid(self.tid, WALL | (os.WNOHANG if deadline else 0))
            except ChildProcessError as error:
                raise TraceeGoneError(f"process {self.pid} is not ours to trace") from error
            if pid:
                break
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} did not stop")
            time.sleep(0.0002)
        if not os.WIFSTOPPED(status):
            raise TraceeGoneError(f"process {self.pid} has ended")
        return status >> 16, os.WSTOPSIG(status)

    def _request(self, request: object, *values: int) -> None:
        try:
            request(self.tid, *values)  # type: ignore[operator]
        except ProcessLookupError as error:
            raise TraceeGoneError(f"process {self.pid} has ended") from error


def wait_end(tid: int) -> None:
    """Wait until a tracee that has been killed has ended."""
    while True:
        try:
            _, status = os.waitpid(tid, WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            return


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Return what a process has at `address`; OSError EFAULT when not all of it can be read."""
    buffer = ctypes.create_string_buffer(size)
    if size and process_vm_readv(pid, ctypes.addressof(buffer), [(address, size)]) < size:
        raise OSError(14, os.strerror(14))
    return buffer.raw


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write to a process what it may write itself."""
    buffer = ctypes.create_string_buffer(data, len(data))
    if process_vm_writev(pid, ctypes.addressof(buffer), [(address, len(data))]) < len(data):
        raise OSError(14, os.strerror(14))
