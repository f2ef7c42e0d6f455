"""Who one is at home is who a program is on a node, whatever the name of one's account there."""

from collections.abc import Callable

from tests.cluster import Cluster
from tests.programs.nodes import configure, node_entry, on

# What differs from user to user: owners, rights, and what only root may do. Why a file cannot be
# given away is told in other words on a node, where the kernel does not know the new owner.
SCRIPT = """
    id; whoami; cd "$HOME"; rm -rf users; mkdir users; cd users; umask 027
    echo x > f; mkdir d; ln -s f l; chmod 2750 d; touch d/g; stat -c '%n %a %U %G %u %g' . f d l d/g
    cat /etc/roots > s 2> /dev/null; echo $?; wc -c < s; echo x >> /etc/hostname; echo $?
    chown 2001:2001 f 2> /dev/null; echo $?; stat -c '%U %G' f; cat f; echo y >> f; echo $?
    mkdir closed; chmod 700 closed
    chown 2001 closed 2> /dev/null; touch closed/f; echo $?; ls closed
    mkfifo p; nice -n 5 nice; ulimit -H -n 5000; ulimit -n
    test -w /usr/bin && echo may write there; touch /tmp/users-$$; stat -c %U /tmp/users-$$
    rm -f /tmp/users-$$; find . -printf '%p %m %u %g %y\\n' | sort; cd ..; rm -rf users; echo $?
"""


def compare(cluster: Cluster, user: str, node: str) -> None:
    """Fail unless the script does on a node what it does at home, for that user."""
    secret = ("sh", "-c", "umask 077; echo secret > /etc/roots")
    cluster.home.run(secret, user="root", check=True)
    shell = ("bash", "-c", SCRIPT)
    native = cluster.home.run(shell, user=user)
    done = cluster.home.run((*on(node), *shell), user=user)
    for stream in ("stdout", "stderr"):
        assert getattr(done, stream).decode() == getattr(native, stream).decode()
    assert done.returncode == native.returncode


def test_alice_is_alice_on_a_node_where_she_is_another_user(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes=1)
    key = cluster.home.read("/home/alice/.ssh/id_ed25519.pub")
    cluster.node("n1").run(
        ("sh", "-c", "cat >> /home/bob/.ssh/authorized_keys"), user="root", input=key, check=True
    )
    configure(cluster.home, node_entry("n1") + node_entry("bobs", "n1") + 'user = "bob"\n')
    compare(cluster, "alice", "n1")
    compare(cluster, "alice", "bobs")
    there = cluster.node("n1").processes("bob")
    assert there


def test_root_is_root_on_a_node(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=1)
    cluster.home.run(("mkdir", "-p", "/root/.config/mlaunch"), user="root", check=True)
    config = node_entry("n1").encode()
    cluster.home.write("/root/.config/mlaunch/config.toml", config, user="root")
    compare(cluster, "root", "n1")
