"""Gauges: what programs that run use at this moment, as balancing wants to know it.

Runs in the daemon. Of bodies it is what their nodes have measured, of programs at home what /proc
says of them without their children.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlaunch.balancer import Running
from mlaunch.local import NAME as LOCAL
from mlaunch.states import HOME, Program
from mlaunch.tools import SHELLS, tool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlaunch.journal import Record
    from mlaunch.ledger import Ledger

# The part of a new measurement in what is believed.
NEW = 0.5
# A starter that has computed for so long (seconds of home's CPU) without a child is a program like
# any other. Before, it reads makefiles or collects tests; where it went its children would all be.
STARTS_WITHIN_S = 10.0

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Reading:
    """Two measurements of one program, and what came of them."""

    def __init__(self, used_s: float, at: float, round_trips: int) -> None:
        """Begin with the first one."""
        self.used_s = used_s
        self.at = at
        self.round_trips = round_trips
        self.demand = -1.0  # not known yet
        self.trips = 0.0

    def take(self, used_s: float, at: float, round_trips: int, runs: bool, rate: float) -> None:
        """Take a new one; `rate` is its CPU time a second if there was none before."""
        passed, used = at - self.at, used_s - self.used_s
        if passed > 0:
            rate = max(0.0, used / passed)
        # What shares a CPU would use more than it gets.
        demand = max(rate, float(runs))
        self.demand = demand if self.demand < 0 else self.demand + NEW * (demand - self.demand)
        if used > 0:
            self.trips += NEW * (max(0, round_trips - self.round_trips) / used - self.trips)
        self.used_s, self.at, self.round_trips = used_s, at, round_trips


class Gauges:
    """Readings by record."""

    def __init__(self, ledger: Ledger) -> None:
        """Reckon CPU time as `ledger` does."""
        self._ledger = ledger
        self._readings: dict[Record, _Reading] = {}

    def read(self, records: Iterable[Record], now: float) -> list[Running]:
        """Return what can be said of them at `now`, in seconds since 1970."""
        found = {record: self._one(record, now) for record in records}
        self._readings = {
            record: reading for record, reading in self._readings.items() if found.get(record)
        }
        return [running for running in found.values() if running is not None]

    def _one(self, record: Record, now: float) -> Running | None:
        usage = record.usage
        if record.away:
            cpu_us = usage.cpu_us if usage is not None else 0
            memory = usage.rss_kib << 10 if usage is not None else 0
            trips = usage.round_trips if usage is not None else 0
            state, at = (
                chr(usage.state) if usage is not None else "R",
                record.measured_at or record.at,
            )
            tied = bool(record.lost) or record.again
        else:
            seen = _at_home(record.pid)
            if seen is None:
                return None
            state, cpu_us, memory = seen
            trips, at = 0, now
            program = record.decision.program
            # What it has started is with it, or has to be.
            tied = bool(program.stays and not program.starter) or _has_children(record.pid)
        used_s = self._ledger.used_s(record.pid, cpu_us)
        tied = tied or (not record.away and used_s < STARTS_WITHIN_S and _will_start(record))
        reading = self._readings.get(record)
        if reading is None:
            reading = self._readings[record] = _Reading(used_s, at, trips)
        age = max(1e-3, now - record.at)
        if reading.demand < 0 or at > reading.at:
            reading.take(used_s, at, trips, state == "R", used_s / age)
        # A starter that the user typed, and that computes itself, is a program like any other.
        expected_s = max(record.decision.program.cpu_s, Program().cpu_s if record.top else 0.0)
        return Running(
            record.pid,
            HOME if record.node == LOCAL else record.node,
            reading.demand,
            used_s,
            max(expected_s - used_s, used_s),
            memory,
            reading.trips,
            tied or record.stay or state in "TtZX",
            record.only,
        )


def _at_home(pid: int) -> tuple[str, int, int] | None:
    """Return state, CPU time (us) and memory (bytes) of a process, without its children."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None  # it has just ended
    ticks = int(fields[11]) + int(fields[12])
    return fields[0].decode(), ticks * 1_000_000 // _TICKS, int(fields[21]) * _PAGE


def _will_start(record: Record) -> bool:
    """Tell whether a program is to start others sooner or later; a shell's script may just loop."""
    starter = record.decision.program.starter
    return starter and tool(record.exe, record.argv) not in SHELLS


def _has_children(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False  # it has just ended, or the kernel does not tell: mrun will know
