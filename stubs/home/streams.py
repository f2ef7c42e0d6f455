"""The home ends of streams: bytes between pipes and sockets of home and those on the node.

A source is read only when a body waits for bytes (StreamWant), since what it leaves belongs to
the next process of home that reads there; unless nobody else can read it, then it is read ahead.
A sink is written as fast as its reader takes it and told back (StreamTaken), so that a slow
reader holds up its own writer only.

Numbers are given by home and never used again on a link, so a message that crossed the end of its
stream is recognised and dropped. Runs in the link process, on its loop.
"""

from __future__ import annotations

import os
from collections import deque

from stubs.home.ends import SocketEnd, open_end
from stubs.link.loop import READ, WRITE
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

    from stubs.home.ends import End
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


# How far an exclusive source is read ahead of the body: some round trips of a fast network.
READ_AHEAD = 256 << 10

# What a node may send before it is told that it was taken; more is a broken node.
WRITE_WINDOW = 1 << 20

# The largest frame of data, so that other messages need not wait long behind it.
CHUNK = 128 << 10

# StreamTaken is put off until so much has been taken, or all.
TELL_BYTES = 64 << 10

# On a socket the end of a body's writing looks the same for close(2) and shutdown(2) until, after
# close, StreamBroken follows.
SHUTDOWN_SECONDS = 0.05


