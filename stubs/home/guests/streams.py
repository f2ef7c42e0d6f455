"""The home ends of streams: bytes between pipes and sockets of home and those on the node.

Numbers are given by home and never used again on a link, so a message that crossed the end of its
stream is recognised and dropped. Runs in the link process, on its loop.
"""

from __future__ import annotations

import os

from stubs.home.guests.ends import open_end
from stubs.home.guests.sink import Sink
from stubs.home.guests.source import Source
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    StreamBroken,
    StreamData,
    StreamEnd,
    StreamTaken,
    StreamWant,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from stubs.home.guests.ends import End
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message

    class Inlet(Protocol):
        """What bodies read: a source, or the terminal."""

        def want(self, count: int) -> None:
            """Note that a body waits for up to `count` bytes; 0: it does not any more."""

        def taken(self, count: int) -> None:
            """So many bytes have gone on to the body."""

        def close(self) -> None:
            """Nobody will read any more."""

    class Outlet(Protocol):
        """What bodies write: a sink, or the terminal."""

        def put(self, data: bytes) -> None:
            """Pass on `data`."""

        def end(self) -> None:
            """Nothing more will be put; close when all is passed on."""

        def when_written(self, then: Callable[[], None]) -> None:
            """Call `then` once what was put until now is with its reader, or never will be."""

        def close(self) -> None:
            """Close now, whatever is left."""


# On a socket the end of a body's writing looks the same for close(2) and shutdown(2) until, after
# close, StreamBroken follows.
SHUTDOWN_SECONDS = 0.05


