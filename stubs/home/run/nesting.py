"""mrun under mrun: the inner one hands its wish to the outer, which traces it, and is the program.

A process has one tracer, so the inner mrun cannot have its program run elsewhere itself. It finds
the outer one's socket by the number of its tracer; what it asks for holds for the next program
that it becomes.
"""

from __future__ import annotations

import os
import socket
import struct

from stubs.home.run.departure import Wish
from stubs.home.run.errors import MrunError
from stubs.home.run.proc import read_status
from stubs.home.run.records import Records
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Done, Nested, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.options import Options
    from stubs.wire.codec import Message


def _address(pid: int) -> bytes:
    """Return the abstract address (unix(7)) at which the mrun of that pid is asked."""
    return b"\0mlaunch-mrun-%d" % pid


def hand_over(options: Options) -> bool:
    """Tell the mrun that traces us, if one does, what is asked for; MrunError when it refuses."""
    try:
        tracer = int(read_status(os.getpid())["TracerPid"])
        if not tracer:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(_address(tracer))
    except OSError:
        return False  # no /proc; or who traces us is no mrun
    loop = Loop()
    replies: list[Message] = []
    outer = Endpoint(loop, SocketStream(sock), {}, lambda reason: None, "the outer mrun")
    message = Nested(
        pid=os.getpid(),
        node=os.fsencode(options.node),
        only=[os.fsencode(name) for name in options.only],
        strict=not options.fallback,
        stay=options.stay,
        verbose=options.verbose,
        stats=_absolute(options.stats),
        trace=_absolute(options.trace),
    )
    outer.request(message, replies.append)
    while not replies:
        loop.turn()
    outer.close("answered")
    loop.close()
    (reply,) = replies
    if isinstance(reply, Refused):
        raise MrunError(reply.text.decode(errors="replace"), status=reply.status)
    return isinstance(reply, Done)


def _absolute(path: str | None) -> bytes:
    return b"" if path is None else os.fsencode(os.path.abspath(path))


class Nesting:
    """The outer one's side: wishes of inner mruns, by pid."""

    def __init__(self, loop: Loop) -> None:
        """Listen; without a socket there is no nesting, and inner programs stay home."""
        self._loop = loop
        self._wishes: dict[int, Wish] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(_address(os.getpid()))
            self._listener.listen()
        except OSError:
            self._listener.close()  # taken by somebody in another PID namespace of this network
            return
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), READ, self._accept)

    def take(self, pid: int) -> Wish | None:
        """Return what an inner mrun of that pid has asked for, once."""
        return self._wishes.pop(pid, None)

    def forget(self, pid: int) -> None:
        """Note that a process has ended."""
        self._wishes.pop(pid, None)

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except BlockingIOError:
            return
        _pid, uid, _gid = struct.unpack(
            "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        if uid != os.getuid():
            sock.close()
            return
        inner = Endpoint(
            self._loop,
            SocketStream(sock),
            {Nested: lambda message, tag, fds: inner.reply(tag, self._wish(message))},
            lambda reason: None,
            "an inner mrun",
        )

    def _wish(self, message: Nested) -> Message:
        try:
            records = Records([], *(os.fsdecode(f) or None for f in (message.stats, message.trace)))
        except MrunError as error:
            return Refused(error.status, error.text.encode(errors="surrogateescape"), b"")
        self._wishes[message.pid] = Wish(
            os.fsdecode(message.node),
            [os.fsdecode(name) for name in message.only],
            strict=bool(message.strict),
            top=True,
            verbose=bool(message.verbose),
            records=records,
            stay=bool(message.stay),
        )
        return Done()
