"""The mlaunch command, the home daemon and the ways of SSH, between a real home and real sshds.

Each test is somebody with a home directory of his own below alice's: keys and known hosts as hers,
configuration, daemon and ssh files his own.
"""

import json

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import node_entry
from tests.programs.person import Person

KEYS = {
    "name",
    "host",
    "state",
    "cpus",
    "idle_cpus",
    "load1",
    "memory_available_bytes",
    "rtt_ms",
    "guests",
    "reason",
}


def daemons(home: Host) -> set[int]:
    return {pid for pid, words in home.processes("alice") if "mlaunch: daemon" in words}


def ours(home: Host) -> set[int]:
    """Return daemons and link processes."""
    return {pid for pid, words in home.processes("alice") if words.startswith("mlaunch: ")}


# the command


def test_without_a_node_there_is_local(person: Person) -> None:
    assert person.nodes().keys() == {"local"}
    shown = person.run("mlaunch", "nodes").stdout
    assert b"mlaunch nodes add NAME" in shown


def test_a_node_is_added_shown_and_removed(person: Person) -> None:
    added = person.run("mlaunch", "nodes", "add", "one", "alice@n1:22")
    assert added.returncode == 0, added.stderr
    assert added.stdout.startswith(b"one is ready: ")
    shown = person.nodes()
    assert shown.keys() == {"one"}
    assert shown["one"].keys() == KEYS
    assert shown["one"]["host"] == "n1"
    assert isinstance(shown["one"]["rtt_ms"], float)
    assert b"one" in person.run("mlaunch", "nodes").stdout
    removed = person.run("mlaunch", "nodes", "remove", "one")
    assert removed.returncode == 0
    assert "one" not in person.nodes()


def test_a_node_that_does_not_answer_is_added_with_the_reason(person: Person) -> None:
    added = person.run("mlaunch", "nodes", "add", "gone", "127.0.0.1:1")
    assert added.returncode == 1
    assert b"gone is added, but cannot be used yet: " in added.stdout
    assert b"refused" in added.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("nodes", "add", "home", "n1"), "home"),
        (("nodes", "add", "a b", "n1"), "a b"),
        (("nodes", "add", "n9", "-oProxyCommand=x"), "No such option"),
        (("nodes", "add", "n9", "--", "-oProxyCommand=x"), "no host"),
        (("nodes", "add", "n9", "@n1"), "user"),
        (("nodes", "add", "n9", "n1:99999"), "99999"),
        (("nodes", "add", "n9", "n1:ssh"), "port"),
        (("nodes", "add", "n9"), "Missing argument"),
        (("nodes", "remove", "n9"), "no node n9"),
        (("doctor", "n9"), "no node n9"),
        (("nonsense",), "nonsense"),
        (("nodes", "--nonsense"), "--nonsense"),
        (("daemon", "jump"), "jump"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_in_one_line(
    person: Person, argv: tuple[str, ...], words: str
) -> None:
    assert words in person.refused("mlaunch", *argv)


# the daemon


def test_the_daemon_comes_and_goes(person: Person) -> None:
    before = daemons(person.home)
    assert person.run("mlaunch", "daemon", "status").returncode == 1
    person.config(node_entry("n1"))
    person.nodes()
    (daemon,) = daemons(person.home) - before
    status = person.run("mlaunch", "daemon", "status")
    assert status.returncode == 0
    assert str(daemon).encode() in status.stdout
    assert b"link n1" in status.stdout
    assert person.run("mlaunch", "daemon", "stop").stdout == b"stopped\n"
    wait_until(lambda: daemons(person.home) == before, 10)
    assert person.run("mlaunch", "daemon", "stop").stdout == b"the home daemon does not run\n"


def test_the_daemon_goes_by_itself_when_nobody_needs_it(person: Person) -> None:
    before = ours(person.home)
    person.config(node_entry("n1") + "[daemon]\nidle_minutes = 0.02\n")
    person.assert_usable("n1")
    wait_until(lambda: ours(person.home) == before, 20)
    person.assert_usable("n1")


def test_ten_that_need_it_at_once_get_one_daemon(person: Person) -> None:
    before = daemons(person.home)
    person.shell("for i in $(seq 10); do mlaunch nodes > /dev/null & done; wait")
    assert len(daemons(person.home) - before) == 1


def test_the_daemon_keeps_no_descriptor_of_whoever_started_it(person: Person) -> None:
    # Did it keep the pipe, cat would wait for ever.
    assert b"local" in person.shell("mlaunch nodes 2>&1 | cat; mlaunch daemon stop | cat")


def test_a_killed_daemon_is_replaced(person: Person) -> None:
    before = daemons(person.home)
    person.nodes()
    (daemon,) = daemons(person.home) - before
    person.home.run(("kill", "-9", str(daemon)), check=True)
    person.nodes()
    (other,) = daemons(person.home) - before
    assert other != daemon


def test_nobody_else_can_talk_to_the_daemon(person: Person) -> None:
    person.nodes()
    (path,) = person.shell("ls $XDG_RUNTIME_DIR/mlaunch/*.sock").decode().split()
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    # Even were the directories open to all.
    person.home.run(
        ("chmod", "-R", "a+rwx", person.folder, f"{person.folder}/run"), user="root", check=True
    )
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.settimeout(10); sys.exit(s.recv(1) != b'')"
    )
    assert person.home.run(("python3", "-c", script, path), user="alice").returncode == 0
    assert person.home.run(("python3", "-c", ask, path), user="bob").returncode == 0
    person.nodes()  # and its directory is private again
    assert person.home.run(("python3", "-c", script, path), user="bob").returncode != 0


