"""Signals on their way from home to the body: each exactly once, to whom it was meant.

A signal can reach mrun (a shell knows no other pid), the deputy, or both: what is sent to
the process group, by a key or by kill(2), comes twice and is meant once for the body's group.
"""

from __future__ import annotations

import signal
import time

from stubs.abi.signalfd import SI_KERNEL, sigset
from stubs.home.run.proc import read_status
from stubs.wire.messages import SCOPE_GROUP, SCOPE_PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.deputy import Arrival
    from stubs.link.loop import Loop, Timer

# How long a signal to mrun waits for its twin at the deputy, at least. The kernel queues both in
# one go, so the twin is at the deputy already; but it may have to be delivered first.
TWIN_SECONDS = 0.005


class Forwarding:
    """Pairs what mrun and the deputy get; calls `forward(signo, scope)` once for each signal."""

    def __init__(
        self,
        loop: Loop,
        deputy: int,
        poll: Callable[[], None],
        forward: Callable[[int, int], None],
    ) -> None:
        """`deputy` is its pid; `poll` hands over what it has got (see `at_deputy`)."""
        self._loop = loop
        self._deputy = deputy
        self._poll = poll
        self._forward = forward
        # By signal and sender: those that came to mrun and wait for their twins.
        self._waiting: dict[tuple[int, int], list[Timer]] = {}
        # And those that came to the deputy alone, with the time: a twin may be late.
        self._alone: dict[tuple[int, int], float] = {}

    def at_mrun(self, info: signalfd_siginfo) -> None:
        """Take a signal that was sent to mrun, perhaps as one of its group."""
        key = (info.ssi_signo, info.ssi_pid)
        if time.monotonic() - self._alone.pop(key, 0.0) < TWIN_SECONDS:
            return
        # Two of a real-time signal are two; of any other, one (signal(7)).
        if key not in self._waiting or info.ssi_signo >= signal.SIGRTMIN:
            timer = self._loop.call_later(TWIN_SECONDS, lambda: self._look_again(key))
            self._waiting.setdefault(key, []).append(timer)

    def at_deputy(self, arrival: Arrival) -> None:
        """Take a signal that was sent to the deputy, perhaps as one of its group."""
        key = (arrival.signo, arrival.sender)
        if key in self._waiting:
            self._take_first(key).cancel()
        elif arrival.code != SI_KERNEL:
            self._alone[key] = time.monotonic()
            self._forward(arrival.signo, SCOPE_PROCESS)
            return
        self._forward(arrival.signo, SCOPE_GROUP)

    def _look_again(self, key: tuple[int, int]) -> None:
        settled = self._has_settled(key[0])
        before = len(self._waiting[key])
        self._poll()
        if len(self._waiting.get(key, [])) < before:
            # The twin was there; if it took another's timer, this one's is still to come.
            return
        self._take_first(key)
        if settled:
            self._forward(key[0], SCOPE_PROCESS)
        else:
            timer = self._loop.call_later(TWIN_SECONDS, lambda: self._look_again(key))
            self._waiting.setdefault(key, []).append(timer)

    def _take_first(self, key: tuple[int, int]) -> Timer:
        timers = self._waiting[key]
        if len(timers) == 1:
            del self._waiting[key]
        return timers.pop(0)

    def _has_settled(self, signo: int) -> bool:
        """Tell whether the deputy has no such signal that it has not shown yet.

        One that is running may be on its way from having it pending to its stop.
        """
        try:
            status = read_status(self._deputy)
        except OSError:
            return True
        pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
        return not pending & sigset([signo]) and not status["State"].startswith("R")


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
