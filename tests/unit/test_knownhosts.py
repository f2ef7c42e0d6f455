"""Which host keys are accepted; ssh-keygen writes the files where it is installed."""

import base64
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mlaunch import sshconfig
from mlaunch.errors import LaunchError
from mlaunch.knownhosts import KnownHosts

GOOD, OTHER = b"\0\0\0\x0bssh-ed25519-good", b"\0\0\0\x0bssh-ed25519-other"
KIND = "ssh-ed25519"


def line(names: str, key: bytes, marker: str = "") -> str:
    return f"{marker} {names} {KIND} {base64.b64encode(key).decode()} comment\n".lstrip()


def known(tmp_path: Path, text: str, host: str = "n1", port: int = 22) -> KnownHosts:
    path = tmp_path / "known_hosts"
    path.write_text(text)
    found = sshconfig.lookup(host, None, port, files=())
    return KnownHosts(replace(found, known_hosts=(str(tmp_path / "none"), str(path))))


def refusal(keys: KnownHosts, key: bytes = GOOD) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        keys.check(KIND, key)
    assert "SHA256:" in caught.value.text
    return caught.value


@pytest.mark.parametrize("names", ["n1", "other,n1", "n?", "N1", "*,!n2", "192.0.2.1,n1"])
def test_a_known_key_is_accepted(tmp_path: Path, names: str) -> None:
    text = "# comment\n\nbroken line\n" + line("else", OTHER) + line(names, GOOD)
    keys = known(tmp_path, text)
    keys.check(KIND, GOOD)
    assert keys.kinds == {KIND}


@pytest.mark.parametrize("text", ["", line("n2", GOOD), line("*,!n1", GOOD), "n1 ssh-ed25519 $$\n"])
def test_an_unknown_key_is_refused_with_the_way_to_accept_it(tmp_path: Path, text: str) -> None:
    error = refusal(known(tmp_path, text))
    assert "n1 is not known" in error.text
    assert error.hint == "to accept it: ssh n1"


def test_a_changed_key_is_refused_with_the_way_to_forget_the_old_one(tmp_path: Path) -> None:
    error = refusal(known(tmp_path, line("n1", OTHER)))
    assert "has changed" in error.text
    assert 'ssh-keygen -R "n1"' in error.hint


def test_one_of_several_keys_suffices(tmp_path: Path) -> None:
    known(tmp_path, line("n1", OTHER) + line("n1", GOOD)).check(KIND, GOOD)


def test_a_revoked_key_is_refused_even_if_it_is_known(tmp_path: Path) -> None:
    text = line("n1", GOOD) + line("*", GOOD, "@revoked")
    assert "revoked" in refusal(known(tmp_path, text)).text


def test_the_key_of_an_authority_is_no_host_key(tmp_path: Path) -> None:
    assert "not known" in refusal(known(tmp_path, line("n1", GOOD, "@cert-authority"))).text


def test_another_port_is_another_name_unless_only_the_plain_one_is_known(tmp_path: Path) -> None:
    known(tmp_path, line("[n1]:2222", GOOD), port=2222).check(KIND, GOOD)
    known(tmp_path, line("n1", GOOD), port=2222).check(KIND, GOOD)
    both = line("n1", GOOD) + line("[n1]:2222", OTHER)
    assert "[n1]:2222" in refusal(known(tmp_path, both, port=2222)).text


def test_hashed_names_are_recognised(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen to hash names with")
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True)
    kind, text = (tmp_path / "k.pub").read_text().split()[:2]
    path = tmp_path / "known_hosts"
    # A dot is in no hash: that the name is gone can be told from the text.
    path.write_text(f"n2.example {kind} {text}\nn1.example {kind} {text}\n")
    subprocess.run(["ssh-keygen", "-qH", "-f", path], check=True, capture_output=True)
    hashed = path.read_text()
    assert "." not in hashed
    known(tmp_path, hashed, host="n1.example").check(kind, base64.b64decode(text))
    assert "not known" in refusal(known(tmp_path, hashed, host="n3.example")).text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    host = sshconfig.lookup("n1", files=())
    with pytest.raises(LaunchError, match="Is a directory"):
        KnownHosts(replace(host, known_hosts=(str(tmp_path),)))
