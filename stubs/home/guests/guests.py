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

from stubs.home.guests import status
from stubs.home.guests.guest import Guest, Session
from stubs.home.guests.handover import Handover
from stubs.home.guests.moving import Moving
from stubs.home.guests.streams import Streams
from stubs.home.guests.terminals import Terminals
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    Computed,
    Continued,
    Error,
    Exited,
    Gone,
    Grown,
    Kill,
    Lost,
    Measure,
    Measured,
    Position,
    Progress,
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

    from stubs.home.guests.handover import Files
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message, Usage


class Guests:
    """The guests on the node at the other end of `link`."""

    def __init__(self, loop: Loop, link: Link, files: Files) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._files = files
        self._streams = Streams(loop, link, files.barrier, files.settle)
        self._terminals = Terminals(loop, link, self._streams)
        self._handover = Handover(loop, files, self._streams, self._terminals, self.measure)
        self._moving = Moving(loop, link, files, self._streams, self._handover, self)
        # Told of a body of which nothing is left on the node, though it did not end there.
        self.on_departed: Callable[[int], None] = lambda body: None
        self._guests: dict[int, Guest] = {}
        self._sessions: set[Session] = set()
        self._telling: set[Guest] = set()  # ended, and what they wrote is on its way

    @property
    def count(self) -> int:
        """Bodies of which something is left: themselves, their children, or output on its way."""
        return len(self._guests)

    @property
    def untold(self) -> bool:
        """Whether an mrun is still to hear of an end that its node has told."""
        return bool(self._telling)

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what home does with the messages of a node about its guests."""
        handlers: dict[type[Message], Handler] = {
            Stopped: self._about(self._stopped),
            Continued: self._about(self._continued),
            Computed: self._about(self._computed),
            Exited: self._about(self._exited),
            Position: self._about(self._position),
            Gone: self._about(self._gone),
        }
        handlers.update(self._moving.handlers())
        handlers.update(self._streams.handlers())
        handlers.update(self._terminals.handlers())
        return handlers

    def adopt_mrun(self, sock: socket.socket) -> None:
        """Serve the mrun at the other end of `sock`, which is taken over."""
        handlers: dict[type[Message], Handler] = {
            Start: lambda message, tag, fds: self._start(session, message, tag, fds),
            Signal: lambda message, tag, fds: self._signal(session, message),
            Resize: lambda message, tag, fds: self._relay(session, message),
            Kill: lambda message, tag, fds: self._kill(session, message),
            Progress: lambda message, tag, fds: self._progress(session, message),
        }
        endpoint = Endpoint(
            self._loop,
            SocketStream(sock),
            handlers,
            lambda reason: self._mrun_gone(session),
            "mrun",
        )
        session = Session(endpoint)
        handlers.update(self._moving.from_mrun(session))
        self._sessions.add(session)

    def lost(self, reason: str) -> None:
        """Tell every mrun that waits that the node is lost; what has arrived is still written."""
        for guest in list(self._guests.values()):
            if not (guest.exited or guest.departing):
                self._leave_terminal(guest, None)
                why = reason.encode(errors="surrogateescape")
                unseen = self.is_unseen(guest)
                grown = None if unseen else self._grown(guest)
                if grown is not None:
                    guest.session.post(Grown(guest.pid, grown))
                guest.session.post(Lost(guest.pid, int(unseen), why))
                guest.exited = True
            if guest.left or guest.arriving:
                self.drop(guest)  # what it has not read or written yet is mrun's
                continue
            for number in guest.streams:
                self._streams.end(number)
            self._release(guest)

    def is_unseen(self, guest: Guest) -> bool:
        """Tell whether nothing that a lost body did can have been noticed at home; undo it then."""
        return not guest.seen and self.is_unseen_here(guest)

    def is_unseen_here(self, guest: Guest) -> bool:
        """Tell the same of what it did on this node."""
        unused = all(self._streams.passed(number) == n for number, n in guest.passed.items())
        return unused and self._files.is_unseen(guest.pid)

    def is_without_effect(self, guest: Guest) -> bool:
        """Tell whether a body that leaves for another node could be started again, lost there.

        What it made here stays, so it must have made nothing: nobody undoes that from there.
        """
        unused = all(self._streams.passed(number) == n for number, n in guest.passed.items())
        return not guest.seen and unused and self._files.is_without_effect(guest.pid)

    def mark(self, guest: Guest) -> None:
        """Take note that the guest can be had again as it is now."""
        guest.mark = {number: self._streams.passed(number) for number in guest.passed}
        self._files.note_checkpoint(guest.pid)

    def _grown(self, guest: Guest) -> list[int] | None:
        """Return what Grown is to say; None: more can have been noticed, or there is no mark."""
        mark = guest.mark
        if mark is None or any(self._streams.passed(number) != n for number, n in mark.items()):
            return None
        files = self._files.since_checkpoint(guest.pid)
        return None if files is None else [number for pair in files for number in pair]

    def measure(self, then: Callable[[list[Usage]], None]) -> None:
        """Ask the node what its guests use; `then` gets what it says of those that there are."""

        def answered(reply: Message) -> None:
            usages = reply.usages if isinstance(reply, Measured) else []
            then([usage for usage in usages if usage.body in self._guests])

        if self._guests:
            self._link.request(Measure(), answered)
        else:
            then([])

    def _progress(self, session: Session, message: Progress) -> None:
        guest = self._guests.get(message.body)
        if guest is None or guest.session is not session:
            return  # it has ended; mrun will hear of it
        node = message.node.decode(errors="replace")
        self.measure(lambda usages: self._show(guest, node, usages))

    def _show(self, guest: Guest, node: str, usages: list[Usage]) -> None:
        """Show how a body comes along; what is read can be told of one that is alone here only."""
        if guest.exited or guest.terminal is None:
            return
        reading = self._files.reading() if len(self._guests) == 1 else None
        usage = next((each for each in usages if each.body == guest.pid), None)
        if usage is not None:
            guest.terminal.show_status(lambda width: status.line(node, usage, reading, width))

    def close(self) -> None:
        """Put the terminals back as they were and let go of everything."""
        self._moving.close()
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
            self.admit(guest)
            self._handover.take(guest, fds)
            spawn.cwd_id = self._handover.working_directory(guest)
        except OSError as error:
            _close_all([fd for fd in fds if fd >= 0])
            self.drop(guest)
            session.endpoint.reply(tag, _refusal(error))
            return
        self._files.prefetch(spawn)
        self._files.barrier()
        self._link.request(spawn, lambda reply: self._spawned(guest, tag, reply))

    def admit(self, guest: Guest) -> None:
        """Take in a new guest; OSError EAGAIN if that cannot be."""
        if guest.pid in self._guests:
            # Its number is in use again while children of the former one still run there.
            raise OSError(errno.EAGAIN, "that pid is still in use on the node")
        self._guests[guest.pid] = guest
        self._files.begin_body(guest.pid, guest.spawn.exe)

    def holds(self, guest: Guest) -> bool:
        """Tell whether that guest is here still."""
        return self._guests.get(guest.pid) is guest

    def _spawned(self, guest: Guest, tag: int, reply: Message) -> None:
        endpoint = guest.session.endpoint
        if isinstance(reply, Spawned):
            endpoint.reply(tag, reply)
            if endpoint.lost is not None:
                self._link.post(Kill(guest.pid))
        elif isinstance(reply, Error):
            if self._guests.get(guest.pid) is guest:
                self.drop(guest)
            endpoint.reply(tag, reply)
        else:
            raise RemoteProtocolError(f"{type(reply).__name__} in answer to Spawn")

    def _signal(self, session: Session, message: Signal) -> None:
        guest = self.own(session, message.body)
        if guest is None:
            return
        if guest.standing_ns:
            guest.held.append(message)
            return
        self._files.barrier()
        if guest.terminal is not None and message.signo == signal.SIGCONT:
            guest.terminal.before_resume()
        if guest.terminal is None or not guest.terminal.typed(guest.pid, message):
            self._link.post(message)
        if guest.terminal is not None and message.signo == signal.SIGCONT:
            guest.terminal.resume(guest.pid)

    def _relay(self, session: Session, message: Resize) -> None:
        if self.own(session, message.body) is not None:
            self._link.post(message)

    def _kill(self, session: Session, message: Kill) -> None:
        guest = self.own(session, message.body)
        if guest is not None:
            if not guest.arriving:
                self._moving.stay(guest)
            self._link.post(message)

    def find(self, session: Session, body: int) -> Guest | None:
        """Return a guest of that mrun, if it is here; RemoteProtocolError for another's."""
        guest = self._guests.get(body)
        if guest is not None and guest.session is not session:
            raise RemoteProtocolError(f"body {body} is not this mrun's")
        return guest  # None: the messages have crossed

    def own(self, session: Session, body: int) -> Guest | None:
        """Return what `find` does, None also if it has ended or lives elsewhere."""
        guest = self.find(session, body)
        return None if guest is None or guest.exited or guest.departing else guest

    def _mrun_gone(self, session: Session) -> None:
        self._sessions.discard(session)
        for guest in list(self._guests.values()):
            if guest.session is not session or guest.departing:
                continue
            if not guest.arriving:
                self._moving.stay(guest)
            if not guest.exited:
                self._leave_terminal(guest, None)
                self._link.post(Kill(guest.pid))

    # from the node

    def guest(self, body: int) -> Guest:
        """Return the guest that a node speaks of; RemoteProtocolError when there is none."""
        guest = self._guests.get(body)
        if guest is None:
            raise RemoteProtocolError(f"no body {body} here")
        return guest

    def _about(self, handle: Callable[..., None]) -> Handler:
        """Have `handle` get a guest, and what its node says of it, unless that lives elsewhere."""

        def take(message: Message, tag: int, fds: list[int]) -> None:
            guest = self.guest(message.body)  # type: ignore[attr-defined]  # all of these have it
            if not guest.departing:
                handle(guest, message)

        return take

    def _stopped(self, guest: Guest, message: Stopped) -> None:
        self._files.settle()
        if guest.terminal is not None:
            guest.terminal.pause(guest.pid)
        guest.session.post(message)

    def _continued(self, guest: Guest, message: Continued) -> None:
        if guest.terminal is not None:
            guest.terminal.resume(guest.pid)
        guest.session.post(message)

    def _computed(self, guest: Guest, message: Computed) -> None:
        guest.computed = True
        guest.session.post(message)

    def _position(self, guest: Guest, message: Position) -> None:
        fd = guest.files.get(message.fd)
        if fd is None or message.offset < 0:
            raise RemoteProtocolError(f"no offset to set: {message!r}")
        os.lseek(fd, message.offset, os.SEEK_SET)

    def _exited(self, guest: Guest, message: Exited) -> None:
        if guest.exited:
            raise RemoteProtocolError(f"body {message.body} ended twice")

        def tell() -> None:
            self._telling.discard(guest)
            self._leave_terminal(guest, message.status)
            guest.session.post(message)

        guest.exited = True
        self._telling.add(guest)
        self._files.settle()
        if guest.left or guest.arriving:
            self._moving.cut_short(guest)
            tell()  # what it wrote is held, and mrun's
        else:
            self._when_written(guest, tell)

    def _gone(self, guest: Guest, message: Gone) -> None:
        if not guest.exited:
            raise RemoteProtocolError(f"body {message.body} gone without an end")
        if guest.arriving:
            self.drop(guest)
        else:
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
            lambda: self._when_written(guest, lambda: self.drop(guest)),
        )

    def drop(self, guest: Guest) -> None:
        """Forget a guest, and let go of all that it had."""
        self.let_go(guest)
        if self._guests.get(guest.pid) is guest:
            del self._guests[guest.pid]
            self._files.end_body(guest.pid)

    def let_go(self, guest: Guest) -> None:
        """Let go of all that a guest has at home."""
        if self.holds(guest):
            self._moving.forget(guest)
        terminal, guest.terminal = guest.terminal, None
        if terminal is not None:
            terminal.leave(guest.pid, None)
            self._terminals.release(terminal, guest.pid)
        guest.close_files()
        guest.closed.clear()
        adopted, guest.adopted = guest.adopted, []
        for number in adopted:
            self._files.disown(number)
        streams, guest.streams = guest.streams, set()
        for number in streams:
            self._streams.close(number)


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
