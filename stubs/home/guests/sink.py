"""A sink: bytes on their way from a body to a pipe, socket or terminal of home.

Written as fast as its reader takes them and told back (StreamTaken), so that a slow reader holds
up its own writer only.
"""

from __future__ import annotations

from collections import deque

from stubs.link.loop import READ, WRITE
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import StreamBroken, StreamTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.ends import End
    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

# What a node may send before it is told that it was taken; more is a broken node.
WRITE_WINDOW = 1 << 20

# StreamTaken is put off until so much has been taken, or all.
TELL_BYTES = 64 << 10


class Sink:
    """Bytes on their way from a body to home."""

    def __init__(
        self,
        loop: Loop,
        link: Link,
        number: int,
        end: End,
        conclude: Callable[[Message], None],
    ) -> None:
        """Take over `end`; `conclude` posts to the node that its reader is gone."""
        self.on_end: list[Callable[[], None]] = []  # called when the body has closed its end
        self.on_close: list[Callable[[], None]] = []  # called when home's end is closed
        self._loop = loop
        self._link = link
        self._number = number
        self._end: End | None = end
        self._conclude = conclude
        self._waiting: deque[memoryview] = deque()
        self._pending = 0
        self._put = 0
        self._settled = 0
        self._untold = 0
        self._ended = False
        self._held = False
        self._window = WRITE_WINDOW
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
        if self._pending + len(data) > self._window:
            raise RemoteProtocolError("more data than the window of a stream allows")
        self._pending += len(data)
        self._waiting.append(memoryview(data))
        if len(self._waiting) == 1 and not self._held:
            self._write()

    def hold(self) -> bytes:
        """Write nothing until `go_on`; return what is still to be written."""
        self._held = True
        if self._end is not None:
            self._loop.forget(self._end.fileno())
        return b"".join(self._waiting)

    def go_on(self) -> None:
        """Write again."""
        self._held = False
        if self._end is not None:
            self._watch(self._end)

    def begin_with(self, data: bytes) -> None:
        """Write first what another link had not written yet, beyond the window of this one."""
        self._window += len(data)
        self.put(data)

    def aside(self, data: bytes) -> bool:
        """Write `data` of our own, which is nobody's stream, unless something waits before it."""
        if self._end is None or self._waiting:
            return False
        try:
            return self._end.write(memoryview(data)) == len(data)
        except OSError:
            return False  # the next write of a body will find out

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
        self._conclude(StreamBroken(self._number))

    def _tell_marks(self) -> None:
        while self._marks and self._marks[0][0] <= self._settled:
            self._marks.popleft()[1]()
