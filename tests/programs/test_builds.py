"""Whole builds of real projects under mrun: what they leave is what the native build leaves."""

import os

import pytest

from tests.cluster import Cluster
from tests.projects import builds, oracle
from tests.projects.catalog import GZIP, JSONCPP, KERNEL, SMALL, Project

# Of all CPU time of a build, what at least is to be spent on nodes. With one node half of the CPUs
# are there, with three three quarters; what starts compilers, links and archives stays at home.
CASES = [
    pytest.param("one_node", KERNEL, 0.3, id="linux-one-node"),
    pytest.param("three_nodes", KERNEL, 0.4, id="linux-three-nodes"),
    pytest.param("three_nodes", JSONCPP, 0.4, id="jsoncpp-three-nodes"),
    # Of a thousand programs none runs for a second.
    pytest.param("one_node", GZIP, 0.0, id="gzip-one-node"),
    pytest.param("one_node", SMALL, 0.2, id="small-one-node"),
    pytest.param("three_nodes", SMALL, 0.3, id="small-three-nodes"),
]

# Their work is to start others.
STARTERS = {"make", "ninja", "ctest", "sh", "dash", "bash", "configure"}


def jobs(cluster: Cluster) -> int:
    return 2 * (len(cluster.nodes) + 1)


@pytest.mark.parametrize(("bed", "project", "least_share"), CASES)
def test_a_build_leaves_what_the_native_one_leaves(
    request: pytest.FixtureRequest, bed: str, project: Project, least_share: float
) -> None:
    cluster: Cluster = request.getfixturevalue(bed)
    home = cluster.home
    native = oracle.native(project)
    builds.lay(home, project)
    at_home, on_nodes = home.cpu_seconds(), sum(node.cpu_seconds() for node in cluster.nodes)
    outcome, bodies = builds.build(home, project, jobs(cluster), under_mrun=True)
    at_home = home.cpu_seconds() - at_home
    on_nodes = sum(node.cpu_seconds() for node in cluster.nodes) - on_nodes
    # Shown when the test fails.
    print(f"CPU seconds: home {at_home:.1f}, nodes {on_nodes:.1f}; placed", len(bodies))
    builds.assert_same(native, outcome)
    if builds.natively():
        return
    assert on_nodes >= least_share * (at_home + on_nodes)
    placed = builds.on_nodes(bodies)
    # It is make's children that spread, not make.
    names = [os.path.basename(body["argv"][0]) for body in placed]
    assert not set(names) & STARTERS, names
    if least_share:
        assert len(placed) >= 5
        assert {body["node"] for body in placed} == {node.name for node in cluster.nodes}
    for body in placed:
        assert body["argv"], body
        assert body["why"], body
        assert body["wall_s"] > 0, body
        assert body["bytes_to_home"] >= 0, body
        assert body["restarts"] == 0, body
    assert sum(body["cpu_s"] for body in placed) <= on_nodes
    home.run(("rm", "-rf", project.directory), check=True, timeout=120)


def test_two_builds_at_once_share_the_nodes(three_nodes: Cluster) -> None:
    home = three_nodes.home
    native = oracle.native(SMALL)
    builds.lay(home, SMALL)
    folders = [f"{SMALL.directory}-{number}" for number in range(2)]
    receipts = [f"{folder}.json" for folder in folders]
    started = []
    for folder, receipt in zip(folders, receipts, strict=True):
        home.run(("cp", "-a", SMALL.directory, folder), check=True)
        words = (*builds.mrun("--stats", receipt), "make", "-j4", "check")
        started.append(home.popen(words, cwd=folder))
    for process in started:
        with process:
            said, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert said.count(b"-c -o") == 21
    for folder in folders:
        tree = builds.snapshot(home, SMALL, folder)
        assert builds.differences(native.tree, tree) == []
    if builds.natively():
        return
    counts = [len(builds.on_nodes(builds.read_bodies(home, receipt))) for receipt in receipts]
    # Neither took all there was.
    assert min(counts) * 4 >= max(counts) > 0, counts