def test_a_changed_configuration_is_seen_without_a_restart(person: Person) -> None:
    before = daemons(person.home)
    person.config(node_entry("n1"))
    person.assert_usable("n1")
    daemon = daemons(person.home) - before
    person.config(node_entry("n1", "n2") + node_entry("other", "n1"))
    assert person.nodes()["n1"]["host"] == "n2"
    person.assert_usable("n1")
    person.assert_usable("other")
    person.config("")
    assert person.nodes().keys() == {"local"}
    assert daemons(person.home) - before == daemon


def test_a_broken_configuration_does_not_keep_the_daemon_from_being_stopped(
    person: Person,
) -> None:
    person.nodes()
    person.config("nonsense")
    assert person.run("mlaunch", "daemon", "status").returncode == 0
    assert person.run("mlaunch", "daemon", "stop").stdout == b"stopped\n"


# the agent's archive


def test_the_agent_is_kept_on_the_node_and_a_damaged_one_replaced(
    person: Person, cluster: Cluster
) -> None:
    person.config(node_entry("n1"))
    person.assert_usable("n1")
    node = cluster.node("n1")
    script = "cd ~/.cache/mlaunch && ls -t agent-* | head -1 | xargs sha256sum"

    def kept() -> bytes:
        return node.run(("sh", "-c", script), check=True).stdout

    before = kept()
    name = before.split()[1].decode()
    person.run("mlaunch", "daemon", "stop")
    node.run(("truncate", "-s", "1000", f".cache/mlaunch/{name}"), check=True)
    person.assert_usable("n1")
    assert kept() == before


# ways of ssh


def test_an_alias_of_an_included_file_is_a_host(person: Person) -> None:
    person.ssh_config("Include conf.d/*\n")
    person.write(".ssh/conf.d/lab", "Host lab\n  HostName n1\n  HostKeyAlias n1\n")
    person.config(node_entry("lab"))
    person.assert_usable("lab")


def test_a_host_behind_another_is_reached(person: Person) -> None:
    person.ssh_config("Host behind\n  HostName n2\n  ProxyJump alice@n1:22\n")
    person.config(node_entry("behind"))
    person.assert_usable("behind")


def test_the_host_in_between_is_checked_as_well(person: Person) -> None:
    person.ssh_config("Host behind\n  HostName n2\n  ProxyJump n1\n")
    person.shell("ssh-keygen -q -R n1 -f ~/.ssh/known_hosts 2> /dev/null")
    person.config(node_entry("behind"))
    assert "jump host n1: the host key of n1 is not known" in person.reason("behind")


def test_jumps_that_go_round_are_noticed(person: Person) -> None:
    person.ssh_config("Host n1\n  ProxyJump n2\nHost n2\n  ProxyJump n1\n")
    person.config(node_entry("n1"))
    assert "circle" in person.reason("n1")


def test_a_host_is_reached_by_a_command(person: Person) -> None:
    person.ssh_config("Host behind\n  HostName n2\n  ProxyCommand ssh -W %h:%p n1\n")
    person.config(node_entry("behind"))
    person.assert_usable("behind")


def test_a_command_that_fails_is_told(person: Person) -> None:
    person.ssh_config("Host n1\n  ProxyCommand exit 3\n")
    person.config(node_entry("n1"))
    assert "does not speak SSH" in person.reason("n1")


def test_a_key_that_only_the_agent_has_is_used(person: Person) -> None:
    person.config(node_entry("n1"))
    shown = person.shell(
        "eval $(ssh-agent) > /dev/null; ssh-add -q ~/.ssh/id_ed25519; rm ~/.ssh/id_*;"
        "mlaunch nodes --json; mlaunch daemon stop > /dev/null; kill $SSH_AGENT_PID"
    )
    assert json.loads(shown)[0]["state"] == "ready"


def test_the_agent_of_a_later_login_is_found(person: Person) -> None:
    person.config(node_entry("n1"))
    person.shell("mv ~/.ssh/id_ed25519 ~/key; rm ~/.ssh/id_*; chmod 600 ~/key")
    assert "no key" in person.reason("n1")
    shown = person.shell(
        "eval $(ssh-agent) > /dev/null; ssh-add -q ~/key;mlaunch nodes --json; kill $SSH_AGENT_PID"
    )
    assert json.loads(shown)[0]["state"] == "ready"


def test_a_key_with_a_passphrase_is_named(person: Person) -> None:
    person.config(node_entry("n1"))
    person.shell("ssh-keygen -q -p -N secret -f ~/.ssh/id_ed25519")
    reason = person.reason("n1")
    assert f"{person.folder}/.ssh/id_ed25519 is protected by a passphrase" in reason
    assert "ssh-add" in reason


def test_a_key_that_the_node_does_not_know_is_refused(person: Person) -> None:
    person.config(node_entry("n1"))
    person.shell("rm ~/.ssh/id_*; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    assert "n1 refuses the key of alice (ssh-copy-id n1)" in person.reason("n1")


def test_a_user_of_another_name_is_asked_for(person: Person) -> None:
    person.config(node_entry("n1") + 'user = "nobody"\n')
    assert "n1 refuses the key of nobody (ssh-copy-id nobody@n1)" in person.reason("n1")


def test_a_name_that_is_none_is_told(person: Person) -> None:
    person.config(node_entry("n1", "no-such-host.invalid"))
    assert "there is no host no-such-host.invalid" in person.reason("n1")


def test_a_port_where_no_sshd_is_is_told(person: Person) -> None:
    person.config(node_entry("n1") + "port = 1\n")
    assert "is sshd running there?" in person.reason("n1")
