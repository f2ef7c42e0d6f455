import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from stubs.abi.fuse import (
    FATTR_ATIME,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
)
from stubs.wire.messages import (
    ATTR_OPEN,
    ATTR_PLAIN,
    NODE_IDS,
    WRITE_APPEND,
    Acknowledge,
    Attrs,
    Create,
    Data,
    Done,
    Failed,
    Fallocate,
    Filesystem,
    Forget,
    Found,
    Fsync,
    Getattr,
    Getxattr,
    Hold,
    Link,
    Listing,
    Listxattr,
    Lookup,
    Mkdir,
    Mknod,
    Offset,
    Read,
    Readlink,
    Removexattr,
    Rename,
    Rmdir,
    Seek,
    Setattr,
    Setxattr,
    Snapshot,
    Statfs,
    Symlink,
    Unhold,
    Unlink,
    Write,
)
from tests.kernel.file_peer import Peer, in_child

USER = 60123


# looking


def test_attributes_are_those_of_stat(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    os.utime(tmp_path / "f", ns=(123456789, -987654321))
    attr = peer.lookup("f")
    native = (tmp_path / "f").stat()
    for field in ("ino", "size", "blocks", "mode", "nlink", "uid", "gid", "rdev", "blksize"):
        assert getattr(attr, field) == getattr(native, f"st_{field}")
    for field in ("atime_ns", "mtime_ns", "ctime_ns"):
        assert getattr(attr, field) == getattr(native, f"st_{field}")


def test_a_listing_has_every_name_in_parts(peer: Peer, tmp_path: Path) -> None:
    names = {b"%05d" % n for n in range(3000)} | {b"new\nline", b"\xff\xfe", b"-rf", b"\x01"}
    for name in names:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    first = peer.get(Snapshot(1, 0), Listing)
    assert first.cookie
    listed = peer.names(1)
    assert set(listed) == names
    assert peer.lookup(b"\xff\xfe").id == listed[b"\xff\xfe"].id


def test_a_listing_brings_targets_of_symlinks(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("/nowhere/at all")
    entry = peer.get(Snapshot(1, 0), Listing).entries[0]
    assert entry.target == b"/nowhere/at all"
    assert peer.get(Readlink(entry.attr.id), Data).data == b"/nowhere/at all"


def test_a_forgotten_cookie_is_stale(peer: Peer, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:060}").touch()
    cookie = peer.get(Snapshot(1, 0), Listing).cookie
    for _ in range(40):
        peer.get(Snapshot(1, 0), Listing)
    assert peer.errno(Snapshot(1, cookie)) == errno.ESTALE


def test_missing_names_and_unknown_ids(peer: Peer) -> None:
    assert peer.errno(Lookup(1, b"nothing")) == errno.ENOENT
    assert peer.errno(Getattr(999)) == errno.ESTALE
    assert peer.errno(Getattr(0)) == errno.ESTALE


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"/etc/passwd"])
def test_names_that_are_none_are_refused(peer: Peer, name: bytes) -> None:
    for message in (
        Lookup(1, name),
        Create(1, name, 0o644, os.O_WRONLY, 0, 0),
        Mkdir(1, name, 0o755, 0),
        Unlink(1, name, 0),
        Rename(1, name, 1, b"b", 0, 0),
        Rename(1, b"b", 1, name, 0, 0),
        Symlink(1, name, b"t", 0),
        Mknod(1, name, stat.S_IFIFO, 0, 0),
        Link(1, 1, name, 0),
        Rmdir(1, name, 0),
    ):
        assert peer.errno(message) == errno.EINVAL


def test_a_long_name_is_too_long(peer: Peer) -> None:
    assert peer.errno(Lookup(1, b"n" * 256)) == errno.ENAMETOOLONG


def test_deep_directories_are_found_again_when_nothing_is_cached(peer: Peer) -> None:
    number = 1
    for _ in range(200):
        number = peer.get(Mkdir(number, b"d", 0o755, 0), Found).entry.attr.id
    peer.service._tree.paths.empty()
    assert peer.attr(number).nlink == 2


def test_statfs_is_that_of_home(peer: Peer, tmp_path: Path) -> None:
    found = peer.get(Statfs(1), Filesystem)
    native = os.statvfs(tmp_path)
    assert (found.bsize, found.blocks, found.namelen) == (
        native.f_bsize,
        native.f_blocks,
        native.f_namemax,
    )


