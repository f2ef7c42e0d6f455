"""The ghosts, seen from the agent: one per session, process group and parent that bodies need.

A ghost is asked for and used in one go: its parent is told to clone it, and what it shall do is
already waiting on its socket. It is let go when the last body that needs it has gone.
"""

from __future__ import annotations

import socket

from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.node.streams.terminal import Terminal
from stubs.wire.messages import Foreground, Ghost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Handler
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message
    from stubs.wire.messages import Spawn

    # Opens the terminal of a session, when a body has one.
    OpenTerminal = Callable[[Spawn], Terminal]

# Ghost.leader, as in stubs.node.capsule.ghost
FOLLOWER = 0
SESSION = 1
GROUP = 2
LEAD = 3


class GhostHandle:
    """A ghost process: the endpoint to it, and how many need it."""

    def __init__(
        self,
        loop: Loop,
        parent: Endpoint,
        pid: int,
        leader: int,
        handlers: dict[type[Message], Handler],
        on_lost: Callable[[GhostHandle], None],
        fds: list[int] | None = None,
    ) -> None:
        """Have `parent` clone it. `fds` go to it (the terminal of a session)."""
        ours, theirs = socket.socketpair()
        self.pid = pid
        self.users = 0
        self._on_lost: Callable[[GhostHandle], None] | None = on_lost
        self.endpoint = Endpoint(loop, SocketStream(ours), handlers, self._lost, f"ghost {pid}")
        parent.post(Ghost(pid, leader), [theirs.detach(), *(fds or [])])

    def release(self) -> None:
        """Let it end."""
        self._on_lost = None
        self.endpoint.close("not needed any more")

    def _lost(self, _: str) -> None:
        if self._on_lost is not None:
            self._on_lost(self)


class Session:
    """A session of home: its leader's ghost, those below it, and its terminal."""

    def __init__(self, leader: GhostHandle, terminal: Terminal | None) -> None:
        """Begin with the leader alone."""
        self.leader = leader
        self.terminal = terminal
        self.ghosts: dict[int, GhostHandle] = {}  # parents and leaders of groups, by home's pid


class Sessions:
    """All of them, by their number at home."""

    def __init__(
        self,
        loop: Loop,
        init: Endpoint,
        handlers: dict[type[Message], Handler],
        on_lost: Callable[[GhostHandle], None],
    ) -> None:
        """Ghosts are children of `init`, answer to `handlers`; `on_lost` hears of a sudden end."""
        self._loop = loop
        self._init = init
        self._handlers = handlers
        self._on_lost = on_lost
        self._sessions: dict[int, Session] = {}

    def enter(self, spawn: Spawn, open_terminal: OpenTerminal) -> tuple[Session, GhostHandle]:
        """Return the session and the parent of a body to be; both are kept until `leave`."""
        session = self._sessions.get(spawn.sid)
        if session is None:
            session = self._begin(spawn, open_terminal)
        elif session.terminal is None and spawn.termios:
            session.terminal = open_terminal(spawn)
            session.leader.endpoint.request(
                Foreground(0), lambda _: None, [session.terminal.open_peer()]
            )
            session.terminal.ask(session.leader.endpoint)
        session.leader.users += 1
        parent = session.leader
        for pid, leader in _needed(spawn):
            parent = self._ghost(session, pid, leader)
            parent.users += 1
        return session, parent if spawn.ppid != spawn.sid else session.leader

    def _ghost(self, session: Session, pid: int, leader: int) -> GhostHandle:
        """Return the ghost of `pid`: an mrun may be a parent and lead the group of another."""
        ghost = session.ghosts.get(pid)
        if ghost is None:
            ghost = session.ghosts[pid] = self._clone(session.leader.endpoint, pid, leader)
        elif leader == GROUP:
            session.leader.endpoint.post(Ghost(pid, LEAD))
        return ghost

    def leave(self, spawn: Spawn) -> None:
        """Undo `enter`, now that nothing of the body is left."""
        session = self._sessions.get(spawn.sid)
        if session is None:
            return
        for pid, _ in _needed(spawn):
            ghost = session.ghosts[pid]
            ghost.users -= 1
            if ghost.users <= 0:
                del session.ghosts[pid]
                ghost.release()
        session.leader.users -= 1
        if session.leader.users <= 0:
            del self._sessions[spawn.sid]
            if session.terminal is not None:
                session.terminal.close()
            session.leader.release()

    def terminals(self) -> list[Terminal]:
        """Return all there are."""
        found = [session.terminal for session in self._sessions.values()]
        return [terminal for terminal in found if terminal is not None]

    def close(self) -> None:
        """Let go of everything."""
        for session in self._sessions.values():
            for ghost in [*session.ghosts.values(), session.leader]:
                ghost.release()
            if session.terminal is not None:
                session.terminal.close()
        self._sessions.clear()

    def _begin(self, spawn: Spawn, open_terminal: OpenTerminal) -> Session:
        terminal = open_terminal(spawn) if spawn.termios else None
        fds = [terminal.open_peer()] if terminal is not None else []
        leader = self._clone(self._init, spawn.sid, SESSION, fds)
        session = self._sessions[spawn.sid] = Session(leader, terminal)
        if terminal is not None:
            terminal.ask(leader.endpoint)
        return session

    def _clone(
        self, parent: Endpoint, pid: int, leader: int, fds: list[int] | None = None
    ) -> GhostHandle:
        return GhostHandle(self._loop, parent, pid, leader, self._handlers, self._on_lost, fds)


def _needed(spawn: Spawn) -> list[tuple[int, int]]:
    """Return the ghosts that a body needs below its session's leader: pid and Ghost.leader."""
    ghosts = []
    if spawn.pgrp not in (spawn.sid, spawn.ppid, spawn.body):
        ghosts.append((spawn.pgrp, GROUP))
    if spawn.ppid != spawn.sid:
        ghosts.append((spawn.ppid, FOLLOWER))
    return ghosts
