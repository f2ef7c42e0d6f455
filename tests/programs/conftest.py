"""Fixtures for whole programs: a home that knows its nodes, and the runner of cases in it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, Host
from tests.programs import harness
from tests.programs.binaries import install_binaries
from tests.programs.nodes import add_nodes
from tests.programs.person import Person

RUNNER = Path(__file__).with_name("runner.py").read_text()


@pytest.fixture(scope="session")
def ready_home(_shared_cluster: Cluster) -> Host:
    """Return the shared home, where alice has n1 and n2 and programs that no package has."""
    add_nodes(_shared_cluster.home, "n1", "n2")
    install_binaries(_shared_cluster.home)
    return _shared_cluster.home


@pytest.fixture(scope="module")
def oracle(ready_home: Host) -> Iterator[harness.Oracle]:
    """Return what runs a case natively and on a node, and compares."""
    argv = ("/usr/bin/python3", "-c", RUNNER)
    log = os.environ.get("MLAUNCH_RUNNER_LOG", os.devnull)
    with (
        open(log, "wb") as stderr,
        ready_home.popen(argv, stdin=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        with open(os.dup(process.stdout.fileno()), "rb") as replies:
            yield harness.Oracle(harness.Runner(process.stdin, replies))


def _builders(nodes: int) -> Iterator[Cluster]:
    with Cluster(f"t{os.getpid()}-builders-{nodes}", nodes=nodes) as cluster:
        add_nodes(cluster.home, *(node.name for node in cluster.nodes))
        yield cluster


@pytest.fixture(scope="module")
def one_node(_no_leaks: None) -> Iterator[Cluster]:
    """Return a home and a node with a CPU each, for the builds of one module."""
    yield from _builders(1)


@pytest.fixture(scope="module")
def three_nodes(_no_leaks: None) -> Iterator[Cluster]:
    """Return a home and three nodes, all with equal shares of the CPUs there are."""
    yield from _builders(3)


@pytest.fixture
def person(home: Host) -> Iterator[Person]:
    somebody = Person(home)
    yield somebody
    somebody.close()
