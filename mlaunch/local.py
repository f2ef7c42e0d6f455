"""The node `local`: the same agent, as a child behind a socketpair, from the files in place.

It is what there is when no node is configured: the whole machinery on this machine.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from stubs.link.runtime import PACKAGES
from stubs.link.stream import PipeStream

if TYPE_CHECKING:
    from stubs.link.stream import Stream

NAME = "local"

# Blocks of 128 KiB travel, several at a time; with the default (208 KiB) they stop and go.
_SOCKET_BUFFER = 1 << 20

# Isolated (-I -S -E): an agent depends on nothing but the standard library.
_AGENT = (
    "import sys; sys.path.insert(0, {!r}); from stubs.link.loader import enter; "
    "enter('stubs.node.agent')"
)


class LocalTransport:
    """Starts the agent of the node `local`; see mlaunch.link.Transport."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def open(self, token: bytes) -> Stream:
        """Start the agent; OSError as fork(2)."""
        here, there = socket.socketpair()
        for end in (here, there):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        self._process = subprocess.Popen(
            [sys.executable or "python3", "-I", "-S", "-E", "-c", _AGENT.format(PACKAGES)],
            stdin=there.fileno(),
            stdout=there.fileno(),
            cwd="/",
        )
        there.close()
        here.sendall(token)
        self._socket = here.dup()
        fd = here.detach()
        return PipeStream(fd, fd)

    def open_bulk(self, address: bytes) -> Stream | None:
        """Open none: nothing queues on a socketpair for long."""
        return None

    def heard(self) -> float | None:
        """Know nothing beyond the frames."""
        return None

    def abort(self) -> None:
        """Shut the socket."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Wait for the end of the agent, which the end of its stream brings about."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def last_words(self) -> str:
        """Return nothing: the agent writes to our own standard error."""
        return ""
