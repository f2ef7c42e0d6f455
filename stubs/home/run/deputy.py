"""The deputy: the process at home that stands for a body on a node.

It was the program until its first instruction; then a few bytes are written over its entry page:
close every descriptor, pause for ever. It keeps pid, parent, process group and command line.
Signals sent to it show as ptrace stops: they are kept from it and handed to the session, which
forwards them. What becomes of the body becomes of the deputy: stopped, continued, exited, killed.
Some of these wait for the deputy to run for a moment: a system call of its, its stop, its end.

It never leaves a core file: that would be of the wrong program, written over the body's own, which
arrives through the home view.
"""

from __future__ import annotations

import errno
import os
import signal

from stubs.abi import ptrace
from stubs.abi.prctl import PR_SET_DUMPABLE
from stubs.abi.signalfd import SI_KERNEL, sigset
from stubs.abi.unistd import knows_close_range
from stubs.abi.x86_64 import (
    NR_close,
    NR_close_range,
    NR_exit_group,
    NR_pause,
    NR_prctl,
    NR_rt_sigaction,
)
from stubs.home.run.proc import read_status
from stubs.home.run.tracer import ALL_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from stubs.home.run.tracer import Stop, Tracee

    class Arrival(NamedTuple):
        """A signal that somebody sent: which, why (SI_*), and the sender's pid."""

        signo: int
        code: int
        sender: int
else:
    from collections import namedtuple

    Arrival = namedtuple("Arrival", "signo code sender")

_PAGE = 4096
_STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

# Where things are in the entry page: one system call and a breakpoint (8 bytes), the loop, what it
# begins with, a struct kernel_sigaction that says SIG_DFL (32 zero bytes).
_LOOP_AT = 8
_BEGIN_AT = 24
_SIGACTION_AT = 64

# mov eax, 34; syscall; jmp back to the mov, since pause(2) returns -EINTR in eax.
_LOOP = b"\xb8" + NR_pause.to_bytes(4, "little") + b"\x0f\x05\xeb\xf7"

# xor edi, edi; mov esi, 0xffffffff; xor edx, edx; mov eax, 436; syscall; jmp to the loop: give up
# all descriptors, since the home ends of streams must see who else has them open.
_BEGIN = (
    b"\x31\xff\xbe\xff\xff\xff\xff\x31\xd2\xb8"
    + NR_close_range.to_bytes(4, "little")
    + b"\x0f\x05\xeb"
    + (_LOOP_AT - _BEGIN_AT - 18 & 0xFF).to_bytes(1, "little")
)

# The breakpoint's own signal must get through while we have the deputy make calls.
_DURING_CALLS = ALL_SIGNALS & ~sigset([signal.SIGTRAP])


