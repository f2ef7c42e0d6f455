"""Guests: the bodies of one home, as the agent looks after them.

Turns Spawn into ghosts, streams and a body, carries signals to it, and tells home what becomes of
it: an end only after everything that the body had written, to files, pipes and its terminal, has
been sent. What ghosts say (stubs.node.capsule.ghost) arrives here.
"""

from __future__ import annotations

import errno
import os
import signal

from stubs.node.capsule.body import STREAMS
from stubs.node.capsule.sessions import Sessions
from stubs.node.streams.terminal import Terminal
from stubs.wire.messages import (
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    Body,
    Computed,
    Continued,
    Error,
    Exited,
    Foreground,
    Gone,
    Inherited,
    Kill,
    Modes,
    Position,
    Resize,
    Signal,
    Spawn,
    Spawned,
    Stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.node.capsule.capsule import Capsule
    from stubs.node.capsule.sessions import GhostHandle, Session
    from stubs.node.streams.streams import Streams
    from stubs.node.view.view import View
    from stubs.wire.codec import Message


class Guest:
    """One body."""

    def __init__(self, spawn: Spawn, tag: int, session: Session, parent: GhostHandle) -> None:
        """Begin as not yet exec'ed; `tag` is that of home's request."""
        self.spawn = spawn
        self.tag = tag  # 0 once it is answered
        self.pid = 0  # in the capsule, once it is exec'ed: home's, if that could be had
        self.session = session
        self.parent = parent
        self.outputs: set[int] = set()
        self.positions: list[Position] = []
        self.exit: Exited | None = None
        self.told = False  # home knows of the end
        self.gone = False
        self.stopped = False
        self.links: dict[bytes, int] = {}  # /proc/PID/fd of its streams -> their numbers
        self.cpu_us = 0  # that it has used elsewhere
        self.standing = False  # frozen, to go elsewhere
        self.held: list[Signal] = []  # that came for it meanwhile
        self.arriving = False  # it has come from elsewhere, and has not run here
        self.departed: Callable[[], None] | None = None  # it went; to be called when all is gone

    @property
    def unborn(self) -> bool:
        """Whether it is yet to be whole: who restores it says what became of that."""
        return self.arriving and self.tag != 0


class Guests:
    """The guests of this node."""

    def __init__(
        self, loop: Loop, link: Link, view: View, streams: Streams, capsule: Capsule
    ) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._view = view
        self._streams = streams
        self._capsule = capsule
        self._guests: dict[int, Guest] = {}
        # Called with a body that is to be killed; returns whether it is on its way in.
        self.on_kill: Callable[[int], bool] = lambda body: False
        from_ghosts: dict[type[Message], Handler] = {
            Stopped: self._stopped,
            Continued: self._continued,
            Position: self._position,
            Exited: self._exited,
            Gone: self._gone,
        }
        self._sessions = Sessions(loop, capsule.init, from_ghosts, self._ghost_lost)

    @property
    def count(self) -> int:
        """Bodies of which something is left."""
        return len(self._guests)

    def find(self, body: int) -> Guest | None:
        """Return that guest, if it is here."""
        return self._guests.get(body)

    def is_body(self, pid: int) -> bool:
        """Tell whether that is the pid of a body."""
        return pid in self._guests

    @property
    def running(self) -> dict[int, int]:
        """Bodies that have not ended, by their pids in the capsule."""
        guests = self._guests.items()
        return {guest.pid: body for body, guest in guests if guest.pid and guest.exit is None}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what the node does with home's messages about bodies."""
        return {
            Spawn: lambda message, tag, fds: self._settled(lambda: self._spawn(message, tag)),
            Signal: lambda message, tag, fds: self._settled(lambda: self._signal(message)),
            Kill: lambda message, tag, fds: self._kill_soon(message),
            Resize: lambda message, tag, fds: self._resize(message),
            Modes: lambda message, tag, fds: self._settled(lambda: self._modes(message)),
        }

    def close(self) -> None:
        """Let go of everything; the capsule is about to end."""
        self._sessions.close()
        self._guests.clear()

    def _settled(self, then: Callable[[], None]) -> None:
        self._view.settled(then)

    # from home

    def _spawn(self, spawn: Spawn, tag: int) -> None:
        try:
            guest = self.admit(spawn, tag)
        except OSError as error:
            self._view.tell_touched(spawn.body)
            self._refuse(tag, error)
            return
        fds: list[int] = []
        try:
            self.give_descriptors(guest, fds)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._view.tell_touched(spawn.body)
            self._forget(guest)
            self._refuse(tag, error)
            return
        foreground = self.takes_foreground(guest)
        guest.parent.endpoint.request(
            Body(foreground, spawn.encode()), lambda answer: self._started(guest, answer), fds
        )
        self.watch_demand(guest)

    def admit(self, spawn: Spawn, tag: int) -> Guest:
        """Take in a body to be; OSError EEXIST when it is here, or as its terminal has it."""
        if spawn.body in self._guests:
            raise FileExistsError(errno.EEXIST, "that body is here already")
        session, parent = self._sessions.enter(spawn, self._open_terminal)
        guest = self._guests[spawn.body] = Guest(spawn, tag, session, parent)
        return guest

    def watch_demand(self, guest: Guest) -> None:
        """Have it found out from now on when the body waits for input."""
        for item in guest.spawn.descriptors:
            if item.kind in (FD_STREAM_IN, FD_STREAM_BOTH):
                self._streams.watch(item.ref, guest.parent.endpoint)
        session = guest.session
        if session.terminal is not None:
            session.terminal.ask(session.leader.endpoint)

    def dismiss(self, guest: Guest, then: Callable[[], None]) -> None:
        """Have nothing left of a body that lives elsewhere, and nothing told; then call `then`."""
        guest.departed = then
        for number in guest.links.values():
            self._streams.abandon(number)
        if guest.gone:
            self._leave(guest)

    def remove(self, guest: Guest, then: Callable[[], None]) -> None:
        """Do as `dismiss`, and kill what there is."""
        self.dismiss(guest, then)
        guest.parent.endpoint.post(Kill(guest.spawn.body))
        guest.parent.endpoint.request(Inherited(guest.spawn.body), lambda _: self._leave(guest))

    def _refuse(self, tag: int, error: OSError) -> None:
        self._link.reply(tag, Error(error.errno or errno.EIO, os.fsencode(str(error))))

    def _open_terminal(self, spawn: Spawn) -> Terminal:
        return Terminal(self._streams, self._capsule.pts, spawn)

    def give_descriptors(self, guest: Guest, fds: list[int]) -> None:
        """Open the body's ends of its streams, in order, and last its terminal."""
        spawn = guest.spawn
        exclusive = set(spawn.exclusive)
        opened: dict[int, int] = {}
        for item in spawn.descriptors:
            if item.kind not in STREAMS or item.share >= 0:
                continue
            if item.ref in opened:
                fds.append(os.dup(opened[item.ref]))
            else:
                fds.append(
                    self._streams.open(item.ref, item.kind, item.flags, item.ref in exclusive)
                )
                opened[item.ref] = fds[-1]
                guest.links[os.readlink(b"/proc/self/fd/%d" % fds[-1])] = item.ref
            if item.kind in (FD_STREAM_OUT, FD_STREAM_BOTH):
                guest.outputs.add(item.ref)
        if spawn.termios and guest.session.terminal is not None:
            guest.session.terminal.prepare(spawn)
            guest.outputs.add(spawn.terminal)
            fds.append(guest.session.terminal.open_peer())

    def takes_foreground(self, guest: Guest) -> int:
        """Tell whether the body gets the terminal: always, unless that would take it from another.

        A background job is stopped at home, where its terminal is, when it wants to read.
        """
        others = any(
            each.session is guest.session and each is not guest for each in self._guests.values()
        )
        return int(guest.spawn.foreground == guest.spawn.pgrp or not others)

    def alone_at(self, terminal: Terminal) -> bool:
        """Tell whether a single body has that terminal."""
        return sum(each.session.terminal is terminal for each in self._guests.values()) == 1

    def _signal(self, message: Signal) -> None:
        guest = self._guests.get(message.body)
        if guest is None:
            return
        if guest.standing:
            guest.held.append(message)
            return
        terminal = guest.session.terminal
        if message.signo == signal.SIGCONT and guest.stopped and terminal is not None:
            # It may be in the foreground again; if it is not, home stops it should it read.
            guest.session.leader.endpoint.request(
                Foreground(guest.spawn.pgrp),
                lambda _: guest.parent.endpoint.post(message),
                [terminal.open_peer()],
            )
        else:
            guest.parent.endpoint.post(message)

    def _kill_soon(self, message: Kill) -> None:
        if message.body in self._guests:
            self._kill(message)
        else:
            # It may be about to be taken in.
            self._settled(lambda: self._kill(message))

    def _kill(self, message: Kill) -> None:
        guest = self._guests.get(message.body)
        if guest is None or self.on_kill(guest.spawn.body):
            return
        guest.parent.endpoint.post(message)
        if guest.exit is not None and not guest.told:
            # Nobody waits any more for what its reader has not taken.
            self._tell_exit(guest)

    def _resize(self, message: Resize) -> None:
        guest = self._guests.get(message.body)
        if guest is not None and guest.session.terminal is not None:
            guest.session.terminal.resize(message.rows, message.columns)

    def _modes(self, message: Modes) -> None:
        for terminal in self._sessions.terminals():
            if terminal.number == message.stream:
                terminal.set_modes(message.termios)

    # from ghosts

    def _started(self, guest: Guest, answer: Message) -> None:
        """Pass on whether execve succeeded."""
        tag, guest.tag = guest.tag, 0
        self._link.reply(tag, answer)
        if isinstance(answer, Spawned):
            guest.pid = answer.pid
        elif isinstance(answer, Error) and guest.spawn.body in self._guests:
            self._view.tell_touched(guest.spawn.body)
            self._forget(guest)

    def _stopped(self, message: Stopped, tag: int, fds: list[int]) -> None:
        guest = self._guests.get(message.body)
        if guest is not None:
            guest.stopped = True
            if guest.session.terminal is not None:
                guest.session.terminal.check_modes()
            self._after_output(guest, message)

    def _continued(self, message: Continued, tag: int, fds: list[int]) -> None:
        guest = self._guests.get(message.body)
        if guest is not None:
            guest.stopped = False
            self._after_output(guest, message)

    def _after_output(self, guest: Guest, message: Message) -> None:
        self._streams.drain(guest.outputs, lambda: None)
        self._streams.send(message)

    def _position(self, message: Position, tag: int, fds: list[int]) -> None:
        guest = self._guests.get(message.body)
        if guest is not None and guest.departed is None:
            guest.positions.append(message)

    def _exited(self, message: Exited, tag: int, fds: list[int]) -> None:
        guest = self._guests.get(message.body)
        if guest is None or guest.departed is not None or guest.unborn:
            return
        guest.exit = message
        message.utime_us += guest.cpu_us
        self._announce_temporaries(message.body)
        if os.WIFSIGNALED(message.status):
            # Whoever kills it does not wait for a reader that has stopped reading; what is in
            # the pipes goes on as that reader takes it.
            self._streams.drain(guest.outputs, lambda: None)
            self._view.when_written(lambda: self._tell_exit(guest))
        else:
            self._streams.drain(
                guest.outputs, lambda: self._view.when_written(lambda: self._tell_exit(guest))
            )
        if not guest.told:
            self._link.post(Computed(message.body))

    def _announce_temporaries(self, body: int) -> None:
        """Have home know what a body that has ended leaves; with the last one, what all leave."""
        others = any(each.exit is None for each in self._guests.values())
        self._view.announce_temporaries(body if others else 0)

    def _tell_exit(self, guest: Guest) -> None:
        message = guest.exit
        if message is None or guest.told or guest.departed is not None:
            return
        guest.told = True
        if guest.session.terminal is not None:
            guest.session.terminal.check_modes()
        for position in guest.positions:
            self._streams.send(position)
        traffic = self._view.traffic.take(guest.spawn.body)
        message.round_trips, message.bytes_to_node, message.bytes_to_home = traffic
        self._view.tell_touched(guest.spawn.body)
        failure = self._view.take_failure()
        if failure is not None:
            message.errno, message.path = failure
        self._streams.send(message)
        if guest.gone:
            self._finish(guest)

    def _gone(self, message: Gone, tag: int, fds: list[int]) -> None:
        guest = self._guests.get(message.body)
        if guest is None:
            return
        if guest.departed is not None:
            self._leave(guest)
            return
        guest.gone = True
        if guest.told:
            self._finish(guest)

    def _leave(self, guest: Guest) -> None:
        """Forget a body of which nothing is left here, though it may live elsewhere."""
        departed, guest.departed = guest.departed, None
        if departed is not None and self._guests.get(guest.spawn.body) is guest:
            self._forget(guest)
            departed()

    def _finish(self, guest: Guest) -> None:
        """Tell home that nothing is left, once the last output is on its way."""
        self._streams.drain(guest.outputs, lambda: None)
        self._streams.send(Gone(guest.spawn.body))
        self._forget(guest)

    def _forget(self, guest: Guest) -> None:
        del self._guests[guest.spawn.body]
        self._sessions.leave(guest.spawn)

    def _ghost_lost(self, ghost: GhostHandle) -> None:
        """Report the bodies of a ghost that was killed: they are killed with it."""
        for guest in list(self._guests.values()):
            if ghost in (guest.parent, guest.session.leader) and not guest.told:
                self._lose(guest)

    def _lose(self, guest: Guest) -> None:
        body = guest.spawn.body
        if self._guests.get(body) is guest and guest.exit is None:
            self._capsule.init.post(Kill(body))
            if guest.unborn:
                return
            guest.gone = True
            guest.exit = Exited(body, signal.SIGKILL, 0, 0, 0, 0, 0, 0, 0, b"")
            self._announce_temporaries(body)
            self._tell_exit(guest)
