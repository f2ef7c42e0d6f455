"""Slots: what runs of ours on a machine at this moment, and how much of it is still to do.

Counted by who places, at the moment when it does: a load average would tell of it seconds later.
"""

from __future__ import annotations

# What has run for longer than expected is thought to need another such part of what was expected.
OVERDUE = 0.25


class Slots:
    """The programs of ours on one machine; times are those of one monotonic clock."""

    def __init__(self, cpus: float = 1.0, speed: float = 1.0) -> None:
        """Begin with none; `cpus` and `speed` (of one, relative to home's) may change later."""
        self.cpus = cpus
        self.speed = speed
        self._left: dict[int, float] = {}
        self._least: dict[int, float] = {}
        self._at = 0.0
        self._computed_s = 0.0

    @property
    def used(self) -> int:
        """How many programs run there."""
        return len(self._left)

    def take(self, pid: int, cpu_s: float, now: float) -> None:
        """Count one more, of which `cpu_s` seconds of home's CPU are expected."""
        self._advance(now)
        self._left[pid] = cpu_s
        self._least[pid] = cpu_s * OVERDUE

    def free(self, pid: int, now: float) -> None:
        """Count it no more; harmless if it is not counted."""
        self._advance(now)
        self._left.pop(pid, None)
        self._least.pop(pid, None)

    def left_s(self, pid: int, now: float) -> float:
        """Return the seconds of home's CPU that one still needs; 0 if it is not counted."""
        self._advance(now)
        return self._left.get(pid, 0.0)

    def clear(self) -> None:
        """Count none: the machine is lost."""
        self._left.clear()
        self._least.clear()

    def queued_s(self, now: float) -> float:
        """Return the seconds of home's CPU that they still need, as far as one can tell."""
        self._advance(now)
        return sum(self._left.values())

    def computed_s(self, now: float) -> float:
        """Return CPU seconds that they may have used altogether; it grows, as a clock does.

        Its growth over a second is what of the CPUs' load is ours where nobody measures that.
        """
        self._advance(now)
        return self._computed_s

    def _advance(self, now: float) -> None:
        """Let them all have computed since the last time, sharing the CPUs."""
        passed, self._at = max(0.0, now - self._at), now
        if not self._left:
            return
        share = min(1.0, self.cpus, self.cpus / len(self._left))
        self._computed_s += passed * share * len(self._left)
        done = passed * self.speed * share
        for pid, left in self._left.items():
            self._left[pid] = max(self._least[pid], left - done)
