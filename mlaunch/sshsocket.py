"""Under and beside paramiko: the socket that it is given, the bell that its channels ring.

Threads: paramiko's receiving thread calls `recv`, `set` and `clear`; whoever sends calls `send`.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Paramiko asks for a packet in small pieces; one system call brings many packets.
RECEIVE = 256 << 10

# How long one receives in vain before paramiko hears of a time-out. It asks for 0.1 s, to see
# whether it was closed; but `close` ends a call at once, and to wake up ten times a second for each
# of two connections to eight nodes took a twentieth of a CPU.
PATIENCE_S = 5.0


class Wire:
    """The socket under a connection, as paramiko wants it: reads ahead, notes when bytes came."""

    def __init__(self, sock: Any, closing: Callable[[], None] | None = None) -> None:
        """Take over `sock`, a socket or a channel of another connection."""
        self.heard = time.monotonic()
        self._closed = False  # paramiko looks at it, as sockets have it
        self._sock = sock
        self._ahead = b""
        self._at = 0
        self._closing = closing

    def settle(self) -> None:
        """Wait long from now on: what must not take long, as the handshake, is over."""
        self._sock.settimeout(PATIENCE_S)

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes; paramiko asks for a packet in several small pieces."""
        if self._at >= len(self._ahead):
            self._ahead = self._sock.recv(RECEIVE)
            self._at = 0
            self.heard = time.monotonic()
        data = self._ahead[self._at : self._at + size]
        self._at += len(data)
        return data

    def send(self, data: bytes) -> int:
        """Send some of `data`."""
        sent: int = self._sock.send(data)
        return sent

    def settimeout(self, seconds: float | None) -> None:
        """Set the time-out of both."""
        self._sock.settimeout(seconds)

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self._sock.getpeername()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        number: int = self._sock.fileno()
        return number

    def close(self) -> None:
        """Close the socket, and what leads to it."""
        self._closed = True
        self.shutdown()  # or who receives in another thread would not hear of it
        self._sock.close()
        if self._closing is not None:
            self._closing()

    def writable(self) -> bool:
        """Tell whether a packet can be sent without waiting (a third of the buffer is free)."""
        number = self.fileno()
        if number < 0:
            return True  # closed: let the send fail
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        return bool(poll.poll(0))

    def shutdown(self) -> None:
        """Make all calls on it fail, in whatever thread."""
        if isinstance(self._sock, socket.socket):
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is not connected any more: just what is wanted


class Bell:
    """Tells the event loop through a descriptor that a channel has data; called by paramiko."""

    def __init__(self) -> None:
        """Be silent."""
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._rung = False
        self._lock = threading.Lock()

    def set(self) -> None:
        """Ring, if not yet."""
        with self._lock:
            if not self._rung and self.fd >= 0:
                self._rung = True
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Be silent again."""
        with self._lock:
            if self._rung and self.fd >= 0:
                self._rung = False
                os.eventfd_read(self.fd)

    def close(self) -> None:
        """Let go of the descriptor."""
        with self._lock:
            fd, self.fd = self.fd, -1
            os.close(fd)
