"""The pulse of a link: whether anybody is there at the other end, and how far away that is.

The agent tells its load every second; what is heard is sign of life enough, so it is asked only now
and then, for the round-trip time. Runs in the link process, on its loop, with one thread that
watches over the loop itself.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from stubs.wire.messages import Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Endpoint
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

LOOK_S = 1.0
# While it is heard anyway it is asked less often: with many nodes each question counts. Its agent
# misses us after 10 s.
PING_HEARD_S = 3.0
# A peer that answers nothing for so long is lost: mrun must know within 10 s of the fault.
SILENCE_S = 6.0
# The RTT is the least of so many pings: what queued behind other work is longer.
RTT_SAMPLES = 10
# So many at once at first: the very first answer comes from an agent that is still starting.
FIRST_PINGS = 4


class Pulse:
    """Looks after one connection to an agent until it is closed or lost."""

    def __init__(self, loop: Loop, rpc: Endpoint, name: str, on_tick: Callable[[], bool]) -> None:
        """Begin to look; `name` is the node's. `on_tick` is called each second: False ends it."""
        self.answered: Callable[[], None] = lambda: None  # called at each answer to a ping
        self._loop = loop
        self._rpc = rpc
        self._name = name
        self._on_tick = on_tick
        self._rtts: list[float] = []
        self._pinged_at = 0.0
        self._looked_at = self._heard = time.monotonic()
        self._bytes_in = 0
        loop.call_later(LOOK_S, self._look)

    @property
    def rtt_ms(self) -> float | None:
        """The round-trip time in milliseconds; None before the first answer."""
        return round(min(self._rtts) * 1000, 3) if self._rtts else None

    def ping(self) -> None:
        """Ask for an answer now, a few times at first."""
        if self._rpc.lost is not None:
            return
        sent = self._pinged_at = time.monotonic()

        def answered(message: Message) -> None:
            if not isinstance(message, Pong):
                return
            self._rtts = [*self._rtts[1 - RTT_SAMPLES :], time.monotonic() - sent]
            self.answered()
            if len(self._rtts) < FIRST_PINGS:
                self.ping()

        self._rpc.request(Ping(time.time_ns()), answered)

    def _look(self) -> None:
        if self._rpc.lost is not None:
            return
        now = time.monotonic()
        # After a stall of our own (home suspended, a slow disk) silence proves nothing yet.
        stalled = now - self._looked_at > 3 * LOOK_S
        heard = self._rpc.bytes_in != self._bytes_in
        if heard or stalled:
            self._bytes_in, self._heard = self._rpc.bytes_in, now
        self._looked_at = now
        if now - self._heard > SILENCE_S:
            self._rpc.close(f"{self._name} has not answered for {SILENCE_S:.0f} s")
            return
        if not self._on_tick():
            return
        if not heard or now - self._pinged_at >= PING_HEARD_S:
            self.ping()
        self._loop.call_later(LOOK_S, self._look)


def watch_silence(
    over: threading.Event, last_heard: Callable[[], float | None], abort: Callable[[], None]
) -> None:
    """Start a thread that calls `abort` on a dead connection on which the main thread is stuck.

    `last_heard` is monotonic time, None if it cannot be told; `over` ends the thread.
    """

    def watch() -> None:
        most = SILENCE_S + LOOK_S
        patience = most
        while not over.wait(max(patience, LOOK_S)):
            heard = last_heard()
            patience = most if heard is None else heard + most - time.monotonic()
            if patience < 0:
                abort()

    threading.Thread(target=watch, daemon=True).start()
