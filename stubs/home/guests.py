"""Guests: the bodies on one node, as home looks after them.

Between the mruns, each on a socket of its own, and the node's agent: starts bodies, carries
signals one way and what becomes of bodies the other, keeps their descriptors' home ends, and
tells an mrun of the end of its body only when all that the body wrote before has arrived. Runs in
the link process, on its loop.

An mrun is trusted (it is the same user, and may only speak of bodies that it started); the node
is not.
"""

from __future__ import annotations

import errno
import os
import signal
import stat

from stubs.home.streams import Streams
from stubs.home.terminal import Terminals
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
    Continued,
    Error,
    Exited,
    FdClosed,
    Gone,
    Kill,
    Lost,
    Position,
    Resize,
    Signal,
    Spawn,
    Spawned,
    Start,
    Stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Protocol

    from stubs.home.terminal import Terminal
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Attr, Descriptor, Message

    class Files(Protocol):
        """What guests need of the file service."""

        def adopt(self, fd: int) -> Attr:
            """Serve the inode that `fd` is open on; OSError if the node may not see it."""

        def disown(self, number: int) -> None:
            """Let go of an inode that was adopted; once for each time."""

        def resolve(self, path: bytes) -> Attr:
            """Return the inode at `path`; OSError if there is none that the node may see."""

        def barrier(self) -> None:
            """Send what changed at home until now; before a body may act on it."""

        def settle(self) -> None:
            """Finish what a body changed until now; before home may act on it."""


# Ctrl-C ends a whole pipeline at once. That a neighbour at home has ended by it must not reach a
# body before the key itself, which takes the way over its mrun.
KEY_SECONDS = 0.02

_STREAMS = (FD_STREAM_IN, FD_STREAM_OUT, FD_STREAM_BOTH)


class Session:
    """One mrun: its socket, and the bodies that it started."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Begin with no body."""
        self.endpoint = endpoint
        self.bodies: set[int] = set()

    def post(self, message: Message) -> None:
        """Tell mrun; nothing happens when it is gone."""
        self.endpoint.post(message)


class Guest:
    """One body, and what it has at home."""

    def __init__(self, session: Session, spawn: Spawn) -> None:
        """Begin with nothing held."""
        self.session = session
        self.spawn = spawn
        self.pid = spawn.body
        self.files: dict[int, int] = {}  # descriptor of the body -> ours on the same open file
        self.adopted: list[int] = []  # their inodes, and that of the working directory
        self.streams: set[int] = set()
        self.terminal: Terminal | None = None
        self.exited = False

    def close_files(self) -> None:
        """Let go of the inherited files."""
        files, self.files = self.files, {}
        for fd in files.values():
            os.close(fd)


def _offset(fd: int, item: Descriptor) -> int:
    """Return the offset as it is now: others share it, and mrun itself may have written a line."""
    if item.flags & os.O_PATH or not stat.S_ISREG(os.fstat(fd).st_mode):
        return item.offset
    return os.lseek(fd, 0, os.SEEK_CUR)


