"""Nodes and link processes are lost while programs move: one copy goes on, or none is left."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.faults.journeys import Journey, descriptors, end_all, pid_of, stopped
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes, connect

# What befalls a node: its name, and the method of Host; "link" is its link process at home.
FAULTS = {"n1": "kill", "n2": "crash", "n3": "cut", "n4": "freeze", "n5": "link"}
OTHER = "n6"

# More than there is, for most of them only wait.
CPU = 0.5

# So that the image takes some seconds; Mbit/s.
SLOW = 16
LARGE = 8 << 20


@pytest.fixture
def six(make_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    cluster = make_cluster(nodes=6, cpu=CPU)
    add_nodes(cluster.home, *FAULTS, OTHER)
    yield cluster
    end_all()


def meet(cluster: Cluster) -> None:
    """Have a link with each node, and wait until its agent has no process that nobody asked for."""
    connect(cluster)
    for node in cluster.nodes:
        wait_until(partial(has_measured, node), 60, f"{node.name} knows how fast it is")


def has_measured(node: Host) -> bool:
    """Tell whether the agent has measured the speed of its node, as it does after some seconds."""
    return node.run(("test", "-e", ".cache/mlaunch/speed")).returncode == 0


def break_nodes(cluster: Cluster) -> None:
    """Do to each node what is to befall it."""
    for name, fault in FAULTS.items():
        if fault == "link":
            link = pid_of(cluster.home, f"mlaunch: link {name}")
            cluster.home.run(("kill", "-9", str(link)), check=True)
        else:
            getattr(cluster.node(name), fault)()


def from_each(cluster: Cluster, heap: int = 1 << 20) -> list[Journey]:
    """Return programs on the nodes that will be lost, bound for the one that will not."""
    return [Journey(cluster, name, OTHER, heap) for name in FAULTS]


def to_each(cluster: Cluster, heap: int = 1 << 20) -> list[Journey]:
    """Return programs on the node that will not be lost, bound for those that will."""
    return [Journey(cluster, OTHER, name, heap) for name in FAULTS]


def stubs(cluster: Cluster) -> int:
    """Return how many programs are being made from what comes of their images."""
    lines = [line for node in cluster.nodes for _, line in node.processes("alice")]
    # Their memory has been taken away, and with it their command lines.
    return sum(line.startswith("[python3") for line in lines)


def begin_slowly(cluster: Cluster, journeys: list[Journey]) -> None:
    """Have them move, until their images are on the way."""
    for journey in journeys:
        journey.ask()
    for name in FAULTS:
        cluster.node(name).set_link(mbit=SLOW)
    for journey in journeys:
        journey.begin()
    wait_until(lambda: stubs(cluster) == len(journeys), 40, "all are made at their destinations")


def assert_unharmed(cluster: Cluster, journeys: list[Journey]) -> None:
    """Fail unless no program has moved, and each goes on where it was."""
    for journey in journeys:
        status, said = journey.moved()
        assert status, said
        journey.ask()
    cluster.repair()
    for journey in journeys:
        journey.assert_lives_on(OTHER)


def test_a_source_lost_while_the_image_passes_takes_the_program_with_it(six: Cluster) -> None:
    traces = Traces(six)
    journeys = from_each(six, LARGE)
    begin_slowly(six, journeys)
    break_nodes(six)
    for journey in journeys:
        journey.assert_lost(journey.source)
        status, _ = journey.moved()
        assert status
    six.repair()
    for journey in journeys:
        journey.assert_gone()
    traces.assert_gone()


def test_a_destination_lost_while_the_image_passes_harms_nobody(six: Cluster) -> None:
    traces = Traces(six)
    journeys = to_each(six, LARGE)
    begin_slowly(six, journeys)
    break_nodes(six)
    assert_unharmed(six, journeys)
    traces.assert_gone()


def pass_image(journey: Journey, meanwhile: Callable[[], None]) -> None:
    """Have the image pass, and the body made from it, while mrun is yet to decide."""
    home = journey.cluster.home
    link = pid_of(home, f"mlaunch: link {journey.source}")
    mrun = next(
        pid
        for pid, line in home.processes("alice")
        if line.endswith(journey.mark) and "--no-fallback" in line
    )
    target = journey.cluster.node(journey.target)
    # Of what ran there nothing is left; of what came there before, all that holds it.
    workers = len(target.processes("alice"))
    before = descriptors(home, link)
    with stopped(home, link):
        journey.begin()
        # It waits for the image, so mrun has asked the source as well.
        wait_until(lambda: len(target.processes("alice")) > workers, 30, "the image is waited for")
        with stopped(home, mrun):
            home.run(("kill", "-CONT", str(link)), check=True)
            wait_until(lambda: journey.is_frozen() or journey.is_over(), 30, "it stands still")
            assert not journey.is_over(), journey.moved()
            wait_until(lambda: descriptors(home, link) <= before, 30, "all of it has passed")
            meanwhile()


def test_a_source_lost_when_the_image_has_passed_is_not_needed_any_more(six: Cluster) -> None:
    traces = Traces(six)
    meet(six)
    journeys = from_each(six)
    nest(journeys, lambda: break_nodes(six))
    for journey in journeys:
        status, said = journey.moved()
        assert status == 0, said
        journey.ask()
    six.repair()
    for journey in journeys:
        journey.assert_lives_on(OTHER)
    traces.assert_gone()


def test_a_destination_lost_when_the_image_has_passed_harms_nobody(six: Cluster) -> None:
    traces = Traces(six)
    meet(six)
    journeys = to_each(six)
    nest(journeys, lambda: break_nodes(six))
    assert_unharmed(six, journeys)
    traces.assert_gone()


def nest(journeys: list[Journey], meanwhile: Callable[[], None]) -> None:
    """Bring all images to where they wait for mrun, then do something."""
    if journeys:
        journeys[0].ask()
        pass_image(journeys[0], lambda: nest(journeys[1:], meanwhile))
    else:
        meanwhile()


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_after_a_move_the_program_is_where_it_is(six: Cluster, victim: str) -> None:
    traces = Traces(six)
    journeys = from_each(six) if victim == "source" else to_each(six)
    for journey in journeys:
        journey.ask()
        journey.begin()
        status, said = journey.moved()
        assert status == 0, said
    break_nodes(six)
    for journey in journeys:
        if victim == "destination":
            journey.assert_lost(journey.target)
        else:
            journey.ask()
    six.repair()
    if victim == "source":
        for journey in journeys:
            journey.assert_lives_on(OTHER)
    traces.assert_gone()
