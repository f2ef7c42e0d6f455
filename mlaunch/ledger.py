"""The ledger: programs of ours that run at this moment, where, and what they turn out to cost.

Runs in the daemon. Every program that an mrun has asked about is entered when it is placed, and
struck out when it ends: its slot is free then, and its profile knows one run more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mlaunch.profiles import HOME, NODE, Profile, Profiles, Sample
from mlaunch.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaunch.slots import Slots
    from stubs.wire.messages import Ended


class Entry(NamedTuple):
    """A program that runs; `speed` of a CPU there, relative to one of home's.

    `service` is what of a CPU of home's goes with it while it runs, beside what it computes.
    `holds` are the executables whose files are on its node; None at home. One that has moved had
    used `counted_us` of CPU time by then, which were `before_s` seconds of home's CPU. `occupies`:
    it was not expected to need the slot that it has.
    """

    owner: object
    exe: str
    argv: Sequence[str]
    slots: Slots | None
    speed: float
    holds: set[str] | None = None
    cold: bool = False
    service: float = 0.0
    counted_us: int = 0
    before_s: float = 0.0
    occupies: bool = False

    def home_s(self, cpu_us: int) -> float:
        """Return how many seconds of home's CPU that CPU time is, wherever it was used."""
        return self.before_s + max(0, cpu_us - self.counted_us) * self.speed / 1e6


class Ledger:
    """Entries by pid, and the profiles."""

    def __init__(self) -> None:
        """Read the profiles there are."""
        self.profiles = Profiles()
        self.service = Service()  # of all entries
        self._entries: dict[int, Entry] = {}

    def lookup(self, exe: str, argv: Sequence[str]) -> Profile | None:
        """Return what is known of such programs."""
        return self.profiles.lookup(exe, argv)

    def enter(self, pid: int, entry: Entry, cpu_s: float) -> None:
        """Note a program that begins; it takes one of `entry.slots`, if any, for about `cpu_s`."""
        self.strike(pid)
        self._entries[pid] = entry
        self.service.foretold += entry.service
        if entry.slots is not None:
            entry.slots.take(pid, cpu_s, time.monotonic())

    def move(
        self, pid: int, slots: Slots | None, speed: float, holds: set[str] | None, cpu_us: int
    ) -> None:
        """Note that a program runs elsewhere from now on, having used `cpu_us` of CPU time.

        What it has yet to do is as much as it has done, or what is left of what was expected.
        """
        entry = self._entries.get(pid)
        if entry is None:
            return
        before_s = entry.home_s(cpu_us)
        now = time.monotonic()
        left_s = before_s
        if entry.slots is not None:
            left_s = max(left_s, entry.slots.left_s(pid, now))
            entry.slots.free(pid, now)
        if slots is not None:
            slots.take(pid, left_s, now)
        # What its files cost there is no more what they would have cost from the start.
        self._entries[pid] = entry._replace(
            slots=slots,
            speed=speed,
            holds=holds,
            cold=True,
            counted_us=cpu_us,
            before_s=before_s,
            occupies=False,
        )

    def used_s(self, pid: int, cpu_us: int) -> float:
        """Return how many seconds of home's CPU that CPU time of a program is."""
        entry = self._entries.get(pid)
        return entry.home_s(cpu_us) if entry is not None else cpu_us / 1e6

    def occupy(self, pid: int, slots: Slots, cpu_s: float) -> None:
        """Have a program take a slot that was not expected to need one."""
        entry = self._entries.get(pid)
        if entry is not None and entry.slots is None:
            self._entries[pid] = entry._replace(slots=slots, occupies=True)
            slots.take(pid, cpu_s, time.monotonic())

    def vacate(self, pid: int) -> None:
        """Have a program that `occupies` a slot do so no more."""
        entry = self._entries.get(pid)
        if entry is not None and entry.occupies and entry.slots is not None:
            entry.slots.free(pid, time.monotonic())
            self._entries[pid] = entry._replace(slots=None, occupies=False)

    def computed(self, pid: int) -> None:
        """Note that a program needs its slot no more, though it has yet to end."""
        entry = self._entries.get(pid)
        if entry is not None and entry.slots is not None:
            entry.slots.free(pid, time.monotonic())

    def strike(self, pid: int) -> Entry | None:
        """Note that a program runs no more, or not there; return what it was."""
        entry = self._entries.pop(pid, None)
        if entry is not None:
            self.service.foretold -= entry.service
            if not self._entries:
                self.service.foretold = 0.0  # not what rounding has left
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
        if not ended.away and entry.slots is not None:
            self.service.ended(ended.cpu_us / 1e6)
        if ended.away and entry.holds is not None:
            entry.holds.add(entry.exe)
        self.profiles.learn(
            entry.exe,
            entry.argv,
            Sample(
                where=NODE if ended.away else HOME,
                cpu_s=entry.home_s(ended.cpu_us),
                wall_s=ended.wall_us / 1e6,
                maxrss_kib=ended.maxrss_kib,
                children=ended.children,
                peak_children=ended.peak,
                round_trips=ended.round_trips,
                bytes_to_node=ended.bytes_to_node,
                bytes_to_home=ended.bytes_to_home,
                own_cpu_s=-1.0 if ended.away else entry.home_s(ended.own_us),
                cold=entry.cold,
            ),
        )
