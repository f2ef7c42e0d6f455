"""What must not be left: processes and mounts anywhere, and files on a node but for the agent."""

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until

CACHE = "/home/alice/.cache"
PLACES = ("/", "/run", "/dev", "/dev/shm")


def await_empty(host: Host) -> None:
    """Wait until alice has no process on a host."""
    wait_until(lambda: not host.processes("alice"), 40, f"{host.name} has no process of alice")


class Traces:
    """Knows what a cluster looked like before, and whether it looks so again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._files = {node.name: self._alices_files(node) for node in cluster.nodes}
        self._mounts = {node.name: sorted(node.mounts()) for node in cluster.nodes}

    @staticmethod
    def _alices_files(node: Host) -> set[bytes]:
        argv = ("find", *PLACES, "-xdev", "-user", "alice", "-print0")
        found = node.run(argv, user="root", check=True).stdout.split(b"\0")
        return {path for path in found if path and not path.startswith(CACHE.encode())}

    def assert_gone(self) -> None:
        """Fail unless nodes hold nothing but the agent, and home no process.

        Ends daemon and links first: a node in good health again has been connected to again.
        """
        home = self._cluster.home
        ours = [str(pid) for pid, line in home.processes("alice") if line.startswith("mlaunch: ")]
        if ours:
            # One may take another with it.
            home.run(("kill", *ours))
        for host in (home, *self._cluster.nodes):
            await_empty(host)
        for node in self._cluster.nodes:
            assert sorted(node.mounts()) == self._mounts[node.name]
            assert self._alices_files(node) == self._files[node.name]
