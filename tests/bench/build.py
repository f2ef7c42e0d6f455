"""Whole builds: native, under mrun, and by the peers, in turn on the same cluster.

    python3 -m tests.bench.build [NAME[=ROUNDS]…]        as root; all of them without a NAME

Each round runs every way once (A B C … A B C …); shown are the medians with their range, and each
as a ratio to the native build with -j1 on home alone. `cold` has a new daemon, link, agent, page
cache and no cache on the node's disk; with `first` home does not know of a run before, either.
Needs distcc, distcc-pump and icecc from Debian.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.bench import peers
from tests.bench.figures import forget_view, show, timed
from tests.bench.peers import Way
from tests.cluster import Cluster
from tests.programs.nodes import add_nodes
from tests.projects import builds
from tests.projects.catalog import KERNEL, Project

RECEIPT = "/home/alice/receipt.json"
MRUN = Way(before=("mrun", "--stats", RECEIPT))
SPAWNS = 1000
# Of make, for two CPUs. With four, compilers under mrun leave them idle for 7 % of the time.
JOBS = 6
CLEAN = {
    # Only what the target makes: it is compiled again, its tools are there.
    "mm/": r"find mm \( -name '*.o' -o -name '*.a' -o -name '.*.cmd' \) -delete",
    "vmlinux": "make -s clean",
}


@dataclass
class Samples:
    """What each run of one way took."""

    wall: list[float] = field(default_factory=list)
    home: list[float] = field(default_factory=list)
    nodes: list[float] = field(default_factory=list)


@dataclass
class Bed:
    """A cluster with the kernel at home, its configuration and tools made."""

    cluster: Cluster
    project: Project = KERNEL

    def prepare(self) -> None:
        """Lay the kernel and make what is not measured."""
        home = self.cluster.home
        add_nodes(home, *(node.name for node in self.cluster.nodes))
        builds.lay(home, self.project)
        home.set_cpus(sorted(os.sched_getaffinity(0)))
        home.set_cpu(1.0)
        self.make("prepare", 4, Way())
        self.lend_back()

    def lend_back(self) -> None:
        """Give home the CPU and the share that it has by plan."""
        spec = self.cluster.home.spec
        self.cluster.home.set_cpus((spec.cpu,))
        self.cluster.home.set_cpu(spec.share)

    def make(self, target: str, jobs: int, way: Way) -> None:
        """Run make once."""
        words = (*way.before, "make", f"-j{jobs}", *way.after, target)
        environment = {**self.project.environment, **(way.environment or {})}
        self.cluster.home.run(
            words, cwd=self.project.directory, env=environment, timeout=3600, check=True
        )

    def clean(self, target: str) -> None:
        """Take away what `target` makes."""
        words = ("sh", "-ec", CLEAN[target])
        self.cluster.home.run(words, cwd=self.project.directory, timeout=120, check=True)

    def measure(self, samples: Samples, target: str, jobs: int, way: Way) -> None:
        """Build a target from nothing and note what it took."""
        self.clean(target)
        home, nodes = self.cluster.home, self.cluster.nodes
        before = home.cpu_seconds(), sum(node.cpu_seconds() for node in nodes)
        begin = os.times().elapsed
        self.make(target, jobs, way)
        samples.wall.append(os.times().elapsed - begin)
        samples.home.append(home.cpu_seconds() - before[0])
        samples.nodes.append(sum(node.cpu_seconds() for node in nodes) - before[1])
        # A run takes minutes: whoever waits, or breaks off, sees what there is.
        print(f"    {' '.join((*way.before, *way.after)) or 'native'} -j{jobs}: ", end="")
        print(f"{samples.wall[-1]:.1f} s, home {samples.home[-1]:.1f}, ", end="")
        print(f"nodes {samples.nodes[-1]:.1f} CPU s", flush=True)


def make_cold(cluster: Cluster) -> None:
    """Let the next mrun find nothing of itself anywhere."""
    forget_view(cluster)
    for node in cluster.nodes:
        node.run(("rm", "-rf", "/home/alice/.cache"), check=True)


def make_new(cluster: Cluster) -> None:
    """Let the next mrun be the first one ever: the nodes' names are all there is."""
    make_cold(cluster)
    learned = ("/home/alice/.local/state/mlaunch", "/home/alice/.cache/mlaunch")
    cluster.home.run(("rm", "-rf", *learned), check=True)


