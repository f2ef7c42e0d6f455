"""What ssh_config files mean to us; ssh -G is the oracle where it is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mlaunch import sshconfig
from mlaunch.errors import LaunchError
from mlaunch.sshconfig import SshHost


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".ssh"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


def look(ssh: Path, alias: str, user: str | None = None, port: int | None = None) -> SshHost:
    return sshconfig.lookup(alias, user, port, files=(str(ssh / "config"),))


def test_without_any_file_a_host_is_what_its_name_says(ssh: Path) -> None:
    found = look(ssh, "Node.Example")
    assert (found.hostname, found.port, found.known_as) == ("node.example", 22, "node.example")
    assert found.identity_files == tuple(
        str(ssh / name) for name in ("id_ed25519", "id_ecdsa", "id_rsa")
    )
    assert (found.proxy_jump, found.proxy_command, found.agent) == ((), None, None)
    assert str(ssh / "known_hosts") in found.known_hosts


def test_the_first_value_counts_but_every_identity_does(ssh: Path) -> None:
    (ssh / "config").write_text(
        "Host n*\n  User alice\n  IdentityFile ~/.ssh/a\n"
        "Host n1\n  User bob\n  Port 23\n  IdentityFile %d/.ssh/%r-%h\n"
    )
    found = look(ssh, "n1")
    assert (found.user, found.port) == ("alice", 23)
    assert found.identity_files == (str(ssh / "a"), str(ssh / "alice-n1"))
    assert found.known_as == "[n1]:23"


def test_what_mlaunch_is_told_wins_over_the_files(ssh: Path) -> None:
    (ssh / "config").write_text("User alice\nPort 23\n")
    found = look(ssh, "n1", "carol", 24)
    assert (found.user, found.port) == ("carol", 24)


def test_included_files_are_read_where_they_are_named(ssh: Path) -> None:
    (ssh / "conf.d").mkdir()
    (ssh / "conf.d" / "10").write_text("Host inner\n  HostName 10.0.0.1\n  Port 25\n")
    (ssh / "conf.d" / "20").write_text("Host inner\n  Port 26\n  User u\n")
    (ssh / "config").write_text(
        "Host inner\n  Include conf.d/*\n  User late\nHost *\n  HostName other\n"
    )
    found = look(ssh, "inner")
    assert (found.hostname, found.port, found.user) == ("10.0.0.1", 25, "u")
    assert look(ssh, "outer").hostname == "other"


def test_what_is_included_under_another_host_does_not_apply(ssh: Path) -> None:
    (ssh / "more").write_text("Host *\n  Port 99\n")
    (ssh / "config").write_text("Host a\n  Include more\n")
    assert look(ssh, "a").port == 99
    assert look(ssh, "b").port == 22


def test_files_that_include_each_other_are_an_error(ssh: Path) -> None:
    (ssh / "config").write_text("Include config\n")
    with pytest.raises(LaunchError, match="too many levels"):
        look(ssh, "n1")


@pytest.mark.parametrize(
    ("line", "matches"),
    [
        ("Match all", True),
        ("Match host 10.*", True),
        ("Match originalhost n1", True),
        ("Match originalhost n2,n1", True),
        ("Match host n1", False),
        ("Match !host n1", True),
        ("Match user alice", True),
        ("Match user alice originalhost x", False),
        ('Match exec "test %h = 10.0.0.1"', True),
        ("Match exec false", False),
        ("Match final", False),
        ("Host n? !n1", False),
        ("Host x N1", True),
        ("Host [n1]", False),
    ],
)
def test_a_block_applies_to_whom_it_names(ssh: Path, line: str, matches: bool) -> None:
    (ssh / "config").write_text(f"HostName 10.0.0.1\nUser alice\n{line}\n  Port 77\n")
    assert look(ssh, "n1").port == (77 if matches else 22)


def test_jumps_and_commands_lead_through_other_hosts(ssh: Path) -> None:
    (ssh / "config").write_text(
        "Host a\n ProxyJump gate,bob@inner:2222\n"
        "Host b\n ProxyCommand = nc -X 5 '%h' %p | tee log\n"
        "Host c\n ProxyJump none\nHost *\n ProxyJump gate\n"
    )
    assert look(ssh, "a").proxy_jump == ("gate", "bob@inner:2222")
    assert look(ssh, "b").proxy_command == "nc -X 5 'b' 22 | tee log"
    assert look(ssh, "c").proxy_jump == ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host", ("host", None, None)),
        ("u@host:23", ("host", "u", 23)),
        ("ssh://u@host:23/", ("host", "u", 23)),
        ("u@corp@host", ("host", "u@corp", None)),
        ("[::1]:23", ("::1", None, 23)),
        ("fe80::1", ("fe80::1", None, None)),
    ],
)
def test_a_hop_has_host_user_and_port(text: str, parts: tuple[str, str | None, int | None]) -> None:
    assert sshconfig.split_jump(text) == parts


def test_the_agent_is_where_the_file_says(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    (ssh / "config").write_text(
        "Host a\n IdentityAgent none\nHost b\n IdentityAgent ~/sock\nIdentitiesOnly yes\n"
    )
    assert look(ssh, "a").agent is None
    assert look(ssh, "b").agent == f"{ssh.parent}/sock"
    assert look(ssh, "b").identities_only
    assert look(ssh, "c").agent == "/run/agent"


@pytest.mark.parametrize("text", ["Port no\n", "Port 0\n", 'User "x\n'])
def test_what_makes_no_sense_is_an_error_not_a_guess(ssh: Path, text: str) -> None:
    (ssh / "config").write_text(text)
    with pytest.raises(LaunchError):
        look(ssh, "n1")


def test_ssh_itself_reads_the_same_out_of_the_same_file(ssh: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh to compare with")
    (ssh / "extra").write_text("Host n*\n  Port 2022\n  HostKeyAlias known\n")
    path = ssh / "config"
    path.write_text(
        f"Host other\n  User wrong\nHost n1 # here\n  HostName=%h.example\n  Include {ssh}/extra\n"
        "  User\talice\nMatch host n1.example\n  IdentitiesOnly yes\nHost *\n  Port 9\n"
    )
    told = subprocess.run(
        ["ssh", "-G", "-F", path, "n1"], capture_output=True, text=True, check=True
    ).stdout
    values = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
    found = look(ssh, "n1")
    assert found.hostname == values["hostname"]
    assert str(found.port) == values["port"]
    assert found.user == values["user"]
    assert found.known_as == values["hostkeyalias"]
    assert found.identities_only == (values["identitiesonly"] == "yes")


def test_a_file_of_which_one_may_not_read_is_named(ssh: Path) -> None:
    (ssh / "config").mkdir()
    with pytest.raises(LaunchError, match=f"{os.path.join(ssh, 'config')}: Is a directory"):
        look(ssh, "n1")
