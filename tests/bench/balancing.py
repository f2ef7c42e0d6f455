"""Twenty CPU-bound programs of random length on home and four unequal nodes, in simulated time.

    python3 -m tests.bench.balancing

prints the makespan against that of the best schedule without moves, for which all lengths are known
beforehand: what is placed as the user types it, and what begins at home all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mlaunch.states import HOME
from tests.unit.farm import Farm, Job, best_static_s
from tests.unit.simulation import Machine

COUNT = 20
SEEDS = 16

Bed = Callable[[], list[Machine]]


def _single() -> list[Machine]:
    nodes = [Machine("a"), Machine("b", speed=2.0), Machine("c", speed=0.5)]
    return [Machine(HOME), *nodes, Machine("d", speed=4.0, rtt_s=0.002)]


def _several() -> list[Machine]:
    return [
        Machine(HOME, cpus=2),
        Machine("a", speed=2.0, rtt_s=0.0005),
        Machine("b", cpus=2, rtt_s=0.001),
        Machine("c", cpus=4, speed=2.5, rtt_s=0.002),
        Machine("d", speed=0.5),
    ]


BEDS: dict[str, Bed] = {"one CPU each": _single, "1 to 4 CPUs": _several}


def lengths(seed: int) -> list[float]:
    """Return seconds of home's CPU, from 10 to 120."""
    source = random.Random(seed)
    return [source.uniform(10, 120) for _ in range(COUNT)]


def farm(bed: Bed, work: list[float], starts: str) -> Farm:
    """Return it when all is done; `starts` is where they begin, empty: where they are placed."""
    jobs = [Job(pid, left, 0.1 * pid, starts) for pid, left in enumerate(work)]
    found = Farm(bed(), jobs)
    found.run(10_000.0)
    return found


def ratio(bed: Bed, work: list[float], starts: str) -> float:
    """Return the makespan against that of the best schedule without moves."""
    return farm(bed, work, starts).makespan / best_static_s(work, bed())


def main() -> None:
    """Print a line for each case."""
    for name, bed in BEDS.items():
        for starts in ("", HOME):
            ratios = sorted(ratio(bed, lengths(seed), starts) for seed in range(SEEDS))
            count = sum(len(farm(bed, lengths(seed), starts).moves) for seed in range(SEEDS))
            print(
                f"{name}, {'all begin at home' if starts else 'placed'}:"
                f" {ratios[SEEDS // 2]:.3f} of the best static schedule (median of {SEEDS};"
                f" {ratios[0]:.3f} to {ratios[-1]:.3f}), {count / SEEDS:.0f} moves"
            )


if __name__ == "__main__":
    main()
