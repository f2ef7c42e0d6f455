"""What `mlaunch migrate`, `expel`, `bring`, `freeze`, `continue` and `checkpoint` ask the daemon.

    {"do": "migrate", "pid", "node"}    to a node, "home", or "auto": wherever is best
    {"do": "checkpoint", "pid", "path"}
    {"do": "programs", "pid"}           which programs that pid stands for: "programs", their pids,
                                        and "mruns", those of which the program is one of them

The first two answer with "outcomes", one for each program: pid, name, from, to, error (empty: it
has moved), frozen_ms, wall_ms, bytes, path. Runs in the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlaunch.errors import LaunchError
from mlaunch.inventory import LOCAL
from mlaunch.states import HOME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.inventory import Inventory
    from mlaunch.journal import Record
    from mlaunch.moving import Moving, Outcome

    Answer = Callable[[dict[str, Any]], None]
    Done = Callable[[Outcome], None]

BY_THE_USER = "asked for"


class MovingQuestions:
    """Answers who asks for a move."""

    def __init__(self, moving: Moving, inventory: Inventory) -> None:
        """Have the moves made by `moving`."""
        self._moving = moving
        self._inventory = inventory
        self.answers = {
            "migrate": self._migrate,
            "checkpoint": self._checkpoint,
            "programs": self._programs,
        }

    def _migrate(self, question: dict[str, Any], answer: Answer) -> None:
        records, node = self._moving.named(int(question["pid"])), str(question["node"])
        node = HOME if node == LOCAL.name and self._inventory.members else node
        if node != HOME and self._inventory.find(node) is None:
            raise self._inventory.unknown(node)
        _each(
            records, answer, lambda record, done: self._moving.move(record, node, BY_THE_USER, done)
        )

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
