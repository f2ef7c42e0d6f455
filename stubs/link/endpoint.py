"""Endpoint: messages over one byte stream; Link: over two, in order where order counts.

Single-threaded, driven by a Loop. What a turn sends leaves in one write at its end. The
first error (end of stream, OSError, ProtocolError) closes the endpoint and is told once to
`on_lost`.
"""

from __future__ import annotations

import os
from collections import deque

from stubs.link.loop import READ, WRITE
from stubs.link.stream import SocketStream
from stubs.wire.errors import ProtocolError, RemoteProtocolError
from stubs.wire.frame import FrameReader, encode_frame
from stubs.wire.messages import MESSAGES, Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stubs.link.loop import Loop
    from stubs.link.stream import Stream
    from stubs.wire.codec import Message
    from stubs.wire.frame import Frame

    # A handler gets the message, its tag (0: no reply expected) and the descriptors with it.
    Handler = Callable[[Any, int, list[int]], None]
    # Called once with the reply; Error when refused or when the link is lost (EIO).
    Done = Callable[[Message], None]

# How soon a stream that cannot tell when it is writable is tried again.
RETRY_SECONDS = 0.001

# Beyond this the write is not put off to the end of the turn.
FLUSH_BYTES = 256 << 10

EIO = 5

# Set in a frame's kind when it is a reply: both ends count their tags from 1 independently.
REPLY = 0x8000


