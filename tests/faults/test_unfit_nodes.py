"""Nodes that cannot be used: mrun, doctor and nodes say why, and programs run at home."""

import json
from collections.abc import Callable

import pytest

from tests.cluster import Cluster
from tests.cluster.waiting import wait_until
from tests.faults.refusals import refused
from tests.programs.nodes import add_nodes, on

SSH = "/home/alice/.ssh"


class Unfit:
    """A cluster whose node has just been made unfit in some way."""

    def __init__(self, cluster: Cluster) -> None:
        self.home = cluster.home
        self.node = cluster.node("n1")
        add_nodes(self.home, "n1")

    def assert_told(self, *words: str) -> None:
        """Fail unless mrun, doctor and nodes all say what is wrong, and programs run at home."""
        line = refused(self.home, *on("n1"), "true")
        assert "n1" in line
        assert all(word in line for word in words), line
        done = self.home.run(("mrun", "echo", "ran"))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"ran\n", b"")
        doctor = self.home.run(("mlaunch", "doctor", "n1"))
        assert doctor.returncode == 1
        assert all(word.encode() in doctor.stdout + doctor.stderr for word in words)
        wait_until(lambda: self.reason(), 30, "mlaunch nodes gives a reason")
        assert all(word in self.reason() for word in words), self.reason()

    def reason(self) -> str:
        listed = self.home.run(("mlaunch", "nodes", "--json"), check=True).stdout
        (node,) = (node for node in json.loads(listed) if node["name"] == "n1")
        reason: str | None = node["reason"]
        return reason or ""

    def root(self, script: str) -> None:
        """Have the node's administrator do something."""
        self.node.run(("sh", "-ec", script), user="root", cwd="/", check=True)


@pytest.fixture
def unfit(make_cluster: Callable[..., Cluster]) -> Unfit:
    return Unfit(make_cluster(nodes=1))


def test_a_refused_key_is_told(unfit: Unfit) -> None:
    unfit.root("rm /home/alice/.ssh/authorized_keys")
    unfit.assert_told("refuses")


def test_a_changed_host_key_is_refused(unfit: Unfit) -> None:
    other = unfit.home.read(f"{SSH}/id_ed25519.pub").split()[1].decode()
    known = f"n1,{unfit.node.address} ssh-ed25519 {other}\n"
    unfit.home.write(f"{SSH}/known_hosts", known.encode())
    unfit.assert_told("changed", "ssh-keygen -R")


def test_an_unknown_host_key_is_refused(unfit: Unfit) -> None:
    unfit.home.write(f"{SSH}/known_hosts", b"")
    unfit.assert_told("not known")


def test_a_node_without_python_is_told(unfit: Unfit) -> None:
    unfit.root("for f in /usr/bin/python3*; do mv $f $f.away; done")
    unfit.assert_told("python3")


def test_a_node_without_user_namespaces_is_told(unfit: Unfit) -> None:
    unfit.node.reboot(userns=False)
    unfit.assert_told("user namespaces")


def test_a_node_without_fuse_is_told(unfit: Unfit) -> None:
    unfit.root("rm /dev/fuse")
    unfit.assert_told("/dev/fuse")


def test_a_node_whose_fuse_may_not_be_opened_is_told(unfit: Unfit) -> None:
    unfit.root("chmod 600 /dev/fuse")
    unfit.assert_told("/dev/fuse")


def test_a_node_that_was_put_right_is_used(unfit: Unfit) -> None:
    unfit.root("chmod 600 /dev/fuse")
    refused(unfit.home, *on("n1"), "true")
    unfit.root("chmod 666 /dev/fuse")
    wait_until(lambda: unfit.home.run((*on("n1"), "true")).returncode == 0, 60)


def test_a_node_that_prints_a_greeting_is_used_nevertheless(unfit: Unfit) -> None:
    unfit.root("printf 'echo welcome to n1\\n' | tee /home/alice/.bashrc > /home/alice/.profile")
    done = unfit.home.run((*on("n1"), "echo", "ran"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ran\n", b"")


def test_a_node_whose_disk_is_full_is_used_or_told(unfit: Unfit) -> None:
    unfit.root("mount -t tmpfs -o size=4k,mode=777 full /home/alice/.cache || true")
    unfit.root(
        "mkdir -p /home/alice/.cache; mount -t tmpfs -o size=4k,mode=777 x /home/alice/.cache"
    )
    done = unfit.home.run((*on("n1"), "echo", "ran"))
    if done.returncode == 0:
        assert (done.stdout, done.stderr) == (b"ran\n", b"")
    else:
        assert done.returncode == 125
        assert b"n1" in done.stderr
