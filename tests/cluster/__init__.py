"""The test cluster: a home and N nodes on one machine, in namespaces of their own.

`Cluster` brings one up and down, `Host` runs commands on its machines and breaks them. It needs
root, and it is a tool of its own: it imports nothing of what it is used to test.

    host         is                                                lives in
    home         an overlay of this machine's `/`, writes are      net, mount, pid, uts, ipc and
                 discarded; no sshd                                cgroup namespaces, a cgroup
    n1, n2, …    an overlay of a minimal Debian with python3 and   the same
                 sshd; none of home's programs

Processes of one cluster, all of which die with the first:

    supervisor   one per cluster: is the switch, writes honest /proc files, starts and breaks hosts
    init         pid 1 of each host: builds its root, reaps, starts what `Host.popen` asks for
    relay        one per host with a delayed link

Nothing of it can be seen from the machine's own namespaces but those processes, their cgroups
(`mlaunch-NAME`) and the directory /run/mlaunch-cluster/NAME; `down` removes all three.
"""

from tests.cluster.cluster import Cluster, ClusterError
from tests.cluster.host import Host
from tests.cluster.process import HostError, Process
from tests.cluster.waiting import wait_until

__all__ = ["Cluster", "ClusterError", "Host", "HostError", "Process", "wait_until"]