class Deputy:
    """A tracee turned into a deputy."""

    def __init__(self, tracee: Tracee, page: int = 0) -> None:
        """Convert a tracee in its exec stop; ProcessLookupError if it was killed meanwhile.

        One that has run for a while has been deflated before (stubs.migration.deflate), and has
        code at `page` only.
        """
        self.pid = tracee.pid
        self.stopped = False
        self._tracee = tracee
        self._arrivals: list[Arrival] = []
        self._passing: set[int] = set()  # signals of ours that are meant for the deputy itself
        # The whole page of the entry point is ours: the program will not run here.
        self._page = page or ptrace.getregs(self.pid)["rip"] & -_PAGE
        ptrace.poke(self.pid, self._page + _LOOP_AT, _LOOP)
        if knows_close_range():
            ptrace.poke(self.pid, self._page + _BEGIN_AT, _BEGIN)
            self._jump(_BEGIN_AT)
        else:
            ptrace.setsigmask(self.pid, _DURING_CALLS)
            for name in os.listdir(f"/proc/{self.pid}/fd"):
                self._call(NR_close, int(name))
            self._jump(_LOOP_AT)
        # A blocked signal would never show.
        ptrace.setsigmask(self.pid, 0)
        ptrace.cont(self.pid)

    @property
    def status(self) -> int | None:
        """How it ended, as wait4(2) has it; None while it lives."""
        return self._tracee.status

    def poll(self) -> list[Arrival]:
        """Return the signals that were sent to it since the last time."""
        try:
            while True:
                stop = self._tracee.wait(block=False)
                if stop is None:
                    break
                self._handle(stop)
        except ProcessLookupError:
            # Killed between the stop and our answer; the next SIGCHLD brings its status.
            pass
        return self.drain()

    def take(self, stop: Stop) -> list[Arrival]:
        """Answer a stop that somebody else has waited for; return the signals that it shows.

        ProcessLookupError when it was killed meanwhile.
        """
        self._handle(stop)
        return self.drain()

    def drain(self) -> list[Arrival]:
        """Return the signals that were seen while something else was waited for."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def stop(self, signo: int) -> None:
        """Stop it as its body was stopped, and see it stopped."""
        if self.stopped or self.status is not None:
            return
        ignored = int(read_status(self.pid)["SigIgn"], 16)
        if signo not in _STOP_SIGNALS or ignored & sigset([signo]):
            signo = signal.SIGSTOP
        try:
            self._send(signo)
            # A terminal's stop signal does nothing in an orphaned process group: INTERRUPT makes
            # sure that there is something to wait for.
            while not self.stopped:
                stop = self._tracee.wait()
                if stop is None:
                    return
                passed = stop == (0, signo) and signo in self._passing
                if stop == (ptrace.PTRACE_EVENT_STOP, signal.SIGTRAP):
                    ptrace.cont(self.pid)
                    return
                self._handle(stop)
                if passed:
                    ptrace.interrupt(self.pid)
        except ProcessLookupError:
            return

    def go_on(self) -> None:
        """Continue it as its body was continued."""
        if self.stopped and self.status is None:
            self._send(signal.SIGCONT)

    def end(self, status: int) -> None:
        """Have it end as its body did: `status` as wait4(2) has it."""
        try:
            self._hold()
            if os.WIFSIGNALED(status):
                self._die_by(os.WTERMSIG(status))
            else:
                self._enter(NR_exit_group, os.WEXITSTATUS(status))
        except ProcessLookupError:
            pass  # it is dead already
        while self.status is None:
            stop = self._tracee.wait()
            if stop is not None:
                try:
                    ptrace.cont(self.pid)
                except ProcessLookupError:
                    pass

    def kill(self) -> None:
        """Kill it, whatever it does."""
        self._tracee.kill()

    # stops

    def _handle(self, stop: Stop) -> None:
        if stop.event == 0:
            arrival = Arrival(*ptrace.getsiginfo(self.pid))
            if arrival.sender == os.getpid() and self._is_ours(stop.signo):
                self._passing.discard(stop.signo)
                ptrace.cont(self.pid, stop.signo)
            else:
                self._arrivals.append(arrival)
                ptrace.cont(self.pid)
        elif stop.event == ptrace.PTRACE_EVENT_STOP and stop.signo in _STOP_SIGNALS:
            self.stopped = True
            ptrace.listen(self.pid)
        else:
            # SIGCONT woke it, or an INTERRUPT of ours came late.
            self.stopped = False
            ptrace.cont(self.pid)

    def _is_ours(self, signo: int) -> bool:
        # mrun sends SIGCONT to nobody but its deputy, and perhaps twice.
        return signo in self._passing or signo == signal.SIGCONT

    def _send(self, signo: int) -> None:
        if signo == signal.SIGCONT:
            # It takes back what stop signals are pending (signal(7)).
            self._passing.difference_update(_STOP_SIGNALS)
        self._passing.add(signo)
        os.kill(self.pid, signo)

    def _hold(self) -> None:
        """Have it stand still, so that its registers can be set; signals to it are dropped."""
        if self.stopped:
            os.kill(self.pid, signal.SIGCONT)
        ptrace.interrupt(self.pid)
        while True:
            stop = self._tracee.wait()
            if stop is None:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            if stop == (ptrace.PTRACE_EVENT_STOP, signal.SIGTRAP):
                return
            ptrace.cont(self.pid)

    # having it make system calls

    def _enter(self, number: int, *args: int) -> None:
        """Let it run into a system call and the breakpoint behind it.

        The number is in the code, not in rax: at the exec stop execve has yet to return and writes
        its result there. orig_rax of -1 keeps the kernel from restarting the interrupted pause.
        """
        code = b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x05\xcc"
        ptrace.poke(self.pid, self._page, code)
        self._jump(0, *args)
        ptrace.cont(self.pid)

    def _jump(self, at: int, *args: int) -> None:
        """Have it go on at that place of the page, with these arguments of a system call."""
        regs = ptrace.getregs(self.pid)
        regs.update(zip(("rdi", "rsi", "rdx", "r10"), args))
        regs["rip"] = self._page + at
        regs["orig_rax"] = -1
        ptrace.setregs(self.pid, regs)

    def _call(self, number: int, *args: int) -> int:
        """Return what the system call returns to it, an errno as a negative number."""
        self._enter(number, *args)
        while True:
            stop = self._tracee.wait()
            if stop is None:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            if stop.event == 0 and stop.signo == signal.SIGTRAP:
                arrival = Arrival(*ptrace.getsiginfo(self.pid))
                if arrival.code == SI_KERNEL:
                    result = ptrace.getregs(self.pid)["rax"]
                    return result - (1 << 64) if result >> 63 else result
            # SIGSTOP, which cannot be blocked, or a SIGTRAP that was sent: for the session.
            self._handle(stop)

    def _die_by(self, signo: int) -> None:
        if signo == signal.SIGKILL:
            os.kill(self.pid, signo)
            return
        ptrace.setsigmask(self.pid, _DURING_CALLS)
        # Where it is ignored, as under nohup, it would not kill.
        ptrace.poke(self.pid, self._page + _SIGACTION_AT, bytes(32))
        self._call(NR_rt_sigaction, signo, self._page + _SIGACTION_AT, 0, 8)
        # Last: the memory of a process that is not dumpable is closed to an ordinary user's
        # tracer (ptrace_access_vm).
        self._call(NR_prctl, PR_SET_DUMPABLE, 0)
        ptrace.setsigmask(self.pid, ALL_SIGNALS & ~sigset([signo]))
        self._passing = {signo}
        os.kill(self.pid, signo)
        ptrace.cont(self.pid)
        while True:
            stop = self._tracee.wait()
            if stop is None:
                return
            self._handle(stop)
