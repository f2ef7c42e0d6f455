"""Byte streams under an endpoint: descriptors, or unix sockets that can carry descriptors.

A stream has `fileno()` (readable when `receive` has something), `receive()` and `send()`, neither
of which blocks, and `write_fileno()`: the descriptor that becomes writable when `send` can go
on, or -1 when nothing tells (an SSH channel), so that the endpoint tries again by the clock.
"""

from __future__ import annotations

import array
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Stream(Protocol):
        """What an endpoint needs of a transport."""

        def fileno(self) -> int:
            """Return the descriptor that is readable when `receive` has something."""

        def write_fileno(self) -> int:
            """Return the descriptor that is writable when `send` can go on; -1: unknown."""

        def receive(self) -> bytes | None:
            """Return bytes, b"" at the end of the stream, None when there is nothing now."""

        def send(self, data: memoryview, fds: list[int]) -> int:
            """Write some of `data`, return how much (0: not now); `fds` go with its first byte."""

        def close(self) -> None:
            """Close; further calls are errors."""


# A pipe holds 64 KiB, a socket a few hundred: one read takes most of what there is.
CHUNK = 256 << 10


class PipeStream:
    """A pair of descriptors (perhaps the same one), owned and closed by the stream."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        """Take over both descriptors; they become non-blocking."""
        self._read_fd = read_fd
        self._write_fd = write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def fileno(self) -> int:
        """Return the reading descriptor."""
        return self._read_fd

    def write_fileno(self) -> int:
        """Return the writing descriptor."""
        return self._write_fd

    def receive(self) -> bytes | None:
        """Read what there is; OSError as read(2)."""
        try:
            return os.read(self._read_fd, CHUNK)
        except BlockingIOError:
            return None

    def send(self, data: memoryview, fds: list[int]) -> int:
        """Write what fits; OSError as write(2)."""
        if fds:
            raise ValueError("a pipe carries no descriptors")
        try:
            return os.write(self._write_fd, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self._read_fd)
        if self._write_fd != self._read_fd:
            os.close(self._write_fd)


class SocketStream:
    """A unix socket; descriptors that arrive wait in `received_fds` for their frames."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over `sock`; it becomes non-blocking."""
        sock.setblocking(False)
        self.sock = sock
        self.received_fds: list[int] = []

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def write_fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def receive(self) -> bytes | None:
        """Read what there is, descriptors included (close-on-exec); OSError as recvmsg(2)."""
        space = socket.CMSG_SPACE(253 * 4)
        try:
            data, control, _, _ = self.sock.recvmsg(CHUNK, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        for level, kind, raw in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self.received_fds += fds
        return data

    def send(self, data: memoryview, fds: list[int]) -> int:
        """Write what fits, with `fds` beside its first byte; OSError as sendmsg(2)."""
        control = []
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            return self.sock.sendmsg([data], control)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the socket and every descriptor that nobody asked for."""
        for fd in self.received_fds:
            os.close(fd)
        self.received_fds.clear()
        self.sock.close()