class Endpoint:
    """One end of a byte stream that carries frames."""

    def __init__(
        self,
        loop: Loop,
        stream: Stream,
        handlers: dict[type[Message], Handler],
        on_lost: Callable[[str], None],
        name: str,
    ) -> None:
        """Start receiving at once; `name` is what messages about this end call the peer."""
        self.name = name
        self.sent = 0  # frames
        self.handled = 0  # frames
        self.bytes_in = 0
        self.bytes_out = 0
        self.lost: str | None = None
        self._loop = loop
        self._stream = stream
        self._handlers = handlers
        self._on_lost = on_lost
        self._reader = FrameReader(allow_fds=isinstance(stream, SocketStream))
        self._out: list[tuple[bytes, list[int]]] = []
        self._out_bytes = 0
        self._waiting: dict[int, Done] = {}
        self._next_tag = 0
        self.after_dispatch: Callable[[], None] | None = None
        self.companion: Endpoint | None = None
        self.reply_fds: list[int] = []  # those of the reply being handled; its handler owns them
        # Bytes not taken by the peer above which its requests are not read either (0: no limit):
        # a peer that asks and never listens must not fill our memory. Only one end of a link may
        # have a limit, or both could wait for each other.
        self.pause_above = 0
        self._paused = False
        self._inbox: deque[Frame] = deque()  # received, not handled yet
        self._wants_write = False
        self._watch()

    # sending

    @property
    def backlog(self) -> int:
        """Bytes that the stream has not taken yet."""
        return self._out_bytes

    def post(self, message: Message, fds: list[int] | None = None, after: int = 0) -> None:
        """Send a message that needs no reply. `fds` are closed once they are sent."""
        self._send(message, 0, fds or [], after)

    def request(
        self,
        message: Message,
        done: Done,
        fds: list[int] | None = None,
        by: Endpoint | None = None,
    ) -> int:
        """Send, and call `done` with the reply; returns the tag (for Cancel).

        A lost link answers every request with Error EIO. `by`: the bulk endpoint of this one,
        if it is to go there.
        """
        self._next_tag = self._next_tag % 0xFFFFFFFF + 1
        tag = self._next_tag
        if self.lost is not None:
            _close_all(fds or [])
            done(Error(EIO, self.lost.encode(errors="surrogateescape")))
            return tag
        self._waiting[tag] = done
        if by is None:
            self._send(message, tag, fds or [], 0)
        else:
            by._send(message, tag, fds or [], self.sent)
        return tag

    def reply(
        self, tag: int, message: Message, fds: list[int] | None = None, after: int = 0
    ) -> None:
        """Answer a request. `fds` are closed once they are sent."""
        self._send(message, tag, fds or [], after, REPLY)

    def _send(self, message: Message, tag: int, fds: list[int], after: int, reply: int = 0) -> None:
        if self.lost is not None:
            _close_all(fds)
            return
        data = encode_frame(message.KIND | reply, message.encode(), tag, after, len(fds))
        self.sent = (self.sent + 1) & 0xFFFFFFFF
        self._out.append((data, fds))
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()
        else:
            self._loop.at_turn_end(self.flush)

    def flush(self) -> None:
        """Write as much as the stream takes now; the rest follows by itself."""
        if self.lost is not None:
            return
        try:
            while self._out:
                data, fds = self._gather()
                sent = self._stream.send(memoryview(data), fds)
                self._out_bytes -= sent
                self.bytes_out += sent
                if sent:
                    _close_all(fds)
                    fds = []
                if sent < len(data):
                    self._out.insert(0, (data[sent:], fds))
                    break
        except OSError as error:
            self.close(f"{self.name}: {error.strerror or error}")
            return
        self._watch_writable()

    def _gather(self) -> tuple[bytes, list[int]]:
        """Take frames to be written at once: descriptors may only go with a frame's first byte."""
        data, fds = self._out.pop(0)
        if fds or len(data) > FLUSH_BYTES:
            return data, fds
        count = 0
        size = len(data)
        while count < len(self._out) and not self._out[count][1] and size < FLUSH_BYTES:
            size += len(self._out[count][0])
            count += 1
        if count:
            data = b"".join([data] + [part for part, _ in self._out[:count]])
            del self._out[:count]
        return data, fds

    def _watch_writable(self) -> None:
        if self.lost is not None:
            return
        waiting = bool(self._out)
        fd = self._stream.write_fileno()
        if fd < 0:
            if waiting:
                self._loop.call_later(RETRY_SECONDS, self.flush)
        elif waiting != self._wants_write:
            self._wants_write = waiting
            if fd == self._stream.fileno():
                self._watch()
            else:
                self._loop.watch(fd, WRITE if waiting else 0, lambda _: self.flush())
        if self._paused and self._may_read():
            self._paused = False
            self._watch()
            self._loop.at_turn_end(self._handle_inbox)

    def _watch(self) -> None:
        events = 0 if self._paused else READ
        if self._wants_write and self._stream.write_fileno() == self._stream.fileno():
            events |= WRITE
        self._loop.watch(self._stream.fileno(), events, self._ready)

    def _may_read(self) -> bool:
        companion = self.companion.backlog if self.companion is not None else 0
        return not self.pause_above or self._out_bytes + companion <= self.pause_above

    # receiving

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if events & READ and self.lost is None:
            self._readable()

    def _readable(self) -> None:
        try:
            data = self._stream.receive()
        except OSError as error:
            self.close(f"{self.name}: {error.strerror or error}")
            return
        if data is None:
            return
        if not data:
            self.close(f"{self.name} closed the connection")
            return
        self.bytes_in += len(data)
        try:
            self._inbox.extend(self._reader.feed(data))
        except ProtocolError as error:
            self.close(f"{self.name}: {error}")
        self._handle_inbox()

    def _handle_inbox(self) -> None:
        try:
            while self._inbox and self.lost is None:
                if not self._may_read():
                    self._paused = True
                    self._watch()
                    break
                self._accept(self._inbox.popleft())
        except ProtocolError as error:
            self.close(f"{self.name}: {error}")

    def _accept(self, frame: Frame) -> None:
        self.dispatch(frame)
        if self.after_dispatch is not None:
            self.after_dispatch()

    def dispatch(self, frame: Frame) -> None:
        """Hand one frame to its handler, or to who asked; ProtocolError when nobody wants it."""
        kind = MESSAGES.get(frame.kind & ~REPLY)
        if kind is None:
            raise RemoteProtocolError(f"unknown message {frame.kind:#x}")
        fds = self._take_fds(frame.fds)
        message = kind.decode(frame.payload)
        if frame.kind & REPLY:
            done = self._waiting.pop(frame.tag, None)
            if done is None:
                raise RemoteProtocolError(f"a reply that nobody asked for: {kind.__name__}")
            self.reply_fds = fds
            done(message)
        else:
            handler = self._handlers.get(kind)
            if handler is None:
                raise RemoteProtocolError(f"{kind.__name__} is not for this end")
            handler(message, frame.tag, fds)
        self.handled = (self.handled + 1) & 0xFFFFFFFF

    def _take_fds(self, count: int) -> list[int]:
        if not count:
            return []
        assert isinstance(self._stream, SocketStream)
        received = self._stream.received_fds
        if len(received) < count:
            raise RemoteProtocolError("descriptors announced that did not come")
        self._stream.received_fds = received[count:]
        return received[:count]

    # the end

    def close(self, reason: str) -> None:
        """Close, answer whoever waits with Error EIO, and tell `on_lost`; only once."""
        if self.lost is not None:
            return
        self.lost = reason
        self._loop.forget(self._stream.fileno())
        if self._stream.write_fileno() >= 0:
            self._loop.forget(self._stream.write_fileno())
        self._stream.close()
        for _, fds in self._out:
            _close_all(fds)
        self._out.clear()
        # The two connections of a link share who waits: each is answered once.
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for done in waiting:
            done(Error(EIO, reason.encode(errors="surrogateescape")))
        if self.companion is not None:
            self.companion.close(reason)
        self._on_lost(reason)


