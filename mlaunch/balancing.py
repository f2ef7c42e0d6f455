"""Balancing: once a second, whether a program that runs should move, and has it moved.

Runs in the daemon. What should move is decided in mlaunch.balancer; this looks, and does it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlaunch.balancer import LEAST_LEFT_S, Balancer, Running, best_refuge, better, loads_of
from mlaunch.gauges import Gauges
from mlaunch.local import NAME as LOCAL
from mlaunch.states import HOME

if TYPE_CHECKING:
    from mlaunch.balancer import Site
    from mlaunch.inventory import Inventory
    from mlaunch.journal import Record
    from mlaunch.moving import Moving, Outcome
    from mlaunch.observing import Observing
    from mlaunch.placing import Placing

# While nothing has run for longer nobody is asked what it uses.
LOOK_AFTER_S = 0.5
# A program at home takes one of home's slots while it computes so much, whatever was expected of
# it: a shell may compute itself, and make reads for a while before it only waits for others.
OCCUPIES = 0.5


class Balancing:
    """Looks and acts."""

    def __init__(
        self, placing: Placing, inventory: Inventory, observing: Observing, moving: Moving
    ) -> None:
        """Balance what `placing` has placed, by what `observing` measures."""
        self._placing = placing
        self._journal = placing.journal
        self._inventory = inventory
        self._observing = observing
        self._moving = moving
        self._balancer = Balancer()
        self._gauges = Gauges(placing.ledger)
        moving.on_outcome = self._noted

    def tick(self) -> None:
        """Look, if anything has run for long enough that could go anywhere else."""
        wanted = self._inventory.config.balance and self._inventory.members
        if not wanted or not self._lasts():
            return
        for member in self._inventory.considered():
            self._inventory.connect(member)
        if any(self._may_leave(record) for record in self._journal.bodies()):
            self._observing.when_measured(self._look)
        else:
            self._look()

    def _may_leave(self, record: Record) -> bool:
        """Tell whether it is worth a question to its node what a body has used.

        A build has hundreds that end too soon: a slow home with eight nodes would do little else.
        """
        member = self._inventory.find(record.node)
        cpus = min(1.0, member.cpus) if member is not None else 1.0
        most_s = max(record.decision.program.cpu_s, cpus * (time.time() - record.at))
        return most_s >= LEAST_LEFT_S

    def _lasts(self) -> bool:
        """Tell whether any program has run for long enough to be looked at."""
        since = time.time() - LOOK_AFTER_S
        return any(record.at < since for record in self._journal.running.values())

    def _look(self) -> None:
        programs = self._read()
        for program in programs:
            if program.place == HOME:
                self._adjust_slot(program)
        sites = self._sites(programs)
        busy = {(record.place, target) for record, target in self._moving.under_way.items()}
        bias = self._inventory.config.home_bias
        now = time.monotonic()
        for wish in self._balancer.decide(now, sites, programs, bias, busy):
            record = self._journal.running.get(wish.pid)
            if record is not None:
                self._moving.move(record, wish.target, wish.why, lambda outcome: None)

    def _read(self) -> list[Running]:
        """Return what runs; what is on its way counts where it goes, and stays.

        All of it, for what is young takes CPUs as well.
        """
        programs = []
        targets = {record.pid: target for record, target in self._moving.under_way.items()}
        for program in self._gauges.read(self._journal.running.values(), time.time()):
            target = targets.get(program.pid)
            if target is not None:
                program = program._replace(place=target, tied=True)
            programs.append(program)
        return programs

    def _adjust_slot(self, program: Running) -> None:
        ledger = self._placing.ledger
        if program.demand > OCCUPIES:
            ledger.occupy(program.pid, self._placing.load.slots, program.left_s)
        else:
            ledger.vacate(program.pid)

    def _sites(self, programs: list[Running]) -> list[Site]:
        self._placing.load.sample()
        home = self._placing.load.state()
        members = self._inventory.members.values()
        nodes = [member.placement(child=True) for member in members if member.name != LOCAL]
        return self._balancer.look(time.monotonic(), home, nodes, programs)

    def _noted(self, outcome: Outcome) -> None:
        pid, now = outcome.record.pid, time.monotonic()
        if outcome.refused:
            self._balancer.refused(pid, outcome.error, now)
        elif not outcome.error and not outcome.path:
            self._balancer.moved(pid, now)

    # for those who ask

    def refusal(self, pid: int) -> str:
        """Return why a program could not be moved when that was last tried; empty if it was not."""
        return self._balancer.refusal(pid)

    def best_for(self, record: Record) -> str:
        """Return where a program would run best: where it is, if nowhere is better."""
        programs, sites = self._now()
        program = next((each for each in programs if each.pid == record.pid), None)
        here = next((site for site in sites if program and site.name == program.place), None)
        if program is None or here is None:
            return record.place
        # However little it computes, and however soon it may end: somebody has asked.
        asked = program._replace(demand=max(1.0, program.demand), left_s=3600.0)
        loads = loads_of(sites, programs)
        target = better(asked, here, sites, loads, self._inventory.config.home_bias)
        return target.name if target is not None else record.place

    def refuge_of(self, record: Record) -> str:
        """Return where a program would run best that cannot stay where it is."""
        programs, sites = self._now()
        program = next((each for each in programs if each.pid == record.pid), None)
        if program is None:
            return HOME
        refuge = best_refuge(program, sites, loads_of(sites, programs))
        return refuge.name if refuge is not None else HOME

    def _now(self) -> tuple[list[Running], list[Site]]:
        programs = self._read()
        return programs, self._sites(programs)