class Guests:
    """The guests on the node at the other end of `link`."""

    def __init__(self, loop: Loop, link: Link, files: Files) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._files = files
        self._streams = Streams(loop, link, files.barrier, files.settle)
        self._terminals = Terminals(loop, link, self._streams)
        self._guests: dict[int, Guest] = {}
        self._sessions: set[Session] = set()

    @property
    def count(self) -> int:
        """Bodies of which something is left: themselves, their children, or output on its way."""
        return len(self._guests)

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what home does with the messages of a node about its guests."""
        handlers: dict[type[Message], Handler] = {
            Stopped: self._stopped,
            Continued: self._continued,
            Exited: self._exited,
            Position: self._position,
            Gone: self._gone,
        }
        handlers.update(self._streams.handlers())
        handlers.update(self._terminals.handlers())
        return handlers

    def adopt_mrun(self, sock: socket.socket) -> None:
        """Serve the mrun at the other end of `sock`, which is taken over."""
        handlers: dict[type[Message], Handler] = {
            Start: lambda message, tag, fds: self._start(session, message, tag, fds),
            Signal: lambda message, tag, fds: self._signal(session, message),
            Resize: lambda message, tag, fds: self._relay(session, message),
            Kill: lambda message, tag, fds: self._relay(session, message),
        }
        endpoint = Endpoint(
            self._loop,
            SocketStream(sock),
            handlers,
            lambda reason: self._mrun_gone(session),
            "mrun",
        )
        session = Session(endpoint)
        self._sessions.add(session)

    def lost(self, reason: str) -> None:
        """Tell every mrun that waits that the node is lost; what has arrived is still written."""
        for guest in list(self._guests.values()):
            if not guest.exited:
                self._leave_terminal(guest, None)
                guest.session.post(Lost(guest.pid, reason.encode(errors="surrogateescape")))
                guest.exited = True
            for number in guest.streams:
                self._streams.end(number)
            self._release(guest)

    def close(self) -> None:
        """Put the terminals back as they were and let go of everything."""
        for session in list(self._sessions):
            session.endpoint.flush()
            session.endpoint.close("the link process ends")
        for guest in self._guests.values():
            self._leave_terminal(guest, None)
            guest.close_files()
            for number in guest.streams:
                self._streams.close(number)
        self._guests.clear()
        self._terminals.close()

    # from mrun

    def _start(self, session: Session, message: Start, tag: int, fds: list[int]) -> None:
        spawn = Spawn.decode(message.spawn)
        if len(fds) != len(spawn.descriptors):
            _close_all(fds)
            raise RemoteProtocolError(f"{len(spawn.descriptors)} descriptors, {len(fds)} came")
        guest = Guest(session, spawn)
        try:
            if spawn.body in self._guests:
                # Its number is in use again while children of the former one still run there.
                raise OSError(errno.EAGAIN, "that pid is still in use on the node")
            self._take_descriptors(guest, fds)
            spawn.cwd_id = self._working_directory(guest)
        except OSError as error:
            _close_all([fd for fd in fds if fd >= 0])
            self._drop(guest)
            session.endpoint.reply(tag, _refusal(error))
            return
        self._guests[guest.pid] = guest
        session.bodies.add(guest.pid)
        self._files.barrier()
        self._link.request(spawn, lambda reply: self._spawned(guest, tag, reply))

    def _spawned(self, guest: Guest, tag: int, reply: Message) -> None:
        endpoint = guest.session.endpoint
        if isinstance(reply, Spawned):
            endpoint.reply(tag, reply)
            if endpoint.lost is not None:
                self._link.post(Kill(guest.pid))
        elif isinstance(reply, Error):
            if self._guests.get(guest.pid) is guest:
                self._drop(guest)
            endpoint.reply(tag, reply)
        else:
            raise RemoteProtocolError(f"{type(reply).__name__} in answer to Spawn")

    def _signal(self, session: Session, message: Signal) -> None:
        guest = self._own(session, message.body)
        if guest is None:
            return
        self._files.barrier()
        if guest.terminal is not None and message.signo == signal.SIGCONT:
            guest.terminal.before_resume()
        if guest.terminal is None or not guest.terminal.typed(guest.pid, message):
            self._link.post(message)
        if guest.terminal is not None and message.signo == signal.SIGCONT:
            guest.terminal.resume(guest.pid)

    def _relay(self, session: Session, message: Resize | Kill) -> None:
        if self._own(session, message.body) is not None:
            self._link.post(message)

    def _own(self, session: Session, body: int) -> Guest | None:
        if body not in session.bodies:
            raise RemoteProtocolError(f"body {body} is not this mrun's")
        guest = self._guests.get(body)
        return None if guest is None or guest.exited else guest

    def _mrun_gone(self, session: Session) -> None:
        self._sessions.discard(session)
        for guest in list(self._guests.values()):
            if guest.session is session and not guest.exited:
                self._leave_terminal(guest, None)
                self._link.post(Kill(guest.pid))

    # descriptors

    def _take_descriptors(self, guest: Guest, fds: list[int]) -> None:
        """Move every descriptor of `fds` to where it belongs (-1 is left in its place)."""
        spawn = guest.spawn
        exclusive = set(spawn.exclusive)
        self._join_terminal(guest, fds)
        pipes: dict[tuple[int, int, int], Descriptor] = {}
        for index, item in enumerate(spawn.descriptors):
            fd, fds[index] = fds[index], -1
            if item.kind == FD_TTY:
                item = item._replace(kind=self._kind_of_tty(guest, fd, item))
            if item.kind == FD_FILE:
                guest.files[item.fd] = fd
                item = item._replace(ref=self._adopt(guest, fd), offset=_offset(fd, item))
            elif item.kind in _STREAMS:
                item = self._take_stream(guest, fd, item, item.fd in exclusive, pipes)
            else:
                os.close(fd)
                if item.kind == FD_TTY and guest.terminal is not None:
                    item = item._replace(ref=guest.terminal.number)
            spawn.descriptors[index] = item
        spawn.exclusive = sorted({item.ref for item in spawn.descriptors if item.fd in exclusive})

    def _adopt(self, guest: Guest, fd: int) -> int:
        number = self._files.adopt(fd).id
        guest.adopted.append(number)
        return number

    def _take_stream(
        self,
        guest: Guest,
        fd: int,
        item: Descriptor,
        exclusive: bool,
        pipes: dict[tuple[int, int, int], Descriptor],
    ) -> Descriptor:
        # One stream for all descriptors on the same pipe: what goes through it stays in order.
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, item.kind)
        first = pipes.get(key)
        if first is not None:
            os.close(fd)
            share = item.share if item.share >= 0 else first.fd
            item = item._replace(ref=first.ref, share=share)
        else:
            patience = KEY_SECONDS if guest.terminal is not None else 0.0
            number = self._streams.open(fd, item.kind, exclusive, patience)
            guest.streams.add(number)
            item = item._replace(ref=number)
            pipes[key] = item
        if item.fd == 2:
            self._tell_of_end(guest, item.ref)
        return item

    def _tell_of_end(self, guest: Guest, number: int) -> None:
        message = FdClosed(guest.pid, 2)
        self._streams.on_end(number, lambda: guest.session.post(message))

    def _join_terminal(self, guest: Guest, fds: list[int]) -> None:
        spawn = guest.spawn
        if not spawn.termios:
            return
        candidates = [fd for fd, item in zip(fds, spawn.descriptors) if item.kind == FD_TTY]
        guest.terminal = self._terminals.join(spawn, candidates, guest.session.post)
        if guest.terminal is not None:
            spawn.terminal = guest.terminal.number
        else:
            spawn.termios, spawn.rows, spawn.columns = b"", 0, 0

    def _kind_of_tty(self, guest: Guest, fd: int, item: Descriptor) -> int:
        if guest.terminal is not None and guest.terminal.is_open_on(fd):
            return FD_TTY
        # Another terminal than that of its session: the body has it as a pipe.
        modes = {os.O_RDONLY: FD_STREAM_IN, os.O_WRONLY: FD_STREAM_OUT}
        return modes.get(item.flags & os.O_ACCMODE, FD_STREAM_BOTH)

    def _working_directory(self, guest: Guest) -> int:
        try:
            return self._files.resolve(guest.spawn.cwd).id
        except FileNotFoundError:
            # Removed, or moved away: the process stands in it all the same.
            fd = os.open(f"/proc/{guest.pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._adopt(guest, fd)
            finally:
                os.close(fd)

    # from the node

    def _guest(self, body: int) -> Guest:
        guest = self._guests.get(body)
        if guest is None:
            raise RemoteProtocolError(f"no body {body} here")
        return guest

    def _stopped(self, message: Stopped, tag: int, fds: list[int]) -> None:
        guest = self._guest(message.body)
        self._files.settle()
        if guest.terminal is not None:
            guest.terminal.pause(guest.pid)
        guest.session.post(message)

    def _continued(self, message: Continued, tag: int, fds: list[int]) -> None:
        guest = self._guest(message.body)
        if guest.terminal is not None:
            guest.terminal.resume(guest.pid)
        guest.session.post(message)

    def _position(self, message: Position, tag: int, fds: list[int]) -> None:
        fd = self._guest(message.body).files.get(message.fd)
        if fd is None or message.offset < 0:
            raise RemoteProtocolError(f"no offset to set: {message!r}")
        os.lseek(fd, message.offset, os.SEEK_SET)

    def _exited(self, message: Exited, tag: int, fds: list[int]) -> None:
        guest = self._guest(message.body)
        if guest.exited:
            raise RemoteProtocolError(f"body {message.body} ended twice")

        def tell() -> None:
            self._leave_terminal(guest, message.status)
            guest.session.post(message)

        guest.exited = True
        self._files.settle()
        self._when_written(guest, tell)

    def _gone(self, message: Gone, tag: int, fds: list[int]) -> None:
        guest = self._guest(message.body)
        if not guest.exited:
            raise RemoteProtocolError(f"body {message.body} gone without an end")
        self._release(guest)

    # the end of a guest

    def _when_written(self, guest: Guest, then: Callable[[], None]) -> None:
        """Call `then` when all that the guest wrote until now has reached its readers at home."""
        numbers = set(guest.streams)
        if guest.terminal is not None:
            numbers.add(guest.terminal.number)
        _when_all(numbers, self._streams.when_written, then)

    def _leave_terminal(self, guest: Guest, status: int | None) -> None:
        if guest.terminal is not None:
            guest.terminal.leave(guest.pid, status)

    def _release(self, guest: Guest) -> None:
        """Forget a guest of which nothing is left on the node, once its output has ended.

        What is left in a pipe of a body that was killed comes even after that.
        """
        guest.close_files()
        for number in guest.streams:
            self._streams.stop_reading(number)
        _when_all(
            guest.streams,
            self._streams.when_closed,
            lambda: self._when_written(guest, lambda: self._drop(guest)),
        )

    def _drop(self, guest: Guest) -> None:
        terminal, guest.terminal = guest.terminal, None
        if terminal is not None:
            terminal.leave(guest.pid, None)
            self._terminals.release(terminal, guest.pid)
        guest.close_files()
        for number in guest.adopted:
            self._files.disown(number)
        for number in guest.streams:
            self._streams.close(number)
        if self._guests.get(guest.pid) is guest:
            del self._guests[guest.pid]
        guest.session.bodies.discard(guest.pid)


def _refusal(error: OSError) -> Error:
    text = f"{error.strerror}"
    if error.filename:
        text = f"{os.fsdecode(error.filename)}: {text}"
    return Error(error.errno or errno.EIO, text.encode(errors="surrogateescape"))


def _when_all(
    numbers: set[int],
    wait: Callable[[int, Callable[[], None]], None],
    then: Callable[[], None],
) -> None:
    """Call `then` once `wait(number, …)` has called back for all numbers, perhaps at once."""
    waiting = len(numbers) + 1

    def one_done() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            then()

    for number in list(numbers):
        wait(number, one_done)
    one_done()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