class Streams:
    """All streams of a link, by number."""

    def __init__(
        self,
        loop: Loop,
        link: Link,
        barrier: Callable[[], None],
        settle: Callable[[], None],
    ) -> None:
        """Begin with none.

        `barrier` is called before anything that lets a body act on what home did, `settle` before
        what lets home act on what a body did (see FileService).
        """
        self._loop = loop
        self._link = link
        self._barrier = barrier
        self._settle = settle
        self._last = 0
        self._inlets: dict[int, Inlet] = {}
        self._outlets: dict[int, Outlet] = {}
        self._shutdowns: dict[int, Timer] = {}
        self._passed: dict[int, int] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what this end does with the messages of streams."""
        return {
            StreamData: self._data,
            StreamEnd: self._end,
            StreamBroken: self._broken,
            StreamWant: self._want,
            StreamTaken: self._taken,
        }

    def open(self, fd: int, kind: int, exclusive: bool, patience: float = 0.0) -> int:
        """Take over `fd` as a stream of `kind` (FD_STREAM_*) and return its number.

        What happens at its other end is told `patience` seconds after it was seen.
        """
        number = self.number()
        if kind == FD_STREAM_BOTH:
            # Two descriptors, since the loop has one watch for each.
            self._add_source(number, open_end(os.dup(fd), os.O_RDWR), exclusive, patience)
            self._add_sink(number, open_end(fd, os.O_RDWR), patience)
        elif kind == FD_STREAM_IN:
            self._add_source(number, open_end(fd, os.O_RDONLY), exclusive, patience)
        elif kind == FD_STREAM_OUT:
            self._add_sink(number, open_end(fd, os.O_WRONLY), patience)
        return number

    def deliver(self, message: Message) -> None:
        """Post what home has for a body, and before it what home has changed."""
        if isinstance(message, StreamData):
            self._count(message)
        self._barrier()
        self._link.post(message)

    def number(self) -> int:
        """Return a new stream number."""
        self._last += 1
        return self._last

    def register(self, number: int, inlet: Inlet, outlet: Outlet) -> None:
        """Let these two take what comes for stream `number`."""
        self._inlets[number] = inlet
        self._outlets[number] = outlet

    def passed(self, number: int) -> int:
        """Return how many bytes have gone either way on stream `number` until now."""
        return self._passed.get(number, 0)

    def _count(self, message: StreamData) -> None:
        self._passed[message.stream] = self._passed.get(message.stream, 0) + len(message.data)

    def on_end(self, number: int, call: Callable[[], None]) -> None:
        """Have `call` called when the node's writers or readers of a stream are gone."""
        outlet, inlet = self._outlets.get(number), self._inlets.get(number)
        if isinstance(outlet, Sink):
            outlet.on_end.append(call)
        elif isinstance(inlet, Source):
            inlet.on_unread.append(call)

    def when_written(self, number: int, then: Callable[[], None]) -> None:
        """Call `then` when all that came for stream `number` until now is with its reader."""
        outlet = self._outlets.get(number)
        if outlet is None:
            then()
        else:
            outlet.when_written(then)

    def when_closed(self, number: int, then: Callable[[], None]) -> None:
        """Call `then` when all that will ever come for stream `number` is with its reader."""
        outlet = self._outlets.get(number)
        if isinstance(outlet, Sink) and not outlet.closed:
            outlet.on_close.append(then)
        else:
            then()

    def pause(self, number: int) -> None:
        """Read nothing for stream `number` until `go_on`: its body stands still."""
        inlet = self._inlets.get(number)
        if isinstance(inlet, Source):
            inlet.pause()

    def hold(self, number: int) -> bytes:
        """Write nothing of stream `number` until `go_on`; return what is still to be written."""
        outlet = self._outlets.get(number)
        return outlet.hold() if isinstance(outlet, Sink) else b""

    def go_on(self, number: int) -> None:
        """Undo `pause` and `hold`."""
        inlet, outlet = self._inlets.get(number), self._outlets.get(number)
        if isinstance(inlet, Source):
            inlet.go_on()
        if isinstance(outlet, Sink):
            outlet.go_on()

    def go_on_with(self, number: int, unread: bytes, unwritten: bytes) -> None:
        """Begin where another link left off: with what it had read, and had not written yet."""
        inlet, outlet = self._inlets.get(number), self._outlets.get(number)
        if isinstance(inlet, Source) and unread:
            inlet.begin_with(unread)
        if isinstance(outlet, Sink) and unwritten:
            outlet.begin_with(unwritten)

    def stop_reading(self, number: int) -> None:
        """Read nothing more for stream `number`: nobody there will read it."""
        inlet = self._inlets.pop(number, None)
        if inlet is not None:
            inlet.close()

    def end(self, number: int) -> None:
        """End what is written to stream `number` as the node would, if it still could."""
        outlet = self._outlets.get(number)
        if outlet is not None:
            outlet.end()

    def close(self, number: int) -> None:
        """Close what stream `number` has at home; harmless a second time."""
        timer = self._shutdowns.pop(number, None)
        if timer is not None:
            timer.cancel()
        inlet = self._inlets.pop(number, None)
        if inlet is not None:
            inlet.close()
        outlet = self._outlets.pop(number, None)
        if outlet is not None:
            outlet.close()
        self._passed.pop(number, None)

    def close_all(self) -> None:
        """Close everything that streams have at home."""
        for number in [*self._inlets, *self._outlets]:
            self.close(number)

    def _add_source(self, number: int, end: End, exclusive: bool, patience: float) -> None:
        conclude = self._after(patience, self.deliver)
        self._inlets[number] = Source(self._loop, self.deliver, number, end, exclusive, conclude)

    def _add_sink(self, number: int, end: End, patience: float) -> None:
        conclude = self._after(patience, self._link.post)
        self._outlets[number] = Sink(self._loop, self._link, number, end, conclude)

    def _after(self, seconds: float, post: Callable[[Message], None]) -> Callable[[Message], None]:
        """Return what posts a message after `seconds`; at once if that is none."""
        if not seconds:
            return post

        def later(message: Message) -> None:
            self._loop.call_later(seconds, lambda: post(message))

        return later

    def _check(self, number: int) -> None:
        # One that was open once may be closed by now: the messages have crossed.
        if not 0 < number <= self._last:
            raise RemoteProtocolError(f"no stream {number}")

    def _data(self, message: StreamData, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        outlet = self._outlets.get(message.stream)
        if outlet is not None:
            self._count(message)
            self._settle()
            outlet.put(message.data)

    def _end(self, message: StreamEnd, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        outlet = self._outlets.get(message.stream)
        if outlet is None:
            return
        self._settle()
        if message.stream in self._inlets and isinstance(outlet, Sink):
            outlet.when_written(lambda: self._shutdown_soon(message.stream))
        outlet.end()

    def _shutdown_soon(self, number: int) -> None:
        self._shutdowns[number] = self._loop.call_later(
            SHUTDOWN_SECONDS, lambda: self._shutdown(number)
        )

    def _shutdown(self, number: int) -> None:
        del self._shutdowns[number]
        inlet = self._inlets.get(number)
        if isinstance(inlet, Source):
            inlet.shutdown()

    def _broken(self, message: StreamBroken, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        inlet = self._inlets.get(message.stream)
        if inlet is not None:
            self._settle()
            if isinstance(inlet, Source):
                inlet.unread()
            inlet.close()

    def _want(self, message: StreamWant, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        inlet = self._inlets.get(message.stream)
        if inlet is not None:
            inlet.want(message.bytes)

    def _taken(self, message: StreamTaken, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        inlet = self._inlets.get(message.stream)
        if inlet is not None:
            inlet.taken(message.bytes)
