"""Starting a body again whose node was lost, when nothing that it did can have been noticed.

Its deputy has stood for it all the time and goes on to do so: for parent and user the program has
only taken longer. What it inherited is kept for this (stubs.home.run.departure). If no node is
left it is the embedded one's turn, `local`: the process at home cannot become the program again.
"""

from __future__ import annotations

import os

from stubs.home.run.checkpoint import CheckpointError
from stubs.home.run.errors import say
from stubs.home.run.links import was_lost
from stubs.home.run.options import HOME
from stubs.wire.messages import Checkpointed, Error, Placed, Resume, Spawned

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.home.run.links import Connection, Links
    from stubs.home.run.placements import Placements
    from stubs.home.run.recovery import Recovery
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

LOCAL = "local"

# The daemon may hear of a lost node later than we do, and name it once more.
AGAIN_SECONDS = 0.3
ATTEMPTS = 20


class Restarting:
    """Finds another node for bodies of one mrun."""

    def __init__(
        self, loop: Loop, placements: Placements, links: Links, failed: Callable[[Body], None]
    ) -> None:
        """`failed` gets a body for which there is none; its `lost` says why it needed one."""
        self._loop = loop
        self._placements = placements
        self._links = links
        self._failed = failed
        # What bodies are made of that do not begin anew, and the files these had open.
        self._recoveries: dict[int, Recovery | None] = {}

    def begin(self, body: Body) -> None:
        """Ask for another node."""
        departure = body.departure
        departure.restarts += 1
        departure.losses = 0
        reason = body.lost or ""
        recovery = self._recovery(body)
        if recovery is None and not body.unseen:
            self._fail(body, reason)
            return
        self._recoveries[body.pid] = recovery
        body.suspend()
        if departure.wish.verbose:
            how = "is started again" if recovery is None else "goes on from its checkpoint"
            say(f"{departure.node} was lost ({reason}): {departure.name} {how}")
        self._ask(body, reason)

    def _recovery(self, body: Body) -> Recovery | None:
        """Return its last checkpoint if that can be used."""
        last = body.departure.last
        if body.unseen or body.grown is None or last is None or not last.is_there():
            return None
        from stubs.home.run.recovery import Recovery

        try:
            return Recovery(last.path, body.grown)
        except CheckpointError as error:
            say(f"{body.departure.name} cannot go on from its checkpoint: {error}")
            return None

    def _again(self, body: Body, reason: str) -> None:
        """Ask once more, a little later: that node was lost as well."""
        departure = body.departure
        departure.losses += 1
        if departure.losses < ATTEMPTS:
            self._loop.call_later(AGAIN_SECONDS, lambda: self._ask(body, reason))
        else:
            self._fail(body, reason)

    def _ask(self, body: Body, reason: str) -> None:
        def answered(answer: Message, sock: socket.socket | None) -> None:
            self._placed(body, reason, answer, sock)

        # The daemon must not think that we have links.
        self._placements.start_anew()
        try:
            self._placements.ask(body.departure, b"", answered)
        except OSError:
            self._fail(body, reason)

    def _placed(self, body: Body, reason: str, answer: Message, sock: socket.socket | None) -> None:
        departure = body.departure
        if body.deputy.status is not None:
            body.abandon()
            return
        if isinstance(answer, Error):
            self._again(body, reason)
            return
        node = os.fsdecode(answer.node) if isinstance(answer, Placed) else HOME
        if node == HOME:
            if departure.wish.node == LOCAL:
                self._fail(body, reason)
                return
            wish = departure.wish
            departure.wish = wish.on(LOCAL)
            self._ask(body, reason)
            return
        if sock is not None:
            self._links.adopt(node, sock)
        connection = self._links.to(node)
        if connection is None:
            self._again(body, reason)
            return
        departure.node = node
        assert departure.capture is not None

        def started(reply: Message) -> None:
            self._started(body, reason, connection, reply)

        recovery, last = self._recoveries[body.pid], departure.last
        if recovery is None or last is None:
            connection.start(departure.capture.spawn, departure.copies(), started)
            return
        try:
            spawn, fds = recovery.adapt_again(departure, last.names)
        except (CheckpointError, OSError) as error:
            say(f"{departure.name} cannot go on from its checkpoint: {error}")
            self._fail(body, reason)
        else:
            recovery.send(connection, spawn, fds, started)

    def _started(self, body: Body, reason: str, connection: Connection, reply: Message) -> None:
        if was_lost(reply):
            self._again(body, reason)
            return
        if not isinstance(reply, Spawned):
            self._fail(body, reason)
            return
        body.departure.connection = connection
        connection.bodies[body.pid] = body
        if self._recoveries.pop(body.pid) is None:
            body.restarted(connection.post)
            return
        last = body.departure.last
        assert last is not None
        names = last.names
        body.departure.rename(names)
        # Until the next one it can be had again from the same, by the names that are used now.
        last.names = {key: key for key in names}
        body.departure.last = last
        connection.post(Checkpointed(body.pid))
        connection.request(Resume(body.pid), lambda _: body.restarted(connection.post))

    def _fail(self, body: Body, reason: str) -> None:
        self._recoveries.pop(body.pid, None)
        body.lost, body.unseen, body.grown = reason, False, None
        self._failed(body)
