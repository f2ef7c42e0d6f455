"""What can be read off a node's state for any program: speed, distance, what rules it out.

Pure functions; numbers that come from a node are not trusted further than they are bounded here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlaunch.states import NodeState, Options, Program

# Estimates this close are equal; they are no better than that.
EQUAL = 0.10

# A short measurement on a machine in use, or on one that shares its cores with others, is off by
# up to half: only a node that is clearly faster, or slower, is taken for one.
SPEED_NOISE = 1.8

# With less than this available, or tasks stalled for memory so often, a body would suffer.
LEAST_MEMORY = 64 << 20
MOST_MEMORY_STALL = 5.0  # per cent of time, PSI "some" avg10

# Somebody typed there so recently: one CPU is his.
OWNER_ACTIVE_S = 60


def relative_speed(node: NodeState, home: NodeState) -> float:
    """Return how many times as fast as home's a CPU of the node is; 1 if that is not clear."""
    if not node.speed or not home.speed:
        return 1.0
    # A node is an untrusted source of this number.
    speed = min(100.0, max(0.01, node.speed / home.speed))
    return 1.0 if 1 / SPEED_NOISE <= speed <= SPEED_NOISE else speed


def distance(node: NodeState) -> int:
    """Return the RTT in steps of a quarter, so that noise does not decide between neighbours."""
    if node.rtt_s <= 0.0001:
        return 0
    return math.ceil(math.log(node.rtt_s / 0.0001, 1.25))


def is_owner_active(node: NodeState) -> bool:
    """Tell whether somebody types at the node's own terminals."""
    return node.owner_idle_s < OWNER_ACTIVE_S


def problem(program: Program, node: NodeState, options: Options) -> str:
    """Return why no body of the program may be sent there, empty if it may."""
    if options.only and node.name not in options.only:
        return "not among those asked for"
    if node.problem:
        return node.problem
    # Bodies on their way will want as much: what is available does not show it yet.
    if node.memory_available < max(LEAST_MEMORY, program.memory * (1 + node.reserved)):
        return f"short of memory ({node.memory_available >> 20} MiB available)"
    if node.stall_memory > MOST_MEMORY_STALL:
        return f"short of memory (tasks stalled {node.stall_memory:.0f} % of the time)"
    return ""
