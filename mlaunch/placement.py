"""Placement: on which node a body shall run. A pure function of what is known.

`rank` estimates for home and for each node when the program would end there, and puts them
in order. Among candidates whose estimate is equally good the one farthest away is taken
("remotest idle"): near nodes are the scarce ones, left for programs that talk to home a lot.
Home, at distance nothing, thus goes to nobody unless it is clearly better.
"""

from __future__ import annotations

from mlaunch import spreading
from mlaunch.estimate import EQUAL, distance, is_owner_active, problem, relative_speed
from mlaunch.states import CHILD, HOME, Candidate, NodeState, Options, Program

__all__ = ["HOME", "Candidate", "NodeState", "Options", "Program", "finish_s", "rank"]

# A CPU that idles so much is idle: the rest may be our own doing, or what runs on any machine, and
# one second is a short sample.
ENOUGH = 0.7

# Start of a body: connection warm, capsule there; and round trips until it runs.
START_S = 0.1
START_ROUND_TRIPS = 4


def rank(
    program: Program, home: NodeState, nodes: list[NodeState], options: Options
) -> list[Candidate]:
    """Return home and all nodes, best first, rejected last, each with its reason.

    For a child of a program under mrun, and for one that stays, see mlaunch.spreading.
    """
    if program.stays or program.kind == CHILD:
        return spreading.rank(program, home, nodes, options)
    good: list[tuple[float, NodeState]] = []
    rejected: list[Candidate] = []
    for node in nodes:
        reason = problem(program, node, options)
        if reason:
            rejected.append(Candidate(node.name, None, reason))
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
                distance(item[1]),
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
    speed = relative_speed(node, home)
    trips = program.round_trips + START_ROUND_TRIPS if node.name != HOME else 0
    start = START_S if node.name != HOME else 0.0
    return program.cpu_s / (speed * _share(node)) + start + trips * node.rtt_s


def _share(node: NodeState) -> float:
    """Return how much of a CPU one more process would get there, above 0 to 1."""
    # One process uses one CPU, or all that there is of a fraction of one.
    whole = min(1.0, node.cpus)
    taken = node.reserved + is_owner_active(node)
    free = node.idle - taken * whole
    if free >= ENOUGH * whole:
        return whole
    others = max((node.cpus - node.idle) / whole, node.load1)
    # Busy CPUs do not tell how many compete for them; those who wait to run do.
    others = max(others, node.running)
    fair = node.cpus / (others + taken + 1)
    return max(0.01, min(whole, max(free, fair)))


def _describe(program: Program, estimate: float, node: NodeState) -> str:
    text = f"{node.idle:.1f} of {node.cpus:g} CPUs idle"
    if node.reserved:
        text += f", {node.reserved} just sent there"
    if node.name != HOME:
        text += f", {node.rtt_s * 1000:.1f} ms away"
    return f"{text}, {program.cpu_s:.0f} s of work would take {estimate:.0f} s"
