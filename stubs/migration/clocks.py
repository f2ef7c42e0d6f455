"""CLOCK_MONOTONIC and CLOCK_BOOTTIME of a program, which must not go back when it moves.

In every capsule they are those of home, but for the time that it took a message to tell it
(stubs.node.capsule.init); see time_namespaces(7).
"""

from __future__ import annotations

import time

from stubs.migration.proc import read_file

_NS = 1_000_000_000
_NAMES = {b"monotonic": time.CLOCK_MONOTONIC, b"boottime": time.CLOCK_BOOTTIME}


def _offsets(pid: int | str) -> dict[bytes, int]:
    try:
        text = read_file(f"/proc/{pid}/timens_offsets")
    except FileNotFoundError:
        return {}  # before Linux 5.6 nobody has an offset
    found = {}
    for line in text.splitlines():
        name, seconds, ns = line.split()
        found[name] = int(seconds) * _NS + int(ns)
    return found


def read_clocks(pid: int) -> list[int]:
    """Return CLOCK_MONOTONIC and CLOCK_BOOTTIME as a process has them now, in ns."""
    theirs, ours = _offsets(pid), _offsets("self")
    return [
        time.clock_gettime_ns(clock) + theirs.get(name, 0) - ours.get(name, 0)
        for name, clock in _NAMES.items()
    ]
