"""Moving bodies from node to node, at the daemon's word; mrun conducts, the bytes pass it by.

Two nodes and one body: the source freezes it and keeps it whole, until the destination has it, held
as well. Only mrun decides which of the two goes on, so that it is never both: the destination, if
it says that all is there; else the source. The source is let go of only when the destination has
said that it goes on there, or is lost and cannot say. If both are lost the body is lost.

    source        Leave ────────────▶ stands still: Left                     Depart
    destination         Prepare (the image comes) ── Arrive ── Spawned ── Resume

A signal that comes meanwhile has the body go on where it was, unless it has arrived soon after;
if it is killed it goes nowhere.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from stubs.home.run.links import was_lost
from stubs.home.run.options import HOME
from stubs.migration import keys
from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_FILE,
    FD_TTY,
    Arrive,
    Depart,
    Departed,
    Error,
    Kill,
    Leave,
    Left,
    Moved,
    Prepare,
    Resume,
    Signal,
    Spawn,
    Spawned,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.home.run.links import Connection, Links
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message
    from stubs.wire.messages import Move

    # Gets the pid of a program at home, where to, the node's name, how, and whom to answer.
    Leaving = Callable[[int, Connection, str, int, Callable[[Message], None]], None]


# A signal may wait so long for a body that is on its way.
SIGNAL_SECONDS = 1.0


class Journey:
    """One body on its way from one node to another."""

    def __init__(
        self,
        loop: Loop,
        body: Body,
        source: Connection,
        destination: Connection,
        node: str,
        how: int,
        done: Callable[[Message], None],
    ) -> None:
        """Begin; `done` gets Moved, or Error with the reason why it goes on where it was."""
        assert body.departure.capture is not None
        self._loop = loop
        self._body = body
        self._source = source
        self._destination = destination
        self._node = node
        self._done = done
        self._began = time.monotonic_ns()
        self._resumed_ns = 0
        self._spawn = body.departure.capture.spawn
        self._left: Left | None = None
        self._refusal: Error | None = None  # of the destination
        self._prepared = False
        self._over = False  # it is decided which of the two goes on
        ours, self._image = socket.socketpair()
        # The keys typed at a terminal go to one place only, so that one is joined when it is free.
        if not self._spawn.termios:
            self._prepare()
        source.request(Leave(body.pid, how), self._told, [ours.detach()])

    # on the way

    def _prepare(self) -> None:
        self._prepared = True
        spawn = self._copy([each for each in self._spawn.descriptors if each.kind == FD_TTY])
        fds = [self._body.departure.copy_of(item.fd) for item in spawn.descriptors]
        given = [(item, fd) for item, fd in zip(spawn.descriptors, fds) if fd is not None]
        spawn.descriptors = [item for item, _ in given]
        carried = [*[fd for _, fd in given], self._image.detach()]
        self._destination.request(Prepare(spawn.encode()), self._stands, carried)

    def _copy(self, descriptors: list[Descriptor]) -> Spawn:
        """Return what the node must know of the body, with these descriptors."""
        spawn = Spawn.decode(self._spawn.encode())
        spawn.descriptors = descriptors
        return spawn

    def _told(self, reply: Message) -> None:
        """Hear that the body stands still, or why it does not."""
        if not isinstance(reply, Left):
            self._call_off()
            if isinstance(reply, Error):
                self._finish(self._refusal or reply)
            else:
                self._finish(Error(errno.EPROTO, b"no answer"))
            return
        handles = self._source.reply_fds
        self._left = reply
        if self._body.ended:
            # Killed, and nobody has waited any longer for its end.
            self._refusal = Error(errno.ESRCH, b"it has ended")
            self._call_off()
            self._source.request(Depart(self._body.pid), self._went)
        else:
            self._body.hold(self._kept)
            if self._refusal is not None:
                self._go_back(self._refusal)
            elif not self._prepared:
                self._prepare()
        if self._over:
            for fd in handles:
                os.close(fd)
            return
        if reply.signals:
            self._hurry()
        self._arrive(reply, handles)

    def _arrive(self, left: Left, handles: list[int]) -> None:
        """Hand over what the body has at home."""
        departure = self._body.departure
        items: list[Descriptor] = []
        fds: list[int] = []
        unread: list[bytes] = []
        unwritten: list[bytes] = []
        for key, name, to_read, to_write in zip(left.keys, left.fds, left.unread, left.unwritten):
            fd = departure.copy_of(name)
            if fd is not None:
                items.append(departure.descriptor(name)._replace(fd=key, share=-1))
                fds.append(fd)
                unread.append(to_read)
                unwritten.append(to_write)
        locks = [handles.pop() for _ in left.locks[::2]][::-1]
        for index, fd in enumerate(handles):
            items.append(Descriptor(keys.of_handle(index), FD_FILE, 0, os.O_RDWR, 0, -1, b""))
            fds.append(fd)
        spawn = self._copy(items)
        exclusive = set(self._spawn.exclusive)
        names = dict(zip(left.keys, left.fds))
        spawn.exclusive = [
            item.fd
            for item in items
            if item.fd in names and departure.descriptor(names[item.fd]).fd in exclusive
        ]
        spawn.foreground, spawn.termios = left.foreground, left.termios
        self._destination.post(
            Arrive(
                spawn=spawn.encode(),
                unread=unread,
                unwritten=unwritten,
                typed=left.typed,
                cpu_us=left.cpu_us,
                unseen=left.unseen,
                locks=left.locks,
            ),
            [*fds, *locks],
        )
        self._destination.flush()

    def _stands(self, reply: Message) -> None:
        """Hear that the body is there, whole and held, or that it cannot be."""
        if self._over:
            return
        if isinstance(reply, Spawned) and self._left is not None:
            self._over = True
            self._destination.early[self._body.pid] = []
            self._destination.request(Resume(self._body.pid), self._resumed)
        else:
            self._refusal = reply if isinstance(reply, Error) else Error(errno.EPROTO, b"too early")
            if self._left is not None:
                self._go_back(self._refusal)
            else:
                # It may be sending what nobody takes, and would do so for ever.
                self._source.request(Resume(self._body.pid), lambda _: None)

    def _kept(self, message: Message) -> None:
        """Hear of what is for the body, which stands still."""
        if self._over:
            return
        if isinstance(message, Kill):
            self._refusal = Error(errno.ESRCH, b"it was killed")
            self._call_off()
            self._body.resume(self._source.post)
            self._finish(self._refusal)
        elif isinstance(message, Signal):
            self._hurry()

    def _hurry(self) -> None:
        """Have it go on soon, wherever: a signal waits for it."""
        late = Error(errno.ECANCELED, b"a signal came for it")
        self._loop.call_later(SIGNAL_SECONDS, lambda: None if self._over else self._go_back(late))

    # the decision

    def _resumed(self, reply: Message) -> None:
        """Hear that it goes on there; from here on it lives nowhere else."""
        left, body, departure = self._left, self._body, self._body.departure
        assert left is not None
        # One that ends at once may have ended before anybody could say that it goes on.
        early = self._destination.early.pop(body.pid, [])
        if isinstance(reply, Error) and not was_lost(reply):
            self._go_back(reply)
            return
        # If the node is lost it may have gone on there before. That it is lost is told next.
        self._resumed_ns = time.monotonic_ns()
        departure.rename(dict(zip(left.keys, left.fds)))
        departure.connection = self._destination
        self._source.bodies.pop(body.pid, None)
        self._destination.bodies[body.pid] = body
        body.moved(self._node)
        self._signal(left.signals)
        body.resume(self._destination.post)
        self._source.request(Depart(body.pid), self._departed)
        for message in early:
            body.take(message)

    def _departed(self, reply: Message) -> None:
        """Hear that the source is rid of it; a source that is lost is rid of it, too."""
        left = self._left
        assert left is not None
        count = 0
        if isinstance(reply, Departed):
            count = reply.bytes
            self._signal(reply.signals)
        end = self._resumed_ns or time.monotonic_ns()
        self._finish(
            Moved(
                pid=self._body.pid,
                node=os.fsencode(self._node),
                frozen_us=max(0, end - left.standing_ns) // 1000,
                wall_us=(time.monotonic_ns() - self._began) // 1000,
                bytes=count,
            )
        )

    def _signal(self, signals: list[int]) -> None:
        for signo, scope in zip(signals[::2], signals[1::2]):
            self._destination.post(Signal(self._body.pid, signo, scope))

    def _go_back(self, why: Error) -> None:
        """Let it go on where it was."""
        self._refusal = why
        self._call_off()
        self._source.request(Resume(self._body.pid), self._went_back)

    def _went_back(self, reply: Message) -> None:
        body, left = self._body, self._left
        assert left is not None
        if isinstance(reply, Error):
            text = reply.text.decode(errors="replace")
            body.vanished(f"{text}, while it moved", bool(left.unseen))
        else:
            for signo, scope in zip(left.signals[::2], left.signals[1::2]):
                self._source.post(Signal(body.pid, signo, scope))
            body.resume(self._source.post)
        self._went(reply)

    def _went(self, reply: Message) -> None:
        assert self._refusal is not None
        self._finish(self._refusal)

    def _call_off(self) -> None:
        """Leave nothing of it at its destination: it does not come."""
        self._over = True
        if self._prepared:
            self._destination.post(Kill(self._body.pid))
            self._destination.flush()
        else:
            self._image.close()

    def _finish(self, answer: Message) -> None:
        self._done(answer)


class Moving:
    """All moves of one mrun."""

    def __init__(self, loop: Loop, links: Links, bodies: dict[int, Body], leave: Leaving) -> None:
        """`bodies` are those that run now, by pid; `leave` takes programs away from home."""
        self._loop = loop
        self._links = links
        self._bodies = bodies
        self._leave = leave
        self._under_way: set[int] = set()
        # Called with a body, where it was, the daemon's word, and how it went.
        self.on_moved: Callable[[Body, str, Move, Moved], None] = lambda *_: None

    def ordered(self, move: Move, fds: list[int], answer: Callable[[Message], None]) -> None:
        """Do what the daemon says; `answer` gets Moved or Error."""
        node = os.fsdecode(move.node)
        for fd in fds:
            self._links.adopt(node, socket.socket(fileno=fd))
        if move.checkpoint:
            self.checkpoint(move.pid, os.fsdecode(move.checkpoint), move.how, answer)
            return
        body = self._bodies.get(move.pid)
        destination = self._links.to(node)
        if body is None and destination is not None:
            self._from_home(move, destination, answer)
            return
        problem = ""
        if body is None or body.departure.connection is None:
            problem = "it does not run on a node"
        elif move.pid in self._under_way:
            problem = "it is about to move already"
        elif body.departure.node == node or node == HOME:
            problem = f"it runs on {node}"
        elif destination is None:
            problem = f"{node} is lost"
        if problem or body is None or destination is None:
            answer(Error(errno.EINVAL, problem.encode()))
            return
        former = body.departure.node
        source = body.departure.connection
        assert source is not None

        def done(reply: Message) -> None:
            self._under_way.discard(move.pid)
            if isinstance(reply, Moved):
                self.on_moved(body, former, move, reply)
            answer(reply)

        self._under_way.add(move.pid)
        Journey(self._loop, body, source, destination, node, move.how, done)

    def checkpoint(self, pid: int, path: str, how: int, answer: Callable[[Message], None]) -> None:
        """Write a body to a file; it goes on where it is. `answer` gets Moved or Error."""
        from stubs.home.run.checkpointing import Checkpointing

        body = self._bodies.get(pid)
        if body is None or body.departure.connection is None:
            answer(Error(errno.EINVAL, b"it does not run on a node"))
            return
        if pid in self._under_way:
            answer(Error(errno.EBUSY, b"it is about to move"))
            return

        def done(reply: Message) -> None:
            self._under_way.discard(pid)
            answer(reply)

        self._under_way.add(pid)
        Checkpointing(self._loop, body, body.departure.connection, path, how, done)

    def _from_home(
        self, move: Move, destination: Connection, answer: Callable[[Message], None]
    ) -> None:
        def done(reply: Message) -> None:
            body = self._bodies.get(move.pid)
            if isinstance(reply, Moved) and body is not None:
                self.on_moved(body, HOME, move, reply)
            answer(reply)

        self._leave(move.pid, destination, os.fsdecode(move.node), move.how, done)
