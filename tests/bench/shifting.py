"""How soon what others do on a node keeps the children of a build away from it.

    python3 -m tests.bench.shifting

Three short programs run at any time, at home and on two nodes, each placed anew. Then another user
begins to compute on one of the nodes; printed is how many of all were sent there before, in the
first three seconds, and after these. A node that others load keeps what is its share of it.
"""

from __future__ import annotations

import os
import re
import threading
import time

from tests.cluster import Cluster, Process
from tests.programs.nodes import add_nodes

ROUNDS = 5
BEFORE_S, SOON_S, AFTER_S = 5.0, 3.0, 10.0

# Each takes about half a second.
CHILDREN = "yes x | xargs -P 3 -n 1 perl -e 'for ($i = 0; $i < 1.2e7; $i++) {}'"
OTHERS = "while :; do :; done"
OTHERS_COUNT = 4


class Children:
    """When each child was placed, and where, as `mrun -v` says it."""

    def __init__(self, cluster: Cluster) -> None:
        words = ("mrun", "-v", "--node", "home", "sh", "-c", CHILDREN)
        self.process = cluster.home.popen(words)
        self.placed: list[tuple[float, str]] = []
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: Process) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(rb"perl runs (?:on|at) (\w+)", line)
            if found:
                self.placed.append((time.monotonic(), found[1].decode()))


def shift(cluster: Cluster, busy: str) -> list[str]:
    """Return what was sent to the node, of all that was placed: before, soon after, later."""
    children = Children(cluster)
    time.sleep(BEFORE_S)
    begun = time.monotonic()
    loops = [
        cluster.node(busy).popen(("sh", "-c", OTHERS), user="bob") for _ in range(OTHERS_COUNT)
    ]
    time.sleep(AFTER_S)
    parts = [(-BEFORE_S, 0.0), (0.0, SOON_S), (SOON_S, AFTER_S)]
    found = []
    for first, last in parts:
        nodes = [node for at, node in children.placed if first <= at - begun < last]
        found.append(f"{nodes.count(busy)} of {len(nodes)}")
    for process in (*loops, children.process):
        process.kill()
        process.wait(20)
        process.close()
    return found


def main() -> None:
    """Load one of two nodes, several times."""
    with Cluster(f"sft{os.getpid()}", nodes=2) as cluster:
        add_nodes(cluster.home, "n1", "n2")
        for number in range(ROUNDS):
            busy = ("n1", "n2")[number % 2]
            before, soon, later = shift(cluster, busy)
            print(f"  {busy} got {before} before, {soon} soon, {later} later", flush=True)
            time.sleep(5)


if __name__ == "__main__":
    main()
