"""Moving: has mruns move their programs, one at a time each, and notes what became of it.

Runs in the daemon. The mrun of a program conducts its move (`Move`, stubs.wire.messages.moving);
it answers when the program runs elsewhere, or why it runs on where it was. Who asks for a move
gets an Outcome, whatever happens.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from mlaunch.errors import LaunchError, plain
from mlaunch.inventory import LOCAL
from mlaunch.journal import Record
from mlaunch.states import HOME
from stubs.link.endpoint import Endpoint
from stubs.node.capsule.processes import read_process
from stubs.wire.messages import Error, Move, Moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.inventory import Inventory, Member
    from mlaunch.placing import Placing
    from stubs.wire.codec import Message

    # Connects members and calls when it is known how they are, or after a while (seconds).
    WhenConnected = Callable[[list[Member], float, Callable[[], None]], None]

# A node to which somebody wants to move a program is worth its connection time-out.
CONNECT_S = 12.0

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Outcome(NamedTuple):
    """What became of a move; `error` is empty when it has succeeded. `path` of a checkpoint."""

    record: Record
    source: str
    target: str
    error: str = ""
    frozen_us: int = 0
    wall_us: int = 0
    bytes: int = 0
    path: str = ""

    def told(self) -> dict[str, Any]:
        """Return it as the mlaunch command gets it."""
        argv = self.record.argv
        return {
            "pid": self.record.pid,
            "name": os.path.basename((argv[0] if argv else "") or self.record.exe),
            "from": self.source,
            "to": self.target,
            "error": self.error,
            "frozen_ms": self.frozen_us / 1000,
            "wall_ms": self.wall_us / 1000,
            "bytes": self.bytes,
            "path": self.path,
        }


class Moving:
    """The moves under way."""

    def __init__(
        self, placing: Placing, inventory: Inventory, when_connected: WhenConnected
    ) -> None:
        """Move what `placing` has placed."""
        self._placing = placing
        self._journal = placing.journal
        self._inventory = inventory
        self._when_connected = when_connected
        self.under_way: dict[Record, str] = {}  # where to
        # Called with each outcome, by whomever the move was asked for.
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None

    def named(self, pid: int) -> list[Record]:
        """Return the program of that pid, or all bodies of the mrun of that pid.

        Of an mrun that has no body, the program that it was started for. LaunchError when there
        is nothing.
        """
        journal = self._journal
        record = journal.running.get(pid)
        if record is not None:
            return [record]
        mrun = journal.mrun(pid)
        found = [record for record in journal.bodies() if record.mrun is mrun]
        if mrun is not None and not found and mrun.top is not None:
            found = [each for each in journal.running.values() if each is mrun.top]
        if not found:
            text = f"no program of pid {pid} is known"
            hint = "what runs: mlaunch ps --all"
            if mrun is not None:
                text, hint = f"mrun {pid} has no program that could move", ""
            raise LaunchError(text, hint, 1)
        return found

    def move(self, record: Record, target: str, why: str, done: Callable[[Outcome], None]) -> None:
        """Move a program to a node, or HOME; `done` is called once."""
        finish = self._finisher(record, target, done)
        if target == record.place or (target == HOME and record.node == LOCAL.name):
            finish(error=f"it is {_where(target)} already")
            return
        member = self._inventory.find(LOCAL.name if target == HOME else target)
        if member is None:
            finish(error=f"no node {target}")
        elif record in self.under_way:
            finish(error=f"it is being moved {_to(self.under_way[record])} just now")
        else:
            self.under_way[record] = target
            self._when_connected(
                [member], CONNECT_S, lambda: self._send(record, member, why, finish)
            )

    def checkpoint(self, record: Record, path: str, done: Callable[[Outcome], None]) -> None:
        """Have the image of a program written to a file at home; it goes on where it is."""
        finish = self._finisher(record, record.place, done, path)
        if record in self.under_way:
            finish(error=f"it is being moved {_to(self.under_way[record])} just now")
            return
        self.under_way[record] = record.place
        node = record.node.encode()
        self._request(record, Move(record.pid, node, b"checkpoint", 1, os.fsencode(path)), finish)

    def _finisher(
        self, record: Record, target: str, done: Callable[[Outcome], None], path: str = ""
    ) -> Callable[..., None]:
        source = record.place

        def finish(moved: Moved | None = None, error: str = "") -> None:
            numbers = (moved.frozen_us, moved.wall_us, moved.bytes) if moved else (0, 0, 0)
            outcome = Outcome(record, source, target, error, *numbers, path)
            if error and not path:
                self._journal.not_moved(record, target, error)
            self.on_outcome(outcome)
            done(outcome)

        return finish

    def _send(self, record: Record, member: Member, why: str, finish: Callable[..., None]) -> None:
        """Ask the mrun, now that the node can be used, if it can."""
        if member.problem:
            del self.under_way[record]
            finish(error=f"{member.name} cannot be used: {member.problem}")
            return
        client = self._client(record)
        fds = self._placing.attach(client, member, record.pid) if client is not None else []

        def moved(reply: Moved) -> None:
            self._placing.moved(record.pid, member, cpu_us(record))
            self._journal.moved(record, member.name, why, reply.frozen_us, reply.bytes)

        # What waits for its first bytes to be read need not be sent while it runs; mrun knows.
        message = Move(record.pid, member.name.encode(), why.encode(), 1, b"")
        self._request(record, message, finish, fds, moved)

    def _request(
        self,
        record: Record,
        message: Move,
        finish: Callable[..., None],
        fds: list[int] | None = None,
        moved: Callable[[Moved], None] = lambda reply: None,
    ) -> None:
        def answered(reply: Message) -> None:
            self.under_way.pop(record, None)
            if isinstance(reply, Moved):
                moved(reply)
                finish(reply)
            else:
                text = plain(reply.text) if isinstance(reply, Error) else "no answer"
                finish(error=text or os.strerror(errno.EIO))

        client = self._client(record)
        if client is None:
            self.under_way.pop(record, None)
            finish(error="it has ended")
        else:
            client.request(message, answered, fds)
            client.flush()

    def _client(self, record: Record) -> Endpoint | None:
        """Return the connection of its mrun, if it still runs."""
        client = record.client
        return client if isinstance(client, Endpoint) and client.lost is None else None


def cpu_us(record: Record) -> int:
    """Return how much CPU time a program has used, as last measured."""
    if record.usage is not None:
        return record.usage.cpu_us
    process = read_process(record.pid) if not record.away else None
    return process.ticks * _TICK_US if process is not None else 0


def _where(place: str) -> str:
    return "at home" if place == HOME else f"on {place}"


def _to(place: str) -> str:
    return "home" if place == HOME else f"to {place}"
