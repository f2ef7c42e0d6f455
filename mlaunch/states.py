"""What placement reasons about: programs, nodes, wishes, and its answers."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

HOME = "home"

TOP = "top"  # the program that the user typed after `mrun`
CHILD = "child"  # one that a program under mrun has started


@dataclass(frozen=True, slots=True)
class Program:
    """What is known or assumed of a program before it runs.

    The default is for a program never seen: half a minute of CPU, a few dozen round trips. CPU in
    seconds of home's CPU, waited-for children included; bytes as carried by the link. `stays`
    tells why it has to run at home; empty when it may go. A `starter` stays so that its children
    can spread. `why` tells how all this is known. `exe` is what NodeState.holds is about.
    """

    cpu_s: float = 30.0
    memory: int = 0
    round_trips: int = 30
    bytes_to_node: int = 0
    bytes_to_home: int = 0
    starter: bool = False
    stays: str = ""
    kind: str = TOP
    why: str = ""
    exe: str = ""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of a node, or of home, at this moment.

    `problem` is empty when bodies can run there. CPUs in CPUs, `stall_memory` in per cent,
    `rtt_s` in seconds; `running` processes just now; `reserved` bodies were sent there that its
    load does not show yet. `speed` 0: unknown. `owner_idle_s` since somebody typed there.

    `slots_used` programs of ours run there at this moment, known exactly, with about `queued_s`
    seconds of home's CPU still to do. `guests_cpu` is what of the CPUs not idle they used when
    `idle` was measured. Below 0 these two are unknown. `bandwidth` in bytes a second, 0:
    unknown. `holds` the executables whose content is there.
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
    slots_used: int = 0
    queued_s: float = -1.0
    guests_cpu: float = -1.0
    bandwidth: float = 0.0
    holds: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for: these nodes only (empty: any), and how much home must be better."""

    only: tuple[str, ...] = ()
    home_bias: float = 1.25
    allow_home: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node in the ranking, and why it is there; `finish_s` None: out of the question."""

    name: str
    finish_s: float | None
    reason: str


def in_words(seconds: float) -> str:
    """Return a time as people read it: 3 ms, 0.5 s, 30 s."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
