"""Images of bodies as they pass through link processes: from a node, to a node; never looked into.

As much is on its way as the slower side takes, never more than a window.
"""

from __future__ import annotations

import os
import socket
from collections import deque

from stubs.link.loop import READ, WRITE
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import ImageData, ImageTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop

# Bytes of an image that may be on their way to a node, and in one message.
WINDOW = 4 << 20
CHUNK = 256 << 10


class Outgoing:
    """An image on its way from the node to the other link process."""

    def __init__(self, loop: Loop, link: Link, body: int, fd: int) -> None:
        """Take over `fd`, a socket."""
        self._loop = loop
        self._link = link
        self._body = body
        self._fd = fd
        os.set_blocking(fd, False)
        self._waiting: deque[memoryview] = deque()
        self._pending = 0
        self._ended = False
        self.passed = 0  # bytes

    def put(self, data: bytes) -> None:
        """Pass on what the node sent; nothing: that was all.

        When home says so itself, some may still be on its way; it is not wanted any more.
        """
        if self._fd < 0 or self._ended:
            return
        self._pending += len(data)
        if self._pending > WINDOW:
            raise RemoteProtocolError("more of an image than its window allows")
        self._waiting.append(memoryview(data))
        self._ended = not data
        self._write()

    def close(self) -> None:
        """Let go of the socket; a second time is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.forget(fd)
            os.close(fd)
        self._waiting.clear()

    def _write(self) -> None:
        passed = 0
        try:
            while self._waiting:
                data = self._waiting[0]
                sent = os.write(self._fd, data) if data else 0
                passed += sent
                if sent < len(data):
                    self._waiting[0] = data[sent:]
                    break
                self._waiting.popleft()
        except BlockingIOError:
            pass  # as much as it takes for now
        except OSError:
            self.close()  # nobody wants it any more: mrun will say what is to be done
            return
        self._pending -= passed
        self.passed += passed
        if passed:
            self._link.post(ImageTaken(self._body, passed))
        if self._waiting:
            self._loop.watch(self._fd, WRITE, lambda _: self._write())
        elif self._ended:
            self.close()
        else:
            self._loop.forget(self._fd)


class Incoming:
    """An image on its way from the other link process to the node."""

    def __init__(self, loop: Loop, link: Link, body: int, serial: int, fd: int) -> None:
        """Take over `fd`, a socket."""
        self._loop = loop
        self._link = link
        self._body = body
        self._serial = serial
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._credit = WINDOW
        self._watch()

    def taken(self, count: int) -> None:
        """Send more: the node has taken so much."""
        self._credit = min(self._credit + count, WINDOW)
        self._watch()

    def close(self) -> None:
        """Let go of the socket; a second time is harmless."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _watch(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), READ if self._credit else 0, self._read)

    def _read(self, _: int) -> None:
        try:
            data = self._socket.recv(min(CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # cut short, which the node will notice
        self._credit -= len(data)
        self._link.post(ImageData(self._body, self._serial, data))
        if data:
            self._watch()
        else:
            self.close()
