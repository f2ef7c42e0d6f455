"""Signals that come to mrun or to its program: each exactly once, to whom it was meant.

A signal can reach mrun (a shell knows no other pid), the program, or both: what is sent to the
process group, by a key or by kill(2), comes twice and is meant once for the group. The program
is a deputy, or runs at home and is traced; either way what it gets is seen.
"""

from __future__ import annotations

import signal

from stubs.abi.signalfd import SI_KERNEL, sigset
from stubs.home.run.proc import read_status
from stubs.wire.messages import SCOPE_GROUP, SCOPE_PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.deputy import Arrival
    from stubs.link.loop import Loop, Timer

# How long a signal to mrun waits for its twin at the program, at least. The kernel queues both in
# one go, so the twin is at the program already; but it may have to be delivered first.
TWIN_SECONDS = 0.005


class Forwarding:
    """Pairs what mrun and the program get; calls `forward` once for each signal.

    With the signal, its SCOPE_*, and whether the program has got it.
    """

    def __init__(
        self,
        loop: Loop,
        program: int,
        poll: Callable[[], None],
        forward: Callable[[int, int, bool], None],
    ) -> None:
        """`program` is its pid; `poll` hands over what it has got (see `at_program`)."""
        self._loop = loop
        self._program = program
        self._poll = poll
        self._forward = forward
        # By signal and sender: those that came to mrun and wait for their twins.
        self._waiting: dict[tuple[int, int], list[Timer]] = {}
        # And those that came to the program and wait for theirs: it may have been signalled first.
        self._alone: dict[tuple[int, int], Timer] = {}
        self.is_deputy = False

    def at_mrun(self, info: signalfd_siginfo) -> None:
        """Take a signal that was sent to mrun, perhaps as one of its group."""
        key = (info.ssi_signo, info.ssi_pid)
        timer = self._alone.pop(key, None)
        if timer is not None:
            timer.cancel()
            self._forward(info.ssi_signo, SCOPE_GROUP, True)
            return
        # Two of a real-time signal are two; of any other, one (signal(7)).
        if key not in self._waiting or info.ssi_signo >= signal.SIGRTMIN:
            timer = self._loop.call_later(TWIN_SECONDS, lambda: self._look_again(key))
            self._waiting.setdefault(key, []).append(timer)

    def at_program(self, arrival: Arrival) -> None:
        """Take a signal that was sent to the program, perhaps as one of its group."""
        key = (arrival.signo, arrival.sender)
        if key in self._waiting:
            self._take_first(key).cancel()
        elif arrival.code != SI_KERNEL:
            self._conclude(key)
            self._alone[key] = self._loop.call_later(TWIN_SECONDS, lambda: self._conclude(key))
            return
        self._forward(arrival.signo, SCOPE_GROUP, True)

    def _conclude(self, key: tuple[int, int]) -> None:
        """Take what waits at the program for one that was meant for it alone."""
        timer = self._alone.pop(key, None)
        if timer is not None:
            timer.cancel()
            self._forward(key[0], SCOPE_PROCESS, True)

    def _look_again(self, key: tuple[int, int]) -> None:
        settled = self._has_settled(key[0])
        before = len(self._waiting[key])
        self._poll()
        if len(self._waiting.get(key, [])) < before:
            # The twin was there; if it took another's timer, this one's is still to come.
            return
        self._take_first(key)
        if settled:
            self._forward(key[0], SCOPE_PROCESS, False)
        else:
            timer = self._loop.call_later(TWIN_SECONDS, lambda: self._look_again(key))
            self._waiting.setdefault(key, []).append(timer)

    def _take_first(self, key: tuple[int, int]) -> Timer:
        timers = self._waiting[key]
        if len(timers) == 1:
            del self._waiting[key]
        return timers.pop(0)

    def _has_settled(self, signo: int) -> bool:
        """Tell whether the program has no such signal that it has not shown yet.

        A deputy that is running may be on its way from having it pending to its stop. A program
        that runs at home may run for long; its stop shows within the time that a twin is given.
        """
        try:
            status = read_status(self._program)
        except OSError:
            return True
        pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
        if pending & sigset([signo]):
            return bool(int(status["SigBlk"], 16) & sigset([signo]))
        return not (self.is_deputy and status["State"].startswith("R"))


def is_fatal(signo: int) -> bool:
    """Tell whether a signal ends a process that does nothing about it (signal(7))."""
    return signo not in (
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    )