def compare(bed: Bed, target: str, jobs: int, rounds: int, wanted: tuple[str, ...]) -> None:
    """Build by every way in turn and print."""
    cluster = bed.cluster
    native, bare = Samples(), Samples()
    first, cold, warm = Samples(), Samples(), Samples()
    with ExitStack() as stack:
        # Room for an even part of the jobs and one more, which is compiled while others travel.
        slots = jobs // (1 + len(cluster.nodes)) + 1
        ways = {n: stack.enter_context(peers.PEERS[n](cluster, slots)) for n in wanted}
        others = {name: Samples() for name in ways}
        for _ in range(rounds):
            bed.measure(native, target, 1, Way())
            if cluster.home.spec.share == 1:
                cluster.home.set_cpus(sorted(os.sched_getaffinity(0)))
                bed.measure(bare, target, jobs, Way())
                bed.lend_back()
            for name, way in ways.items():
                bed.measure(others[name], target, jobs, way)
            make_new(cluster)
            bed.measure(first, target, jobs, MRUN)
            make_cold(cluster)
            bed.measure(cold, target, jobs, MRUN)
            bed.measure(warm, target, jobs, MRUN)
        placed = builds.on_nodes(builds.read_bodies(cluster.home, RECEIPT))
    ours = {"mrun, first": first, "mrun, cold": cold, "mrun, warm": warm}
    report(native, {"bare": bare, **others, **ours})
    report_placed(native, warm, placed)


def report(native: Samples, ways: dict[str, Samples]) -> None:
    """Print a line for each way."""
    base = show("native -j1", native.wall, "s")
    for name, samples in ways.items():
        if samples.wall:
            middle = show(name, samples.wall, "s")
            home, nodes = statistics.median(samples.home), statistics.median(samples.nodes)
            print(f"      {base / middle:.2f} x native; CPU s: home {home:.1f}, nodes {nodes:.1f}")


def report_placed(native: Samples, warm: Samples, placed: list[dict[str, float]]) -> None:
    """Print what the bodies of the last warm build cost home and the link."""
    if not placed:
        print("  no body was placed")
        return
    theirs = sum(body["cpu_s"] for body in placed)
    # Of the native build's CPU time what was not on nodes has been spent at home as work.
    ours = warm.home[-1] - (statistics.median(native.home) - theirs)
    print(f"  bodies placed {len(placed)}, their CPU {theirs:.1f} s")
    print(f"  home's CPU for each of them {1000 * ours / len(placed):.1f} ms")
    for key in ("round_trips", "bytes_to_node", "bytes_to_home"):
        show(f"{key} of a body, warm", [float(body[key]) for body in placed], "")


def bench_mm(rounds: int) -> None:
    """Build the kernel's mm/ (46 objects) on home 1 CPU + node 1 CPU."""
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        bed = Bed(cluster)
        bed.prepare()
        compare(bed, "mm/", JOBS, rounds, tuple(peers.PEERS))


def bench_vmlinux(rounds: int) -> None:
    """Build the whole kernel, tinyconfig, on home 1 CPU + node 1 CPU."""
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        bed = Bed(cluster)
        bed.prepare()
        compare(bed, "vmlinux", JOBS, rounds, tuple(peers.PEERS))


def bench_many(rounds: int) -> None:
    """Build the whole kernel on home 0.2 CPU + 8 nodes of 0.2 CPU: the limit is 9 x (an hour)."""
    with Cluster("bench-build", nodes=8, cpu=0.2) as cluster:
        bed = Bed(cluster)
        bed.prepare()
        compare(bed, "vmlinux", 18, rounds, ("icecream",))


def bench_spawn(rounds: int) -> None:
    """Start 1000 programs at home, natively, traced, with --trace: CPU of all that is at home."""
    loop = f"i=0; while [ $i -lt {SPAWNS} ]; do /bin/true; i=$((i + 1)); done"
    native: list[float] = []
    traced: list[float] = []
    told: list[float] = []
    under = ("mrun", "--node", "home")
    ways = (((), native), (under, traced), ((*under, "--trace", "/tmp/story.json"), told))
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        home = cluster.home
        add_nodes(home, "n1")
        for _ in range(rounds):
            for prefix, samples in ways:
                before = home.cpu_seconds()
                home.run((*prefix, "sh", "-c", loop), timeout=300, check=True)
                samples.append(1e3 * (home.cpu_seconds() - before) / SPAWNS)
    base = show("native, each", native, "ms")
    mrun = show("traced, each", traced, "ms")
    print(f"  tracing adds {mrun - base:.3f} ms CPU to each")
    print(f"  --trace takes {show('with --trace, each', told, 'ms') / mrun:.3f} x that")