# contents


def test_reading_at_offsets_and_past_the_end(peer: Peer, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    number = peer.lookup("f").id
    assert peer.read(number) == data
    assert peer.read(number, 299_990, 100) == data[-10:]
    assert peer.read(number, 400_000) == b""
    assert peer.errno(Read(number, 0, (1 << 20) + 1)) == errno.EINVAL
    assert peer.errno(Read(number, 1 << 63, 10)) == errno.EINVAL


def test_reading_never_opens_for_writing(peer: Peer, tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "prog")
    number = peer.lookup("prog").id
    peer.read(number)
    assert subprocess.run([tmp_path / "prog"]).returncode == 0


def test_what_was_written_can_be_executed_at_once_after_close(peer: Peer, tmp_path: Path) -> None:
    program = Path("/bin/true").read_bytes()
    number = peer.create(1, b"prog", 0o755).id
    peer.node.post(Hold([number]))
    for offset in range(0, len(program), 1 << 20):
        peer.write(number, program[offset : offset + (1 << 20)], offset)
    peer.node.post(Unhold([number]))
    peer.ask(Getattr(1))
    assert subprocess.run([tmp_path / "prog"]).returncode == 0


def test_settle_closes_what_is_open_for_writing(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"prog", 0o755).id
    peer.write(number, Path("/bin/true").read_bytes()[: 1 << 20])
    with pytest.raises(OSError, match="Text file busy"):
        subprocess.run([tmp_path / "prog"])
    peer.service.settle()
    assert subprocess.run([tmp_path / "prog"]).returncode == 0


def test_an_idle_writer_is_closed_by_itself(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"f").id
    peer.write(number, b"x")
    assert peer.service._contents.writers.get(number) is not None
    peer.until(lambda: number not in peer.service._contents.writers._fds)
    assert peer.write(number, b"yy").size == 2


def test_posted_writes_are_done_in_order_and_acknowledged(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"f").id
    for index in range(20):
        peer.node.post(Write(number, index * 100_000, 0, 1, bytes([index]) * 100_000))
    assert peer.attr(number).size == 2_000_000
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([n]) * 100_000 for n in range(20))
    peer.until(lambda: sum(m.bytes for m in peer.pushed if isinstance(m, Acknowledge)) == 2_000_000)


def test_a_posted_write_that_fails_is_told_once_and_blocks_the_rest(
    peer: Peer, tmp_path: Path
) -> None:
    number = peer.create(1, b"f").id
    os.unlink(tmp_path / "f")
    peer.service._contents.settle()
    for _ in range(3):
        peer.node.post(Write(number, 0, 0, 1, b"abc"))
    peer.ask(Getattr(1))
    failures = [message for message in peer.pushed if isinstance(message, Failed)]
    assert failures
    assert all(message.errno == errno.ESTALE for message in failures)
    assert sum(m.bytes for m in peer.pushed if isinstance(m, Acknowledge)) == 9


def test_after_a_failed_posted_write_later_ones_are_dropped_until_the_node_asks(
    open_dir: Path,
) -> None:
    def run() -> None:
        peer = Peer(str(open_dir))
        number = peer.lookup("f").id
        peer.node.post(Write(number, 0, 0, 1, b"no"))
        peer.ask(Getattr(1))
        os.chmod(open_dir / "f", 0o644)
        peer.node.post(Write(number, 0, 0, 1, b"nor this"))
        peer.ask(Getattr(1))
        assert [m.errno for m in peer.pushed if isinstance(m, Failed)] == [errno.EACCES]
        assert (open_dir / "f").read_bytes() == b""
        peer.attr(number)
        peer.node.post(Write(number, 0, 0, 1, b"but this"))
        peer.ask(Getattr(1))
        assert (open_dir / "f").read_bytes() == b"but this"

    (open_dir / "f").touch()
    (open_dir / "f").chmod(0o444)
    os.chown(open_dir / "f", USER, USER)
    in_child(run, USER)


def test_append_goes_to_the_end_as_home_has_it(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"log").id
    peer.write(number, b"one\n", 0, WRITE_APPEND)
    with open(tmp_path / "log", "ab") as log:
        log.write(b"home\n")
    peer.write(number, b"two\n", 0, WRITE_APPEND)
    assert (tmp_path / "log").read_bytes() == b"one\nhome\ntwo\n"


