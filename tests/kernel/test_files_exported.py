import errno
import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from stubs.abi.fuse import (
    FATTR_MODE,
)
from stubs.wire.codec import Entry
from stubs.wire.messages import (
    ATTR_VOLATILE,
    Attrs,
    Create,
    Data,
    Done,
    Error,
    Failed,
    Fallocate,
    Found,
    Fsync,
    Getattr,
    Hold,
    Link,
    Lookup,
    Mkdir,
    Read,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Snapshot,
    Symlink,
    Unhold,
    Unlink,
    Write,
)
from tests.kernel.file_peer import DEADLINE_SECONDS, Peer, in_child, in_new_mount_namespace

USER = 60123


# identity and escapes


def test_a_replaced_file_is_stale_not_another(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    number = peer.lookup("f").id
    (tmp_path / "g").write_bytes(b"new")
    os.rename(tmp_path / "g", tmp_path / "f")
    assert peer.errno(Read(number, 0, 10)) == errno.ESTALE
    assert peer.read(peer.lookup("f").id) == b"new"


def test_a_replaced_program_goes_on_as_the_old_one_while_held(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    number = peer.lookup("f").id
    peer.node.post(Hold([number]))
    peer.ask(Getattr(1))
    (tmp_path / "g").write_bytes(b"new")
    os.rename(tmp_path / "g", tmp_path / "f")
    assert peer.changes().names
    assert peer.read(number) == b"old"
    assert peer.attr(number).nlink == 0


def test_a_file_that_home_moves_is_followed(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"data")
    number = peer.lookup("f").id
    peer.names(peer.lookup("d").id)
    os.rename(tmp_path / "f", tmp_path / "d/g")
    assert peer.read(number) == b"data"
    assert peer.lookup("d/g").id == number


def test_a_directory_swapped_for_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    export, outside = tmp_path / "export", tmp_path / "outside"
    (export / "d").mkdir(parents=True)
    outside.mkdir()
    (export / "d/f").write_bytes(b"inside")
    (outside / "f").write_bytes(b"outside")
    peer = Peer(str(export))
    directory, number = peer.lookup("d").id, peer.lookup("d/f").id
    peer.service._tree.paths.empty()
    os.rename(export / "d", export / "e")
    (export / "d").symlink_to(outside)
    assert stat.S_ISLNK(peer.lookup("d").mode)
    reply = peer.ask(Read(number, 0, 10))
    assert isinstance(reply, Error) or reply == Data(b"inside")
    reply = peer.ask(Lookup(directory, b"f"))
    if isinstance(reply, Found):
        assert reply.entry.attr.ino == (export / "e/f").stat().st_ino
    for message in (Unlink(directory, b"f", 0), Create(directory, b"g", 0o644, os.O_WRONLY, 0, 0)):
        peer.ask(message)
    assert sorted(os.listdir(outside)) == ["f"]
    assert (outside / "f").read_bytes() == b"outside"
    peer.close()


def test_a_directory_moved_out_of_the_export_is_stale(tmp_path: Path) -> None:
    export = tmp_path / "export"
    (export / "d").mkdir(parents=True)
    (export / "d/f").write_bytes(b"data")
    peer = Peer(str(export))
    directory = peer.lookup("d").id
    peer.names(directory)
    os.rename(export / "d", tmp_path / "out")
    peer.changes()
    assert peer.errno(Lookup(directory, b"f")) == errno.ESTALE
    assert peer.errno(Create(directory, b"g", 0o644, os.O_WRONLY, 0, 0)) == errno.ESTALE
    peer.close()


def test_absolute_symlinks_are_text(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("/etc")
    attr = peer.lookup("l")
    assert peer.errno(Lookup(attr.id, b"passwd")) == errno.ENOTDIR
    assert peer.errno(Snapshot(attr.id, 0)) == errno.ENOTDIR
    assert peer.errno(Read(attr.id, 0, 10)) == errno.EINVAL


def test_mount_points_differ_in_inode_number_from_what_is_above(peer: Peer) -> None:
    # tmpfs numbers its root 1 everywhere; a directory and a mount in it must not look alike.
    def run() -> None:
        base = tempfile.mkdtemp()
        subprocess.run(["mount", "-t", "tmpfs", "none", base], check=True)
        os.mkdir(f"{base}/m")
        subprocess.run(["mount", "-t", "tmpfs", "none", f"{base}/m"], check=True)
        peer = Peer(base)
        assert peer.lookup("m").ino != peer.root.ino

    in_new_mount_namespace(run)


def test_a_proc_mounted_elsewhere_is_empty(tmp_path: Path) -> None:
    def run() -> None:
        (tmp_path / "chroot/proc").mkdir(parents=True)
        subprocess.run(["mount", "-t", "proc", "none", tmp_path / "chroot/proc"], check=True)
        peer = Peer(str(tmp_path))
        number = peer.lookup("chroot/proc").id
        assert peer.names(number) == {}
        assert peer.errno(Lookup(number, b"self")) == errno.ENOENT
        assert peer.errno(Create(number, b"x", 0o644, os.O_WRONLY, 0, 0)) == errno.EROFS

    in_new_mount_namespace(run)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def run() -> None:
        options = ["-o", "size=64k"]
        subprocess.run(["mount", "-t", "tmpfs", *options, "none", tmp_path], check=True)
        peer = Peer(str(tmp_path))
        number = peer.create(1, b"f").id
        for index in range(4):
            peer.node.post(Write(number, index << 16, 0, 1, bytes(1 << 16)))
        peer.ask(Getattr(1))
        failures = [m for m in peer.pushed if isinstance(m, Failed)]
        assert [m.errno for m in failures] == [errno.ENOSPC]
        assert failures[0].path == os.fsencode(tmp_path / "f")
        assert peer.errno(Write(number, 1 << 20, 0, 1, bytes(1 << 16))) == errno.ENOSPC

    in_new_mount_namespace(run)


@pytest.mark.parametrize("apart", [False, True], ids=["one disk", "two disks"])
def test_an_overlay_reads_what_was_written_through_it(tmp_path: Path, apart: bool) -> None:
    def run() -> None:
        if apart:
            subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        if apart:
            subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "lower"], check=True)
        (tmp_path / "lower/f").write_bytes(b"lower")
        options = ",".join(
            f"{key}={tmp_path}/{name}"
            for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
        )
        merged = tmp_path / "merged"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
        peer = Peer(str(merged))
        number = peer.lookup("f").id
        assert peer.read(number) == b"lower"
        peer.write(number, b"UPPER")
        assert peer.read(number) == b"UPPER"
        assert peer.lookup("f").id == number
        for name in ("g", "h"):
            (tmp_path / "lower" / name).write_bytes(b"lower")
        other, held = peer.lookup("g").id, peer.lookup("h").id
        peer.node.post(Hold([held]))
        assert peer.read(other) == peer.read(held) == b"lower"
        for name in ("g", "h"):
            with open(merged / name, "r+b") as file:
                file.write(b"home!")
        told = peer.changes()
        known = {attr.id for attr in told.data} | {c.attr.id for c in told.names if c.attr}
        assert {peer.lookup("g").id, held} <= known
        assert peer.lookup("h").id == held
        assert peer.read(peer.lookup("g").id) == peer.read(held) == b"home!"

    in_new_mount_namespace(run)


# policy


def test_hidden_names_are_absent_and_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id").write_text("secret")
    (tmp_path / ".config/gh").mkdir(parents=True)
    root = os.fsencode(tmp_path)
    peer = Peer(str(tmp_path), hidden=[root + b"/.ssh", root + b"/.config/gh", root + b"/.netrc"])
    assert set(peer.names(1)) == {b".config"}
    assert peer.errno(Lookup(1, b".ssh")) == errno.ENOENT
    assert peer.errno(Lookup(1, b".netrc")) == errno.ENOENT
    config = peer.lookup(".config").id
    assert peer.names(config) == {}
    number = peer.create(1, b"f").id
    for message in (
        Create(1, b".netrc", 0o600, os.O_WRONLY, 0, 0),
        Mkdir(config, b"gh", 0o755, 0),
        Symlink(1, b".netrc", b"f", 0),
        Link(number, 1, b".netrc", 0),
        Rename(1, b"f", 1, b".netrc", 0, 0),
        Rename(1, b".ssh", 1, b"shown", 0, 0),
        Rename(1, b".config", 1, b"shown", 0, 0),
        Rename(1, b"f", 1, b".config", 2, 0),
        Rmdir(1, b".config", 0),
        Unlink(1, b".ssh", 0),
    ):
        assert peer.errno(message) == errno.EACCES, message
    peer.close()


def test_a_hidden_file_stays_hidden_under_another_name(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("secret")
    os.link(tmp_path / ".netrc", tmp_path / "copy")
    peer = Peer(str(tmp_path), hidden=[os.fsencode(tmp_path / ".netrc")])
    assert peer.errno(Lookup(1, b"copy")) == errno.ENOENT
    assert peer.names(1) == {}
    peer.close()


def test_what_home_moves_into_a_hidden_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    peer = Peer(str(tmp_path), hidden=[os.fsencode(tmp_path / ".ssh")])
    directory = peer.lookup("d").id
    peer.lookup("d/f")
    os.rename(tmp_path / "d", tmp_path / ".ssh/d")
    peer.changes()
    assert peer.errno(Lookup(directory, b"f")) == errno.ESTALE
    peer.close()


def test_read_only_paths_refuse_every_change(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro/f").write_bytes(b"data")
    peer = Peer(str(tmp_path), readonly=[os.fsencode(tmp_path / "ro")])
    directory = peer.lookup("ro").id
    attr = peer.lookup("ro/f")
    assert attr.rights & 2 == 0
    for message in (
        Create(directory, b"g", 0o644, os.O_WRONLY, 0, 0),
        Create(directory, b"f", 0o644, os.O_WRONLY, 0, 0),
        Mkdir(directory, b"g", 0o755, 0),
        Unlink(directory, b"f", 0),
        Rename(directory, b"f", 1, b"f", 0, 0),
        Write(attr.id, 0, 0, 1, b"x"),
        Setattr(attr.id, FATTR_MODE, 0o777, 0, 0, 0, 0, 0, 0),
        Setxattr(attr.id, b"user.x", b"x", 0, 0),
        Fallocate(attr.id, 0, 0, 100, 0),
    ):
        assert peer.errno(message) == errno.EROFS, message
    assert peer.errno(Link(attr.id, 1, b"f", 0)) == errno.EXDEV
    assert peer.errno(Rename(1, b"ro", 1, b"rw", 0, 0)) == errno.EACCES
    assert peer.read(attr.id) == b"data"
    peer.close()


def test_emptied_directories_are_there_but_empty(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/1").touch()
    number = peer.lookup("proc").id
    assert peer.names(number) == {}
    assert peer.errno(Lookup(number, b"1")) == errno.ENOENT


# rights


@pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
def test_rights_are_what_the_kernel_would_say(open_dir: Path) -> None:
    for mode in (0o000, 0o400, 0o644, 0o640, 0o604, 0o755, 0o777, 0o070, 0o007, 0o750):
        for uid, gid in ((0, 0), (USER, 0), (0, USER)):
            path = open_dir / f"{mode:o}-{uid}-{gid}"
            path.touch()
            os.chown(path, uid, gid)
            path.chmod(mode)

    def run() -> None:
        peer = Peer(str(open_dir))
        for name, attr in peer.names(1).items():
            path = os.path.join(os.fsencode(open_dir), name)
            native = sum(right for right in (4, 2, 1) if os.access(path, right))
            assert attr.rights == native, (name, attr.rights, native)

    in_child(run, USER)
    in_child(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
def test_permission_is_asked_when_a_file_is_opened_and_not_later(open_dir: Path) -> None:
    def run() -> None:
        peer = Peer(str(open_dir))
        number = peer.create(1, b"readonly", 0o444, os.O_WRONLY).id
        peer.node.post(Hold([number]))
        peer.write(number, b"data")
        peer.until(lambda: not peer.service._contents.writers._fds)
        assert peer.write(number, b"more", 4).size == 8
        peer.node.post(Unhold([number]))
        assert peer.errno(Write(number, 0, 0, 1, b"x")) == errno.EACCES

        number = peer.create(1, b"taken", 0o600, os.O_RDWR).id
        peer.service._contents.settle()
        peer.node.post(Hold([number]))
        peer.get(Setattr(number, FATTR_MODE, 0, 0, 0, 0, 0, 0, 0), Attrs)
        peer.write(number, b"still")
        assert peer.read(number) == b"still"
        assert (open_dir / "taken").stat().st_mode & 0o777 == 0

    open_dir.chmod(0o777)
    in_child(run, USER)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
def test_a_directory_that_may_not_be_read_may_be_searched(open_dir: Path) -> None:
    (open_dir / "x").mkdir()
    (open_dir / "x/f").write_bytes(b"data")
    (open_dir / "x").chmod(0o711)
    (open_dir / "r").mkdir()
    (open_dir / "r/f").touch()
    (open_dir / "r").chmod(0o744)

    def run() -> None:
        peer = Peer(str(open_dir))
        number = peer.lookup("x").id
        assert peer.errno(Snapshot(number, 0)) == errno.EACCES
        attr = peer.lookup("x/f")
        assert attr.flags & ATTR_VOLATILE
        assert peer.read(attr.id) == b"data"
        number = peer.lookup("r").id
        assert {name: attr.id for name, attr in peer.names(number).items()} == {b"f": 0}

    in_child(run, USER)


# adoption


def test_an_inherited_file_is_reachable_although_it_has_no_name(peer: Peer, tmp_path: Path) -> None:
    with open(tmp_path / "f", "w+b") as file:
        file.write(b"data")
        file.flush()
        os.unlink(tmp_path / "f")
        number = peer.service.adopt(file.fileno()).id
    assert peer.read(number) == b"data"
    peer.node.post(Hold([number]))
    peer.node.post(Unhold([number]))
    peer.write(number, b"DA")
    assert peer.read(number) == b"DAta"
    peer.service.disown(number)
    assert peer.errno(Read(number, 0, 1)) == errno.ESTALE


def test_an_inherited_file_with_a_name_is_the_file_by_that_name(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with open(tmp_path / "d/f", "wb") as file:
        attr = peer.service.adopt(file.fileno())
        assert peer.lookup("d/f").id == attr.id
    with open(tmp_path / "d/f", "ab") as file:
        file.write(b"home")
    assert [changed.id for changed in peer.changes().data] == [attr.id]


def test_hidden_files_and_pipes_are_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    peer = Peer(str(tmp_path), hidden=[os.fsencode(tmp_path / "k")])
    with open(tmp_path / "k") as file, pytest.raises(PermissionError):
        peer.service.adopt(file.fileno())
    read_fd, write_fd = os.pipe()
    with pytest.raises(OSError, match="neither"):
        peer.service.adopt(read_fd)
    os.close(read_fd)
    os.close(write_fd)
    peer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
def test_what_a_descriptor_allows_stays_allowed(open_dir: Path) -> None:
    log = os.open(open_dir / "log", os.O_RDWR | os.O_CREAT, 0o600)

    def run() -> None:
        peer = Peer(str(open_dir))
        number = peer.service.adopt(log).id
        peer.write(number, b"line")
        assert peer.read(number) == b"line"

    in_child(run, USER)
    os.close(log)


def test_resolve_follows_symlinks_inside_the_export(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").touch()
    (tmp_path / "abs").symlink_to("/a/b")
    (tmp_path / "a/rel").symlink_to("../abs/../b/./f")
    (tmp_path / "loop").symlink_to("loop")
    ino = (tmp_path / "a/b/f").stat().st_ino
    assert peer.service.resolve(b"/a/rel").ino == ino
    assert peer.service.resolve(b"/abs/f").ino == ino
    assert peer.service.resolve(b"/../../a/b/f").ino == ino
    assert peer.service.resolve(b"/").id == 1
    with pytest.raises(OSError, match="symbolic links"):
        peer.service.resolve(b"/loop")
    with pytest.raises(NotADirectoryError):
        peer.service.resolve(b"/a/b/f/g")


# the link


def test_a_message_that_is_not_for_home_closes_the_link(tmp_path: Path) -> None:
    peer = Peer(str(tmp_path))
    peer.node.post(Found(Entry(b"x", peer.root, b""), peer.root))
    peer.until(lambda: peer.lost)
    peer.close()


def test_closing_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    peer = Peer(str(tmp_path))
    number = peer.create(1, b"f", flags=os.O_RDWR).id
    peer.node.post(Hold([number]))
    peer.read(number)
    peer.get(Fsync(number, 0), Done)
    peer.close()
    # The thread that syncs closes what it has by itself.
    end = time.monotonic() + DEADLINE_SECONDS
    while len(os.listdir("/proc/self/fd")) != before:
        assert time.monotonic() < end