def bench_down(rounds: int) -> None:
    """Build mm/ with every node down: what mrun costs who has nobody to help."""
    native, alone = Samples(), Samples()
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        bed = Bed(cluster)
        bed.prepare()
        cluster.node("n1").crash()
        for _ in range(rounds):
            bed.measure(native, "mm/", 2, Way())
            forget_view(cluster)
            bed.measure(alone, "mm/", 2, MRUN)
    base = show("native -j2, wall", native.wall, "s")
    print(f"      {show('mrun, no node, wall', alone.wall, 's') / base:.3f} x native")
    base = show("native -j2, CPU", native.home, "s")
    print(f"      {show('mrun, no node, CPU', alone.home, 's') / base:.3f} x native")


def bench_far(rounds: int) -> None:
    """Compile one C file with 100 headers over 20 ms, first ever and cold: trips that wait."""
    script = "mkdir -p far; cd far; for i in $(seq 100); do echo 'int f'$i'(void);' > h$i.h; done"
    includes = "".join(f'#include "h{i}.h"\n' for i in range(1, 101))
    compile_it = "gcc -O2 -c far/unit.c -o far/unit.o"
    ways: dict[str, Callable[[Cluster], None]] = {"first": make_new, "cold": make_cold}
    trips: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        home = cluster.home
        add_nodes(home, "n1")
        home.run(("sh", "-ec", script), check=True)
        home.write("far/unit.c", (includes + "int main(void) { return 0; }\n").encode())
        cluster.node("n1").set_link(rtt_ms=20)
        for _ in range(rounds):
            for name, forget in ways.items():
                forget(cluster)
                timed(home, "mrun -n n1 --no-fallback true")
                run = f"mrun -n n1 --no-fallback --stats {RECEIPT} {compile_it}"
                wall[name].append(timed(home, run))
                (body,) = builds.read_bodies(home, RECEIPT)
                trips[name].append(float(body["round_trips"]))
    for name in ways:
        show(f"{name}: round trips that waited", trips[name], "")
        show(f"{name}: wall", wall[name], "s")


def bench_watched(rounds: int) -> None:
    """Build mm/ on home 1 CPU + node 1 CPU, with nobody watching and with mlaunch top at home."""
    alone, watched = Samples(), Samples()
    with Cluster("bench-build", nodes=1, cpu=1.0) as cluster:
        bed = Bed(cluster)
        bed.prepare()
        bed.make("mm/", 4, MRUN)
        for _ in range(rounds):
            bed.measure(alone, "mm/", 4, MRUN)
            top = cluster.home.popen(
                # It needs a terminal, and ends with it.
                ("script", "-qec", "stty rows 40 cols 130; mlaunch top", "/dev/null"),
                env={"TERM": "xterm-256color"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            try:
                bed.measure(watched, "mm/", 4, MRUN)
            finally:
                top.communicate(b"q", timeout=20)
    base = show("mrun make, wall", alone.wall, "s")
    print(f"      {show('watched, wall', watched.wall, 's') / base:.3f} x that")
    base = show("mrun make, CPU at home", alone.home, "s")
    print(f"      {show('watched, CPU at home', watched.home, 's') / base:.3f} x that")


BENCHES: dict[str, tuple[Callable[[int], None], int]] = {
    "mm": (bench_mm, 3),
    "spawn": (bench_spawn, 5),
    "down": (bench_down, 3),
    "far": (bench_far, 3),
    "many": (bench_many, 1),
    "vmlinux": (bench_vmlinux, 1),
    "watched": (bench_watched, 3),
}


def main() -> None:
    """Run the benches named, or all."""
    if lacking := peers.missing():
        sys.exit(f"tests.bench.build: apt-get install {' '.join(lacking)}")
    for word in sys.argv[1:] or list(BENCHES):
        name, _, rounds = word.partition("=")
        bench, usual = BENCHES[name]
        print(f"{name}: {(bench.__doc__ or '').splitlines()[0]}", flush=True)
        bench(int(rounds or usual))


if __name__ == "__main__":
    main()
