"""What it costs to watch: CPU of daemon, links and agents with and without somebody who looks.

    python3 -m tests.bench.observing [NODES] [BODIES_PER_NODE] [SECONDS]

Bodies sleep; a watcher asks four times a second on one process, as a dashboard does. Printed is the
part of one CPU that each process takes, idle and watched, and what the watcher itself takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes

PYTHON = "/opt/mlaunch-venv/bin/python3"
RATE = 4
DEFAULTS = ("2", "25", "20")

# Prints CPU seconds by process before and after, what was seen, and its own.
WATCH = """
import json, os, sys, time
from mlaunch import client

seconds, rate = float(sys.argv[1]), float(sys.argv[2])
ticks = os.sysconf("SC_CLK_TCK")

def spent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / ticks

def ask():
    return client.ask({"do": "observe", "events_since": last, "words": 20})

last = 0
seen = ask()
pids = {"daemon": seen["daemon"]["pid"]}
pids |= {f"link {node['name']}": node["link_pid"] for node in seen["nodes"]}
before, own = {name: spent(pid) for name, pid in pids.items()}, time.process_time()
began = time.monotonic()
slowest = looks = 0
while time.monotonic() - began < seconds:
    if rate:
        start = time.monotonic()
        seen = ask()
        slowest, looks, last = max(slowest, time.monotonic() - start), looks + 1, seen["last_event"]
        time.sleep(max(0.0, 1 / rate - (time.monotonic() - start)))
    else:
        time.sleep(0.1)
passed = time.monotonic() - began
found = {name: (spent(pid) - before[name]) / passed for name, pid in pids.items()}
found["watcher"] = (time.process_time() - own) / passed if rate else 0.0
bodies = len(seen["bodies"])
print(json.dumps({"cpu": found, "looks": looks, "slowest_s": slowest, "bodies": bodies}))
"""


def watch(cluster: Cluster, seconds: float, rate: float) -> dict[str, float]:
    """Return the part of a CPU that each process took; nodes are taken as wholes."""
    before = {node.name: node.cpu_seconds() for node in cluster.nodes}
    began = time.monotonic()
    words = (PYTHON, "-c", WATCH, str(seconds), str(rate))
    said = json.loads(cluster.home.run(words, timeout=seconds + 60, check=True).stdout)
    passed = time.monotonic() - began
    found: dict[str, float] = said.pop("cpu")
    for node in cluster.nodes:
        found[f"node {node.name}"] = (node.cpu_seconds() - before[node.name]) / passed
    print(f"  at {rate:g} Hz: {said}")
    return found


def start(home: Host, stack: ExitStack, node: str) -> None:
    """Start a body that sleeps."""
    words = ("mrun", "-n", node, "--no-fallback", "sleep", "1000")
    process = stack.enter_context(home.popen(words, stdout=subprocess.DEVNULL))
    stack.callback(process.send_signal, 9, group=True)


def bodies(home: Host) -> int:
    """Return how many bodies there are and have been measured."""
    rows = json.loads(home.run(("mlaunch", "ps", "--json"), check=True).stdout)
    return sum(row["measured_at"] is not None for row in rows)


def main() -> None:
    """Measure and print."""
    nodes, each, seconds = (int(word) for word in (*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]))
    with Cluster("bench-observing", nodes=nodes) as cluster, ExitStack() as stack:
        add_nodes(cluster.home, *(node.name for node in cluster.nodes))
        for _ in range(each):
            for node in cluster.nodes:
                start(cluster.home, stack, node.name)
        wait_until(lambda: bodies(cluster.home) == nodes * each, 120, "all bodies run")
        idle, watched = watch(cluster, seconds, 0), watch(cluster, seconds, RATE)
        print(f"{nodes} nodes, {nodes * each} bodies: per cent of a CPU")
        for name, part in watched.items():
            print(f"  {name:12} idle {100 * idle[name]:6.2f}   watched {100 * part:6.2f}")


if __name__ == "__main__":
    main()
