"""Three nodes: one busy, one idle and near, one idle and far. Where a program then runs."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes, configure, node_entry

RECEIPT = "/home/alice/receipt.json"
# Programs that compute and start nobody: a shell would stay at home.
COMPUTE = ("awk", "BEGIN { while (i < 1000000) i++; print i }")
COMPUTE_ON = ("awk", 'BEGIN { print "ready"; fflush(); while (1) i++ }')


@pytest.fixture(scope="module")
def three(_no_leaks: None) -> Iterator[Cluster]:
    with Cluster(f"placement-{os.getpid()}", nodes=3) as cluster:
        add_nodes(cluster.home, "n1", "n2", "n3")
        yield cluster


@pytest.fixture
def bed(three: Cluster) -> Iterator[Cluster]:
    """Return the cluster with n3 far and all idle, as the daemon sees it, too."""
    three.node("n3").set_link(rtt_ms=20)
    wait_for(three.home, lambda seen: all(idle(seen, name) for name in ("n1", "n2", "n3")))
    wait_for(three.home, lambda seen: seen["n3"]["rtt_ms"] > 15 > seen["n2"]["rtt_ms"])
    yield three
    three.repair()
    add_nodes(three.home, "n1", "n2", "n3")


Seen = dict[str, dict[str, Any]]


def nodes(home: Host) -> Seen:
    """Return what `mlaunch nodes` tells of each node."""
    listed = home.run(("mlaunch", "nodes", "--json"), check=True).stdout
    return {node["name"]: node for node in json.loads(listed)}


def wait_for(home: Host, condition: Callable[[Seen], bool]) -> None:
    wait_until(lambda: condition(nodes(home)), 60, "the daemon sees it")


def idle(seen: Seen, name: str) -> bool:
    """Tell whether a node is there and has nothing to do."""
    node = seen.get(name, {})
    return bool(node.get("cpus")) and node["idle_cpus"] > 0.9 * node["cpus"]


def where(home: Host, *options: str) -> str:
    """Run something that computes and return where."""
    done = home.run(("mrun", "-v", *options, "--stats", RECEIPT, *COMPUTE), check=True)
    assert done.stdout == b"1000000\n"
    # Shown when a test fails: what the decision was made of, and what is known now.
    print(done.stderr.decode(), *nodes(home).values(), sep="\n")
    bodies = json.loads(home.read(RECEIPT))["bodies"]
    return bodies[0]["node"] if bodies else "home"


@contextlib.contextmanager
def busy(cluster: Cluster, name: str) -> Iterator[None]:
    """Have somebody else compute on a node."""
    burn = ("sh", "-c", "while :; do :; done & while :; do :; done")
    with cluster.node(name).popen(burn, user="bob", stdout=subprocess.DEVNULL) as process:
        wait_for(cluster.home, lambda seen: seen[name]["idle_cpus"] < 0.4 * seen[name]["cpus"])
        yield
        process.send_signal(9, group=True)


def daemons(home: Host) -> list[int]:
    return [pid for pid, words in home.processes("alice") if "mlaunch: daemon" in words]


def test_the_far_idle_node_is_taken_when_another_is_busy(bed: Cluster) -> None:
    with busy(bed, "n1"):
        assert where(bed.home) == "n3"


def test_the_near_node_is_taken_when_the_far_one_is_busy(bed: Cluster) -> None:
    with busy(bed, "n3"), busy(bed, "n1"):
        assert where(bed.home) == "n2"


def test_home_is_taken_when_every_node_is_busy(bed: Cluster) -> None:
    with busy(bed, "n1"), busy(bed, "n2"), busy(bed, "n3"):
        assert where(bed.home) == "home"


def test_a_second_program_goes_where_the_first_is_not(bed: Cluster) -> None:
    with bed.home.popen(("mrun", *COMPUTE_ON)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert where(bed.home) in {"n1", "n2"}
        process.terminate()


def test_only_names_the_nodes_to_consider(bed: Cluster) -> None:
    assert where(bed.home, "--only", "n1") == "n1"
    with busy(bed, "n1"):
        assert where(bed.home, "--only", "n1,n2") == "n2"


def test_a_node_by_name_is_taken_even_if_it_is_busy(bed: Cluster) -> None:
    with busy(bed, "n1"):
        assert where(bed.home, "-n", "n1") == "n1"
    assert where(bed.home, "-n", "home") == "home"


def test_nodes_come_and_go_without_a_restart(bed: Cluster) -> None:
    assert where(bed.home) == "n3"
    daemon = daemons(bed.home)
    bed.home.run(("mlaunch", "nodes", "remove", "n3"), check=True)
    assert where(bed.home) in {"n1", "n2"}
    assert "n3" not in nodes(bed.home)
    bed.home.run(("mlaunch", "nodes", "add", "n3", "alice@n3"), check=True)
    wait_for(bed.home, lambda seen: idle(seen, "n3") and seen["n3"]["rtt_ms"] > 15)
    assert where(bed.home) == "n3"
    assert daemons(bed.home) == daemon


def test_a_node_that_was_written_into_the_configuration_is_taken(bed: Cluster) -> None:
    add_nodes(bed.home, "n1")
    assert where(bed.home) == "n1"
    configure(bed.home, node_entry("n1") + node_entry("far", "n3"))
    wait_for(bed.home, lambda seen: "far" in seen and idle(seen, "far"))
    assert where(bed.home) == "far"


def test_a_node_that_is_rebooted_is_taken_again(bed: Cluster) -> None:
    assert where(bed.home) == "n3"
    daemon = daemons(bed.home)
    bed.node("n3").reboot()
    assert where(bed.home) in {"n1", "n2", "n3"}
    bed.node("n3").set_link(rtt_ms=20)
    wait_for(bed.home, lambda seen: idle(seen, "n3") and seen["n3"]["rtt_ms"] > 15)
    assert where(bed.home) == "n3"
    assert daemons(bed.home) == daemon


def test_a_node_that_refuses_connections_is_left_out(bed: Cluster) -> None:
    assert where(bed.home) == "n3"
    bed.node("n3").kill()
    assert where(bed.home) in {"n1", "n2"}
    wait_for(bed.home, lambda seen: bool(seen["n3"]["reason"]))
    failed = bed.home.run(("mrun", "--only", "n3", "--no-fallback", "true"))
    assert failed.returncode == 125
    assert failed.stdout == b""
    assert failed.stderr.startswith(b"mrun: ")
    assert b"n3" in failed.stderr
    assert failed.stderr.count(b"\n") == 1
    assert where(bed.home, "--only", "n3") == "home"
