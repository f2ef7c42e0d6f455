"""Placement of children: on which node each program of a build shall run. A pure function.

What counts is when a child would end, at home or on a node, given what runs there of ours (known
exactly and at once: `slots_used`, `queued_s`) and of others (from the node's last report: CPUs not
idle, less what our guests used of them). A CPU is shared evenly by those that compute: beside jobs
of which each has more to do, `work` takes `work` times their number; beside shorter ones, as long
as all of them together. By that alone the fastest machine would draw all, and slow down what it
has: so a free slot is taken before a place beside others, unless it would be a straggler's.

Sending a child costs home some CPU time, and its node as much. What computes no longer than that
stays, whatever the load. So does what belongs to home. Where home and a node end a child at about
the same time, it stays as well: the trip is saved; but a long one goes, and leaves home to what
must be there. Among nodes one that has its content is taken, or else the remotest, as for programs
that the user typed (mlaunch.placement).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mlaunch.estimate import EQUAL, distance, is_owner_active, problem, relative_speed
from mlaunch.states import HOME, Candidate, NodeState, Options, Program, in_words

# Home's CPU time for a body: capture, messages, its files.
HOME_COST_S = 0.025
# What computes no longer is not worth that, and as much once more on the node: it would cost all
# machines together twice what it is.
LEAST_S = 2 * HOME_COST_S
# What goes with a program of a build wherever it runs: make's and the shell's part, other small
# programs, and our tracing of them. Measured with the Linux kernel.
STARTERS_S = 0.035
# From the stop at exec to the body's first instruction, on a warm link, round trips apart; and
# round trips that nobody can spare: start, last writes, end.
START_S = 0.025
START_ROUND_TRIPS = 3
# What a link carries a second if that is not known: an ordinary 100 Mbit/s.
BANDWIDTH = 12e6

# Icecream measured 13 % for overbooking: caches and memory are shared, too. It gained 4 % by one
# job more than CPUs on a node, which computes while another is under way. That pays if a body is
# under way for such a part of its time.
OVERBOOKED = 1.13
UNDER_WAY = 0.10

# A free slot where the child would take so many times as long as beside others elsewhere is left
# free: the last compile of a build, and whatever waits for it, would be the one that is there.
STRAGGLER = 2.0

# Home cannot be ruled out as a node can. What pages waits for its disk.
SHORT_OF_MEMORY = 3.0
_ANY = Options()

# Others use so much of a CPU on any machine: our own agent, its kernel. Not counted.
QUIET = 0.3
# CPUs with no more idle time than this are all taken: who computes there gets less than he wants.
SATURATED = 0.1

# Where both end a child at about the same time, one that computes so long (seconds of home's CPU)
# goes: the trip is nothing to it.
LONG_S = 1.0

# Of more nodes than these, only so many are looked at closely.
MANY = 64


class _Option(NamedTuple):
    """Home or a node, and when the child would end there; `crowded`: no slot is free."""

    finish_s: float
    node: NodeState
    others: float
    crowded: bool = False


def rank(
    program: Program, home: NodeState, nodes: list[NodeState], options: Options
) -> list[Candidate]:
    """Return home and the nodes, best first, rejected last; home alone for what stays anyway.

    Of more than MANY nodes those that promise most are in it.
    """
    if program.stays:
        return [Candidate(HOME, program.cpu_s, program.stays)]
    if options.allow_home and program.cpu_s <= LEAST_S:
        reason = f"{in_words(program.cpu_s)} of work are not worth a trip ({program.why})"
        return [Candidate(HOME, program.cpu_s, reason)]
    if len(nodes) > MANY:
        nodes = _most_promising(program, nodes, options)
    at_home = _at_home(program, home)
    # Whatever it does for a body, home does beside what runs there.
    cost_s = HOME_COST_S * at_home.finish_s / max(program.cpu_s, 1e-6)
    good = [at_home] if options.allow_home else []
    rejected = []
    for node in nodes:
        reason = problem(program, node, options)
        if reason:
            rejected.append(Candidate(node.name, None, reason))
        else:
            good.append(_on_node(program, node, home, cost_s))
    if good:
        _sort(program, good)
    found = [Candidate(item.node.name, item.finish_s, _describe(program, item)) for item in good]
    if found:
        found[0] = _explain(program, good, found[0])
    return found + rejected


def _order(option: _Option) -> tuple[float, str]:
    return option.finish_s, option.node.name


def _sort(program: Program, good: list[_Option]) -> None:
    """Put them in order, the one to take first."""
    good.sort(key=_order)
    free = next((item for item in good if not item.crowded), None)
    if free is not None and free.finish_s <= STRAGGLER * good[0].finish_s:
        good.sort(key=lambda item: item.crowded)
    limit = good[0].finish_s * (1 + EQUAL)
    equal = [item for item in good if item.finish_s <= limit and item.crowded == good[0].crowded]
    if len(equal) == 1:
        return
    chosen = max(
        equal,
        key=lambda item: (
            (item.node.name == HOME) == (program.cpu_s < LONG_S),
            program.exe in item.node.holds,
            distance(item.node),
            -item.node.slots_used / item.node.cpus,
            -item.finish_s,
        ),
    )
    good.remove(chosen)
    good.insert(0, chosen)


# when it would end


def _at_home(program: Program, home: NodeState) -> _Option:
    computing = _compute_s(program, home, 1.0)
    finish_s = computing.finish_s
    crowded = home.slots_used >= _slots(home)
    if crowded:
        finish_s *= OVERBOOKED
    if problem(program, home, _ANY):
        finish_s *= SHORT_OF_MEMORY
    return _Option(finish_s, home, computing.others, crowded)


def _slots(node: NodeState) -> int:
    return max(1, math.ceil(node.cpus - SATURATED))


def _on_node(program: Program, node: NodeState, home: NodeState, cost_s: float) -> _Option:
    computing = _compute_s(program, node, relative_speed(node, home))
    carried = program.bytes_to_node + program.bytes_to_home
    trips = program.round_trips + START_ROUND_TRIPS
    under_way = START_S + trips * node.rtt_s + carried / (node.bandwidth or BANDWIDTH) + cost_s
    finish_s = computing.finish_s
    slots = _slots(node)
    if under_way > UNDER_WAY * finish_s:
        slots += 1
    crowded = node.slots_used >= slots
    if crowded:
        finish_s *= OVERBOOKED
    return _Option(finish_s + under_way, node, computing.others, crowded)


def _compute_s(program: Program, node: NodeState, speed: float) -> _Option:
    """Return how long it would compute there, beside what runs there already."""
    ours = max(node.slots_used, node.reserved)
    foreign = others(node, ours)
    work = program.cpu_s
    # Of those of ours that end before it, only what they still have to do; unknown: as much.
    queued = min(node.queued_s, ours * work) if node.queued_s >= 0 else ours * work
    alone = work / min(1.0, node.cpus)
    shared = (work * (1 + foreign) + queued) / node.cpus
    return _Option(max(alone, shared) / speed, node, foreign)


def others(node: NodeState, ours: float) -> float:
    """Return how many processes of others compete for the CPUs there."""
    busy = max(0.0, node.cpus - node.idle)
    whole = min(1.0, node.cpus)
    used = node.guests_cpu if node.guests_cpu >= 0 else ours * whole
    used = min(used, busy)
    theirs = busy - used
    owner = 1.0 if is_owner_active(node) else 0.0
    if theirs <= QUIET * whole:
        return owner
    if node.idle > SATURATED * whole:
        return owner + theirs / whole
    if used > SATURATED * whole:
        # Each gets as much as each of ours; those of ours that were there when it was measured
        # may be others than now, but no more than there are CPUs have got all that they wanted.
        count = theirs / used * min(max(1, ours), max(1.0, node.cpus))
        return owner + min(count, 4 * node.cpus / whole + node.running)
    return owner + max(theirs / whole, node.running)


# many nodes


def _most_promising(program: Program, nodes: list[NodeState], options: Options) -> list[NodeState]:
    """Return MANY of the nodes at most: free ones near enough, spread over all of these."""
    if options.only:
        return [node for node in nodes if node.name in options.only]
    trips = program.round_trips + START_ROUND_TRIPS
    limit = program.cpu_s * EQUAL / trips
    memory = program.memory
    found = [
        node
        for node in nodes
        if node.slots_used < node.idle
        and node.rtt_s < limit
        and not node.problem
        and node.memory_available > memory
    ]
    # None is idle and near: those that can be used at all.
    found = found or [node for node in nodes if not node.problem] or nodes
    return found[:: -(-len(found) // MANY)]


# in words


def _describe(program: Program, option: _Option) -> str:
    node = option.node
    slots = _slots(node)
    text = f"{node.slots_used} of {slots} slot{'s' * (slots != 1)} taken"
    if node.name == HOME and problem(program, node, _ANY):
        text += f", {problem(program, node, _ANY)}"
    if option.others:
        text += f", {option.others:.1f} CPUs' worth of other work"
    if node.name != HOME:
        text += f", {node.rtt_s * 1000:.1f} ms away"
    return f"{text}, {in_words(program.cpu_s)} of work would take {in_words(option.finish_s)}"


def _explain(program: Program, good: list[_Option], first: Candidate) -> Candidate:
    """Say of the one that is taken why it is."""
    option = good[0]
    why = ""
    if len(good) > 1:
        best = good[1]
        equal = option.finish_s * (1 - EQUAL) <= best.finish_s <= option.finish_s * (1 + EQUAL)
        elsewhere = f"{in_words(best.finish_s)} on {best.node.name}"
        if best.node.name == HOME:
            elsewhere = f"{in_words(best.finish_s)} at home"
        if not equal:
            why = f", {elsewhere}"
        elif option.node.name == HOME:
            why = f", not clearly less on {best.node.name}"
        elif program.exe in option.node.holds:
            why = ", as good as others, and it has the program's files"
        else:
            why = f", {elsewhere} is no better"
    text = f"{first.reason}{why} ({program.why})" if program.why else f"{first.reason}{why}"
    return Candidate(first.name, first.finish_s, text)
