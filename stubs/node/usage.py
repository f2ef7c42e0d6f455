"""What the bodies of one home use of this node, measured when home asks and never else.

One pass over the capsule's /proc, whatever the number of bodies: some 30 us for each process.
"""

from __future__ import annotations

import os

from stubs.wire.codec import Usage
from stubs.wire.messages import Measure, Measured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stubs.link.endpoint import Handler, Link
    from stubs.node.capsule.capsule import Capsule
    from stubs.node.capsule.processes import Process
    from stubs.node.guests import Guests
    from stubs.node.view.traffic import Traffic
    from stubs.wire.codec import Message

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") >> 10


class Meter:
    """Answers Measure."""

    def __init__(self, link: Link, capsule: Capsule, guests: Guests, traffic: Traffic) -> None:
        """Look at `guests`, whose processes are in `capsule`."""
        self._link = link
        self._capsule = capsule
        self._guests = guests
        self._traffic = traffic

    def handlers(self) -> dict[type[Message], Handler]:
        """Return who takes which message of home's."""
        return {Measure: lambda message, tag, fds: self._measure(tag)}

    def _measure(self, tag: int) -> None:
        def counted(processes: list[Process]) -> None:
            rows = by_body(processes, self._guests.running, self._traffic.body)
            usages = [
                self._with_all(Usage._make((*row, *self._traffic.of(row[0])))) for row in rows
            ]
            self._link.reply(tag, Measured(0, 0, usages))

        self._capsule.census(counted)

    def _with_all(self, usage: Usage) -> Usage:
        """Add what a body has used on nodes where it was before."""
        guest = self._guests.find(usage.body)
        return usage._replace(cpu_us=usage.cpu_us + guest.cpu_us) if guest is not None else usage


def by_body(
    processes: Iterable[Process], bodies: dict[int, int], known: Callable[[int], int]
) -> list[tuple[int, ...]]:
    """Return the first six fields of Usage for each of `bodies` (by pid) that lives.

    `known` tells whose a process has been seen to be, 0 if not: that of a process whose parent has
    ended cannot be told from /proc.
    """
    table = {process.pid: process for process in processes}
    owners = dict(bodies)
    sums = {body: [0, 0, 0, 0] for pid, body in bodies.items() if pid in table}
    for pid, process in table.items():
        total = sums.get(_owner(pid, table, owners, known))
        if total is not None:
            total[0] += process.ticks * _TICK_US
            total[1] += process.rss * _PAGE_KIB
            total[2] += 1
            total[3] += process.threads
    return [
        (body, table[pid].state[0], *sums[body])
        for pid, body in bodies.items()
        if pid in table and not _has_ended(table[pid])
    ]


def _has_ended(process: Process) -> bool:
    """Tell whether nothing of it runs any more, though its end may not have been told yet."""
    return process.exiting and process.threads <= 1


def _owner(
    pid: int, table: dict[int, Process], owners: dict[int, int], known: Callable[[int], int]
) -> int:
    """Return the body that a process belongs to, 0 if to none, and note it for all its line."""
    line = []
    while pid not in owners and pid in table:
        line.append(pid)
        owners[pid] = 0  # what was read at different moments could look like a loop
        pid = table[pid].ppid
    owner = owners.get(pid, 0)
    for each in reversed(line):
        owner = owners[each] = owner or known(each)
    return owner
