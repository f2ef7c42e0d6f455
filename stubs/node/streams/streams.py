"""The node's ends of streams: real pipes and sockets that bodies have, relayed to those of home.

An inlet is what a body reads: home's bytes are written into a pipe, and home is told how far they
have gone (when it may read ahead) or that a body waits for some (when it may not). An outlet
is what a body writes: read as fast as home takes it. Runs in the agent, on its loop; whatever is
sent goes after the view's posted writes, so that home never sees an effect before its cause.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections import deque

from stubs.abi.termbits import FIONREAD, TIOCOUTQ, count
from stubs.link.loop import READ, WRITE
from stubs.node.streams.want import Want
from stubs.wire.messages import (
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    StreamBroken,
    StreamData,
    StreamEnd,
    StreamTaken,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from stubs.link.endpoint import Endpoint, Handler, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

    class Order(Protocol):
        """What streams need of the view."""

        def settled(self, then: Callable[[], None]) -> None:
            """Call `then` once the kernel has heard of all changes that home has pushed."""

        def flush(self) -> None:
            """Send what bodies have written to files until now."""


# What may be on its way to home's reader: WRITE_WINDOW of stubs.home.guests.sink.
WINDOW = 1 << 20

# One StreamData; CHUNK of stubs.home.guests.source.
CHUNK = 128 << 10

# The pipe that a body has: fewer wake-ups than with 64 KiB. Not more, since all pipes of a user
# together may have 64 MiB, after which each new one is tiny (pipe(7), pipe-user-pages-soft).
PIPE_BYTES = 256 << 10
F_SETPIPE_SZ = 1031


class Inlet:
    """What a body reads: a pipe."""

    # How it is watched while there is nothing to write: the writing end of a pipe is never
    # readable, and epoll says POLLERR when its readers are gone.
    IDLE = READ

    def __init__(self, streams: Streams, number: int, fd: int, want: Want | None) -> None:
        """Take over `fd`, the writing end; without `want` home may read ahead."""
        self.streams = streams
        self.number = number
        self.fd = fd  # -1 when it is closed
        self._want = want
        self._waiting: deque[memoryview] = deque()
        self._ended = False
        self._watch()

    @property
    def waiting(self) -> bytes:
        """What the pipe has not taken yet."""
        return b"".join(self._waiting)

    def ask(self, ghost: Endpoint) -> None:
        """Ask `ghost` whether one of its descendants waits to read."""
        if self._want is not None:
            self._want.ask(ghost)

    def put(self, data: bytes) -> None:
        """Pass on what home sent."""
        if self.fd < 0:
            return
        self._waiting.append(memoryview(data))
        if len(self._waiting) == 1:
            self._write()

    def end(self) -> None:
        """Close once all is passed on: the body sees the end of the file."""
        self._ended = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self._want is not None:
            self._want.stop()
        self.streams.loop.forget(fd)
        self._let_go(fd)
        self._waiting.clear()
        self.streams.closed_inlet(self.number)

    def _let_go(self, fd: int) -> None:
        os.close(fd)

    def _ready(self, _: int) -> None:
        if self._waiting:
            self._write()
        else:
            self.broken()

    def _write(self) -> None:
        taken = 0
        while self._waiting:
            data = self._waiting[0]
            try:
                written = os.write(self.fd, data)
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                self.broken()
                return
            taken += written
            if written < len(data):
                self._waiting[0] = data[written:]
                break
            self._waiting.popleft()
        if self._want is not None:
            self._want.fed()
        elif taken:
            self.streams.link.post(StreamTaken(self.number, taken))
        if self._ended and not self._waiting:
            self.close()
        else:
            self._watch()

    def _watch(self) -> None:
        self.streams.loop.watch(self.fd, WRITE if self._waiting else self.IDLE, self._ready)

    def broken(self) -> None:
        """Close, and tell home that nobody reads any more."""
        self.close()
        self.streams.link.post(StreamBroken(self.number))


class SocketInlet(Inlet):
    """What a body reads from a socket: one half of it, the other is an Outlet."""

    IDLE = 0

    def __init__(self, streams: Streams, number: int, fd: int, want: Want | None) -> None:
        """Take over `fd`, a descriptor of its own."""
        super().__init__(streams, number, fd, want)
        # Told by epoll although not asked for: the body has closed its end.
        self._hangup = select.epoll()
        self._hangup.register(fd, 0)
        streams.loop.watch(self._hangup.fileno(), READ, lambda _: self.broken())

    def _let_go(self, fd: int) -> None:
        self.streams.loop.forget(self._hangup.fileno())
        self._hangup.close()
        sock = socket.socket(fileno=fd)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the body has closed its end
        finally:
            sock.close()


class Outlet:
    """What a body writes."""

    def __init__(self, streams: Streams, number: int, fd: int) -> None:
        """Take over `fd`, the reading end."""
        self.streams = streams
        self.number = number
        self.fd = fd  # -1 when it is closed
        self._window = WINDOW
        self._drains: list[tuple[int, Callable[[], None]]] = []
        self._passed = 0
        streams.loop.watch(fd, READ, self._readable)

    def send(self, message: Message) -> None:
        """Send to home, after what bodies have written to files."""
        self.streams.send(message)

    def taken(self, count: int) -> None:
        """Read on: home's reader has taken so many bytes."""
        self._window = min(self._window + count, WINDOW)
        if self.fd >= 0:
            self.streams.loop.watch(self.fd, READ, self._readable)

    def drain(self, then: Callable[[], None]) -> None:
        """Call `then` once everything written until now has been sent."""
        self._read(until_empty=True)
        left = count(self.fd, FIONREAD) if self.fd >= 0 else 0
        if left:
            self._drains.append((self._passed + left, then))
        else:
            then()

    def close(self) -> None:
        """Close: who writes gets SIGPIPE."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        self.streams.loop.forget(fd)
        os.close(fd)
        self.streams.closed_outlet(self.number)
        drains, self._drains = self._drains, []
        for _, then in drains:
            then()

    def _readable(self, _: int) -> None:
        self._read()

    def _read(self, until_empty: bool = False) -> None:
        """Send what there is, within the window."""
        while self.fd >= 0:
            if not self._window:
                self.streams.loop.forget(self.fd)
                return
            size = min(self._window, CHUNK)
            try:
                data = os.read(self.fd, size)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.send(StreamEnd(self.number))
                self.close()
                return
            self._window -= len(data)
            self._passed += len(data)
            self.send(StreamData(self.number, data))
            self._tell_drains()
            if len(data) < size and not until_empty:
                return

    def _tell_drains(self) -> None:
        while self._drains and self._drains[0][0] <= self._passed:
            self._drains.pop(0)[1]()


class Streams:
    """All streams of the link that have an end here, by number."""

    def __init__(self, loop: Loop, link: Link, view: Order) -> None:
        """Begin with none."""
        self.loop = loop
        self.link = link
        self._view = view
        self._inlets: dict[int, Inlet] = {}
        self._outlets: dict[int, Outlet] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what the node does with the messages of streams."""
        return {
            StreamData: self._data,
            StreamEnd: self._end,
            StreamBroken: self._broken,
            StreamTaken: self._taken,
        }

    def register(self, number: int, inlet: Inlet, outlet: Outlet) -> None:
        """Let these take what comes for `number` (the terminal)."""
        self._inlets[number] = inlet
        self._outlets[number] = outlet

    def open(self, number: int, kind: int, flags: int, exclusive: bool) -> int:
        """Return the body's end of stream `number`; the agent's is made unless there is one.

        OSError EBADF when a socket that is open already would be needed once more.
        """
        if number in self._inlets or number in self._outlets:
            return self._reopen(number, kind)
        if kind == FD_STREAM_BOTH:
            ours, theirs = (end.detach() for end in socket.socketpair())
            os.set_blocking(ours, False)
            writing = os.dup(ours)
            want = None if exclusive else self._want(number, theirs, writing, TIOCOUTQ)
            self._outlets[number] = Outlet(self, number, ours)
            self._inlets[number] = SocketInlet(self, number, writing, want)
        else:
            reading, writing = os.pipe()
            _grow(reading)
            if kind == FD_STREAM_IN:
                ours, theirs = writing, reading
                os.set_blocking(ours, False)
                want = None if exclusive else self._want(number, theirs, ours, FIONREAD)
                self._inlets[number] = Inlet(self, number, ours, want)
            else:
                ours, theirs = reading, writing
                os.set_blocking(ours, False)
                self._outlets[number] = Outlet(self, number, ours)
        if flags & os.O_NONBLOCK:
            os.set_blocking(theirs, False)
        return theirs

    def watch(self, number: int, ghost: Endpoint) -> None:
        """Find out by `ghost` when a body waits to read from `number`, if it matters."""
        inlet = self._inlets.get(number)
        if inlet is not None:
            inlet.ask(ghost)

    def drain(self, numbers: set[int], then: Callable[[], None]) -> None:
        """Call `then` once all that bodies wrote to these until now has been sent."""
        outlets = [self._outlets[number] for number in numbers if number in self._outlets]
        waiting = len(outlets) + 1

        def one_drained() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                then()

        for outlet in outlets:
            outlet.drain(one_drained)
        one_drained()

    def close(self) -> None:
        """Close all."""
        for inlet in list(self._inlets.values()):
            inlet.close()
        for outlet in list(self._outlets.values()):
            outlet.close()

    def send(self, message: Message) -> None:
        """Send to home, after what bodies have written to files."""
        self._view.flush()
        self.link.post(message)

    def waiting(self, number: int) -> bytes:
        """Return what home has sent for `number` and no pipe has taken yet."""
        inlet = self._inlets.get(number)
        return inlet.waiting if inlet is not None else b""

    def abandon(self, number: int) -> None:
        """Let go of stream `number` without a word to home: its body lives elsewhere."""
        inlet = self._inlets.pop(number, None)
        if inlet is not None:
            inlet.close()
        outlet = self._outlets.pop(number, None)
        if outlet is not None:
            outlet.close()

    def closed_inlet(self, number: int) -> None:
        """Forget it."""
        self._inlets.pop(number, None)

    def closed_outlet(self, number: int) -> None:
        """Forget it."""
        self._outlets.pop(number, None)

    def _want(self, number: int, theirs: int, ours: int, request: int) -> Want:
        name = os.fsencode(os.readlink(f"/proc/self/fd/{theirs}"))
        return Want(self.loop, self.link, number, name, lambda: count(ours, request))

    def _reopen(self, number: int, kind: int) -> int:
        """Open the other end of a pipe of which we hold one."""
        if kind == FD_STREAM_IN and number in self._inlets:
            return os.open(f"/proc/self/fd/{self._inlets[number].fd}", os.O_RDONLY)
        if kind == FD_STREAM_OUT and number in self._outlets:
            return os.open(f"/proc/self/fd/{self._outlets[number].fd}", os.O_WRONLY)
        raise OSError(errno.EBADF, f"stream {number} cannot be opened once more")

    # from home; what concerns an end that is closed by now has crossed the news of it

    def _data(self, message: StreamData, tag: int, fds: list[int]) -> None:
        self._view.settled(lambda: self._put(message))

    def _put(self, message: StreamData) -> None:
        inlet = self._inlets.get(message.stream)
        if inlet is not None:
            inlet.put(message.data)

    def _end(self, message: StreamEnd, tag: int, fds: list[int]) -> None:
        self._view.settled(lambda: self._put_end(message.stream))

    def _put_end(self, number: int) -> None:
        inlet = self._inlets.get(number)
        if inlet is not None:
            inlet.end()

    def _broken(self, message: StreamBroken, tag: int, fds: list[int]) -> None:
        outlet = self._outlets.get(message.stream)
        if outlet is not None:
            outlet.close()

    def _taken(self, message: StreamTaken, tag: int, fds: list[int]) -> None:
        outlet = self._outlets.get(message.stream)
        if outlet is not None:
            outlet.taken(message.bytes)


def _grow(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # this user has as many large pipes as one may have
