"""How far a node is, and how much its link carries: measured by the link process when asked.

What is measured is what bodies get: the rpc and the bulk connection, SSH, the loops at both ends.
Round trips one after the other, then bytes each way with more and more of them under way, as
TCP begins. It takes about two seconds and a half, more on a link that is slower than 1 Mbit/s;
bodies that use the link at that time slow it down and are slowed down.
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from stubs.wire.messages import Echo, Echoed, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Link
    from stubs.wire.codec import Message

# Round trips: so many, or as many as there is time for.
PINGS = 50
PINGS_S = 0.5

# For so long bytes are sent each way; what is under way then is waited for. The rate is that of the
# last part, when as much is under way as the link takes.
FLOW_S = 0.9
RAMP_S = 0.5

# The most that is under way is what a reader of a file has (stubs.node.view.reading).
CHUNK = 32 << 10
LEAST_WINDOW = 4
MOST_WINDOW = (4 << 20) // CHUNK


class SpeedTest:
    """One measurement of a link."""

    def __init__(self, link: Link, done: Callable[[dict[str, Any]], None]) -> None:
        """Begin. `done` gets rtt_ms, to_node_bytes_per_s and to_home_bytes_per_s.

        Or `error`, when the link is lost meanwhile.
        """
        self._link = link
        self._done = done
        self._found: dict[str, Any] = {}
        self._rtts: list[float] = []
        self._began = time.monotonic()
        self._ping()

    def _ping(self) -> None:
        sent = time.monotonic()

        def answered(reply: Message) -> None:
            if not isinstance(reply, Pong):
                self._fail()
                return
            now = time.monotonic()
            self._rtts.append(now - sent)
            if len(self._rtts) < PINGS and now - self._began < PINGS_S:
                self._ping()
                return
            self._found["rtt_ms"] = round(median(self._rtts) * 1000, 3)
            # Random, in case that something on the way compresses.
            Flow(self._link, Echo(os.urandom(CHUNK), 0), 0, self._sent)

        self._link.request(Ping(time.time_ns()), answered)

    def _sent(self, rate: float | None) -> None:
        if rate is None:
            self._fail()
            return
        self._found["to_node_bytes_per_s"] = int(rate)
        Flow(self._link, Echo(b"", CHUNK), CHUNK, self._received)

    def _received(self, rate: float | None) -> None:
        if rate is None:
            self._fail()
            return
        self._found["to_home_bytes_per_s"] = int(rate)
        self._done(self._found)

    def _fail(self) -> None:
        self._done({"error": "the link was lost while it was measured"})


class Flow:
    """Requests that keep a link busy in one direction."""

    def __init__(
        self, link: Link, message: Echo, size: int, done: Callable[[float | None], None]
    ) -> None:
        """Send `message` again and again; each answer must have `size` bytes.

        `done` gets bytes a second, or None when it came to nothing.
        """
        self._link = link
        self._message = message
        self._size = size
        self._done = done
        self._window = LEAST_WINDOW
        self._under_way = 0
        self._failed = False
        self._answers: list[float] = []
        self._began = time.monotonic()
        self._fill()

    def _fill(self) -> None:
        late = time.monotonic() - self._began > FLOW_S
        while self._under_way < self._window and not late and not self._failed:
            self._under_way += 1
            self._link.request(self._message, self._answered)

    def _answered(self, reply: Message) -> None:
        self._under_way -= 1
        self._answers.append(time.monotonic())
        if not isinstance(reply, Echoed) or len(reply.data) != self._size:
            self._failed = True
        # Each answer lets one more follow: twice as many with each round trip.
        self._window = min(self._window + 1, MOST_WINDOW)
        self._fill()
        if not self._under_way:
            self._done(None if self._failed else self._rate())

    def _rate(self) -> float:
        end = self._answers[-1]
        steady = [at for at in self._answers if at - self._began > RAMP_S]
        if len(steady) > LEAST_WINDOW and end > steady[0]:
            return (len(steady) - 1) * CHUNK / (end - steady[0])
        return len(self._answers) * CHUNK / max(end - self._began, 1e-6)
