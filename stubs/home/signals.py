"""Signals on their way from home to the body: each exactly once, to whom it was meant.

A signal can reach mrun (a shell knows no other pid), the deputy, or both: what is sent to
the process group, by a key or by kill(2), comes twice and is meant once for the body's group.
"""

from __future__ import annotations

import signal
import time

from stubs.abi.signalfd import SI_KERNEL, sigset
from stubs.home.proc import read_status
from stubs.wire.messages import SCOPE_GROUP, SCOPE_PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.deputy import Arrival
    from stubs.link.loop import Loop, Timer

# How long a signal to mrun waits for its twin at the deputy. The kernel queues both in one
# go, so the twin is pending there already, unless it is being delivered at this moment.
TWIN_SECONDS = 0.005


class Forwarding:
    """Pairs what mrun and the deputy get; calls `forward(signo, scope)` once for each signal."""

    def __init__(self, loop: Loop, deputy: int, forward: Callable[[int, int], None]) -> None:
        """`deputy` is its pid."""
        self._loop = loop
        self._deputy = deputy
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
            self._wait_for_twin(key)

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

    def _wait_for_twin(self, key: tuple[int, int]) -> None:
        timer = self._loop.call_later(TWIN_SECONDS, lambda: self._no_twin(key))
        self._waiting.setdefault(key, []).append(timer)

    def _no_twin(self, key: tuple[int, int]) -> None:
        self._take_first(key)
        if self._is_pending(key[0]):
            self._wait_for_twin(key)
        else:
            self._forward(key[0], SCOPE_PROCESS)

    def _take_first(self, key: tuple[int, int]) -> Timer:
        timers = self._waiting[key]
        if len(timers) == 1:
            del self._waiting[key]
        return timers.pop(0)

    def _is_pending(self, signo: int) -> bool:
        """Tell whether the deputy has such a signal and has not got round to it yet."""
        try:
            status = read_status(self._deputy)
        except OSError:
            return False
        pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
        return bool(pending & sigset([signo]))


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
