"""Guests that leave this link's node or arrive on it, as the link process helps them.

It stops what flows to a guest that stands still, and tells mrun what is left in between: bytes that
the body has not read, bytes that its reader at home has not taken, files that have no name. With
that mrun goes to the link process of the other node, which goes on from there. The image of the
body passes from one link process to the other on a socket, unread.
"""

from __future__ import annotations

import errno
import os
import time

from stubs.home.guests.guest import Guest
from stubs.home.guests.images import Incoming, Outgoing
from stubs.migration import keys
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    FD_FILE,
    Arrive,
    Checkpointed,
    Complete,
    Depart,
    Departed,
    Drain,
    Dump,
    Error,
    ImageData,
    ImageTaken,
    Kill,
    Leave,
    Left,
    Parked,
    Prepare,
    Restore,
    Resume,
    Signal,
    Spawn,
    Spawned,
    Standing,
    StreamData,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.guest import Session
    from stubs.home.guests.guests import Guests
    from stubs.home.guests.handover import Files, Handover
    from stubs.home.guests.streams import Streams
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message


# How long a terminal may take to show what a guest has written that is to leave.
SCREEN_SECONDS = 5.0


class Moving:
    """All guests on their way."""

    def __init__(
        self,
        loop: Loop,
        link: Link,
        files: Files,
        streams: Streams,
        handover: Handover,
        guests: Guests,
    ) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._files = files
        self._streams = streams
        self._handover = handover
        self._guests = guests
        self._outgoing: dict[int, Outgoing] = {}
        self._incoming: dict[int, Incoming] = {}
        self._serial = 0  # of the last image that came in

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what home does with the messages of a node about these."""
        return {
            Standing: lambda message, tag, fds: self._standing(message),
            ImageData: lambda message, tag, fds: self._image(message),
            ImageTaken: lambda message, tag, fds: self._taken(message),
        }

    def from_mrun(self, session: Session) -> dict[type[Message], Handler]:
        """Return what is done with the messages of an mrun about these."""
        return {
            Leave: lambda message, tag, fds: self._leave(session, message, tag, fds),
            Prepare: lambda message, tag, fds: self._prepare(session, message, tag, fds),
            Arrive: lambda message, tag, fds: self._arrive(session, message, fds),
            Depart: lambda message, tag, fds: self._depart(session, message, tag),
            Resume: lambda message, tag, fds: self._resume(session, message, tag),
            Checkpointed: lambda message, tag, fds: self._mark(session, message),
        }

    # on the way out

    def _leave(self, session: Session, message: Leave, tag: int, fds: list[int]) -> None:
        guest = self._guests.own(session, message.body)
        if guest is None or message.body in self._outgoing:
            for fd in fds:
                os.close(fd)
            session.endpoint.reply(tag, Error(errno.ESRCH, b"it has ended"))
            return
        self._outgoing[message.body] = Outgoing(self._loop, self._link, message.body, fds[0])
        self._files.barrier()
        self._link.request(
            Dump(message.body, message.how), lambda reply: self._parked(guest, tag, reply)
        )

    def _standing(self, message: Standing) -> None:
        guest = self._guests.guest(message.body)
        guest.standing_ns = time.monotonic_ns() - 1000 * message.frozen_us
        for number in guest.streams:
            self._streams.pause(number)
        if guest.terminal is not None:
            guest.terminal.pause(guest.pid)
        self._link.post(Drain(message.body))

    def _parked(self, guest: Guest, tag: int, reply: Message) -> None:
        if not isinstance(reply, Parked):
            self.stay(guest)
            self._give_signals(guest)
            guest.session.endpoint.reply(tag, reply)
            return
        came = zip(reply.signals[::2], reply.signals[1::2])
        guest.held[:0] = [Signal(guest.pid, signo, scope) for signo, scope in came]
        self._files.settle()
        if guest.terminal is None:
            self._tell(guest, tag, reply)
            return

        def tell() -> None:
            if overdue.call is not None:
                overdue.cancel()
                self._tell(guest, tag, reply)

        def give_up() -> None:
            overdue.cancel()
            busy = Error(errno.EAGAIN, b"its terminal does not take what it has written")
            self._resume_node(guest, lambda _: guest.session.endpoint.reply(tag, busy))

        # What a terminal shows is seldom late; it may be held up by a key, Ctrl-S.
        overdue = self._loop.call_later(SCREEN_SECONDS, give_up)
        self._streams.when_written(guest.terminal.number, tell)

    def _tell(self, guest: Guest, tag: int, parked: Parked) -> None:
        endpoint = guest.session.endpoint
        if guest.exited:
            endpoint.reply(tag, Error(errno.ESRCH, b"it has just ended"))
            return
        given = {item.ref: item.fd for item in reversed(guest.spawn.descriptors)}
        if len(parked.streams) != len(parked.unread) or not guest.streams >= set(parked.streams):
            raise RemoteProtocolError("streams that the body does not have")
        try:
            handles = [self._files.lend(number) for number in parked.handles]
        except OSError as error:
            refusal = _error(error)
            self._resume_node(guest, lambda _: endpoint.reply(tag, refusal))
            return
        for message in list(guest.closed):
            guest.tell_closed(message)  # by the names that its descriptors have here
        guest.left = True
        numbers = [*parked.streams]
        locks = self._files.lend_locks(guest.pid)
        endpoint.reply(
            tag,
            Left(
                body=guest.pid,
                keys=[*numbers, *map(keys.of_file, guest.files)],
                fds=[*[given[number] for number in numbers], *guest.files],
                unread=[*parked.unread, *[b""] * len(guest.files)],
                unwritten=[
                    *[self._streams.hold(number) for number in numbers],
                    *[b""] * len(guest.files),
                ],
                foreground=parked.foreground,
                termios=parked.termios,
                typed=parked.typed,
                cpu_us=parked.cpu_us,
                unseen=int(self._guests.is_without_effect(guest)),
                standing_ns=guest.standing_ns,
                signals=guest.take_signals(),
                locks=[number for flock, pid, _ in locks for number in (flock, pid)],
            ),
            [*handles, *[fd for _, _, fd in locks]],
        )

    def _mark(self, session: Session, message: Checkpointed) -> None:
        guest = self._guests.find(session, message.body)
        if guest is not None and not guest.exited:
            self._guests.mark(guest)

    def _resume(self, session: Session, message: Resume, tag: int) -> None:
        """Have the guest go on here: it did not get away, or it has arrived."""
        guest = self._guests.find(session, message.body)
        if guest is None or guest.exited or guest.departing:
            if guest is not None and not guest.departing:
                self.stay(guest)
            session.endpoint.reply(tag, Error(errno.ESRCH, b"it has ended"))
            return
        arriving = guest.arriving

        def told(reply: Message) -> None:
            if isinstance(reply, Error) and arriving and self._guests.is_unseen_here(guest):
                # Whether it has gone on or not: nobody has noticed, and nobody will.
                reply = Error(errno.ESRCH, reply.text)
            session.endpoint.reply(tag, reply)

        self._resume_node(guest, told)

    def _resume_node(self, guest: Guest, then: Callable[[Message], None]) -> None:
        self.stay(guest)
        self._files.barrier()
        self._link.request(Resume(guest.pid), then)
        self._give_signals(guest)

    def _give_signals(self, guest: Guest) -> None:
        """Pass on what came for a guest while it stood still."""
        signals = guest.take_signals()
        for signo, scope in zip(signals[::2], signals[1::2]):
            self._link.post(Signal(guest.pid, signo, scope))

    def stay(self, guest: Guest) -> None:
        """Have all flow again to a guest that goes on here, or ends here."""
        self.forget(guest)
        guest.left = guest.arriving = False
        guest.standing_ns = 0
        for number in guest.streams:
            self._streams.go_on(number)
        if guest.terminal is not None:
            guest.terminal.resume(guest.pid)

    def _depart(self, session: Session, message: Depart, tag: int) -> None:
        """Let go of all that a guest had here, which is elsewhere now."""
        guest = self._guests.find(session, message.body)
        signals: list[int] = []
        image = self._outgoing.get(message.body)
        if guest is not None:
            signals = guest.take_signals()
            guest.departing = True
            self._guests.let_go(guest)
        departed = Departed(image.passed if image is not None else 0, signals)

        def gone(_: Message) -> None:
            if guest is not None:
                self._guests.drop(guest)
            self._guests.on_departed(message.body)
            session.endpoint.reply(tag, departed)

        self._link.request(message, gone)

    # on the way in

    def _prepare(self, session: Session, message: Prepare, tag: int, fds: list[int]) -> None:
        spawn = Spawn.decode(message.spawn)
        image = fds.pop()
        guest = Guest(session, spawn)
        guest.arriving = True
        try:
            self._guests.admit(guest)
            self._handover.take(guest, fds)
        except OSError as error:
            for fd in [image, *[fd for fd in fds if fd >= 0]]:
                os.close(fd)
            self._guests.drop(guest)
            session.endpoint.reply(tag, _error(error))
            return
        self._files.barrier()
        self._serial += 1
        restore = Restore(self._serial, spawn.encode())
        self._link.request(restore, lambda reply: self._stands(guest, tag, reply))
        self._incoming[guest.pid] = Incoming(self._loop, self._link, guest.pid, self._serial, image)

    def _arrive(self, session: Session, message: Arrive, fds: list[int]) -> None:
        """Take what the guest has at home, and tell its node."""
        guest = self._guests.own(session, Spawn.decode(message.spawn).body)
        if guest is None:
            for fd in fds:
                os.close(fd)
            return  # refused meanwhile, which mrun hears
        spawn = guest.spawn
        arrived = Spawn.decode(message.spawn)
        spawn.descriptors, spawn.exclusive = arrived.descriptors, arrived.exclusive
        spawn.foreground = arrived.foreground
        if guest.terminal is not None and arrived.termios:
            guest.terminal.set_modes(arrived.termios)
            spawn.termios = arrived.termios
        guest.seen = not message.unseen
        locks = list(zip(message.locks[::2], message.locks[1::2]))
        held = [fds.pop() for _ in locks][::-1]
        try:
            self._handover.place(guest, fds)
            for flock, pid in locks:
                fds.append(held.pop(0))
                guest.adopted.append(self._files.take_lock(guest.pid, flock, pid, fds[-1]))
                fds.pop()
        except OSError:
            # Its node says then that it was called off.
            for fd in [*fds, *held]:
                if fd >= 0:
                    os.close(fd)
            self._link.post(Kill(guest.pid))
            return
        for number in guest.streams:
            # It is not decided yet that it goes on here: nothing is read or written before.
            self._streams.pause(number)
            self._streams.hold(number)
        handles = [item for item in spawn.descriptors if keys.is_handle(item.fd)]
        for item in handles:
            # The file service keeps what it needs; the descriptor is no one that home gave.
            os.close(guest.files.pop(item.fd))
        spawn.descriptors = [item for item in spawn.descriptors if not keys.is_handle(item.fd)]
        self._files.barrier()
        numbers = [item.ref for item in handles]
        self._link.post(Complete(spawn.encode(), numbers, message.cpu_us))
        for item, unread, unwritten in zip(spawn.descriptors, message.unread, message.unwritten):
            if item.kind != FD_FILE:
                self._streams.go_on_with(item.ref, unread, unwritten)
        if guest.terminal is not None and message.typed:
            self._streams.deliver(StreamData(guest.terminal.number, message.typed))
        self._handover.begin_count(guest)

    def _stands(self, guest: Guest, tag: int, reply: Message) -> None:
        endpoint = guest.session.endpoint
        if isinstance(reply, Error):
            self.forget(guest)
            if self._guests.holds(guest):
                self._guests.drop(guest)
            self._guests.on_departed(guest.pid)
        elif not isinstance(reply, Spawned):
            raise RemoteProtocolError(f"{type(reply).__name__} in answer to Restore")
        elif endpoint.lost is not None:
            self._link.post(Kill(guest.pid))
        endpoint.reply(tag, reply)

    # images

    def _image(self, message: ImageData) -> None:
        outgoing = self._outgoing.get(message.body)
        if outgoing is not None:
            outgoing.put(message.data)

    def _taken(self, message: ImageTaken) -> None:
        incoming = self._incoming.get(message.body)
        if incoming is not None:
            incoming.taken(message.bytes)

    def cut_short(self, guest: Guest) -> None:
        """Note that no more will come of its image: it has ended as it stood still."""
        outgoing = self._outgoing.get(guest.pid)
        if outgoing is not None:
            outgoing.put(b"")

    def forget(self, guest: Guest) -> None:
        """Let go of the image of a guest; a second time is harmless."""
        outgoing = self._outgoing.pop(guest.pid, None)
        if outgoing is not None:
            outgoing.close()
        incoming = self._incoming.pop(guest.pid, None)
        if incoming is not None:
            incoming.close()

    def close(self) -> None:
        """Let go of all images."""
        for outgoing in self._outgoing.values():
            outgoing.close()
        for incoming in self._incoming.values():
            incoming.close()


def _error(error: OSError) -> Error:
    text = error.strerror or str(error)
    return Error(error.errno or errno.EIO, text.encode(errors="surrogateescape"))
