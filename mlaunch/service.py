"""What of home's CPUs goes with the programs of a build: make, shells, ourselves.

Placement has to know it at once, so it is foretold for every program that runs; but it differs by
ten times between a kernel's makefiles and xargs(1). So what was foretold is compared with what is
measured: the CPUs that were busy, less what programs that computed here have used.
"""

from __future__ import annotations

import math

# What is longer ago hardly counts; seconds.
HORIZON_S = 8.0

# After so long without a program that is another command, and what was found of the former says
# nothing about it; seconds.
FORGET_S = 2.0

# So much is believed to have been foretold and found before there was anything; CPU seconds.
PRIOR_S = 0.5


class Service:
    """How much of what is foretold is true."""

    def __init__(self) -> None:
        """Believe all of it."""
        self.foretold = 0.0  # CPUs, now
        self._foretold_s = self._busy_s = self._programs_s = 0.0
        self._ended_s = 0.0  # of those that have ended since it was measured
        self._nothing_s = 0.0  # for so long nothing has been foretold

    @property
    def cpus(self) -> float:
        """CPUs that go with what runs now; no more than foretold, for others may be busy, too."""
        found = max(0.0, self._busy_s - self._programs_s) + PRIOR_S
        return self.foretold * min(1.0, found / (self._foretold_s + PRIOR_S))

    def ended(self, cpu_s: float) -> None:
        """Note that a program has ended here that computed for so long."""
        self._ended_s += min(cpu_s, HORIZON_S)

    def measured(self, busy: float, passed: float) -> None:
        """Note that for the last `passed` seconds, more than 0, so many CPUs were busy."""
        if not self.foretold:
            # Whatever keeps them busy, it goes with nothing of ours.
            self._nothing_s += passed
            if self._nothing_s >= FORGET_S:
                self._forget()
            self._ended_s = 0.0
            return
        self._nothing_s = 0.0
        kept = math.exp(-passed / HORIZON_S)
        counted_s = HORIZON_S * (1 - kept)  # what of that time is still of interest
        self._foretold_s = self._foretold_s * kept + self.foretold * counted_s
        self._busy_s = self._busy_s * kept + busy * counted_s
        self._programs_s = self._programs_s * kept + self._ended_s * counted_s / passed
        self._ended_s = 0.0

    def _forget(self) -> None:
        self._foretold_s = self._busy_s = self._programs_s = 0.0
