"""Cold starts far away: what is foretold and learned, and a node that can keep nothing."""

import json
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.programs.nodes import on

HEADERS = 100

PROJECT = r"""
set -e
for i in $(seq {count}); do echo "static inline int f$i(int x) {{ return x * $i; }}" > h$i.h; done
( for i in $(seq {count}); do echo "#include \"h$i.h\""; done
  echo '#include <stdio.h>'
  echo 'int main(void) {{ return f1(0); }}' ) > main.c
gcc -c main.c -o native.o
"""

COMPILE = "cd {work}; {mrun} --stats receipt.json gcc -c main.c -o main.o; cmp main.o native.o"


@pytest.fixture
def far(cluster: Cluster, ready_home: Host) -> Iterator[Host]:
    """Return home, with n1 20 ms away and nothing learned."""
    home = ready_home
    home.run(("mlaunch", "daemon", "stop"), timeout=30)
    home.run(("rm", "-rf", ".local/state/mlaunch", ".cache/mlaunch"), check=True)
    cluster.node("n1").set_link(rtt_ms=20)
    yield home
    home.run(("mlaunch", "daemon", "stop"), timeout=30)
    cluster.node("n1").set_link()


def compile_there(home: Host, work: str) -> dict[str, int]:
    script = COMPILE.format(work=work, mrun=" ".join(on("n1")))
    home.run(("bash", "-ec", script), check=True, timeout=120)
    body: dict[str, int] = json.loads(home.read(f"{work}/receipt.json"))["bodies"][0]
    return body


def test_a_compile_waits_seldom_the_first_time_ever_and_cold_as_seldom_as_warm(
    far: Host, work: str
) -> None:
    far.run(("bash", "-ec", f"cd {work}; {PROJECT.format(count=HEADERS)}"), check=True)
    first = compile_there(far, work)
    far.run(("mlaunch", "daemon", "stop"), timeout=30)
    second = compile_there(far, work)
    warm = compile_there(far, work)
    # Not for its headers, nor for cc1; for a few things that nobody could know of.
    assert first["round_trips"] <= 10
    # as(1) asks for the attributes of the object file that it has just made: home's to give.
    assert warm["round_trips"] <= 3
    assert second["round_trips"] <= 10


@pytest.mark.parametrize("place", ["", ".cache", ".cache/mlaunch/content"])
def test_a_node_on_which_nothing_can_be_kept_runs_programs(
    far: Host, cluster: Cluster, work: str, place: str
) -> None:
    far.run(("bash", "-ec", f"cd {work}; {PROJECT.format(count=HEADERS)}"), check=True)
    node = cluster.node("n1")
    locked = f"/home/alice/{place}"
    node.run(("rm", "-rf", "/home/alice/.cache"), check=True)
    node.run(("mkdir", "-p", locked), check=True)
    node.run(("chown", "root:root", locked), user="root", check=True)
    try:
        for _ in range(3):
            far.run(("mlaunch", "daemon", "stop"), timeout=30)
            compile_there(far, work)
        kept = node.run(("find", "/home/alice/.cache", "-type", "f", "-path", f"{locked}*"))
        assert kept.stdout == b""
    finally:
        node.run(("chown", "alice:alice", locked), user="root", check=True)


def test_contents_come_once_to_a_node(far: Host, cluster: Cluster, work: str) -> None:
    far.run(("bash", "-ec", f"cd {work}; {PROJECT.format(count=HEADERS)}"), check=True)
    before = compile_there(far, work)["bytes_to_node"]

    def cold() -> int:
        far.run(("mlaunch", "daemon", "stop"), timeout=30)
        return compile_there(far, work)["bytes_to_node"]

    # Each link process hashes as much as it lives to, and so it may take some of them.
    assert any(cold() < before / 4 for _ in range(10))


def test_two_homes_share_what_one_node_keeps(far: Host, cluster: Cluster, work: str) -> None:
    node = cluster.node("n1")
    far.run(("bash", "-ec", f"cd {work}; {PROJECT.format(count=HEADERS)}"), check=True)
    compile_one = " ".join((*on("n1"), "gcc -c main.c -o"))
    for name in ("other", "runtime"):
        far.run(("mkdir", "-m", "700", f"{work}/{name}"), check=True)
    # A daemon of its own, with its own link and agent; what it learns is its own, too.
    other = " ".join(
        (
            f"XDG_RUNTIME_DIR={work}/runtime",
            f"XDG_STATE_HOME={work}/other/state",
            f"XDG_CACHE_HOME={work}/other/cache",
        )
    )
    both = f"""
    cd {work}
    {compile_one} a.o & first=$!
    {other} {compile_one} b.o & second=$!
    wait $first; wait $second
    cmp a.o native.o; cmp b.o native.o
    """
    node.run(("rm", "-rf", "/home/alice/.cache"), check=True)
    try:
        # The first finds no agent there and learns; then each is offered what either has kept.
        for _ in range(4):
            far.run(("bash", "-ec", both), check=True, timeout=180)
            agents = [line for _, line in node.processes("alice") if "python" in line]
            assert len(agents) >= 2, agents
            far.run(("mlaunch", "daemon", "stop"), timeout=30)
            far.run(("bash", "-c", f"{other} mlaunch daemon stop"), timeout=30)
        check = """
        cd ~/.cache/mlaunch/content
        test -z "$(find . -name '.new-*')"
        find . -type f | while read file; do
            test "$(sha256sum < $file | cut -c1-64)" = "$(echo $file | tr -d ./)"
        done
        find . -type f | wc -l
        """
        kept = node.run(("bash", "-ec", check), check=True)
        assert int(kept.stdout.split()[-1]) > 10
    finally:
        far.run(("bash", "-c", f"{other} mlaunch daemon stop"), timeout=30)