class Source:
    """Bytes on their way from home to a body."""

    def __init__(
        self,
        loop: Loop,
        deliver: Callable[[Message], None],
        number: int,
        end: End,
        exclusive: bool,
        patience: float,
    ) -> None:
        """Take over `end`; if `exclusive`, begin to read ahead. `deliver` posts to the node.

        The end is told `patience` seconds after it was seen.
        """
        self._loop = loop
        self._deliver = deliver
        self._number = number
        self._end: End | None = end
        self._exclusive = exclusive
        self._patience = patience
        self._allowed = READ_AHEAD if exclusive else 0
        if exclusive:
            loop.watch(end.fileno(), READ, self._readable)

    def want(self, count: int) -> None:
        """Read up to `count` bytes once, as soon as there are any; 0 takes it back."""
        if self._exclusive or self._end is None:
            return
        self._allowed = min(count, CHUNK)
        self._loop.forget(self._end.fileno())
        if self._allowed:
            self._read(self._end)

    def taken(self, count: int) -> None:
        """Read further ahead by `count` bytes."""
        if not self._exclusive:
            return
        if self._allowed + count > READ_AHEAD:
            raise RemoteProtocolError("more bytes taken than were sent")
        self._allowed += count
        if self._end is not None:
            self._loop.watch(self._end.fileno(), READ, self._readable)

    def shutdown(self) -> None:
        """Tell the other side of a socket that nothing more will be written (shutdown(2))."""
        if isinstance(self._end, SocketEnd):
            self._end.shutdown()

    def _readable(self, _: int) -> None:
        if self._end is not None:
            self._read(self._end)

    def _read(self, end: End) -> None:
        try:
            data = end.read(min(self._allowed, CHUNK))
        except OSError:
            # A terminal that hung up, a connection that was reset: there is nothing more to read.
            data = b""
        if data is None:
            self._loop.watch(end.fileno(), READ, self._readable)
        elif data:
            self._deliver(StreamData(self._number, data))
            self._allowed = self._allowed - len(data) if self._exclusive else 0
            if not self._allowed:
                self._loop.forget(end.fileno())
        else:
            self.close()
            end_seen = StreamEnd(self._number)
            _after(self._loop, self._patience, lambda: self._deliver(end_seen))

    def close(self) -> None:
        """Close home's end: its writer gets SIGPIPE once nobody else reads."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.forget(end.fileno())
            end.close()


class Sink:
    """Bytes on their way from a body to home."""

    def __init__(
        self, loop: Loop, link: Link, number: int, end: End, patience: float = 0.0
    ) -> None:
        """Take over `end`. That its reader is gone is told `patience` seconds after it was seen."""
        self.on_end: list[Callable[[], None]] = []  # called when the body has closed its end
        self.on_close: list[Callable[[], None]] = []  # called when home's end is closed
        self._loop = loop
        self._link = link
        self._number = number
        self._end: End | None = end
        self._patience = patience
        self._waiting: deque[memoryview] = deque()
        self._pending = 0
        self._put = 0
        self._settled = 0
        self._untold = 0
        self._ended = False
        self._marks: deque[tuple[int, Callable[[], None]]] = deque()
        self._watch(end)

    def put(self, data: bytes) -> None:
        """Write `data` as soon as the reader makes room; RemoteProtocolError beyond the window."""
        if self._ended:
            raise RemoteProtocolError("data after the end of a stream")
        self._put += len(data)
        if self._end is None:
            # The node has not heard yet that the reader is gone.
            self._settled = self._put
            return
        if self._pending + len(data) > WRITE_WINDOW:
            raise RemoteProtocolError("more data than the window of a stream allows")
        self._pending += len(data)
        self._waiting.append(memoryview(data))
        if len(self._waiting) == 1:
            self._write()

    def end(self) -> None:
        """Close home's end once all is written, so that its reader sees the end of the file."""
        if self._ended:
            return
        self._ended = True
        for call in self.on_end:
            call()
        self.on_end.clear()
        if not self._waiting:
            self.close()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call `then` when what was put until now is written, or can never be."""
        if self._settled >= self._put:
            then()
        else:
            self._marks.append((self._put, then))

    def close(self) -> None:
        """Close home's end now."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.forget(end.fileno())
            end.close()
        self._waiting.clear()
        self._pending = 0
        self._settled = self._put
        self._tell_marks()
        calls, self.on_close = self.on_close, []
        for call in calls:
            call()

    @property
    def closed(self) -> bool:
        """Whether home's end is closed."""
        return self._end is None

    def _ready(self, _: int) -> None:
        if self._waiting:
            self._write()
        elif self._end is not None:
            # Watched while there is nothing to write only where that tells of the reader's end.
            self._break()

    def _write(self) -> None:
        end = self._end
        while self._waiting and end is not None:
            data = self._waiting[0]
            try:
                count = end.write(data)
            except OSError:
                # EPIPE; EIO of a terminal that hung up, ECONNRESET: nobody will read this.
                self._break()
                return
            self._account(count)
            if count < len(data):
                self._waiting[0] = data[count:]
                break
            self._waiting.popleft()
        self._tell_marks()
        if end is not None and self._end is not None:
            self._go_on(end)

    def _account(self, count: int) -> None:
        self._pending -= count
        self._settled += count
        self._untold += count
        if self._untold and (self._untold >= TELL_BYTES or not self._pending):
            self._link.post(StreamTaken(self._number, self._untold))
            self._untold = 0

    def _go_on(self, end: End) -> None:
        if self._ended and not self._waiting:
            self.close()
        else:
            self._watch(end)

    def _watch(self, end: End) -> None:
        if self._waiting:
            self._loop.watch(end.fileno(), WRITE, self._ready)
        else:
            # The write end of a pipe is never readable; epoll says POLLERR when its readers are
            # gone.
            self._loop.watch(end.fileno(), READ if end.tells_of_loss else 0, self._ready)

    def _break(self) -> None:
        self.close()
        broken = StreamBroken(self._number)
        _after(self._loop, self._patience, lambda: self._link.post(broken))

    def _tell_marks(self) -> None:
        while self._marks and self._marks[0][0] <= self._settled:
            self._marks.popleft()[1]()


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

    def on_end(self, number: int, call: Callable[[], None]) -> None:
        """Have `call` called when the node's writers of a sink are gone."""
        outlet = self._outlets.get(number)
        if isinstance(outlet, Sink):
            outlet.on_end.append(call)

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

    def close_all(self) -> None:
        """Close everything that streams have at home."""
        for number in [*self._inlets, *self._outlets]:
            self.close(number)

    def _add_source(self, number: int, end: End, exclusive: bool, patience: float) -> None:
        self._inlets[number] = Source(self._loop, self.deliver, number, end, exclusive, patience)

    def _add_sink(self, number: int, end: End, patience: float) -> None:
        self._outlets[number] = Sink(self._loop, self._link, number, end, patience)

    def _check(self, number: int) -> None:
        # One that was open once may be closed by now: the messages have crossed.
        if not 0 < number <= self._last:
            raise RemoteProtocolError(f"no stream {number}")

    def _data(self, message: StreamData, tag: int, fds: list[int]) -> None:
        self._check(message.stream)
        outlet = self._outlets.get(message.stream)
        if outlet is not None:
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


def _after(loop: Loop, seconds: float, call: Callable[[], None]) -> None:
    """Call after `seconds`; at once if that is none."""
    if seconds:
        loop.call_later(seconds, call)
    else:
        call()