def test_writes_beyond_any_file_are_refused(peer: Peer) -> None:
    number = peer.create(1, b"f").id
    assert peer.errno(Write(number, (1 << 63) - 2, 0, 1, b"abc")) == errno.EFBIG
    assert peer.errno(Write(number, (1 << 64) - 1, 0, 1, b"")) == errno.EFBIG


def test_fsync_answers_from_its_thread(peer: Peer) -> None:
    number = peer.create(1, b"f").id
    peer.write(number, b"x")
    assert isinstance(peer.ask(Fsync(number, 0)), Done)
    assert isinstance(peer.ask(Fsync(number, 1)), Done)
    assert isinstance(peer.ask(Fsync(1, 0)), Done)


def test_fallocate_and_holes(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"f").id
    attr = peer.get(Fallocate(number, 0, 0, 1 << 20, 0), Attrs).attrs[0]
    assert attr.size == 1 << 20
    assert peer.errno(Fallocate(number, 0, 1 << 63, 5, 0)) == errno.EFBIG
    peer.get(Setattr(number, FATTR_SIZE, 0, 0, 0, 0, 0, 0, 0), Attrs)
    peer.write(number, b"x", 1 << 20)
    assert peer.get(Seek(number, 0, os.SEEK_DATA), Offset).offset == 1 << 20
    assert peer.errno(Seek(number, 0, os.SEEK_END)) == errno.EINVAL


# changing attributes