class BulkEndpoint(Endpoint):
    """The second connection of a link: large messages, so that small ones need not queue behind.

    A frame is handled only after the rpc frames that were sent before it (its `after`); a reply
    that comes here answers a request made on the rpc endpoint.
    """

    def __init__(self, rpc: Endpoint, loop: Loop, stream: Stream, name: str) -> None:
        """Attach to `rpc`; if either end of the pair is lost, so is the other."""
        super().__init__(loop, stream, rpc._handlers, rpc.close, name)
        self._waiting = rpc._waiting
        self._rpc = rpc
        self._held: deque[Frame] = deque()
        rpc.after_dispatch = self._release
        rpc.companion = self

    def _accept(self, frame: Frame) -> None:
        if self._held or not self._due(frame):
            self._held.append(frame)
        else:
            self.dispatch(frame)

    def _due(self, frame: Frame) -> bool:
        return (self._rpc.handled - frame.after) & 0xFFFFFFFF < 0x80000000

    def _watch_writable(self) -> None:
        super()._watch_writable()
        # What the rpc endpoint may read depends on our backlog too.
        self._rpc._watch_writable()

    def _release(self) -> None:
        while self._held and self.lost is None and self._due(self._held[0]):
            self.dispatch(self._held.popleft())


class Link:
    """The connection of a home with a node, seen from one end.

    Everything is sent on the rpc endpoint, in order; only what home sends of classes marked
    BULK takes the bulk one, once there is one. (What a node sends stays in one order, so that
    home never sees an effect before its cause.)
    """

    def __init__(self, rpc: Endpoint) -> None:
        """Begin with the rpc endpoint alone."""
        self.rpc = rpc
        self._bulk: Endpoint | None = None

    def send_bulk_on(self, bulk: Endpoint) -> None:
        """Send BULK messages there from now on."""
        self._bulk = bulk

    @property
    def backlog(self) -> int:
        """Bytes not yet taken by either connection."""
        return self.rpc.backlog + (self._bulk.backlog if self._bulk is not None else 0)

    def post(self, message: Message) -> None:
        """Send without asking for a reply."""
        if message.BULK and self._bulk is not None:
            self._bulk.post(message, after=self.rpc.sent)
        else:
            self.rpc.post(message)

    def reply(self, tag: int, message: Message) -> None:
        """Answer a request of the peer."""
        if message.BULK and self._bulk is not None:
            self._bulk.reply(tag, message, after=self.rpc.sent)
        else:
            self.rpc.reply(tag, message)

    def request(self, message: Message, done: Done) -> int:
        """Ask; returns the tag. `done` gets the reply, or Error."""
        return self.rpc.request(message, done, by=self._bulk if message.BULK else None)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
