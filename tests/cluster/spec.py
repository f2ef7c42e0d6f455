"""What a cluster is made of: names, addresses, users, CPU shares. Pure data, no effects."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

STATE_ROOT = "/run/mlaunch-cluster"
NETWORK = "10.77.0"

# An ordinary user has the same name but another number on a node than at home: nothing may rely
# on equal uids. bob is there to be kept out.
HOME_USERS = {"alice": 2000, "bob": 2001}
NODE_USERS = {"alice": 3001, "bob": 3002}


@dataclass(frozen=True)
class HostSpec:
    """One machine of the cluster."""

    name: str
    index: int  # 0 is home
    cpu: int  # the only CPU that it may use
    share: float  # of that CPU

    @property
    def is_home(self) -> bool:
        """Whether this is the machine at which the user sits."""
        return self.index == 0

    @property
    def address(self) -> str:
        """IPv4 address inside the cluster."""
        return f"{NETWORK}.1" if self.is_home else f"{NETWORK}.{10 + self.index}"

    @property
    def mac(self) -> str:
        """Hardware address: fixed, so that neighbour tables can be filled in beforehand."""
        return f"02:4d:4c:00:00:{self.index:02x}"

    @property
    def users(self) -> Mapping[str, int]:
        """Ordinary users and their numbers."""
        return HOME_USERS if self.is_home else NODE_USERS


@dataclass(frozen=True)
class ClusterSpec:
    """All machines of one cluster and where it keeps its things."""

    name: str
    hosts: tuple[HostSpec, ...]
    node_root: str  # image of a node's root file system
    venv: str  # home's Python packages
    checkout: str  # the directory that holds mlaunch/ and stubs/

    @property
    def state(self) -> str:
        """Directory of this cluster's sockets, pid and log."""
        return f"{STATE_ROOT}/{self.name}"

    @property
    def cgroup(self) -> str:
        """Name of the cgroup that holds the groups of all hosts."""
        return f"mlaunch-{self.name}"

    def dump(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> "ClusterSpec":
        """Read what `dump` wrote."""
        fields = json.loads(text)
        fields["hosts"] = tuple(HostSpec(**host) for host in fields["hosts"])
        return ClusterSpec(**fields)


def plan_hosts(nodes: int, shares: Mapping[str, float]) -> tuple[HostSpec, ...]:
    """Give each host one CPU and a share of it, such that all can be busy at once.

    With one node, home and node get a whole CPU each; with more, nine tenths of what there is
    are dealt out evenly. Home keeps its CPU to itself for as long as that is fair.
    """
    cpus = sorted(os.sched_getaffinity(0))
    count = nodes + 1
    fair = 1.0 if count <= len(cpus) else 0.9 * len(cpus) / count
    load = dict.fromkeys(cpus, 0.0)
    hosts = []
    for index in range(count):
        name = f"n{index}" if index else "home"
        share = shares.get(name, fair)
        if not 0.01 <= share <= 1:
            raise ValueError(f"not a share of a CPU, 0.01 to 1: {share}")
        cpu = min(cpus, key=lambda c: (round(load[c], 6), c == cpus[0] and index > 0, c))
        load[cpu] += share
        hosts.append(HostSpec(name, index, cpu, share))
    return tuple(hosts)


def check_name(name: str) -> str:
    """Return a name that can stand in paths and cgroups; raise ValueError otherwise."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", name):
        raise ValueError(f"not a cluster name: {name!r}")
    return name
