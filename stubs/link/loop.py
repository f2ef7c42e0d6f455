"""The event loop: descriptors, timers, and work put off to the end of a turn.

One thread. Callbacks must not block. `at_turn_end` is where endpoints write what has
gathered: all frames that one turn produced leave in one write.
"""

from __future__ import annotations

import heapq
import selectors
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Timer:
    """A call to come; `cancel` takes it back."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        """Due at `due` of time.monotonic()."""
        self.due = due
        self.call: Callable[[], None] | None = call

    def __lt__(self, other: Timer) -> bool:
        """Order by due time, for the heap."""
        return self.due < other.due

    def cancel(self) -> None:
        """Do not call any more."""
        self.call = None


class Loop:
    """Runs callbacks when descriptors are ready or time has come."""

    def __init__(self) -> None:
        """Make an empty loop."""
        self._selector = selectors.EpollSelector()
        self._timers: list[Timer] = []
        self._turn_end: dict[Callable[[], None], None] = {}
        self._running = False
        # Called, if it is there, in place of waiting: with the descriptor that is ready for reading
        # when any of those watched is ready, and the seconds to wait at most.
        self.wait: Callable[[int, float | None], None] | None = None

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call(ready events)` whenever `fd` is ready; replaces an earlier watch of it."""
        if not events:
            self.forget(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, events, call)
        else:
            self._selector.register(fd, events, call)

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer; must come before it is closed. Harmless if it is not watched."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, after at least `seconds`."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """Call once at the end of this turn; asking twice in a turn is asking once."""
        self._turn_end[call] = None

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def turn(self, longest: float | None = None) -> None:
        """Wait for something to happen (at most `longest` seconds) and handle all of it."""
        patience = self._patience(longest)
        if self.wait is not None:
            self.wait(self._selector.fileno(), patience)
            # What comes of that goes out before anything else comes in.
            self._end_turn()
            patience = 0.0
        for key, events in self._selector.select(patience):
            # An earlier callback of this turn may have forgotten this one.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        self._call_due()
        self._end_turn()

    def _end_turn(self) -> None:
        while self._turn_end:
            calls, self._turn_end = self._turn_end, {}
            for call in calls:
                call()

    def close(self) -> None:
        """Let go of the epoll descriptor."""
        self._selector.close()

    def _patience(self, longest: float | None) -> float | None:
        if self._turn_end:
            return 0.0
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if self._timers:
            wait = max(0.0, self._timers[0].due - time.monotonic())
            return wait if longest is None else min(wait, longest)
        return longest

    def _call_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()
