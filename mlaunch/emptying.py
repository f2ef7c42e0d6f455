"""Emptying: has all bodies of a node moved away, wherever is best, home at the worst.

Runs in the daemon: for `mlaunch expel`, and for a node whose agent has been told to end. Nothing is
sent to the node until it is done.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mlaunch.states import HOME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.balancing import Balancing
    from mlaunch.inventory import Member
    from mlaunch.journal import Journal, Record
    from mlaunch.moving import Moving, Outcome

# So many move at once: while one stands still the memory of others is on its way.
AT_ONCE = 4


class Emptying:
    """One node that is emptied."""

    def __init__(
        self,
        member: Member,
        journal: Journal,
        moving: Moving,
        balancing: Balancing,
        why: str,
        done: Callable[[list[Outcome]], None],
    ) -> None:
        """Begin; `done` gets what became of each body, once."""
        self._member = member
        self._journal = journal
        self._moving = moving
        self._balancing = balancing
        self._why = why
        self._done = done
        self._under_way = 0
        self._seen: set[Record] = set()
        self._outcomes: list[Outcome] = []
        self._begins = False
        member.emptied = True
        self._begin()

    def _begin(self) -> None:
        """Begin with as many as may move at once; end when there is nothing left to try."""
        if self._begins:
            return  # a move that ends at once: the loop below goes on
        self._begins = True
        while self._under_way < AT_ONCE:
            record = next((each for each in self._left() if each not in self._seen), None)
            if record is None:
                break
            self._seen.add(record)
            self._under_way += 1
            if record in self._moving.under_way:
                self._moving.afterwards(record, partial(self._move_if_there, record))
            else:
                self._move(record)
        self._begins = False
        if not self._under_way:
            self._member.emptied = False
            self._done(self._outcomes)

    def _move_if_there(self, record: Record) -> None:
        """Move one that was just being moved, perhaps away from here."""
        if record in self._left():
            self._move(record)
        else:
            self._under_way -= 1
            self._begin()

    def _move(self, record: Record) -> None:
        refuge = self._balancing.refuge_of(record)
        self._moving.move(record, refuge, self._why, self._ended, promptly=True)

    def _left(self) -> list[Record]:
        return [each for each in self._journal.bodies() if each.node == self._member.name]

    def _ended(self, outcome: Outcome) -> None:
        if outcome.error and not outcome.refused and outcome.target != HOME:
            # That node could not take it. Home can.
            self._moving.move(outcome.record, HOME, self._why, self._ended, promptly=True)
            return
        self._under_way -= 1
        # What has ended meanwhile has gone, too.
        if not outcome.error or outcome.record in self._left():
            self._outcomes.append(outcome)
        self._begin()
