"""The ledger: programs of ours that run at this moment, where, and what they turn out to cost.

Runs in the daemon. Every program that an mrun has asked about is entered when it is placed, and
struck out when it ends: its slot is free then, and its profile knows one run more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mlaunch.profiles import HOME, NODE, Profile, Profiles, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaunch.slots import Slots
    from stubs.wire.messages import Ended


class Entry(NamedTuple):
    """A program that runs; `speed` of a CPU there, relative to one of home's.

    `service` is what of a CPU of home's goes with it while it runs, beside what it computes.
    `holds` are the executables whose files are on its node; None at home.
    """

    owner: object
    exe: str
    argv: Sequence[str]
    slots: Slots | None
    speed: float
    holds: set[str] | None = None
    cold: bool = False
    service: float = 0.0


class Ledger:
    """Entries by pid, and the profiles."""

    def __init__(self) -> None:
        """Read the profiles there are."""
        self.profiles = Profiles()
        self.service = 0.0  # of all entries, in CPUs
        self._entries: dict[int, Entry] = {}

    def lookup(self, exe: str, argv: Sequence[str]) -> Profile | None:
        """Return what is known of such programs."""
        return self.profiles.lookup(exe, argv)

    def enter(self, pid: int, entry: Entry, cpu_s: float) -> None:
        """Note a program that begins; it takes one of `entry.slots`, if any, for about `cpu_s`."""
        self.strike(pid)
        self._entries[pid] = entry
        self.service += entry.service
        if entry.slots is not None:
            entry.slots.take(pid, cpu_s, time.monotonic())

    def computed(self, pid: int) -> None:
        """Note that a program needs its slot no more, though it has yet to end."""
        entry = self._entries.get(pid)
        if entry is not None and entry.slots is not None:
            entry.slots.free(pid, time.monotonic())

    def strike(self, pid: int) -> Entry | None:
        """Note that a program runs no more, or not there; return what it was."""
        entry = self._entries.pop(pid, None)
        if entry is not None:
            self.service = self.service - entry.service if self._entries else 0.0
            if entry.slots is not None:
                entry.slots.free(pid, time.monotonic())
        return entry

    def strike_all(self, owner: object) -> None:
        """Strike out the programs of an mrun that has gone."""
        for pid in [pid for pid, entry in self._entries.items() if entry.owner is owner]:
            self.strike(pid)

    def ended(self, ended: Ended) -> None:
        """Learn from a program that has ended."""
        entry = self.strike(ended.pid)
        if entry is None or not ended.wall_us:
            return  # it never ran where it was sent
        seconds = entry.speed / 1e6
        if ended.away and entry.holds is not None:
            entry.holds.add(entry.exe)
        self.profiles.learn(
            entry.exe,
            entry.argv,
            Sample(
                where=NODE if ended.away else HOME,
                cpu_s=ended.cpu_us * seconds,
                wall_s=ended.wall_us / 1e6,
                maxrss_kib=ended.maxrss_kib,
                children=ended.children,
                peak_children=ended.peak,
                round_trips=ended.round_trips,
                bytes_to_node=ended.bytes_to_node,
                bytes_to_home=ended.bytes_to_home,
                own_cpu_s=-1.0 if ended.away else ended.own_us * seconds,
                cold=entry.cold,
            ),
        )
