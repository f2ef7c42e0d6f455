"""Cold and warm starts: round trips that wait, bytes, wall time; near and 20 ms away.

    python3 -m tests.bench.prefetch        as root

The program is one C file with 100 headers of its own. `new link` means a new daemon, link, agent
and capsule: nothing of the node's memory is left. The same program is started three times so,
once more with everything warm, and at last where the node has lost its disk cache, too.
"""

from __future__ import annotations

import json

from tests.bench.figures import forget_view, timed, warm_up
from tests.cluster import Cluster, Host

HEADERS = 100

SETUP = r"""
set -e; mkdir -p headers; cd headers
for i in $(seq {count}); do
  echo "static inline int f$i(int x) {{ return x * $i; }}" > h$i.h
  for j in $(seq 100); do echo "/* what $i says about $j */" >> h$i.h; done
done
( for i in $(seq {count}); do echo "#include \"h$i.h\""; done
  echo '#include <stdio.h>'; echo 'int main(void) {{ return f1(0); }}' ) > main.c
touch -d '1 hour ago' *
"""

RUN = "cd headers && mrun -n n1 --no-fallback --stats /tmp/receipt.json"


def one(home: Host, name: str, command: str) -> None:
    """Run a command on the node and show what it took."""
    wall = timed(home, f"{RUN} {command}")
    body = json.loads(home.read("/tmp/receipt.json"))["bodies"][0]
    print(
        f"  {name:<34} {body['round_trips']:5.0f} round trips  "
        f"{body['bytes_to_node'] / 1e6:7.2f} MB to the node  {wall:6.2f} s",
        flush=True,
    )


def series(cluster: Cluster, command: str) -> None:
    """Show the first runs of a program after one another."""
    home, node = cluster.home, cluster.node("n1")
    for name in ("first ever", "new link", "new link again"):
        forget_view(cluster)
        warm_up_link(home)
        one(home, name, command)
    one(home, "warm", command)
    forget_view(cluster)
    node.run(("rm", "-rf", "/home/alice/.cache/mlaunch/content"), check=True)
    warm_up_link(home)
    one(home, "new link, no disk cache", command)


def warm_up_link(home: Host) -> None:
    """Have a daemon and a link; of the view, only what `true` needs."""
    warm_up(home)


def main() -> None:
    """Run them all at both distances."""
    with Cluster("prefetch", nodes=1, cpu=1.0) as cluster:
        home, node = cluster.home, cluster.node("n1")
        home.run(("mlaunch", "nodes", "add", "n1", "n1"), timeout=60, check=True)
        home.run(("bash", "-c", SETUP.format(count=HEADERS)), check=True, timeout=60)
        for rtt in (0, 20):
            forget_view(cluster)
            home.run(("rm", "-rf", ".local/state/mlaunch", ".cache/mlaunch"), check=True)
            node.run(("rm", "-rf", "/home/alice/.cache/mlaunch"), check=True)
            node.set_link(rtt_ms=rtt)
            for command in ("gcc -O1 -c main.c -o main.o", "sort -o sorted main.c"):
                print(f"{command.split()[0]}, RTT {rtt} ms")
                series(cluster, command)
        node.set_link()
        forget_view(cluster)


if __name__ == "__main__":
    main()
