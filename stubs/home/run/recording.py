"""Recording: what of the tree goes into which records, and when.

An mrun has records, and so has each inner mrun that asked for a file: a program is in those of all
the mruns that it runs under. Without such a file nothing is noted.
"""

from __future__ import annotations

import os
import time

from stubs.home.run.proc import read_strings
from stubs.home.run.record import (
    BRIEF_SECONDS,
    HOME,
    LOCAL,
    MOST_ARGUMENTS,
    MOVED,
    Migration,
    Record,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.body import Body
    from stubs.home.run.records import Records
    from stubs.home.run.tree import Task, Tree
    from stubs.wire.messages import Move, Moved


class Recording:
    """The records of one tree."""

    def __init__(self, tree: Tree) -> None:
        """Begin with none."""
        self._tree = tree
        self._used = False

    def attach(self, task: Task, records: Records | None) -> None:
        """Have records kept of a program for which an mrun was started, and of all below it.

        OSError when it has been killed.
        """
        if records is None or not records.wanted:
            return
        task.records = records
        records.argv = records.argv or read_strings(task.pid, "cmdline")
        self._used = True

    def _keepers(self, task: Task, at_home: bool) -> list[Records]:
        """Return the records in which a task belongs; at home most are of interest to stories."""
        if not self._used:
            return []
        tasks = [task, *self._tree.line(task)]
        return [
            each.records
            for each in tasks
            if each.records is not None and (each is task or not at_home or each.records.has_story)
        ]

    def _parent(self, task: Task) -> Record | None:
        return next((each.record for each in self._tree.line(task) if each.record), None)

    # at home

    def begin_at_home(self, task: Task, argv: list[bytes] | None, why: str) -> None:
        """Note that a program runs at home now; `argv` is read from /proc where it is None."""
        keepers = self._keepers(task, at_home=True)
        if not keepers:
            return
        if argv is None:
            try:
                argv = read_strings(task.pid, "cmdline")
            except OSError:
                return  # killed meanwhile
        most = task.records.most if task.records is not None else MOST_ARGUMENTS
        task.record = record = Record(task.pid, argv, HOME, why, most)
        record.parent = self._parent(task)
        for records in keepers:
            records.running[task.pid] = record
        if task.records is not None:
            task.records.program = record

    def replaced(self, task: Task) -> None:
        """Note that another program has taken the place of the one that ran at home."""
        if task.record is not None:
            task.record.ended = time.monotonic()
            self._keep(task, task.record)
            if task.records is not None:
                task.records.program = None

    def ended_at_home(self, task: Task, status: int, cpu_s: float, maxrss_kib: int) -> None:
        """Note the end of a program at home; `cpu_s` is that of its children, too."""
        if task.record is not None:
            own_s = max(0.0, cpu_s - task.children_cpu_s)
            task.record.end_at_home(status, cpu_s, own_s, maxrss_kib)
            self._keep(task, task.record)

    def _keep(self, task: Task, record: Record) -> None:
        assert record.ended is not None
        task.record = None
        brief = record.ended - record.began < BRIEF_SECONDS
        for records in self._keepers(task, at_home=True):
            # An inner mrun may have begun to keep records after this one had begun.
            known = records.running.pop(task.pid, None)
            if known is not None and not (brief and records.program is not record):
                records.all.append(record)

    # away

    def left_home(self, task: Task, body: Body) -> None:
        """Note that a program which ran at home is a body from now on."""
        record, task.record = task.record, None
        if record is None:
            return
        body.stays.insert(0, (HOME, record.began, time.monotonic(), MOVED))
        for records in self._keepers(task, at_home=True):
            records.running.pop(task.pid, None)
        if task.records is not None:
            task.records.program = None

    def body_moved(self, body: Body, former: str, move: Move, moved: Moved) -> None:
        """Note a move that the daemon has ordered, and what it cost."""
        target = os.fsdecode(move.node)
        source, target = (HOME if node == LOCAL else node for node in (former, target))
        why = move.why.decode(errors="replace")
        freeze_ms = moved.frozen_us / 1000
        body.migrations.append(Migration(source, target, why, freeze_ms, moved.bytes))

    def body_ended(self, body: Body) -> None:
        """Note the end of a body, or that it was lost for good."""
        task = body.departure.task
        keepers = self._keepers(task, at_home=False)
        if not keepers:
            return
        most = 0 if any(records.most == 0 for records in keepers) else MOST_ARGUMENTS
        record = _of_body(body, most)
        record.parent = self._parent(task)
        for records in keepers:
            records.all.append(record)

    # the end

    def finish(self, task: Task, status: int) -> None:
        """Write the files of an inner mrun whose program has ended."""
        if task.records is not None and task.parent is not None:
            task.records.write(status)


def _of_body(body: Body, most: int) -> Record:
    """Return the record of a body that has ended, or was lost."""
    departure = body.departure
    record = Record(body.pid, departure.program.argv, departure.node, departure.reason, most)
    record.is_away = True
    record.migrations = tuple(body.migrations)
    stays = list(body.stays)
    if body.arrived:
        record.began, record.ended = body.arrived, time.monotonic()
    else:
        # Lost, and no other node was found: that stay was its last.
        record.node, record.began, record.ended, _ = stays.pop()
    record.wall_s = body.wall_s
    record.departure_s = body.began - departure.began
    record.restarts = departure.restarts
    record.stays = tuple(stays)
    if record.migrations:
        # What has come home runs on the embedded node.
        record.node = _place(record.node)
        record.stays = tuple((_place(stay[0]), *stay[1:]) for stay in stays)
    exited = body.exited
    # Of a lost one it will never be known what it used.
    if exited is not None:
        record.status = exited.status
        record.cpu_s = record.own_s = (exited.utime_us + exited.stime_us) / 1e6
        record.maxrss_kib = exited.maxrss_kib
        record.round_trips = exited.round_trips
        record.bytes_to_node = exited.bytes_to_node
        record.bytes_to_home = exited.bytes_to_home
    return record


def _place(node: str) -> str:
    return HOME if node == LOCAL else node
