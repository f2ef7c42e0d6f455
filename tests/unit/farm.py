"""Programs that compute for long on machines that exist in numbers only, under the real balancer.

Simulated time in steps of STEP_S. The balancer is told what the daemon would know: nodes' reports
of the second before, what it has moved itself at once, and of each program what it has used so far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from mlaunch.balancer import Balancer, Running
from mlaunch.placement import rank
from mlaunch.states import NodeState, Options, Program
from tests.unit.simulation import REPORT_S, Machine

STEP_S = 0.05
# How long a move takes, of which the program stands still so long.
MOVE_S = 0.3
FROZEN_S = 0.05

BIAS = 1.25


@dataclass
class Job:
    """One program: `left` seconds of home's CPU to do, of which `used` is done."""

    pid: int
    left: float
    begins: float = 0.0
    starts: str = ""  # where it is placed; otherwise that is decided as for what the user typed
    place: str = ""
    used: float = 0.0
    memory: int = 8 << 20
    expected: float = 30.0
    tied: bool = False
    stays: bool = False  # cannot be moved
    ended: float | None = None


class Farm:
    """Machines, the first of them home, and jobs."""

    def __init__(self, machines: list[Machine], jobs: list[Job]) -> None:
        self.machines = {machine.name: machine for machine in machines}
        self.jobs = jobs
        self.balancer = Balancer()
        self.now = 0.0
        self.moves: list[tuple[float, int, str, str]] = []
        self.refusals = 0
        self._under_way: dict[int, tuple[float, str, str]] = {}
        self._states = {name: self._state(name) for name in self.machines}
        self._steps = 0

    def run(self, until: float) -> None:
        """Go on until then, or until nothing is left to do."""
        while self.now < until - 1e-9 and any(job.ended is None for job in self.jobs):
            self._step()

    def where(self, pid: int) -> str:
        return next(job.place for job in self.jobs if job.pid == pid)

    @property
    def makespan(self) -> float:
        return max(job.ended or self.now for job in self.jobs)

    def _here(self, name: str) -> list[Job]:
        return [job for job in self.jobs if job.place == name and job.ended is None]

    def _step(self) -> None:
        for job in self.jobs:
            if job.begins <= self.now and not job.place:
                if job.starts:
                    self._put(job, job.starts)
                else:
                    self._place(job)
        for pid, (at, target, _) in list(self._under_way.items()):
            if at <= self.now:
                self._arrive(pid, target)
        for name, machine in self.machines.items():
            self._compute(name, machine)
        self.now += STEP_S
        self._steps += 1
        if self._steps % round(REPORT_S / STEP_S) == 0:
            for machine in self.machines.values():
                machine.report(self.now)
            self._balance()

    def _compute(self, name: str, machine: Machine) -> None:
        jobs = [
            job
            for job in self._here(name)
            if job.pid not in self._under_way or self._under_way[job.pid][0] - self.now > FROZEN_S
        ]
        machine.jobs = {job.pid: job.left for job in jobs}
        rate = machine.rate(self.now)
        machine.advance(self.now, STEP_S)
        for job in jobs:
            done = STEP_S * rate * machine.speed
            job.left -= done
            job.used += done
            if job.left <= 0:
                job.ended = self.now + STEP_S
                machine.slots.free(job.pid, self.now)

    def _place(self, job: Job) -> None:
        states = {name: self._state(name) for name in self.machines}
        home, *nodes = states.values()
        program = Program(job.expected, job.memory, why="simulated")
        self._put(job, rank(program, home, nodes, Options(home_bias=BIAS))[0].name)

    def _put(self, job: Job, place: str) -> None:
        if job.place:
            self.machines[job.place].slots.free(job.pid, self.now)
        job.place = place
        self.machines[place].slots.take(job.pid, job.expected, self.now)

    def _state(self, name: str) -> NodeState:
        machine = self.machines[name]
        here = self._here(name)
        # Until the load shows it: see mlaunch.inventory.
        fresh = [job for job in here if self.now - job.begins < 2.5]
        return replace(machine.state(self.now), reserved=len(fresh))

    def _balance(self) -> None:
        states = {name: self._state(name) for name in self.machines}
        home, *nodes = states.values()
        programs = [
            Running(
                job.pid,
                job.place,
                1.0,
                job.used,
                max(job.expected - job.used, job.used),
                job.memory,
                tied=job.tied or job.pid in self._under_way,
            )
            for name in self.machines
            for job in self._here(name)
        ]
        sites = self.balancer.look(self.now, home, nodes, programs)
        busy = {(source, target) for _, target, source in self._under_way.values()}
        for wish in self.balancer.decide(self.now, sites, programs, BIAS, busy):
            job = next(job for job in self.jobs if job.pid == wish.pid)
            if wish.pid in self._under_way:
                continue
            if job.stays:
                self.refusals += 1
                self.balancer.refused(wish.pid, "it cannot", self.now)
                continue
            self._under_way[wish.pid] = (self.now + MOVE_S, wish.target, wish.source)

    def _arrive(self, pid: int, target: str) -> None:
        job = next(job for job in self.jobs if job.pid == pid)
        del self._under_way[pid]
        if job.ended is None:
            self.moves.append((self.now, pid, job.place, target))
            self._put(job, target)
            self.balancer.moved(pid, self.now)


def best_static_s(lengths: list[float], machines: list[Machine]) -> float:
    """Return the makespan of a best schedule in which nothing moves and all lengths are known.

    Each CPU takes its jobs one after another, so that it is as good as any. Found by putting the
    longest first where it ends first, and then by moves and exchanges while they help.
    """
    speeds = [machine.speed for machine in machines for _ in range(round(machine.cpus))]
    order = sorted(range(len(lengths)), key=lambda job: -lengths[job])
    on: list[int] = [0] * len(lengths)
    ends = [0.0] * len(speeds)
    for job in order:
        on[job] = min(range(len(speeds)), key=lambda cpu: ends[cpu] + lengths[job] / speeds[cpu])
        ends[on[job]] += lengths[job] / speeds[on[job]]

    def spans() -> list[float]:
        found = [0.0] * len(speeds)
        for job, cpu in enumerate(on):
            found[cpu] += lengths[job] / speeds[cpu]
        return sorted(found, reverse=True)

    improved = True
    while improved:
        improved = False
        best = spans()
        for job, cpu in product(range(len(lengths)), range(len(speeds))):
            before = on[job]
            on[job] = cpu
            if spans() < best:
                best, improved = spans(), True
            else:
                on[job] = before
        for one, two in product(range(len(lengths)), range(len(lengths))):
            on[one], on[two] = on[two], on[one]
            if spans() < best:
                best, improved = spans(), True
            else:
                on[one], on[two] = on[two], on[one]
    return spans()[0]
