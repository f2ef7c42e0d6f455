"""What the bars of a story amount to: by node, by program, over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlaunch.report.story import Bar, Story


@dataclass
class Sum:
    """What some bars have in common. Seconds and bytes."""

    name: str
    bars: int = 0
    away: int = 0
    failed: int = 0
    wall_s: float = 0.0
    longest_s: float = 0.0
    cpu_s: float = 0.0
    round_trips: int = 0
    bytes_to_node: int = 0
    bytes_to_home: int = 0

    def add(self, bar: Bar) -> None:
        """Take one in."""
        numbers = bar.numbers
        seconds = bar.dur / 1e6
        self.bars += 1
        self.away += bar.away
        self.failed += bar.failed
        self.wall_s += seconds
        self.longest_s = max(self.longest_s, seconds)
        self.cpu_s += numbers.get("cpu_s", 0.0)
        self.round_trips += int(numbers.get("round_trips", 0))
        self.bytes_to_node += int(numbers.get("bytes_to_node", 0))
        self.bytes_to_home += int(numbers.get("bytes_to_home", 0))


@dataclass
class Use:
    """How a node was used over time: means of equal parts of the run."""

    running: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # each bar's CPU time, spread evenly over it


def total(bars: Iterable[Bar], name: str = "") -> Sum:
    """Return the sum of bars."""
    found = Sum(name)
    for bar in bars:
        found.add(bar)
    return found


def bodies(story: Story) -> int:
    """Return how many bodies there were; one that was started again, or moved, has more bars."""
    again = sum(arrow.kind != "parent" for arrow in story.arrows)
    return sum(bar.away for bar in story.bars) - again


def by_program(story: Story) -> list[Sum]:
    """Return one sum for each program, what computed longest first."""
    sums: dict[str, Sum] = {}
    for bar in story.bars:
        sums.setdefault(bar.program, Sum(bar.program)).add(bar)
    return sorted(sums.values(), key=lambda each: (-each.cpu_s, -each.wall_s, each.name))


def by_node(story: Story) -> list[Sum]:
    """Return one sum for each node, in the story's order."""
    return [
        total((bar for bar in story.bars if bar.node == number), name)
        for number, name in enumerate(story.nodes)
    ]


def slowest(story: Story, count: int) -> list[int]:
    """Return the indices of the bodies that took longest, or, without any, of all programs."""
    numbers = [n for n, bar in enumerate(story.bars) if bar.away] or range(len(story.bars))
    return sorted(numbers, key=lambda n: (-story.bars[n].dur, n))[:count]


def use(story: Story, node: int, parts: int) -> Use:
    """Return how a node was used, in that many parts."""
    width = story.wall_us / parts
    running, cpu = [0.0] * (parts + 1), [0.0] * (parts + 1)
    for bar in story.bars:
        if bar.node == node:
            rate = bar.numbers.get("cpu_s", 0.0) * 1e6 / bar.dur
            for part, share in _shares(bar.begin / width, (bar.begin + bar.dur) / width, parts):
                running[part] += share
                cpu[part] += share * rate
    return Use(running[:parts], cpu[:parts])


def _shares(begin: float, end: float, parts: int) -> Iterable[tuple[int, float]]:
    """Yield how much of each part lies between two places."""
    part = int(begin)
    while part < end and part < parts:
        yield part, min(end, part + 1) - max(begin, part)
        part += 1
