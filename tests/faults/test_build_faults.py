"""A node is lost, or stands still, in the middle of a build: the build ends as if nothing was."""

from collections.abc import Callable

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes
from tests.projects import builds, oracle
from tests.projects.catalog import KERNEL_PART

FAULTS: dict[str, Callable[[Host], None]] = {
    "crashed": Host.crash,
    "killed": Host.kill,
    "cut off": Host.cut,
    "frozen": lambda node: stand_still(node),
}
JOBS = 6
# Nearly all there is: half of the time goes into what make does alone.
CPU = {"home": 0.95, "n1": 0.45, "n2": 0.45}


def stand_still(node: Host) -> None:
    """Have nobody answer there, though TCP does: who waits for our file system cannot be frozen."""
    node.run(("pkill", "-STOP", "-u", "alice"), user="root", check=True)


def compiling(host: Host) -> bool:
    """Tell whether a compiler runs on a host."""
    return any("cc1" in line.split()[0] for _, line in host.processes("alice"))


def objects(home: Host) -> int:
    """Return how many objects of the part in question there are."""
    command = ("find", f"{KERNEL_PART.directory}/mm", "-name", "*.o")
    return home.run(command, check=True).stdout.count(b"\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_build_ends_as_natively_though_a_node_is(
    make_cluster: Callable[..., Cluster], fault: str
) -> None:
    native = oracle.native(KERNEL_PART)
    cluster = make_cluster(nodes=2, cpu=CPU)
    home, node = cluster.home, cluster.node("n1")
    add_nodes(home, "n1", "n2")
    traces = Traces(cluster)
    builds.lay(home, KERNEL_PART)
    (step,) = KERNEL_PART.steps
    words = (*builds.mrun("--stats", builds.RECEIPT), *step.command(JOBS))
    environment = KERNEL_PART.environment
    with home.popen(words, cwd=KERNEL_PART.directory, env=environment) as process:
        victim = home if builds.natively() else node
        wait_until(lambda: objects(home) >= 5 and compiling(victim), 120, "mm/ is compiled on n1")
        assert objects(home) < 46
        FAULTS[fault](node)
        output, errors = process.communicate(timeout=builds.STEP_TIMEOUT)
    log = home.run(("sh", "-c", "cat ~/.local/state/mlaunch/*.log /tmp/mlaunch-*/*.log")).stdout
    assert process.returncode == 0, (errors, log)
    outcome = builds.Outcome(
        [process.returncode],
        [builds.steady_lines(step, output + errors)],
        builds.snapshot(home, KERNEL_PART),
    )
    builds.assert_same(native, outcome)
    if not builds.natively():
        bodies = builds.read_bodies(home)
        assert any(body["restarts"] for body in bodies)
        assert any(body["node"] == "n2" for body in bodies)
    if fault == "frozen":
        node.run(("pkill", "-CONT", "-u", "alice"), user="root", check=True)
    cluster.repair()
    traces.assert_gone()
