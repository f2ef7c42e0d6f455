"""A busy program with threads moves to and fro, among others: it is right, and nothing gathers."""

import os
from collections.abc import Callable

from tests.cluster import Cluster
from tests.cluster.waiting import wait_until
from tests.faults.census import Held, census, disk_kb
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes, on

MOVES = int(os.environ.get("MLAUNCH_MOVES", "20"))
FEW = 4

# Threads that compute, one that writes to a file, and one that talks; all is told in the end.
PROGRAM = """
import hashlib, os, sys, threading
rounds, ends = [0, 0], threading.Event()
chains = [b"a", b"b"]
def compute(n):
    while not ends.is_set():
        for _ in range(1000):
            chains[n] = hashlib.sha256(chains[n]).digest()
        rounds[n] += 1000
def write():
    with open("counted", "ab", buffering=0) as file:
        for number in range(1 << 62):
            if ends.wait(0.01):
                break
            file.write(b"%d\\n" % number)
threads = [threading.Thread(target=compute, args=(n,)) for n in (0, 1)]
threads.append(threading.Thread(target=write))
for thread in threads:
    thread.start()
print("begun", os.getpid(), flush=True)
for line in sys.stdin:
    print("heard", line, end="", flush=True)
ends.set()
for thread in threads:
    thread.join()
for n in (0, 1):
    print(rounds[n], chains[n].hex())
"""
# What the chains are after so many rounds, by a process that never moves.
CHECK = """
import hashlib, sys
for start, line in zip((b"a", b"b"), sys.stdin):
    rounds, found = line.split()
    for _ in range(int(rounds)):
        start = hashlib.sha256(start).digest()
    assert start.hex() == found, line
"""
BUSY = ("python3", "-c", "while True: pass")


def ours(cluster: Cluster) -> dict[str, dict[int, Held]]:
    return {host.name: census(host) for host in (cluster.home, *cluster.nodes)}


def grown(cluster: Cluster, before: dict[str, dict[int, Held]]) -> list[str]:
    """Tell what is held now and was not before: processes, descriptors, zombies.

    A file that is served stays open for a while: what leaks with each move shows with many.
    """
    found = []
    for name, now in ours(cluster).items():
        then = before[name]
        if len(now) > len(then):
            found += [f"{name}: {held}" for pid, held in now.items() if pid not in then]
        for pid, held in now.items():
            if held.state == "Z":
                found.append(f"{name}: a zombie, {pid} {held.line}")
                continue
            was = then.get(pid, held)
            if held.descriptors > was.descriptors or held.files > was.files + MOVES // 4:
                found.append(f"{name}: {pid} {held}, before {was}")
    return found


def test_a_busy_program_moves_often(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=2)
    home = cluster.home
    add_nodes(home, "n1", "n2")
    traces = Traces(cluster)
    load = [home.popen((*on(name), "--stay", *BUSY)) for name in ("n1", "n2")]
    process = home.popen((*on("n1"), "--stay", "python3", "-c", PROGRAM), stdin=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    begun, pid = process.stdout.readline().split()
    assert begun == b"begun"

    def move(number: int) -> None:
        target = "n2" if number % 2 == 0 else "n1"
        home.run(("mlaunch", "migrate", pid, target), check=True)
        process.stdin.write(b"%d\n" % number)  # type: ignore[union-attr]  # see above
        heard = process.stdout.readline()  # type: ignore[union-attr]
        assert heard == b"heard %d\n" % number

    for number in range(FEW):
        move(number)
    before, disk = ours(cluster), [disk_kb(host) for host in cluster.nodes]
    for number in range(FEW, FEW + MOVES):
        move(number)
    wait_until(lambda: not grown(cluster, before), 20, f"nothing gathers: {grown(cluster, before)}")
    for name, now in ours(cluster).items():
        for pid_, held in now.items():
            was = before[name].get(pid_)
            if was is not None:
                # Allocators keep some; what leaks with each move shows with many of them.
                allowed = was.rss_kb + 4096 + 20 * MOVES
                assert held.rss_kb < allowed, f"{name}: {pid_} {held}, before {was}"
    for host, kb in zip(cluster.nodes, disk, strict=True):
        assert disk_kb(host) < kb + 1024

    out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    home.run(("python3", "-c", CHECK), input=out, timeout=120, check=True)
    counted = home.read("/home/alice/counted").split()
    assert counted == [b"%d" % number for number in range(len(counted))]
    for busy in load:
        assert busy.poll() is None
        busy.terminate()
        busy.communicate(timeout=20)
        busy.close()
    process.close()
    traces.assert_gone()
