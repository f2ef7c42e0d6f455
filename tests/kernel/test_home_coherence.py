import errno
import mmap
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import stubs.home.files.coherence
from stubs.abi import inotify
from stubs.abi.fuse import FATTR_MODE
from stubs.wire.messages import (
    ATTR_VOLATILE,
    WRITE_APPEND,
    Attrs,
    Found,
    Getattr,
    Getxattr,
    Hold,
    Invalidate,
    InvalidateAll,
    Link,
    Lookup,
    Mkdir,
    Rename,
    Rmdir,
    Setattr,
    Symlink,
    Unlink,
    Write,
)
from tests.kernel.file_peer import Peer, in_new_mount_namespace

EMPTY = Invalidate([], [], [], [])


def test_what_the_node_does_itself_is_not_told(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    directory = peer.get(Mkdir(1, b"d", 0o755, 0), Found).entry.attr.id
    peer.names(directory)
    number = peer.create(1, b"f").id
    peer.write(number, b"data")
    peer.node.post(Write(number, 4, 0, 1, b"posted"))
    peer.write(number, b"more", 0, WRITE_APPEND)
    peer.get(Setattr(number, FATTR_MODE, 0o600, 0, 0, 0, 0, 0, 0), Attrs)
    peer.get(Symlink(1, b"l", b"f", 0), Found)
    peer.get(Link(number, directory, b"g", 0), Found)
    peer.write(number, b"through the other name")
    peer.get(Rename(1, b"f", directory, b"h", 0, 0), Attrs)
    peer.write(number, b"moved")
    peer.get(Rename(directory, b"g", directory, b"h", 0, 0), Attrs)
    peer.get(Unlink(directory, b"h", 0), Attrs)
    peer.service.settle()
    peer.create(directory, b"x", 0o644, os.O_RDWR | os.O_TRUNC)
    peer.create(directory, b"x", 0o644, os.O_RDWR | os.O_TRUNC)
    peer.get(Unlink(directory, b"x", 0), Attrs)
    peer.get(Unlink(directory, b"g", 0), Attrs)
    peer.get(Rmdir(1, b"d", 0), Attrs)
    peer.until(lambda: not len(peer.service._contents.writers))
    assert peer.changes() == EMPTY


def test_a_new_file_and_its_directory_are_told(peer: Peer, tmp_path: Path) -> None:
    assert peer.errno(Lookup(1, b"f")) == errno.ENOENT
    (tmp_path / "f").write_bytes(b"data")
    told = peer.changes()
    (change,) = told.names
    assert (change.dir, change.name) == (1, b"f")
    assert change.attr is not None
    assert change.attr.size == 4
    assert [attr.mtime_ns for attr in told.attrs] == [tmp_path.stat().st_mtime_ns]


def test_a_symlink_is_told_with_its_target(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    (tmp_path / "l").symlink_to("/some/where")
    assert [change.target for change in peer.changes().names] == [b"/some/where"]


def test_a_removed_file_is_told_and_its_id_is_gone(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    number = peer.lookup("f").id
    os.unlink(tmp_path / "f")
    assert [(change.name, change.attr) for change in peer.changes().names] == [(b"f", None)]
    assert peer.errno(Getattr(number)) == errno.ESTALE


def test_a_write_is_told_with_the_new_attributes(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    number = peer.lookup("f").id
    peer.barrier()
    with open(tmp_path / "f", "r+b") as file:
        file.write(b"NEW and longer")
    told = peer.changes()
    assert [(attr.id, attr.size) for attr in told.data] == [(number, 14)]
    assert not told.names


def test_attributes_alone_are_told_apart(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    number = peer.lookup("f").id
    peer.barrier()
    (tmp_path / "f").chmod(0o600)
    told = peer.changes()
    assert [(attr.id, attr.mode & 0o777) for attr in told.attrs] == [(number, 0o600)]
    assert not told.data


def test_what_the_node_never_heard_of_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    peer = Peer(str(tmp_path))
    with open(tmp_path / "log", "ab") as log:
        log.write(b"line\n")
    assert peer.changes() == EMPTY
    peer.close()


def test_a_change_in_the_same_turn_as_our_own_is_told(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"x")
    other = peer.lookup("other").id
    number = peer.create(1, b"own").id
    peer.barrier()
    (tmp_path / "other").write_bytes(b"y")
    peer.node.post(Write(number, 0, 0, 1, b"own"))
    told = peer.changes()
    assert {attr.id for attr in told.data} == {other}


def test_what_home_appends_between_two_appends_is_told(peer: Peer, tmp_path: Path) -> None:
    number = peer.create(1, b"log").id
    peer.write(number, b"1", 0, WRITE_APPEND)
    with open(tmp_path / "log", "ab", buffering=0) as log:
        log.write(b"2")
        peer.write(number, b"3", 0, WRITE_APPEND)
        log.write(b"4")
    assert [(attr.id, attr.size) for attr in peer.changes().data][-1] == (number, 4)


def test_two_links_tell_each_other_s_changes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    one, other = Peer(str(tmp_path)), Peer(str(tmp_path))
    ids = [peer.lookup("f").id for peer in (one, other)]
    one.write(ids[0], b"new")
    one.create(1, b"g")
    assert one.changes() == EMPTY
    told = other.changes()
    assert [attr.id for attr in told.data] == [ids[1]]
    assert [change.name for change in told.names] == [b"g"]
    one.close()
    other.close()


def test_changes_come_without_a_barrier_too(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    (tmp_path / "f").touch()
    peer.until(lambda: any(isinstance(message, Invalidate) for message in peer.pushed))


def test_a_burst_is_one_message(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    for number in range(500):
        (tmp_path / str(number)).write_bytes(b"x")
    (message,) = peer.barrier()
    assert isinstance(message, Invalidate)
    assert len(message.names) == 500


def test_too_many_changes_mean_forget_everything(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stubs.home.files.coherence, "MAX_CHANGES", 100)
    peer.names(1)
    for number in range(200):
        (tmp_path / str(number)).touch()
    assert InvalidateAll() in peer.barrier()
    assert len(peer.names(1)) == 200


def test_an_overflow_of_the_queue_means_forget_everything(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 20000:
        pytest.skip(f"the queue takes {limit} events")
    for number in range(limit // 2 + 10):
        os.mkdir(tmp_path / str(number))
        os.rmdir(tmp_path / str(number))
    assert InvalidateAll() in peer.barrier()


def test_a_rename_by_home_is_told_and_keeps_the_id(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f").touch()
    peer.names(1)
    number = peer.lookup("a/f").id
    os.rename(tmp_path / "a", tmp_path / "b")
    told = peer.changes()
    by_name = {change.name: change.attr for change in told.names}
    assert by_name[b"a"] is None
    assert by_name[b"b"] is not None
    assert by_name[b"b"].id == peer.lookup("b").id
    assert peer.lookup("b/f").id == number


def test_a_held_file_that_home_removes_is_told_without_names(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    number = peer.lookup("f").id
    peer.node.post(Hold([number]))
    peer.ask(Getattr(1))
    peer.changes()
    with open(tmp_path / "f", "ab") as file:
        os.unlink(tmp_path / "f")
        told = peer.changes()
        assert (number, 0) in [(attr.id, attr.nlink) for attr in told.attrs]
        file.write(b"more")
    assert [(attr.id, attr.size) for attr in peer.changes().data] == [(number, 8)]
    assert peer.read(number) == b"datamore"


def test_a_write_through_another_name_is_told(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "unwatched").mkdir()
    (tmp_path / "f").write_bytes(b"old")
    os.link(tmp_path / "f", tmp_path / "unwatched/g")
    number = peer.lookup("f").id
    peer.read(number)
    peer.changes()
    with open(tmp_path / "unwatched/g", "r+b") as file:
        file.write(b"new")
    assert [attr.id for attr in peer.changes().data] == [number]


def test_without_file_watches_other_names_are_looked_at(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stubs.home.files.coherence, "MAX_FILE_WATCHES", 0)
    test_a_write_through_another_name_is_told(peer, tmp_path)


def test_stores_through_a_mapping_are_told_once_they_are_known_of(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"\0" * 8192)
    number = peer.lookup("f").id
    peer.read(number)
    peer.changes()
    with open(tmp_path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1
    assert [attr.id for attr in peer.changes().data] == [number]
    with open(tmp_path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[4096] = 1
        assert [attr.id for attr in peer.changes().data] == [number]


def test_directories_are_volatile_until_they_are_watched(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    attr = peer.names(1)[b"d"]
    assert attr.flags & ATTR_VOLATILE
    assert not peer.attr(attr.id).flags & ATTR_VOLATILE
    assert not peer.names(1)[b"d"].flags & ATTR_VOLATILE
    (tmp_path / "d/f").touch()
    assert attr.id in [told.id for told in peer.changes().attrs]


def test_without_watches_everything_is_volatile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no watch left")

    # The limit is the user's, shared with every program: it cannot be reached without harm.
    monkeypatch.setattr(inotify, "inotify_add_watch", none_left)
    (tmp_path / "f").touch()
    peer = Peer(str(tmp_path))
    assert peer.lookup("f").flags & ATTR_VOLATILE
    assert peer.names(1)[b"f"].flags & ATTR_VOLATILE
    peer.close()


def test_an_unmounted_disk_is_forgotten_and_not_held_busy(tmp_path: Path) -> None:
    def run() -> None:
        (tmp_path / "m").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "m"], check=True)
        (tmp_path / "m/f").write_bytes(b"data")
        peer = Peer(str(tmp_path))
        directory = peer.lookup("m").id
        peer.names(directory)
        peer.read(peer.lookup("m/f").id)
        paths, readers = peer.service._tree.paths, peer.service._contents.readers
        peer.until(lambda: not len(paths) and not len(readers))
        subprocess.run(["umount", tmp_path / "m"], check=True)
        assert directory in peer.changes().dirs
        assert peer.errno(Lookup(directory, b"f")) == errno.ESTALE

    in_new_mount_namespace(run)


def test_a_hidden_name_is_never_told(tmp_path: Path) -> None:
    peer = Peer(str(tmp_path), hidden=[os.fsencode(tmp_path / ".netrc")])
    peer.names(1)
    (tmp_path / ".netrc").write_text("secret")
    assert not peer.changes().names
    peer.close()


def test_extended_attributes_are_told_as_attributes(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    number = peer.lookup("f").id
    assert peer.errno(Getxattr(number, b"user.a")) == errno.ENODATA
    peer.barrier()
    os.setxattr(tmp_path / "f", "user.a", b"1")
    assert [attr.id for attr in peer.changes().attrs] == [number]


def test_news_of_a_former_directory_are_not_taken_for_those_of_the_one_there_now(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"former")
    peer.lookup("f", peer.lookup("d").id)
    peer.changes()
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"now")
    # What was done to the names is looked at only after this.
    directory = peer.service.resolve(b"/d").id
    with open(tmp_path / "d/f") as file:
        number = peer.service.adopt(file.fileno()).id
    peer.changes()
    assert peer.read(number) == b"now"
    assert peer.names(directory).keys() == {b"f"}
    assert peer.lookup("d").id == directory


def _by_another(peer: Peer, script: str, *arguments: str) -> None:
    """Have another process change things, while home looks."""
    with subprocess.Popen(["perl", "-e", script, *arguments]) as other:
        peer.until(lambda: other.poll() is not None)
    assert other.returncode == 0


def _told(peer: Peer) -> list[Invalidate]:
    return [message for message in peer.pushed if isinstance(message, Invalidate)]


WRITES = 1000


def _write_steadily(peer: Peer, path: Path, count: int) -> None:
    """Have somebody write so many bytes, one each millisecond, and wait until all are told of."""
    path.touch()
    number = peer.lookup(path.name).id
    peer.changes()
    slowly = (
        "open F, '>>', $ARGV[0];"
        "for (1 .. $ARGV[1]) { syswrite F, 'x'; select undef, undef, undef, 1e-3 }"
    )
    _by_another(peer, slowly, str(path), str(count))
    peer.until(lambda: [attr.size for told in _told(peer) for attr in told.data][-1:] == [count])
    assert {attr.id for told in _told(peer) for attr in told.data} == {number}


def test_what_keeps_changing_is_told_in_few_messages(peer: Peer, tmp_path: Path) -> None:
    _write_steadily(peer, tmp_path / "f", WRITES)
    assert len(_told(peer)) < WRITES / 20


def test_a_slow_home_tells_what_keeps_changing_once_a_second(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever it takes to tell is too much.
    monkeypatch.setattr(stubs.home.files.coherence, "SHARE", 1e-9)
    began = time.monotonic()
    _write_steadily(peer, tmp_path / "f", 3 * WRITES)
    # After 5 ms, 10 and so on up to 640 ms, that is eight times.
    assert len(_told(peer)) <= 9 + (time.monotonic() - began)


def test_a_change_after_a_quiet_time_is_told_by_itself(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    number = peer.lookup("f").id
    for size in (1, 2, 3):
        peer.changes()
        with open(tmp_path / "f", "ab") as file:
            file.write(b"x")
        peer.until(lambda: _told(peer))
        assert (number, size) in [(attr.id, attr.size) for attr in _told(peer)[-1].data]


def test_many_changes_are_looked_at_before_there_are_too_many(peer: Peer, tmp_path: Path) -> None:
    peer.names(1)
    busily = "for (1 .. $ARGV[1]) { open F, '>', $ARGV[0]; close F; unlink $ARGV[0] }"
    _by_another(peer, busily, str(tmp_path / "f"), "20000")
    assert not [message for message in peer.pushed if isinstance(message, InvalidateAll)]
    assert not [message for message in peer.barrier() if isinstance(message, InvalidateAll)]
    assert b"f" not in peer.names(1)