def test_setattr_sets_mode_size_and_exact_times(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    number = peer.lookup("f").id
    valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME
    attr = peer.get(Setattr(number, valid, 0o4711, 0, 0, 10, 1, -1, 0), Attrs).attrs[0]
    native = (tmp_path / "f").stat()
    assert (native.st_mode & 0o7777, native.st_size) == (0o4711, 10)
    assert (native.st_atime_ns, native.st_mtime_ns) == (1, -1)
    assert (attr.size, attr.atime_ns, attr.mtime_ns) == (10, 1, -1)
    peer.get(Setattr(number, FATTR_MTIME | FATTR_MTIME_NOW, 0, 0, 0, 0, 0, 0, 0), Attrs)
    assert (tmp_path / "f").stat().st_mtime_ns > 0
    assert (tmp_path / "f").stat().st_atime_ns == 1


def test_times_and_owner_of_a_symlink_are_its_own(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "l").symlink_to("f")
    before = (tmp_path / "f").stat()
    number = peer.lookup("l").id
    peer.get(Setattr(number, FATTR_MTIME | FATTR_UID, 0, USER, 0, 0, 0, 42, 0), Attrs)
    assert (tmp_path / "l").lstat().st_mtime_ns == 42
    assert (tmp_path / "l").lstat().st_uid == USER
    assert (tmp_path / "f").stat() == before
    assert peer.errno(Setattr(number, FATTR_MODE, 0o777, 0, 0, 0, 0, 0, 0)) == errno.EOPNOTSUPP


def test_extended_attributes_of_the_user_only(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"f").id
    assert peer.errno(Getxattr(number, b"security.capability")) == errno.ENODATA
    assert peer.errno(Setxattr(number, b"trusted.x", b"v", 0, 0)) == errno.EOPNOTSUPP
    assert peer.errno(Getxattr(number, b"user.none")) == errno.ENODATA
    peer.get(Setxattr(number, b"user.k", b"v\0w", 0, 0), Done)
    assert os.getxattr(tmp_path / "f", "user.k") == b"v\0w"
    assert peer.get(Getxattr(number, b"user.k"), Data).data == b"v\0w"
    assert peer.get(Listxattr(number), Data).data == b"user.k\0"
    peer.get(Removexattr(number, b"user.k", 0), Done)
    assert os.listxattr(tmp_path / "f") == []


# names that come and go


def test_create_opens_what_is_there_unless_exclusive(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    number = peer.lookup("f").id
    assert peer.create(1, b"f").id == number
    assert (tmp_path / "f").read_bytes() == b"old"
    assert peer.create(1, b"f", flags=os.O_RDWR | os.O_TRUNC).size == 0
    assert peer.errno(Create(1, b"f", 0o644, os.O_WRONLY | os.O_EXCL, 0, 0)) == errno.EEXIST


def test_a_node_gives_each_of_its_ids_once(peer: Peer, tmp_path: Path) -> None:
    def create(name: bytes, number: int) -> Create:
        return Create(1, name, 0o644, os.O_WRONLY, number, 0)

    attr = peer.get(create(b"a", NODE_IDS + 5), Found).entry.attr
    assert (attr.id, attr.ino) == (NODE_IDS + 5, (tmp_path / "a").stat().st_ino)
    peer.write(attr.id, b"text")
    assert (tmp_path / "a").read_bytes() == b"text"
    assert peer.get(create(b"b", NODE_IDS + 2), Found).entry.attr.id == NODE_IDS + 2
    peer.get(Unlink(1, b"a", 0), Attrs)
    for number in (1, NODE_IDS - 1, NODE_IDS + 5, NODE_IDS + 2, 2 * NODE_IDS, (1 << 64) - 1):
        assert peer.errno(create(b"c", number)) == errno.EINVAL
    assert peer.get(create(b"far", 2 * NODE_IDS - 1), Found).entry.attr.id == 2 * NODE_IDS - 1
    assert peer.errno(create(b"c", NODE_IDS + 3)) == errno.EINVAL
    assert peer.get(create(b"c", 2 * NODE_IDS - 9), Found).entry.attr.id == 2 * NODE_IDS - 9


def test_a_file_that_was_there_takes_the_id_that_the_node_gives_it(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    former = peer.lookup("f").id
    message = Create(1, b"f", 0o644, os.O_WRONLY, NODE_IDS, 0)
    assert peer.get(message, Found).entry.attr.id == NODE_IDS
    assert peer.read(NODE_IDS) == b"old"
    assert peer.errno(Getattr(former)) == errno.ESTALE
    assert peer.lookup("f").id == NODE_IDS


def test_a_directory_tells_whether_its_names_are_free(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    number = peer.lookup("d").id
    peer.names(number)
    assert peer.attr(number).flags & (ATTR_PLAIN | ATTR_OPEN) == ATTR_PLAIN | ATTR_OPEN
    (tmp_path / "d").chmod(0o500)
    expected = ATTR_PLAIN | ATTR_OPEN if os.geteuid() == 0 else 0
    assert peer.attr(number).flags & (ATTR_PLAIN | ATTR_OPEN) == expected


def test_create_opens_no_fifo_and_follows_no_symlink(peer: Peer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("target")
    assert peer.errno(Create(1, b"fifo", 0o644, os.O_WRONLY, 0, 0)) == errno.ESTALE
    assert peer.errno(Create(1, b"link", 0o644, os.O_WRONLY, 0, 0)) == errno.ESTALE
    assert not (tmp_path / "target").exists()


def test_fifos_and_sockets_are_made_but_no_devices(peer: Peer, tmp_path: Path) -> None:
    peer.get(Mknod(1, b"p", stat.S_IFIFO | 0o600, 0, 0), Found)
    peer.get(Mknod(1, b"s", stat.S_IFSOCK | 0o600, 0, 0), Found)
    assert peer.errno(Mknod(1, b"d", stat.S_IFCHR | 0o666, 0x103, 0)) == errno.EPERM
    assert stat.S_ISFIFO((tmp_path / "p").stat().st_mode)
    assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)
    assert peer.errno(Read(peer.lookup("p").id, 0, 10)) == errno.EINVAL
    assert peer.errno(Write(peer.lookup("p").id, 0, 0, 1, b"x")) == errno.EINVAL


def test_rename_and_exchange_keep_ids(peer: Peer, tmp_path: Path) -> None:
    a, b = peer.create(1, b"a").id, peer.create(1, b"b").id
    directory = peer.get(Mkdir(1, b"d", 0o755, 0), Found).entry.attr.id
    replies = peer.get(Rename(1, b"a", directory, b"c", 0, 0), Attrs).attrs
    assert [attr.id for attr in replies] == [1, directory, a]
    peer.get(Rename(1, b"b", directory, b"c", 2, 0), Attrs)
    assert (peer.lookup("b").id, peer.lookup("d/c").id) == (a, b)
    assert peer.errno(Rename(1, b"b", directory, b"c", 1, 0)) == errno.EEXIST
    assert peer.errno(Rename(1, b"b", directory, b"c", 4, 0)) == errno.EINVAL
    assert peer.attr(a).nlink == 1


def test_rename_over_a_held_file_keeps_it_readable(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    old, new = peer.lookup("old").id, peer.lookup("new").id
    peer.node.post(Hold([old]))
    attrs = peer.get(Rename(1, b"new", 1, b"old", 0, 0), Attrs).attrs
    assert [attr.id for attr in attrs] == [1, 1, new, old]
    assert attrs[3].nlink == 0
    assert peer.read(old) == b"old"
    assert peer.read(new) == b"new"


def test_a_directory_moves_with_what_is_known_in_it(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").write_bytes(b"data")
    number = peer.lookup("a/b/f").id
    peer.get(Rename(1, b"a", 1, b"z", 0, 0), Attrs)
    peer.service._tree.paths.empty()
    assert peer.read(number) == b"data"


def test_an_unlinked_file_lives_while_it_is_held(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"f", flags=os.O_RDWR).id
    peer.node.post(Hold([number]))
    peer.write(number, b"before")
    attrs = peer.get(Unlink(1, b"f", 0), Attrs).attrs
    assert [attr.nlink for attr in attrs[1:]] == [0]
    peer.service._contents.writers.close()
    peer.service._contents.readers.close()
    peer.write(number, b"after", 6)
    peer.get(Setattr(number, FATTR_SIZE, 0, 0, 0, 9, 0, 0, 0), Attrs)
    assert peer.read(number) == b"beforeaft"
    peer.node.post(Unhold([number]))
    assert peer.errno(Getattr(number)) == errno.ESTALE


def test_a_file_made_anew_is_another_inode(peer: Peer, tmp_path: Path) -> None:
    for _ in range(20):
        number = peer.create(1, b"f").id
        peer.get(Unlink(1, b"f", 0), Attrs)
        assert peer.create(1, b"f").id != number
        os.unlink(tmp_path / "f")


def test_hard_links_share_one_id(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    number = peer.lookup("a").id
    attr = peer.get(Link(number, 1, b"b", 0), Found).entry.attr
    assert (attr.id, attr.nlink) == (number, 2)
    attrs = peer.get(Unlink(1, b"a", 0), Attrs).attrs
    assert [attr.id for attr in attrs] == [1, number]
    assert peer.lookup("b").id == number
    assert peer.read(number) == b"same"


def test_a_file_that_lost_one_name_is_found_by_another(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a", "b", "c", "d/e"):
        if name == "a":
            (tmp_path / name).write_bytes(b"same")
        else:
            os.link(tmp_path / "a", tmp_path / name)
    number = peer.lookup("a").id
    peer.names(peer.lookup("d").id)
    peer.get(Unlink(1, b"a", 0), Attrs)
    peer.get(Rename(1, b"b", 1, b"z", 0, 0), Attrs)
    os.unlink(tmp_path / "c")
    peer.service._tree.paths.empty()
    assert peer.read(number) == b"same"
    peer.get(Unlink(1, b"z", 0), Attrs)
    peer.service._tree.paths.empty()
    peer.service._contents.readers.empty()
    assert peer.attr(number).nlink == 1
    assert peer.read(number) == b"same"
    os.unlink(tmp_path / "d/e")
    assert peer.errno(Getattr(number)) == errno.ESTALE


def test_a_hard_link_of_a_symlink_is_one(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("gone")
    peer.get(Link(peer.lookup("l").id, 1, b"m", 0), Found)
    assert os.readlink(tmp_path / "m") == "gone"
    assert peer.errno(Link(1, 1, b"root", 0)) == errno.EPERM


def test_rmdir_and_unlink_want_their_own_kind(peer: Peer) -> None:
    peer.get(Mkdir(1, b"d", 0o755, 0), Found)
    peer.create(1, b"f")
    assert peer.errno(Unlink(1, b"d", 0)) == errno.EISDIR
    assert peer.errno(Rmdir(1, b"f", 0)) == errno.ENOTDIR
    assert [attr.id for attr in peer.get(Rmdir(1, b"d", 0), Attrs).attrs] == [1]
    assert peer.errno(Lookup(1, b"d")) == errno.ENOENT


def test_forgotten_directories_are_no_longer_watched(peer: Peer, tmp_path: Path) -> None:
    number = peer.get(Mkdir(1, b"d", 0o755, 0), Found).entry.attr.id
    peer.names(number)
    peer.node.post(Forget([number]))
    peer.ask(Getattr(1))
    (tmp_path / "d/new").touch()
    assert not peer.changes().names
    assert peer.errno(Getattr(number)) == errno.ESTALE
    assert b"new" in peer.names(peer.lookup("d").id)
