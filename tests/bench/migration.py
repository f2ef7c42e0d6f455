"""The figures of migration, as the program that moves sees them.

    python3 -m tests.bench.migration [NAME…]        as root; all of them without a NAME

    freeze      a process of 16 MB, from node to node, and back
    precopy     256 MB of which 4 MB are written to, and 1 GB of which 16 MB are, at 1 Gbit/s
    stopcopy    the same 256 MB, all of them written to all the time: nothing can be sent before
    slowdown    a loop that has moved, against one that has not, on the same node
    loops       two loops begun at home, beside an idle node: when do both have a CPU?
    expel       a node at 1 Gbit/s with two programs of 256 MB, 32 MB of which are written to
    many        moves of one busy program with threads; MOVES of them (default 200)

The gap is the longest time between two looks of the program at its clock: that includes what else
this machine does at that moment, so a program that does not move is measured beside it.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable

from tests.cluster import Cluster, Host
from tests.programs.nodes import add_nodes

ROUNDS = 5

# Fills SIZE MB, then writes to HOT MB of them for SECONDS; prints its longest gap in ms, and how
# many times it has been around in the second half of the time.
GAP = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
int main(int argc, char **argv) {
    size_t size = atol(argv[1]) << 20, hot = atol(argv[2]) << 20;
    double seconds = atof(argv[3]), longest = 0;
    char *memory = malloc(size);
    unsigned long rounds = 0, half = 0, seed = 1;
    for (size_t at = 0; at < size; at += 8)
        *(unsigned long *)(memory + at) = seed = seed * 6364136223846793005ul + 1;
    puts("ready");
    fflush(stdout);
    double begun = now(), last = begun;
    while (last < begun + seconds * 1e3) {
        for (int i = 0; i < 64; i++) {
            seed = seed * 6364136223846793005ul + 1;
            memory[(seed >> 20) % hot]++;
        }
        double at = now();
        if (at - last > longest)
            longest = at - last;
        last = at;
        rounds++;
        if (!half && at > begun + seconds * 500)
            half = rounds;
    }
    printf("%.1f %lu\n", longest, rounds - half);
    return 0;
}
"""


class Running:
    """A program under mrun that says when it is ready."""

    def __init__(self, home: Host, node: str, *argv: str) -> None:
        self._home = home
        self.process = home.popen(("mrun", "--stay", "-n", node, *argv))
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        bodies = json.loads(home.run(("mlaunch", "ps", "--json"), check=True).stdout)
        self.pid = next(body["pid"] for body in bodies if body["argv"] == list(argv))

    def move(self, node: str) -> tuple[float, float]:
        """Move it; return how long it was frozen, as mlaunch says (ms), and MB that were sent."""
        said = self._home.run(("mlaunch", "migrate", str(self.pid), node), timeout=120, check=True)
        frozen, sent = re.search(r"([\d.]+) ms frozen, ([\d.]+) MB", said.stdout.decode()).groups()  # type: ignore[union-attr]
        return float(frozen), float(sent)

    def result(self) -> list[float]:
        """Wait for its end, and return the numbers that it prints."""
        assert self.process.stdout is not None
        return [float(word) for word in self.process.stdout.readline().split()]


def show(name: str, values: list[float], unit: str) -> None:
    """Print median and range."""
    middle = statistics.median(values)
    low, high = min(values), max(values)
    print(f"  {name:<46} {middle:9.1f} {unit}   ({low:.1f} … {high:.1f})", flush=True)


def install(cluster: Cluster) -> None:
    """Compile the program, and make the nodes known."""
    home = cluster.home
    add_nodes(home, *(node.name for node in cluster.nodes))
    home.write("/tmp/gap.c", GAP.encode())
    home.run(("gcc", "-O2", "-o", "/tmp/gap", "/tmp/gap.c"), check=True)


def throttle(cluster: Cluster) -> None:
    """Give every node 1 Gbit/s."""
    for node in cluster.nodes:
        node.set_link(mbit=1000)


def gaps(home: Host, size: int, hot: int, seconds: float, rounds: int) -> None:
    """Move a program once in each round, and print what it saw; beside one that does not move."""
    seen, frozen, sent, still = [], [], [], []
    for number in range(rounds):
        here, there = ("n1", "n2") if number % 2 else ("n2", "n1")
        argv = ("/tmp/gap", str(size), str(hot), str(seconds))
        program = Running(home, here, *argv)
        time.sleep(0.5)
        ms, mb = program.move(there)
        frozen.append(ms)
        sent.append(mb)
        seen.append(program.result()[0])
        still.append(Running(home, here, *argv).result()[0])
    show("gap seen by the program", seen, "ms")
    show("frozen, as mlaunch says", frozen, "ms")
    show("sent", sent, "MB")
    show("gap of one that does not move", still, "ms")


