"""A build on machines that exist in numbers only: which of them works when, under the real policy.

Discrete events, simulated time. A CPU is shared evenly by all that compute on it. What the policy
is told is what the daemon would know: its own placements at once, the nodes' reports every second,
of each compile nothing but the mean of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from mlaunch.placement import rank
from mlaunch.slots import Slots
from mlaunch.states import CHILD, HOME, NodeState, Options, Program

REPORT_S = 1.0
# What a body costs home, and how long it is under way besides its round trips.
SERVICE_S = 0.025
UNDER_WAY_S = 0.03
TRIPS = 6


@dataclass
class Machine:
    """CPUs, and what computes on them; `others` tells how many foreign processes do at a time."""

    name: str
    cpus: float = 1.0
    speed: float = 1.0
    rtt_s: float = 0.0003
    others: Callable[[float], int] = lambda now: 0
    jobs: dict[int, float] = field(default_factory=dict)
    service: list[tuple[float, int]] = field(default_factory=list)  # at home only: work, job
    idle: float = 0.0
    guests_cpu: float = 0.0
    placed: int = 0

    def __post_init__(self) -> None:
        self.idle = self.cpus
        self.slots = Slots(self.cpus, self.speed)
        self._busy = self._ours = self._computed = 0.0

    def rate(self, now: float) -> float:
        """Return how much of a CPU each process here gets.

        Service at home comes first: the kernel prefers those that wake up often and compute little.
        """
        count = len(self.jobs) + self.others(now)
        left = self.cpus - self.service_rate()
        return max(1e-9, min(1.0, left, left / max(1, count)))

    def service_rate(self) -> float:
        return min(1.0, self.cpus * 0.9) if self.service else 0.0

    def advance(self, now: float, passed: float) -> None:
        rate = self.rate(now)
        for job in self.jobs:
            self.jobs[job] -= passed * rate * self.speed
        if self.service:
            self.service[0] = (
                self.service[0][0] - passed * self.service_rate(),
                self.service[0][1],
            )
        used = rate * (len(self.jobs) + self.others(now)) + self.service_rate()
        self._busy += passed * used
        self._ours += passed * rate * len(self.jobs)

    def next_end(self, now: float) -> float:
        rate = self.rate(now)
        ends = [left / (rate * self.speed) for left in self.jobs.values()]
        ends += [left / self.service_rate() for left, _ in self.service[:1]]
        return now + max(0.0, min(ends, default=math.inf))

    def report(self, now: float) -> None:
        self.idle = max(0.0, self.cpus - self._busy / REPORT_S)
        self.guests_cpu = self._ours / REPORT_S
        if self.name == HOME:
            # Nobody measures at home which of its processes belong to the build.
            computed = self.slots.computed_s(now)
            self.guests_cpu, self._computed = (computed - self._computed) / REPORT_S, computed
        self._busy = self._ours = 0.0

    def state(self, now: float) -> NodeState:
        return NodeState(
            self.name,
            cpus=self.cpus,
            idle=self.idle,
            speed=100 * self.speed,
            rtt_s=self.rtt_s,
            running=self.others(now),
            slots_used=self.slots.used,
            queued_s=self.slots.queued_s(now),
            guests_cpu=self.guests_cpu,
        )


class Build:
    """`make -jN` of compiles with the given lengths."""

    def __init__(self, machines: list[Machine], lengths: list[float], parallel: int) -> None:
        """Begin; `machines[0]` is home."""
        self.machines = machines
        self.home = machines[0]
        self.lengths = lengths
        self.now = 0.0
        self.where: list[tuple[float, str]] = []
        self._mean = sum(lengths) / len(lengths)
        self._arrivals: list[tuple[float, int, Machine]] = []
        self._targets: dict[int, Machine] = {}
        self._next = 0
        self._parallel = parallel
        self._done = 0
        self._reported = 0.0

    def run(self) -> float:
        """Return the time at which the last compile has ended."""
        run_together([self])
        return self.now

    @property
    def done(self) -> bool:
        return self._done == len(self.lengths)

    def begin(self) -> None:
        for _ in range(self._parallel):
            self._start()

    def _start(self) -> None:
        if self._next >= len(self.lengths):
            return
        job, self._next = self._next, self._next + 1
        program = Program(self._mean, 100 << 20, TRIPS, kind=CHILD, why="simulated")
        nodes = [machine.state(self.now) for machine in self.machines[1:]]
        name = rank(program, self.home.state(self.now), nodes, Options())[0].name
        target = next(machine for machine in self.machines if machine.name == name)
        target.slots.take(job, self._mean, self.now)
        target.placed += 1
        self._targets[job] = target
        self.where.append((self.now, name))
        if target is self.home:
            self.home.jobs[job] = self.lengths[job]
        else:
            self.home.service.append((SERVICE_S, job))

    def next_event(self) -> float:
        events = [machine.next_end(self.now) for machine in self.machines]
        events += [at for at, _, _ in self._arrivals]
        return min(*events, self._reported + REPORT_S)

    def compute(self, until: float) -> None:
        """Let everything compute, at the rates that hold until then."""
        for machine in self.machines:
            machine.advance(self.now, until - self.now)
        self.now = until

    def settle(self) -> None:
        """Do what is due by now."""
        until = self.now
        if until >= self._reported + REPORT_S - 1e-9:
            self._reported = until
            for machine in self.machines:
                machine.report(self.now)
        while self.home.service and self.home.service[0][0] <= 1e-9:
            _, job = self.home.service.pop(0)
            target = self._targets[job]
            under_way = UNDER_WAY_S + TRIPS * target.rtt_s
            self._arrivals.append((self.now + under_way, job, target))
        for arrival in [item for item in self._arrivals if item[0] <= self.now + 1e-9]:
            self._arrivals.remove(arrival)
            arrival[2].jobs[arrival[1]] = self.lengths[arrival[1]]
        for machine in self.machines:
            for job in [job for job, left in machine.jobs.items() if left <= 1e-9]:
                del machine.jobs[job]
                machine.slots.free(job, self.now)
                self._done += 1
                self._start()


def run_together(builds: list[Build]) -> list[float]:
    """Run builds that may share machines; return when each has ended."""
    ends: dict[int, float] = {}
    for build in builds:
        build.begin()
    while len(ends) < len(builds):
        until = min(build.next_event() for build in builds)
        # All rates first: what one build does changes those of the others.
        for build in builds:
            build.compute(until)
        for number, build in enumerate(builds):
            build.settle()
            if build.done:
                ends.setdefault(number, build.now)
    return [ends[number] for number in range(len(builds))]


def ideal_s(machines: list[Machine], lengths: list[float]) -> float:
    """Return when it would all be done if work could be cut at will, and no CPU ever waited.

    What bodies cost home is in it: nobody can save that.
    """
    mean = sum(lengths) / len(lengths)
    left, now, step = sum(lengths), 0.0, 0.01
    while left > 0:
        powers = []
        for machine in machines:
            ours = max(1.0, machine.cpus)
            share = ours / (ours + machine.others(now))
            powers.append(machine.cpus * machine.speed * share)
        service = sum(powers[1:]) / mean * SERVICE_S
        left -= step * (sum(powers[1:]) + max(0.0, powers[0] - service))
        now += step
    return now
