"""The home node's own load, sampled by the daemon once a second while it has work."""

from __future__ import annotations

import os
import time

from mlaunch.placement import HOME, NodeState


class HomeLoad:
    """Idle CPUs of home between two samples, and its memory."""

    def __init__(self) -> None:
        """Take the first sample."""
        self.cpus = float(len(os.sched_getaffinity(0)))
        self._idle = self.cpus
        self._at, self._ticks = time.monotonic(), _idle_ticks()

    def sample(self) -> None:
        """Take a sample; harmless if the last one was just now."""
        now = time.monotonic()
        if now - self._at < 0.5:
            return
        ticks = _idle_ticks()
        spent = (now - self._at) * os.sysconf("SC_CLK_TCK")
        self._idle = max(0.0, min(self.cpus, (ticks - self._ticks) / spent))
        self._at, self._ticks = now, ticks

    def state(self, speed: float) -> NodeState:
        """Return what placement wants to know of home."""
        return NodeState(
            HOME,
            cpus=self.cpus,
            idle=self._idle,
            load1=os.getloadavg()[0],
            speed=speed,
            memory_available=_memory_available(),
        )


def _idle_ticks() -> int:
    """Return the ticks that all CPUs together were idle, or waited for a disk (proc(5), stat)."""
    with open("/proc/stat") as file:
        fields = file.readline().split()
    return int(fields[4]) + int(fields[5])


def _memory_available() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 40
