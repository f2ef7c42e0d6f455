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
from stubs.wire.messages import (
    HOW_LIVELY,
    HOW_PROMPTLY,
    HOW_ZSTD,
    CanMove,
    Error,
    Move,
    Moved,
    Reasons,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.inventory import Inventory, Member
    from mlaunch.placing import Placing
    from stubs.wire.codec import Message

    Done = Callable[["Outcome"], None]
    # Connects members and calls when it is known how they are, or after a while (seconds).
    WhenConnected = Callable[[list[Member], float, Callable[[], None]], None]

# A node to which somebody wants to move a program is worth its connection time-out.
CONNECT_S = 12.0

_ENDED = "it has ended"

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Outcome(NamedTuple):
    """What became of a move; `error` is empty when it has succeeded. `path` of a checkpoint.

    `refused`: it is the program that cannot be moved, says its mrun.
    """

    record: Record
    source: str
    target: str
    error: str = ""
    frozen_us: int = 0
    wall_us: int = 0
    bytes: int = 0
    path: str = ""
    refused: bool = False

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


class _Attempt:
    """A move, or a checkpoint, from the wish to the outcome."""

    def __init__(
        self, record: Record, target: str, why: str, path: str, done: Done, how: int = HOW_LIVELY
    ) -> None:
        """Note where the program is now."""
        self.record = record
        self.source = record.place
        self.target = target
        self.why = why
        self.path = path
        self.done = done
        self.how = how

    def outcome(
        self, reply: Moved | None = None, error: str = "", refused: bool = False
    ) -> Outcome:
        """Return what became of it."""
        numbers = (reply.frozen_us, reply.wall_us, reply.bytes) if reply else (0, 0, 0)
        record, source, target = self.record, self.source, self.target
        return Outcome(record, source, target, error, *numbers, self.path, refused)

    def fail(self, error: str) -> None:
        """Say that nothing was begun."""
        self.done(self.outcome(error=error))


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
        self._waiting: dict[Record, list[Callable[[], None]]] = {}
        # Called with the outcome of whatever was under way, whoever has asked for it.
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

    def move(
        self, record: Record, target: str, why: str, done: Done, promptly: bool = False
    ) -> None:
        """Move a program to a node, or HOME; `done` is called once.

        `promptly`: that it is soon away matters more than for how long it stands still.
        """
        how = HOW_LIVELY | (HOW_PROMPTLY if promptly else 0)
        attempt = _Attempt(record, target, why, "", done, how)
        member = self._inventory.find(LOCAL.name if target == HOME else target)
        if target == record.place or (target == HOME and record.node == LOCAL.name):
            attempt.fail(f"it is {_where(target)} already")
        elif member is None:
            attempt.fail(f"no node {target}")
        elif self._begin(attempt):
            self._when_connected([member], CONNECT_S, lambda: self._send(attempt, member))

    def checkpoint(self, record: Record, path: str, done: Done) -> None:
        """Have the image of a program written to a file at home; it goes on where it is."""
        attempt = _Attempt(record, record.place, "checkpoint", path, done)
        if self._begin(attempt):
            node = record.node.encode()
            self._request(
                attempt, Move(record.pid, node, b"checkpoint", attempt.how, os.fsencode(path))
            )

    def afterwards(self, record: Record, then: Callable[[], None]) -> None:
        """Call `then` when what is under way with a program has come to an end."""
        self._waiting.setdefault(record, []).append(then)

    def ask_reasons(self, record: Record, then: Callable[[Reasons | None], None]) -> None:
        """Ask the node of a body what keeps it from moving; None: it does not tell."""
        member = self._inventory.find(record.node)
        if member is None or member.link is None or not member.ready:
            then(None)
            return
        member.link.request(
            CanMove(record.pid), lambda reply: then(reply if isinstance(reply, Reasons) else None)
        )

    def _begin(self, attempt: _Attempt) -> bool:
        """Note that it is under way, unless another one is."""
        before = self.under_way.get(attempt.record)
        if before is not None:
            attempt.fail(f"it is being moved {_to(before)} just now")
            return False
        self.under_way[attempt.record] = attempt.target
        return True

    def _end(self, attempt: _Attempt, outcome: Outcome) -> None:
        del self.under_way[attempt.record]
        if outcome.error and not attempt.path:
            self._journal.not_moved(attempt.record, attempt.target, outcome.error)
        self.on_outcome(outcome)
        attempt.done(outcome)
        for then in self._waiting.pop(attempt.record, []):
            then()

    def _send(self, attempt: _Attempt, member: Member) -> None:
        """Ask the mrun, now that the node can be used, if it can."""
        record = attempt.record
        client = self._client(record)
        if member.problem:
            error = f"{member.name} cannot be used: {member.problem}"
            self._end(attempt, attempt.outcome(error=error))
            return
        fds = self._placing.attach(client, member, record.pid) if client is not None else []
        how = attempt.how | (HOW_ZSTD if member.facts.get("zstd") else 0)
        message = Move(record.pid, member.name.encode(), attempt.why.encode(), how, b"")
        self._request(attempt, message, fds, member)

    def _request(
        self,
        attempt: _Attempt,
        message: Move,
        fds: list[int] | None = None,
        member: Member | None = None,
    ) -> None:
        """Have its mrun do it; `member` is where it will be then, None: where it is."""

        def answered(reply: Message) -> None:
            if isinstance(reply, Moved):
                if member is not None:
                    self._placing.moved(record.pid, member, cpu_us(record))
                    self._journal.moved(
                        record, member.name, attempt.why, reply.frozen_us, reply.bytes
                    )
                outcome = attempt.outcome(reply)
            else:
                text = plain(reply.text) if isinstance(reply, Error) else ""
                if self._client(record) is None:
                    text = _ENDED  # its mrun has, without an answer
                outcome = attempt.outcome(error=text or os.strerror(errno.EIO), refused=True)
            self._end(attempt, outcome)

        record = attempt.record
        client = self._client(record)
        if client is None:
            self._end(attempt, attempt.outcome(error=_ENDED))
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
