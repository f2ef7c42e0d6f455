"""A source: bytes on their way from a pipe, socket or other terminal of home to a body.

Read only when a body waits for bytes (StreamWant), since what it leaves belongs to the next process
of home that reads there; unless nobody else can read it: then it is read ahead.
"""

from __future__ import annotations

from stubs.home.guests.ends import SocketEnd
from stubs.link.loop import READ
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import StreamData, StreamEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.ends import End
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

# How far an exclusive source is read ahead of the body: some round trips of a fast network.
READ_AHEAD = 256 << 10

# The largest frame of data, so that other messages need not wait long behind it.
CHUNK = 128 << 10


class Source:
    """Bytes on their way from home to a body."""

    def __init__(
        self,
        loop: Loop,
        deliver: Callable[[Message], None],
        number: int,
        end: End,
        exclusive: bool,
        conclude: Callable[[Message], None],
    ) -> None:
        """Take over `end`; if `exclusive`, begin to read ahead.

        `deliver` posts data to the node, `conclude` that there is no more.
        """
        self.on_unread: list[Callable[[], None]] = []  # called when the body has closed its end
        self._loop = loop
        self._deliver = deliver
        self._number = number
        self._end: End | None = end
        self._exclusive = exclusive
        self._conclude = conclude
        self._allowed = READ_AHEAD if exclusive else 0
        self._head = b""  # what another link has read of it, and its body has not
        self._paused = False
        if exclusive:
            loop.watch(end.fileno(), READ, self._readable)

    def want(self, count: int) -> None:
        """Read up to `count` bytes once, as soon as there are any; 0 takes it back."""
        if self._exclusive or self._end is None:
            return
        self._allowed = min(count, CHUNK)
        self._loop.forget(self._end.fileno())
        if self._head:
            self._give_head()
        elif self._allowed and not self._paused:
            self._read(self._end)

    def taken(self, count: int) -> None:
        """Read further ahead by `count` bytes."""
        if not self._exclusive:
            return
        if self._allowed + count > READ_AHEAD:
            raise RemoteProtocolError("more bytes taken than were sent")
        self._allowed += count
        self._give_head()
        self._watch()

    def pause(self) -> None:
        """Read nothing until `go_on`."""
        self._paused = True
        if self._end is not None:
            self._loop.forget(self._end.fileno())

    def go_on(self) -> None:
        """Read again."""
        self._paused = False
        self._watch()

    def begin_with(self, data: bytes) -> None:
        """Deliver `data` before what is to be read; nothing has been read until now."""
        self._head = data
        if self._exclusive:
            self._give_head()

    def _give_head(self) -> None:
        while self._head and self._allowed:
            count = min(self._allowed, CHUNK)
            data, self._head = self._head[:count], self._head[count:]
            self._allowed = self._allowed - len(data) if self._exclusive else 0
            self._deliver(StreamData(self._number, data))
        if self._head and self._end is not None:
            self._loop.forget(self._end.fileno())

    def _watch(self) -> None:
        if self._end is not None and self._allowed and not self._head and not self._paused:
            self._loop.watch(self._end.fileno(), READ, self._readable)

    def unread(self) -> None:
        """Tell who wants to know that the body has closed its end."""
        calls, self.on_unread = self.on_unread, []
        for call in calls:
            call()

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
            self._conclude(StreamEnd(self._number))

    def close(self) -> None:
        """Close home's end: its writer gets SIGPIPE once nobody else reads."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.forget(end.fileno())
            end.close()
