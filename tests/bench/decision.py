"""What a decision costs the daemon at each exec: shape, profile, ranking; nothing else.

    python3 -m tests.bench.decision

Times are the best of several runs, in microseconds, beside a baseline of the same run (a dict
lookup in a loop of this interpreter) by which two machines may be compared.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

from mlaunch.guess import expect
from mlaunch.journal import Decision, Journal
from mlaunch.placement import rank
from mlaunch.profiles import Profiles, Sample
from mlaunch.shape import shape
from mlaunch.states import CHILD, HOME, NodeState, Options, Program
from stubs.wire.messages import Ended

GCC = "/usr/bin/x86_64-linux-gnu-gcc-12"
FILES = 2000
KERNEL = [
    "gcc", "-Wp,-MMD,mm/.x.o.d", "-nostdinc", "-include", "./include/linux/compiler-version.h",
    *(f"-I./arch/x86/include/generated/uapi{number}" for number in range(10)),
    "-D__KERNEL__", "-std=gnu11", "-O2", *(f"-Wno-warning-{number}" for number in range(50)),
    *(f"-fno-feature-{number}" for number in range(20)), "-DKBUILD_MODNAME=\"x\"",
]  # fmt: skip
HOME_STATE = NodeState(HOME, cpus=4, idle=0.5, speed=100, slots_used=4, queued_s=2.0)


def commands() -> list[list[str]]:
    """Return the command lines of a kernel's compiles: alike but for the file."""
    return [[*KERNEL, "-c", "-o", f"mm/f{n}.o", f"mm/f{n}.c"] for n in range(FILES)]


def best(call: Callable[[int], object], count: int, turns: int = 7) -> float:
    """Return microseconds for a call with each of `count` numbers."""
    results = []
    for _ in range(turns):
        start = time.perf_counter()
        for number in range(count):
            call(number)
        results.append((time.perf_counter() - start) / count * 1e6)
    return min(results)


def show(what: str, value: float, target: str = "") -> None:
    """Print a line."""
    print(f"  {what:<44} {value:10.2f} us  {target}", flush=True)


def states(count: int, busy_every: int) -> list[NodeState]:
    """Return nodes, some of which are at work for us, some for others."""
    return [
        NodeState(
            f"n{number}",
            cpus=4,
            idle=0.0 if number % busy_every == 0 else 3.5,
            speed=100 + number % 7,
            rtt_s=0.0003 * (1 + number % 5),
            slots_used=4 if number % busy_every == 0 else 0,
            queued_s=2.0 if number % busy_every == 0 else 0.0,
            guests_cpu=2.0 if number % busy_every == 0 else 0.0,
        )
        for number in range(count)
    ]


def journal_entry(nodes: list[NodeState]) -> Callable[[int], object]:
    """Return what enters a body into a journal, and its end."""
    journal, client = Journal(), object()
    journal.connected(client, 1)
    decision = Decision("n1", "free", Program(), [], HOME_STATE, nodes)
    line = commands()[0]

    def enter(pid: int) -> None:
        journal.decided(client, pid, GCC, line.copy(), False, decision)
        journal.ended(Ended(pid, 1, 500_000, 500_000, 600_000, 90_000, 0, 0, 4, 10, 10, b""))

    return enter


def main() -> None:
    """Measure all of it."""
    lines = commands()
    table = {number: number for number in range(FILES)}
    show("baseline: a dict lookup", best(lambda number: table[number], FILES))
    show(
        f"shape of a compile, {len(lines[0])} words, each new",
        best(lambda number: shape(GCC, lines[number]), FILES),
    )
    with tempfile.TemporaryDirectory() as directory:
        profiles = Profiles(os.path.join(directory, "profiles.sqlite"))
        sample = Sample(HOME, 0.5, 0.6, 90_000, 2, 1)
        show("learn", best(lambda number: profiles.learn(GCC, lines[number], sample), FILES))
        for number in range(5000):
            profiles.learn(f"/usr/bin/tool{number}", ["tool"], sample)
        start = time.perf_counter()
        profiles.flush()
        show("flush of 10 000 rows", (time.perf_counter() - start) * 1e6)
        start = time.perf_counter()
        Profiles(profiles._store.path).close()
        show("reading 10 000 rows, at the daemon's start", (time.perf_counter() - start) * 1e6)
        lookup = best(lambda number: profiles.lookup(GCC, lines[number]), FILES)
        show("lookup, each command line new", lookup, "(<= 20)")
        again = best(lambda number: profiles.lookup(GCC, lines[number % 100]), FILES)
        show("lookup, command lines seen before", again)

        def decide(number: int, nodes: list[NodeState]) -> None:
            argv = lines[number % FILES]
            program = expect(GCC, argv, profiles.lookup(GCC, argv), top=False)
            rank(program, HOME_STATE, nodes, Options())

        for count, target in ((1, ""), (8, "(<= 200)"), (64, ""), (1000, "")):
            nodes = states(count, 3)
            value = best(lambda number: decide(number, nodes), max(20, 2000 // count))  # noqa: B023
            show(f"decision with {count} nodes", value, target)
        for busy_every, what in ((3, "a third busy"), (1, "all busy")):
            nodes = states(10_000, busy_every)
            value = best(lambda number: decide(number, nodes), 20)  # noqa: B023
            show(f"decision with 10 000 nodes, {what}", value, "(<= 5000)")
        profiles.close()
    eight = states(8, 3)
    short = Program(0.003, kind=CHILD, why="done in a moment")
    stays = Program(0.003, kind=CHILD, stays="a shell starts others")
    for what, program in (("short", short), ("starter", stays)):
        value = best(lambda _: rank(program, HOME_STATE, eight, Options()), FILES)  # noqa: B023
        show(f"ranking of a {what} program", value)
    show("journal: an entry, and its end", best(journal_entry(eight), FILES), "(<= 20)")


if __name__ == "__main__":
    main()
