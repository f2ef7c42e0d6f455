"""The question to the home daemon, where a program shall run."""

from __future__ import annotations

import os
import socket

from stubs.home.run.errors import MrunError
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.messages import Error, Place, Placed, Refused
from stubs.wire.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.capture import Program
    from stubs.home.run.options import Options
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message


class Question:
    """Under way from the beginning; the program can be captured meanwhile."""

    def __init__(self, loop: Loop, sock: socket.socket, options: Options, program: Program) -> None:
        """Ask; `sock` is a connection with the daemon, taken over."""
        self._loop = loop
        self._answer: Message | None = None
        self._connection: socket.socket | None = None
        self._daemon = Endpoint(loop, SocketStream(sock), {}, lambda reason: None, "home daemon")
        place = Place(
            version=VERSION,
            pid=program.pid,
            exe=program.exe,
            cwd=program.cwd,
            node=os.fsencode(options.node),
            only=[os.fsencode(name) for name in options.only],
            strict=not options.fallback,
            argv=program.argv,
        )
        self._daemon.request(place, self._answered)
        self._daemon.flush()

    def wait(self) -> tuple[str, str, socket.socket | None]:
        """Return the node, why, and a socket to its link process (None: at home).

        Raises MrunError when the daemon refuses, ConnectionError when it has gone away.
        """
        while self._answer is None:
            self._loop.turn()
        self._daemon.close("not needed any more")
        answer = self._answer
        if isinstance(answer, Refused):
            raise MrunError(_text(answer.text), _text(answer.hint), answer.status)
        if isinstance(answer, Error):
            raise ConnectionError(_text(answer.text))
        if not isinstance(answer, Placed):
            raise ConnectionError(f"it answered {type(answer).__name__}")
        return _text(answer.node), _text(answer.reason), self._connection

    def close(self) -> None:
        """Do not wait for the answer."""
        self._daemon.close("not needed any more")
        if self._connection is not None:
            self._connection.close()

    def _answered(self, message: Message) -> None:
        self._answer = message
        if isinstance(message, Placed) and self._daemon.reply_fds:
            self._connection = socket.socket(fileno=self._daemon.reply_fds[0])


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
