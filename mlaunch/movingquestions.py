"""What `mlaunch migrate`, `expel`, `bring`, `freeze`, `continue` and `checkpoint` ask the daemon.

    {"do": "migrate", "pid", "node"}    to a node, "home", or "auto": wherever is best
    {"do": "expel", "node"}             all bodies of a node, wherever is best
    {"do": "checkpoint", "pid", "path"}
    {"do": "programs", "pid"}           which programs that pid stands for: "programs", their pids,
                                        and "mruns", those of which the program is one of them

The first three answer with "outcomes", one for each program: pid, name, from, to, error (empty: it
has moved, or is where it is best: from is to), frozen_ms, wall_ms, bytes, path. Runs in the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlaunch.emptying import Emptying
from mlaunch.errors import LaunchError
from mlaunch.inventory import LOCAL
from mlaunch.moving import Outcome
from mlaunch.states import HOME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.balancing import Balancing
    from mlaunch.inventory import Inventory, Member
    from mlaunch.journal import Journal, Record
    from mlaunch.moving import Moving

    Answer = Callable[[dict[str, Any]], None]
    Done = Callable[[Outcome], None]

AUTO = "auto"
BY_THE_USER = "asked for"


class MovingQuestions:
    """Answers who asks for a move."""

    def __init__(
        self, moving: Moving, inventory: Inventory, journal: Journal, balancing: Balancing
    ) -> None:
        """Have the moves made by `moving`, and see to nodes that are about to end."""
        self._moving = moving
        self._inventory = inventory
        self._journal = journal
        self._balancing = balancing
        inventory.on_leaving = self._leaving
        self.answers = {
            "migrate": self._migrate,
            "expel": self._expel,
            "checkpoint": self._checkpoint,
            "programs": self._programs,
        }

    def _migrate(self, question: dict[str, Any], answer: Answer) -> None:
        records, node = self._moving.named(int(question["pid"])), str(question["node"])
        if node == LOCAL.name and self._inventory.members:
            node = HOME
        if node not in (HOME, AUTO) and self._inventory.find(node) is None:
            raise self._inventory.unknown(node)

        def begin(record: Record, done: Done) -> None:
            target = self._balancing.best_for(record) if node == AUTO else node
            if node == AUTO and target == record.place:
                done(Outcome(record, target, target))
            else:
                self._moving.move(record, target, BY_THE_USER, done)

        _each(records, answer, begin)

    def _expel(self, question: dict[str, Any], answer: Answer) -> None:
        member = self._inventory.find(str(question["node"]))
        if member is None:
            raise self._inventory.unknown(str(question["node"]))
        if member.emptied:
            raise LaunchError(f"{member.name} is being emptied already", exit_code=1)
        self._empty(
            member,
            f"{member.name} is to be empty",
            lambda outcomes: answer({"outcomes": [each.told() for each in outcomes]}),
        )

    def _leaving(self, member: Member) -> None:
        if not member.emptied:
            self._empty(member, f"{member.name} is shutting down", lambda outcomes: None)

    def _empty(self, member: Member, why: str, done: Callable[[list[Outcome]], None]) -> None:
        Emptying(member, self._journal, self._moving, self._balancing, why, done)

    def _checkpoint(self, question: dict[str, Any], answer: Answer) -> None:
        pid, path = int(question["pid"]), str(question["path"])
        records = self._moving.named(pid)
        if len(records) > 1:
            pids = ", ".join(str(record.pid) for record in records)
            raise LaunchError(f"mrun {pid} has more than one body", f"one of {pids}", 1)
        _each(records, answer, lambda record, done: self._moving.checkpoint(record, path, done))

    def _programs(self, question: dict[str, Any], answer: Answer) -> None:
        records = self._moving.named(int(question["pid"]))
        mruns = {record.mrun.pid for record in records if record.top}
        answer({"programs": [record.pid for record in records], "mruns": sorted(mruns)})


def _each(records: list[Record], answer: Answer, begin: Callable[[Record, Done], None]) -> None:
    """Begin with each at once; answer when all have come to an end."""
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == len(records):
            answer({"outcomes": [each.told() for each in outcomes]})

    for record in records:
        begin(record, done)
