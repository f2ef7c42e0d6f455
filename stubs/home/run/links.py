"""The connections of one mrun with link processes, one for each node where it has bodies."""

from __future__ import annotations

from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.messages import (
    Computed,
    Continued,
    Error,
    Exited,
    FdClosed,
    Grown,
    Lost,
    Signal,
    Start,
    Stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.link.endpoint import Done
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message
    from stubs.wire.messages import Spawn

_EIO = 5


class Connection:
    """One link process, and the bodies on its node."""

    def __init__(
        self, loop: Loop, sock: socket.socket, on_lost: Callable[[Connection], None]
    ) -> None:
        """Take over `sock`."""
        self.bodies: dict[int, Body] = {}
        # Of bodies that are about to go on here: what is told before it is told that they do.
        self.early: dict[int, list[Message]] = {}
        self._on_lost = on_lost
        handlers = dict.fromkeys(
            (Stopped, Continued, Computed, Exited, Grown, Lost, FdClosed, Signal),
            lambda message, tag, fds: self._take(message),
        )
        self._endpoint = Endpoint(
            loop, SocketStream(sock), handlers, self._lost, "the link process"
        )

    def start(self, spawn: Spawn, fds: list[int], done: Done) -> None:
        """Ask for a body; `fds` are closed once they are sent."""
        self._endpoint.request(Start(spawn.encode()), done, fds)
        # The sooner it is sent, the sooner the node begins.
        self._endpoint.flush()

    def request(self, message: Message, done: Done, fds: list[int] | None = None) -> None:
        """Ask it something; `fds` are closed once they are sent."""
        self._endpoint.request(message, done, fds)
        self._endpoint.flush()

    @property
    def reply_fds(self) -> list[int]:
        """What came with the reply that is being handled."""
        return self._endpoint.reply_fds

    def post(self, message: Message, fds: list[int] | None = None) -> None:
        """Tell the link process something."""
        self._endpoint.post(message, fds)

    def flush(self) -> None:
        """Send what has gathered, before mrun itself stands still."""
        self._endpoint.flush()

    def _take(self, message: Message) -> None:
        # One that has ended may have been told of before.
        pid: int = message.body  # type: ignore[attr-defined]  # all of these have it
        if pid in self.bodies:
            self.bodies[pid].take(message)
        elif pid in self.early:
            self.early[pid].append(message)

    def _lost(self, reason: str) -> None:
        self._on_lost(self)
        bodies, self.bodies = self.bodies, {}
        for body in bodies.values():
            body.link_lost(reason)


class Links:
    """All connections, by node."""

    def __init__(self, loop: Loop, on_lost: Callable[[], None]) -> None:
        """Begin with none; `on_lost` is told when a connection has ended."""
        self._loop = loop
        self._on_lost = on_lost
        self._connections: dict[str, Connection] = {}

    def adopt(self, node: str, sock: socket.socket) -> None:
        """Take over the daemon's newest connection with the link process of a node."""
        self._connections[node] = Connection(self._loop, sock, self._lost)

    def to(self, node: str) -> Connection | None:
        """Return the connection of that node, None when there is none."""
        return self._connections.get(node)

    def flush(self) -> None:
        """Send what has gathered."""
        for connection in list(self._connections.values()):
            connection.flush()

    def _lost(self, lost: Connection) -> None:
        for node, connection in list(self._connections.items()):
            if connection is lost:
                del self._connections[node]
        self._on_lost()


def was_lost(reply: Message) -> bool:
    """Tell whether a body was refused only because its node was lost before it had begun."""
    return isinstance(reply, Error) and reply.errno == _EIO
