"""The output of the node's terminal on its way to home's.

Takes away what home's terminal does itself: the carriage return before each newline (ONLCR of the
node's line discipline, undone exactly: it puts one before every newline), and the echo of keys
that home's terminal had echoed already when they were typed.
"""

from __future__ import annotations

import time

from stubs.home.guests import modes
from stubs.home.guests.sink import Sink
from stubs.wire.messages import StreamTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.ends import End
    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop, Timer

# An echo that has not come after this time was not to come; several slow round trips.
ECHO_SECONDS = 3.0

# How long a carriage return at the end of the data waits for a newline after it, which may be some
# round trips behind; nobody sees where the cursor stands meanwhile.
RETURN_SECONDS = 0.1


# A status line is shown once bodies have written nothing for so long.
QUIET_SECONDS = 1.0


class Screen:
    """An Outlet: what bodies write to the terminal."""

    def __init__(self, loop: Loop, link: Link, number: int, end: End) -> None:
        """Take over `end`, another descriptor than the one that keys are read from."""
        self.node: modes.Modes | None = None  # of the node's terminal
        self._loop = loop
        self._link = link
        self._number = number
        self._sink = Sink(loop, link, number, end, link.post)
        self._echo = b""
        self._echo_until = 0.0
        self._written = 0.0  # when bodies wrote last
        self._line_is_open = False  # by them: the cursor stands behind something
        self._has_status = False
        self._return: Timer | None = None  # a carriage return is held back until then

    def expect(self, echo: bytes) -> None:
        """Drop `echo` when the node's terminal writes it: it is on the screen already."""
        if echo:
            self._echo += echo
            self._echo_until = time.monotonic() + ECHO_SECONDS

    def put(self, data: bytes) -> None:
        """Show `data`; RemoteProtocolError beyond the window."""
        count = len(data) + self._take_return()
        data = b"\r" * (count - len(data)) + data
        if self._echo:
            data = self._without_echo(data)
        if self.node is not None and modes.adds_returns(self.node):
            data = data.replace(b"\r\n", b"\n")
            if data.endswith(b"\r"):
                # Perhaps the one before a newline that is still on its way.
                self._return = self._loop.call_later(RETURN_SECONDS, self._release_return)
                data = data[:-1]
                count -= 1
        if len(data) < count:
            self._link.post(StreamTaken(self._number, count - len(data)))
        if data:
            self.hide_status()
            self._written = time.monotonic()
            self._line_is_open = not data.endswith(b"\n")
            self._sink.put(data)

    def show_status(self, line: bytes) -> None:
        """Show a line of our own where the cursor is until a body writes, unless one just has.

        It is shorter than the screen is wide.
        """
        if self._line_is_open or time.monotonic() < self._written + QUIET_SECONDS:
            return
        self._has_status = self._sink.aside(b"\r" + line + b"\x1b[K\r") or self._has_status

    def hide_status(self) -> None:
        """Take our line away; the cursor stands where it stood before."""
        if self._has_status:
            self._has_status = False
            self._sink.aside(b"\r\x1b[K")

    def _take_return(self) -> int:
        """Return how many bytes were held back, and hold nothing back any more."""
        if self._return is None:
            return 0
        self._return.cancel()
        self._return = None
        return 1

    def _without_echo(self, data: bytes) -> bytes:
        if time.monotonic() > self._echo_until:
            self._echo = b""
            return data
        if self._echo.startswith(data):
            self._echo = self._echo[len(data) :]
            return b""
        at = data.find(self._echo)
        if at < 0:
            return data
        end = at + len(self._echo)
        self._echo = b""
        return data[:at] + data[end:]

    def _release_return(self) -> None:
        if self._take_return():
            self._sink.put(b"\r")

    def end(self) -> None:
        """Show what is left and close."""
        self.hide_status()
        self._release_return()
        self._sink.end()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call `then` when all that was put is on the screen, or cannot be."""
        self._release_return()
        self._sink.when_written(then)

    def close(self) -> None:
        """Close now."""
        self.hide_status()
        self._take_return()
        self._sink.close()
