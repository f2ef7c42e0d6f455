"""The bulk connection's way to the agent: an abstract unix socket that takes over descriptors.

A second command of home's on this node connects here and hands over its standard input and
output; it lingers until we close, since with it would end the channel that they belong to.
"""

from __future__ import annotations

import os
import socket
import struct

from stubs.link.endpoint import BulkEndpoint, Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import PipeStream, SocketStream
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import Bulk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.frame import Frame

SO_PEERCRED = 17
_UCRED = struct.Struct("=3i")


class ProvenBulk(BulkEndpoint):
    """A bulk connection that must begin with home's token."""

    def __init__(self, token: bytes, rpc: Endpoint, loop: Loop, stream: PipeStream) -> None:
        """Wait for `token`."""
        self._token = token
        self._proven = False
        super().__init__(rpc, loop, stream, "home (bulk)")

    def dispatch(self, frame: Frame) -> None:
        """Let nothing through before the token."""
        if self._proven:
            super().dispatch(frame)
        elif frame.kind != Bulk.KIND or Bulk.decode(frame.payload).token != self._token:
            raise RemoteProtocolError("the bulk connection is not home's")
        else:
            self._proven = True


class Attach:
    """Waits for the bulk connection; takes one."""

    def __init__(self, loop: Loop, rpc: Endpoint, token: bytes) -> None:
        """Listen at an address that nobody can guess."""
        self._loop = loop
        self._rpc = rpc
        self._token = token
        self._kept: list[socket.socket] = []
        self.address = b"\0mlaunch-" + os.urandom(16).hex().encode()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(1)
        loop.watch(self._listener.fileno(), READ, self._connected)

    def close(self) -> None:
        """Listen no more, and let go of who came."""
        for sock in [*self._kept, self._listener]:
            self._loop.forget(sock.fileno())
            sock.close()
        self._kept.clear()

    def _connected(self, _: int) -> None:
        peer, _address = self._listener.accept()
        raw = peer.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(raw)[1] != os.geteuid():
            peer.close()
            return
        self._kept.append(peer)
        stream = SocketStream(peer)
        self._loop.watch(peer.fileno(), READ, lambda _: self._received(stream))

    def _received(self, stream: SocketStream) -> None:
        data = stream.receive()
        if data is None:
            return
        self._loop.forget(stream.fileno())
        fds, stream.received_fds = stream.received_fds, []
        if len(fds) == 2 and self._rpc.companion is None and self._rpc.lost is None:
            ProvenBulk(self._token, self._rpc, self._loop, PipeStream(*fds))
            return
        for fd in fds:
            os.close(fd)
        self._kept.remove(stream.sock)
        stream.sock.close()
