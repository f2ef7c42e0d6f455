"""Placement: on which node a body shall run. A pure function of what is known.

`rank` estimates for home and for each node when the program would end there, and puts them
in order. Among candidates whose estimate is equally good the one farthest away is taken
("remotest idle"): near nodes are the scarce ones, left for programs that talk to home a lot.
Home, at distance nothing, thus goes to nobody unless it is clearly better.
"""

from __future__ import annotations

from dataclasses import dataclass

HOME = "home"

# Estimates this close are equal; they are no better than that.
EQUAL = 0.10

# A short measurement on a machine in use, or on one that shares its cores with others, is off by
# up to half: only a node that is clearly faster, or slower, is taken for one.
SPEED_NOISE = 1.8

# A CPU that idles so much is idle: the rest may be our own doing, or what runs on any machine, and
# one second is a short sample.
ENOUGH = 0.7

# Start of a body: connection warm, capsule there; and round trips until it runs.
START_S = 0.1
START_ROUND_TRIPS = 4

# With less than this available, or tasks stalled for memory so often, a body would suffer.
LEAST_MEMORY = 64 << 20
MOST_MEMORY_STALL = 5.0  # per cent of time, PSI "some" avg10

# Somebody typed there so recently: one CPU is his.
OWNER_ACTIVE_S = 60


@dataclass(frozen=True)
class Program:
    """What is known or assumed of a program before it runs.

    The default is for a program never seen: half a minute of CPU, a few dozen round trips.
    """

    cpu_s: float = 30.0
    memory: int = 0
    round_trips: int = 30


@dataclass(frozen=True)
class NodeState:
    """What is known of a node, or of home, at this moment.

    `problem` is empty when bodies can run there. CPUs in CPUs, `stall_memory` in per cent,
    `rtt_s` in seconds; `running` processes just now; `reserved` bodies were sent there that its
    load does not show yet. `speed` 0: unknown. `owner_idle_s` since somebody typed there.
    """

    name: str
    problem: str = ""
    cpus: float = 1.0
    idle: float = 1.0
    load1: float = 0.0
    running: int = 0
    speed: float = 0.0
    rtt_s: float = 0.0
    memory_available: int = 1 << 40
    stall_memory: float = 0.0
    reserved: int = 0
    owner_idle_s: float = float("inf")


@dataclass(frozen=True)
class Options:
    """What the user asked for: these nodes only (empty: any), and how much home must be better."""

    only: tuple[str, ...] = ()
    home_bias: float = 1.25
    allow_home: bool = True


@dataclass(frozen=True)
class Candidate:
    """A node in the ranking, and why it is there; `finish_s` None: out of the question."""

    name: str
    finish_s: float | None
    reason: str


def rank(
    program: Program, home: NodeState, nodes: list[NodeState], options: Options
) -> list[Candidate]:
    """Return home and all nodes, best first, rejected last, each with its reason."""
    good: list[tuple[float, NodeState]] = []
    rejected: list[Candidate] = []
    for node in nodes:
        problem = _problem(program, node, options)
        if problem:
            rejected.append(Candidate(node.name, None, problem))
        else:
            good.append((finish_s(program, node, home), node))
    spare = False
    if options.allow_home:
        # Home is to be spared as long as there is a node that idles, even a slower one.
        spare = any(_share(node) == min(1.0, node.cpus) for _, node in good)
        bias = options.home_bias if spare else 1.0
        good.append((finish_s(program, home, home) * bias, home))
    good.sort(key=lambda item: (item[0], item[1].name))
    if good:
        best = good[0][0]
        equal = [item for item in good if item[0] <= best * (1 + EQUAL)]
        # Farthest first; RTTs closer than a quarter are one distance, and there the idler wins.
        # But a node that is busy, too, is not worth the trip.
        chosen = max(
            equal,
            key=lambda item: (
                item[1].name == HOME and not spare,
                _distance(item[1]),
                item[1].idle,
                -item[0],
            ),
        )
        good.remove(chosen)
        good.insert(0, chosen)
        remotest = len(equal) > 1 and chosen[1].name != HOME
        why = f", the remotest of {len(equal)} equally good" if remotest else ""
        head = [Candidate(chosen[1].name, chosen[0], _describe(program, *chosen) + why)]
    else:
        head = []
    tail = [
        Candidate(node.name, estimate, _describe(program, estimate, node))
        for estimate, node in good[1:]
    ]
    return head + tail + rejected


def finish_s(program: Program, node: NodeState, home: NodeState) -> float:
    """Return the seconds after which the program would end on `node`, as far as one can tell."""
    speed = 1.0
    if node.speed and home.speed:
        # A node is an untrusted source of this number.
        speed = min(100.0, max(0.01, node.speed / home.speed))
        if 1 / SPEED_NOISE <= speed <= SPEED_NOISE:
            speed = 1.0
    trips = program.round_trips + START_ROUND_TRIPS if node.name != HOME else 0
    start = START_S if node.name != HOME else 0.0
    return program.cpu_s / (speed * _share(node)) + start + trips * node.rtt_s


def _share(node: NodeState) -> float:
    """Return how much of a CPU one more process would get there, above 0 to 1."""
    # One process uses one CPU, or all that there is of a fraction of one.
    whole = min(1.0, node.cpus)
    taken = node.reserved + (node.owner_idle_s < OWNER_ACTIVE_S)
    free = node.idle - taken * whole
    if free >= ENOUGH * whole:
        return whole
    others = max((node.cpus - node.idle) / whole, node.load1)
    # Busy CPUs do not tell how many compete for them; those who wait to run do.
    others = max(others, node.running)
    fair = node.cpus / (others + taken + 1)
    return max(0.01, min(whole, max(free, fair)))


def _distance(node: NodeState) -> int:
    """Return the RTT in steps of a quarter, so that noise does not decide between neighbours."""
    steps, rtt = 0, 0.0001
    while rtt < node.rtt_s:
        rtt *= 1.25
        steps += 1
    return steps


def _problem(program: Program, node: NodeState, options: Options) -> str:
    if options.only and node.name not in options.only:
        return "not among those asked for"
    if node.problem:
        return node.problem
    if node.memory_available < max(LEAST_MEMORY, program.memory):
        return f"short of memory ({node.memory_available >> 20} MiB available)"
    if node.stall_memory > MOST_MEMORY_STALL:
        return f"short of memory (tasks stalled {node.stall_memory:.0f} % of the time)"
    return ""


def _describe(program: Program, estimate: float, node: NodeState) -> str:
    text = f"{node.idle:.1f} of {node.cpus:g} CPUs idle"
    if node.reserved:
        text += f", {node.reserved} just sent there"
    if node.name != HOME:
        text += f", {node.rtt_s * 1000:.1f} ms away"
    return f"{text}, {program.cpu_s:.0f} s of work would take {estimate:.0f} s"
