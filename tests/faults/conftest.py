from collections.abc import Callable, Iterator

import pytest

from tests.cluster import Cluster
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes


@pytest.fixture
def pair(make_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Return a home and a node of one's own; afterwards nothing must be left on either."""
    cluster = make_cluster(nodes=1)
    add_nodes(cluster.home, "n1")
    traces = Traces(cluster)
    yield cluster
    cluster.repair()
    traces.assert_gone()
