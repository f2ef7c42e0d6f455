"""The figures of one program that runs elsewhere, each beside its baseline of the same run.

    python3 -m tests.bench.figures [NAME…]        as root; all of them without a NAME

Home and one node, one CPU each. What is compared is run in turn (A B A B …), medians are shown
with their range. `home ms/MB` counts everything on home: link process, daemon, mrun, kernel.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from tests.cluster import Cluster, Host

MB = 1_000_000
ROUNDS = 3


def timed(host: Host, script: str) -> float:
    """Run a shell script as alice; return wall seconds as home's own clock has them."""
    wrapped = f"s=$(date +%s%N); ( {script} ) >&2; e=$(date +%s%N); echo $((e-s))"
    done = host.run(("bash", "-ec", wrapped), timeout=600, check=True)
    return int(done.stdout.split()[-1]) / 1e9


def show(name: str, values: list[float], unit: str) -> float:
    """Print median and range; return the median."""
    middle = statistics.median(values)
    print(
        f"  {name:<44} {middle:9.3f} {unit}   ({min(values):.3f} … {max(values):.3f})", flush=True
    )
    return middle


def receipt(home: Host, path: str = "/tmp/receipt.json") -> dict[str, float]:
    """Return the first body of the receipt that mrun --stats wrote."""
    body: dict[str, float] = json.loads(home.read(path))["bodies"][0]
    return body


def forget_view(cluster: Cluster) -> None:
    """Make the next run cold: a new daemon, hence a new link, agent, capsule and page cache."""
    cluster.home.run(("mlaunch", "daemon", "stop"), timeout=30)


def warm_up(home: Host) -> None:
    """Have a daemon, a link and a capsule."""
    home.run(("mrun", "-n", "n1", "--no-fallback", "true"), timeout=60, check=True)


def bench_gzip(cluster: Cluster) -> None:
    """Compress 256 MB of mixed data with gzip."""
    home, node = cluster.home, cluster.node("n1")
    home.run(("bash", "-c", MIXED.format(size=256 * MB)), check=True, timeout=300)
    native, cold, warm, share = [], [], [], []
    for _ in range(ROUNDS):
        native.append(timed(home, "gzip -kf mixed"))
        forget_view(cluster)
        warm_up(home)
        cold.append(timed(home, "mrun -n n1 --no-fallback gzip -kf mixed"))
        before = home.cpu_seconds(), node.cpu_seconds()
        warm.append(timed(home, "mrun -n n1 --no-fallback gzip -kf mixed"))
        spent = home.cpu_seconds() - before[0], node.cpu_seconds() - before[1]
        share.append(100 * spent[0] / spent[1])
    base = show("native gzip, 256 MB", native, "s")
    print(f"  cold {show('mrun gzip, cold', cold, 's') / base:.3f} x native")
    print(f"  warm {show('mrun gzip, warm', warm, 's') / base:.3f} x native")
    show("home's CPU as a share of the node's, warm", share, "%")


def bench_true(cluster: Cluster) -> None:
    """Run `mrun true` with everything warm, and the very first one."""
    home = cluster.home
    warm_up(home)
    native, remote = [], []
    for _ in range(20):
        native.append(1000 * timed(home, "/bin/true"))
        remote.append(1000 * timed(home, "mrun -n n1 --no-fallback true"))
    base = show("native true", native, "ms")
    print(f"  warm +{show('mrun true, warm', remote, 'ms') - base:.1f} ms")
    first = []
    for _ in range(ROUNDS):
        forget_view(cluster)
        cluster.node("n1").run(("rm", "-rf", "/home/alice/.cache"), check=True)
        first.append(timed(home, "mrun -n n1 --no-fallback true"))
    show("first ever mrun true (no daemon, no agent there)", first, "s")


def bench_bulk(cluster: Cluster) -> None:
    """Sequential reading and writing of 512 MB through the view, cold."""
    home, node = cluster.home, cluster.node("n1")
    size = 512 * MB
    home.run(("bash", "-c", MIXED.format(size=size)), check=True, timeout=300)
    for name, remote, local in (
        ("read", "dd if=mixed of=/dev/null bs=1M", "dd if=mixed of=/dev/null bs=1M"),
        (
            "write",
            "dd if=/dev/zero of=out bs=1M count=512",
            "dd if=/dev/zero of=out bs=1M count=512",
        ),
    ):
        native, rate, cpu, far = [], [], [], []
        for _ in range(ROUNDS):
            native.append(size / MB / timed(home, local))
            forget_view(cluster)
            warm_up(home)
            before, before_far = home.cpu_seconds(), node.cpu_seconds()
            rate.append(size / MB / timed(home, f"mrun -n n1 --no-fallback {remote}"))
            cpu.append(1000 * (home.cpu_seconds() - before) / (size / MB))
            far.append(1000 * (node.cpu_seconds() - before_far) / (size / MB))
        base = show(f"{name} natively", native, "MB/s")
        print(f"  {show(f'{name} through the view, cold', rate, 'MB/s') / base:.3f} x native")
        show(f"{name}: home", cpu, "ms/MB")
        show(f"{name}: node, sshd and dd included", far, "ms/MB")


