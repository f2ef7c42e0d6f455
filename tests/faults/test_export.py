"""What of home a node does not get to see, and who on a node does not get to see home."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes, configure, node_entry, on

HIDDEN = [".ssh", ".gnupg", ".aws", ".netrc", ".config/gh", ".docker/config.json"]


@pytest.fixture(scope="module")
def shared(_no_leaks: None) -> Iterator[Cluster]:
    with Cluster(f"export-{os.getpid()}", nodes=1) as cluster:
        add_nodes(cluster.home, "n1")
        yield cluster


@pytest.fixture
def home(shared: Cluster) -> Iterator[Host]:
    yield shared.home
    add_nodes(shared.home, "n1")


def make_secrets(home: Host) -> None:
    script = """
        for d in .gnupg .aws .config/gh .docker private; do
            mkdir -p $d; echo secret > $d/config.json
        done
        echo secret > .netrc"""
    home.run(("sh", "-ec", script), check=True)


def sees(home: Host, script: str) -> bytes:
    return home.run((*on("n1"), "sh", "-c", script), cwd="/home/alice").stdout


def test_keys_and_credentials_are_absent_on_a_node(home: Host) -> None:
    make_secrets(home)
    names = " ".join(HIDDEN)
    looks = f"""
        for f in {names}; do
            [ -e $f ] && echo $f is there; ls -d $f 2> /dev/null; cat $f $f/* 2> /dev/null
        done
        ls -A . .config .docker | grep -x -e ssh -e .gnupg -e .aws -e .netrc -e gh -e config.json
        find . -name .ssh; cat /home/alice/../alice/.ssh/id_ed25519 2> /dev/null
        ln -s .ssh link-to-ssh 2> /dev/null; cat link-to-ssh/id_ed25519 2> /dev/null; rm link-to-ssh
        cat /proc/*/root/home/alice/.ssh/id_ed25519 2> /dev/null
        echo done"""
    assert sees(home, looks) == b"done\n"


def test_what_is_hidden_cannot_be_made_or_removed(home: Host) -> None:
    make_secrets(home)
    sees(home, "mkdir .ssh; echo x > .ssh/authorized_keys; rm -rf .gnupg; mv .aws aws; ln .netrc n")
    looks = "cat .gnupg/config.json .aws/config.json .netrc; ls .ssh/authorized_keys aws n 2>&1"
    told = home.run(("sh", "-c", looks), cwd="/home/alice").stdout
    assert told.startswith(b"secret\n" * 3)
    assert told.count(b"cannot access") == 3


def test_the_export_policy_is_the_users(home: Host) -> None:
    make_secrets(home)
    export = '[export]\nhidden = ["~/private"]\nvisible = ["~/.netrc"]\nreadonly = ["~/fixed"]\n'
    configure(home, node_entry("n1") + export)
    home.run(("sh", "-c", "mkdir -p fixed; echo old > fixed/f"), check=True)

    def follows() -> bool:
        script = (
            "cat .netrc; ls private; echo new > fixed/f; touch fixed/g; cat fixed/f; ls -d .ssh"
        )
        return sees(home, script) == b"secret\nold\n"

    wait_until(follows, 30, "the policy is followed")
    assert home.run(("ls", "fixed"), check=True).stdout == b"f\n"


def test_a_hidden_working_directory_and_a_hidden_input_are_told(home: Host) -> None:
    make_secrets(home)
    inside = home.run((*on("n1"), "cat", "config.json"), cwd="/home/alice/.gnupg")
    assert b"secret" not in inside.stdout
    assert inside.returncode != 0
    given = home.run(("bash", "-c", f"{' '.join(on('n1'))} cat < .netrc"), cwd="/home/alice")
    # Giving a file is the user's own doing; either it is read or one line says why not.
    assert given.stdout == b"secret\n" or given.stderr.startswith(b"mrun: ")


def test_files_that_alice_may_not_read_are_not_read(home: Host) -> None:
    home.run(
        ("sh", "-c", "umask 077; echo root > /home/alice/roots; chmod 600 /home/alice/roots"),
        user="root",
        check=True,
    )
    told = home.run((*on("n1"), "cat", "roots", "/etc/shadow"), cwd="/home/alice")
    assert told.returncode == 1
    assert told.stdout == b""
    assert told.stderr.count(b"Permission denied") == 2


def test_another_user_of_the_node_cannot_see_the_files_of_home(shared: Cluster, home: Host) -> None:
    node = shared.node("n1")
    home.write("/home/alice/mine", b"only for alice\n")
    program = (*on("n1"), "sh", "-c", "exec 3< mine; echo ready; exec sleep 2109")
    with home.popen(program, cwd="/home/alice") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pids = [str(pid) for pid, _ in node.processes("alice")]
        assert len(pids) > 2
        spy = """
            for pid in "$@"; do
                for at in root cwd fd/3 root/home/alice root/home/alice/mine; do
                    ls /proc/$pid/$at/ && echo $pid: $at; cat /proc/$pid/$at && echo $pid: $at
                done
                cat /proc/$pid/environ /proc/$pid/mem; nsenter -t $pid -U -m true && echo entered
            done
            grep -w fuse /proc/mounts
            true"""
        seen = node.run(("sh", "-c", spy, "sh", *pids), user="bob", cwd="/")
        assert seen.stdout == b""
        process.terminate()
        process.wait(20)


def test_nothing_is_left_on_a_node_by_all_this(shared: Cluster, home: Host) -> None:
    node = shared.node("n1")
    home.run((*on("n1"), "true"), check=True)
    home.run(("mlaunch", "daemon", "stop"), check=True)
    wait_until(lambda: not node.processes("alice"), 40, "the node has no process of ours")
    assert [kind for kind, _ in node.mounts() if kind.startswith("fuse")] == []