def bench_freeze() -> None:
    """Move a small process on a fast network."""
    with Cluster(f"mig{os.getpid()}", nodes=2) as cluster:
        install(cluster)
        gaps(cluster.home, 16, 1, 3, ROUNDS)


def bench_precopy() -> None:
    """Large ones over 1 Gbit/s."""
    with Cluster(f"mig{os.getpid()}", nodes=2) as cluster:
        install(cluster)
        throttle(cluster)
        print(" 256 MB, 4 MB hot")
        gaps(cluster.home, 256, 4, 12, 3)
        print(" 1 GB, 16 MB hot")
        gaps(cluster.home, 1024, 16, 40, 2)


def bench_stopcopy() -> None:
    """All of it is hot."""
    with Cluster(f"mig{os.getpid()}", nodes=2) as cluster:
        install(cluster)
        throttle(cluster)
        gaps(cluster.home, 256, 256, 15, 3)


def bench_slowdown() -> None:
    """Count rounds of the loop in six seconds, well after a move and without."""
    with Cluster(f"mig{os.getpid()}", nodes=2) as cluster:
        install(cluster)
        moved, unmoved = [], []
        for _ in range(ROUNDS):
            program = Running(cluster.home, "n1", "/tmp/gap", "16", "1", "12")
            program.move("n2")
            moved.append(program.result()[1])
            unmoved.append(Running(cluster.home, "n2", "/tmp/gap", "16", "1", "12").result()[1])
        ratio = statistics.median(moved) / statistics.median(unmoved)
        print(f"  rounds of one that has moved, per rounds of one that has not: {ratio:.4f}")


def bench_loops() -> None:
    """Two loops begun at home, and one node that is idle."""
    with Cluster(f"mig{os.getpid()}", nodes=1) as cluster:
        install(cluster)
        home = cluster.home
        home.run(("mlaunch", "nodes"), check=True)
        for _ in range(3):
            begun = time.monotonic()
            loops = [
                home.popen(("mrun", "-n", "home", "/tmp/gap", "1", "1", "15")) for _ in range(2)
            ]
            while not json.loads(home.run(("mlaunch", "ps", "--json"), check=True).stdout):
                time.sleep(0.1)
            print(f"  one of them was gone after {time.monotonic() - begun:.1f} s", flush=True)
            for loop in loops:
                loop.communicate(timeout=60)


def bench_expel() -> None:
    """Empty a node."""
    with Cluster(f"mig{os.getpid()}", nodes=2) as cluster:
        install(cluster)
        throttle(cluster)
        for _ in range(3):
            programs = [
                Running(cluster.home, "n1", "/tmp/gap", "256", "32", seconds)
                for seconds in ("60", "61")
            ]
            begun = time.monotonic()
            said = cluster.home.run(("mlaunch", "expel", "n1"), timeout=120, check=True).stdout
            took = time.monotonic() - begun
            sent = sum(float(mb) for mb in re.findall(r"([\d.]+) MB", said.decode()))
            print(f"  {took:.1f} s; {sent:.0f} MB, for which the link needs {sent / 125:.1f} s")
            for program in programs:
                program.process.terminate()
                program.process.wait(30)


def bench_many() -> None:
    """Many moves of one program, and what is left of them."""
    moves = int(os.environ.get("MOVES", "200"))
    with Cluster(f"mig{os.getpid()}", nodes=3) as cluster:
        install(cluster)
        home = cluster.home
        home.write("/tmp/threads.py", THREADS.encode())
        program = Running(home, "n1", "python3", "/tmp/threads.py")
        frozen = []
        places = ("n2", "n3", "home", "n1")
        for number in range(moves):
            frozen.append(program.move(places[number % len(places)])[0])
        show(f"frozen, {moves} moves", frozen, "ms")
        home.run(("kill", "-USR1", str(program.pid)), check=True)
        print("  result:", program.process.communicate(timeout=60)[0].decode().split())


# Three threads hash until they are told to end; a fourth sees that they all get on.
THREADS = r"""
import hashlib, signal, threading
end = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: end.set())
counts = [0] * 3
def work(number):
    value = b"%d" % number
    while not end.is_set():
        for _ in range(1000):
            value = hashlib.sha256(value).digest()
        counts[number] += 1
    check = b"%d" % number
    for _ in range(counts[number] * 1000):
        check = hashlib.sha256(check).digest()
    print("right" if check == value else "WRONG", flush=True)
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
[t.start() for t in threads]
print("ready", flush=True)
while not end.wait(0.1):
    pass
[t.join() for t in threads]
"""

BENCHES: dict[str, Callable[[], None]] = {
    name.removeprefix("bench_"): call
    for name, call in list(globals().items())
    if name.startswith("bench_")
}


def main() -> None:
    """Run those that are named, or all."""
    for name in sys.argv[1:] or BENCHES:
        print(name, flush=True)
        BENCHES[name]()


if __name__ == "__main__":
    main()
