"""Ends of home's pipes, sockets and terminals, read and written without ever blocking.

O_NONBLOCK belongs to the open file, which the user's other processes share: it is never set on
theirs. A pipe, FIFO or terminal is opened once more through /proc/self/fd (proc(5)), which gives
an open file of our own; a socket takes MSG_DONTWAIT with each call; what can be neither is asked
with poll(2) first.
"""

from __future__ import annotations

import os
import select
import socket
import stat

from stubs.abi.termbits import FIONREAD, count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class End(Protocol):
        """One end of something at home that carries bytes; owns its descriptor."""

        # Becomes "readable" when the readers of a pipe are gone, so that it can be watched for
        # that.
        tells_of_loss: bool

        def fileno(self) -> int:
            """Return the descriptor to wait on."""

        def read(self, limit: int) -> bytes | None:
            """Return at most `limit` bytes, b"" at the end, None when there is nothing now."""

        def write(self, data: memoryview) -> int:
            """Write some of `data`; return how much, 0: nothing fits now; OSError as write(2)."""

        def close(self) -> None:
            """Let go of the descriptor; a second time is harmless."""


# A write of up to PIPE_BUF bytes to a pipe that poll(2) calls writable does not block (pipe(7)).
PIPE_BUF = 4096

# /dev/ptmx: opening it once more makes another pseudo-terminal
# (Documentation/admin-guide/devices.txt).
PTMX = os.makedev(5, 2)


class OwnEnd:
    """An open file that only we have: O_NONBLOCK is set on it."""

    def __init__(self, fd: int, tells_of_loss: bool) -> None:
        """Take over `fd`, which must have been opened by us with O_NONBLOCK."""
        self._fd = fd
        self.tells_of_loss = tells_of_loss

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._fd

    def read(self, limit: int) -> bytes | None:
        """Read once; OSError as read(2)."""
        try:
            return os.read(self._fd, limit)
        except BlockingIOError:
            return None

    def write(self, data: memoryview) -> int:
        """Write once; OSError as write(2), BrokenPipeError when the readers are gone."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class SocketEnd:
    """A stream socket shared with others: each call says for itself that it must not wait."""

    tells_of_loss = False

    def __init__(self, fd: int) -> None:
        """Take over `fd`; OSError when it is no socket."""
        self._socket = socket.socket(fileno=fd)

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._socket.fileno()

    def read(self, limit: int) -> bytes | None:
        """Receive once; OSError as recv(2)."""
        try:
            return self._socket.recv(limit, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def write(self, data: memoryview) -> int:
        """Send once, without a SIGPIPE; OSError as send(2)."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def shutdown(self) -> None:
        """Say that nothing more will be written, for all who share the connection."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # ENOTCONN: the other side has said goodbye already.
            pass

    def close(self) -> None:
        """Close the descriptor; the connection lives on in the processes that share it."""
        self._socket.close()


class SharedEnd:
    """An open file shared with others which we may not open again (it belongs to another user).

    Asked by poll(2) before each call. Another process of home may take the bytes in between; then
    this call waits for the next ones, as that process would have.
    """

    def __init__(self, fd: int, tells_of_loss: bool) -> None:
        """Take over `fd`."""
        self._fd = fd
        self.tells_of_loss = tells_of_loss

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._fd

    def _ready(self, events: int) -> int:
        poll = select.poll()
        poll.register(self._fd, events)
        ready = poll.poll(0)
        return ready[0][1] if ready else 0

    def read(self, limit: int) -> bytes | None:
        """Read once what is there; OSError as read(2)."""
        if not self._ready(select.POLLIN):
            return None
        try:
            return os.read(self._fd, min(limit, count(self._fd, FIONREAD)) or 1)
        except BlockingIOError:
            return None

    def write(self, data: memoryview) -> int:
        """Write once what surely fits; OSError as write(2)."""
        if not self._ready(select.POLLOUT):
            return 0
        try:
            return os.write(self._fd, data[:PIPE_BUF])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_end(fd: int, mode: int) -> End:
    """Take over `fd`, open for `mode` (O_RDONLY, O_WRONLY, O_RDWR), as an end of ours."""
    status = os.fstat(fd)
    if stat.S_ISSOCK(status.st_mode):
        return SocketEnd(fd)
    fifo = stat.S_ISFIFO(status.st_mode)
    tells_of_loss = fifo and mode == os.O_WRONLY
    if fifo or (os.isatty(fd) and status.st_rdev != PTMX):
        try:
            own = reopen(fd, mode)
        except OSError:
            # Another user's pipe, or a FIFO whose readers are gone (ENXIO): the one we have will
            # do.
            return SharedEnd(fd, tells_of_loss)
        os.close(fd)
        return OwnEnd(own, tells_of_loss)
    return SharedEnd(fd, tells_of_loss)


def reopen(fd: int, mode: int) -> int:
    """Return a new open file of what `fd` is open on, with O_NONBLOCK; OSError as open(2)."""
    return os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
