import os
from pathlib import Path

import pytest

from stubs.home.files.policy import SECRETS, ExportPolicy, default_hidden


@pytest.fixture
def base(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path.resolve())


def test_what_lies_below_something_hidden_is_hidden(base: bytes) -> None:
    policy = ExportPolicy([base + b"/.ssh"])
    for path in (b"/.ssh", b"/.ssh/id", b"/.ssh/a/b"):
        assert policy.is_hidden(base + path)
        with pytest.raises(FileNotFoundError):
            policy.check(base + path)
    for path in (b"", b"/.sshx", b"/.ss", b"/x/.ssh"):
        policy.check(base + path)
    policy.check(b"/")


def test_the_longest_rule_decides_about_writing(base: bytes) -> None:
    policy = ExportPolicy([], readonly=[b"/", base + b"/w/r"], writable=[base + b"/w"])
    for path, readonly in ((b"", True), (b"/w", False), (b"/w/x", False), (b"/w/r/x", True)):
        assert policy.is_readonly(base + path) is readonly
    with pytest.raises(OSError, match="read-only"):
        policy.check(base + b"/w/r", write=True)
    policy.check(base + b"/w/r")


def test_a_hidden_path_hides_what_it_links_to(tmp_path: Path, base: bytes) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / ".aws").symlink_to("vault")
    policy = ExportPolicy([base + b"/.aws"])
    assert policy.is_hidden(base + b"/.aws")
    assert policy.is_hidden(base + b"/vault/credentials")


def test_a_path_through_a_linked_directory_is_the_real_one(tmp_path: Path, base: bytes) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    policy = ExportPolicy([base + b"/home/.ssh"])
    assert policy.is_hidden(base + b"/real/.ssh")


def test_a_view_names_what_is_special_in_a_directory(base: bytes) -> None:
    policy = ExportPolicy([base + b"/.ssh", base + b"/.config/gh"], readonly=[base + b"/ro"])
    view = policy.view(base)
    assert view.hidden == {b".ssh"}
    assert view.guarded >= {b".ssh", b".config", b"ro"}
    assert view.readonly_name(b"ro")
    assert not view.readonly
    assert not view.readonly_name(b"other")
    assert policy.view(base + b"/.config").hidden == {b"gh"}
    assert policy.view(base + b"/.ssh").hides_all
    assert policy.view(base + b"/.ssh/keys").hides_all
    assert policy.view(base + b"/ro/deep").readonly
    assert not policy.view(base + b"/plain").guarded


def test_kernel_directories_are_shown_empty() -> None:
    policy = ExportPolicy([])
    for path in (b"/proc", b"/sys", b"/dev"):
        assert policy.view(path).empty
        assert not policy.view(path).hides_all
        assert policy.view(path + b"/1").hides_all
        assert not policy.is_hidden(path)
        assert policy.is_hidden(path + b"/1")
    assert not policy.view(b"/").empty


def test_a_secret_is_known_by_its_inode_until_it_is_another_file(
    tmp_path: Path, base: bytes
) -> None:
    secret = tmp_path / ".netrc"
    secret.touch()
    policy = ExportPolicy([base + b"/.netrc"])
    status = secret.stat()
    assert policy.is_secret(status.st_dev, status.st_ino)
    secret.rename(tmp_path / "shown")
    assert not policy.is_secret(status.st_dev, status.st_ino)


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="absolute"):
        ExportPolicy([b".ssh"])
    with pytest.raises(ValueError, match="root"):
        ExportPolicy([b"/"])


def test_keys_and_credentials_are_hidden_by_default() -> None:
    hidden = default_hidden(b"/home/u", 1000)
    assert set(hidden) == {b"/home/u/" + secret for secret in SECRETS}
    assert b"/home/u/.ssh" in hidden
    assert b"/home/u/.gnupg" in hidden


def test_root_hides_everybody_s_secrets() -> None:
    hidden = default_hidden(b"/root", 0)
    assert b"/etc/shadow" in hidden
    assert b"/root/.ssh" in hidden
    assert b"/etc/ssh/ssh_host_ed25519_key" in hidden


def test_a_home_that_is_the_root_directory_hides_nothing_of_it() -> None:
    assert default_hidden(b"/", 1000) == []