def bench_compile(cluster: Cluster) -> None:
    """One C file with many headers, warm. The node has no compiler, so native is home's."""
    home = cluster.home
    home.write("unit.c", COMPILE)
    native, warm, trips = [], [], []
    command = "gcc -O2 -c unit.c -o unit.o"
    for _ in range(3):
        timed(home, f"mrun -n n1 --no-fallback {command}")
    for _ in range(7):
        native.append(timed(home, command))
        warm.append(timed(home, f"mrun -n n1 --no-fallback --stats /tmp/receipt.json {command}"))
        trips.append(float(receipt(home)["round_trips"]))
    inner = [receipt_wall(home, command) for _ in range(5)]
    base = show("native gcc -O2 -c", native, "s")
    print(f"  whole mrun {show('mrun gcc, warm', warm, 's') / base:.3f} x native")
    print(f"  body alone {show('body of gcc, warm', inner, 's') / base:.3f} x native")
    show("round trips that waited", trips, "")


def receipt_wall(home: Host, command: str) -> float:
    """Run a command on the node; return the wall seconds of its body."""
    timed(home, f"mrun -n n1 --no-fallback --stats /tmp/receipt.json {command}")
    return float(receipt(home)["wall_s"])


def bench_listing(cluster: Cluster) -> None:
    """`ls -lR /usr/include`, cold, at 20 ms: round trips against directories."""
    home = cluster.home
    count = home.run(("bash", "-c", "find /usr/include -type d | wc -l"), check=True).stdout
    native = timed(home, "ls -lR /usr/include > /dev/null")
    forget_view(cluster)
    cluster.node("n1").set_link(rtt_ms=20)
    try:
        warm_up(home)
        wall = timed(
            home,
            "mrun -n n1 --no-fallback --stats /tmp/receipt.json ls -lR /usr/include > /dev/null",
        )
    finally:
        cluster.node("n1").set_link()
    trips = float(receipt(home)["round_trips"])
    print(f"  directories {int(count)}, round trips {trips:.0f}: {trips / int(count):.2f} each")
    print(f"  wall {wall:.2f} s, natively {native:.3f} s: {wall / native:.1f} x")


def bench_memory(cluster: Cluster) -> None:
    """Show what the agent's processes hold in memory at rest."""
    warm_up(cluster.home)
    time.sleep(2)  # at rest: let the first second's work settle
    script = (
        "for p in $(pgrep -u alice python3); do "
        "echo $(tr '\\0' ' ' < /proc/$p/cmdline | cut -c 1-60) $(grep VmRSS /proc/$p/status); done"
    )
    for line in cluster.node("n1").run(("bash", "-c", script)).stdout.decode().splitlines():
        print("  " + line)


# A third text, a third programs, a third noise: what a directory of mixed data looks like.
MIXED = (
    "set -e; [ -e mixed ] && [ $(stat -c %s mixed) = {size} ] && exit; "
    "( find /usr/include /usr/share/doc -type f -exec cat {{}} + | head -c $(({size}/3)); "
    "cat /usr/bin/* | head -c $(({size}/3)); "
    "openssl enc -aes-128-ctr -pass pass:x -nosalt -pbkdf2 < /dev/zero 2>/dev/null "
    "| head -c {size} ) | head -c {size} > mixed"
)

COMPILE = b"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <math.h>
#include <time.h>
#include <signal.h>
#include <errno.h>
#define FUNCTION(n) double f##n(const double *v, int k) { double s = 0; \\
  for (int i = 0; i < k; i++) { s += sin(v[i] * n) * cos(v[i] + n); if (s > 1e9) s -= n; } \\
  for (int i = 0; i < k; i++) for (int j = 0; j < i; j++) s += v[i] * v[j] / (n + 1.0); \\
  return s + strlen("x") + getpid(); }
#define TEN(n) FUNCTION(n##0) FUNCTION(n##1) FUNCTION(n##2) FUNCTION(n##3) FUNCTION(n##4) \\
  FUNCTION(n##5) FUNCTION(n##6) FUNCTION(n##7) FUNCTION(n##8) FUNCTION(n##9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8)
"""

BENCHES: dict[str, Callable[[Cluster], None]] = {
    "true": bench_true,
    "compile": bench_compile,
    "listing": bench_listing,
    "memory": bench_memory,
    "bulk": bench_bulk,
    "gzip": bench_gzip,
}


def main() -> None:
    """Run the benches named, or all."""
    names = sys.argv[1:] or list(BENCHES)
    with Cluster("bench", nodes=1, cpu=1.0) as cluster:
        cluster.home.run(("mlaunch", "nodes", "add", "n1", "n1"), timeout=60, check=True)
        for name in names:
            print(f"{name}: {(BENCHES[name].__doc__ or '').splitlines()[0]}", flush=True)
            BENCHES[name](cluster)
        forget_view(cluster)


if __name__ == "__main__":
    main()
