import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK, OFFSET_MAX
from stubs.home.files.locks import GETLK, SETLK, SETLKW
from stubs.wire.codec import Message
from stubs.wire.messages import Cancel, Error, Forget, Getattr, Invalidate, Lock, Locked
from tests.kernel.file_peer import Peer, in_child

OWNER, OTHER = 11, 22


def lock(
    number: int,
    kind: int = F_WRLCK,
    op: int = SETLK,
    owner: int = OWNER,
    start: int = 0,
    end: int = OFFSET_MAX,
    flock: int = 0,
) -> Message:
    return Lock(number, owner, op, flock, kind, start, end, 4711)


@pytest.fixture
def number(peer: Peer, tmp_path: Path) -> int:
    (tmp_path / "f").write_bytes(b"data")
    return peer.lookup("f").id


def home_has(path: Path, kind: int, flock: bool = False) -> bool:
    """Tell whether a process of home can get a lock now; it lets go of it."""
    with open(path, "r+b") as file:
        try:
            if flock:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def locked_at_home(path: Path, start: int = 0, length: int = 0) -> Iterator[int]:
    """Have a process of home hold a lock, and write to the file before it lets go."""
    taken_read, taken_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end_write)
        with open(path, "r+b", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX, length, start)
            os.write(taken_write, b"x")
            os.read(end_read, 1)
            file.write(b"under the lock")
        os._exit(0)
    os.read(taken_read, 1)
    try:
        yield pid
    finally:
        for fd in (taken_read, taken_write, end_read, end_write):
            os.close(fd)
        os.waitpid(pid, 0)


def test_a_body_s_lock_keeps_home_out(peer: Peer, number: int, tmp_path: Path) -> None:
    peer.get(lock(number, F_RDLCK), Locked)
    assert home_has(tmp_path / "f", fcntl.LOCK_SH)
    assert not home_has(tmp_path / "f", fcntl.LOCK_EX)
    peer.get(lock(number, F_WRLCK), Locked)
    assert not home_has(tmp_path / "f", fcntl.LOCK_SH)
    peer.get(lock(number, F_UNLCK), Locked)
    assert home_has(tmp_path / "f", fcntl.LOCK_EX)


def test_home_s_lock_keeps_a_body_out(peer: Peer, number: int, tmp_path: Path) -> None:
    with locked_at_home(tmp_path / "f", 5, 10) as pid:
        assert peer.errno(lock(number)) == errno.EAGAIN
        found = peer.get(lock(number, op=GETLK), Locked)
        assert (found.type, found.start, found.end, found.pid) == (F_WRLCK, 5, 14, pid)
        peer.get(lock(number, end=4), Locked)
    peer.get(lock(number), Locked)


def test_owners_exclude_each_other_by_range(peer: Peer, number: int) -> None:
    peer.get(lock(number, start=0, end=9), Locked)
    peer.get(lock(number, owner=OTHER, start=10, end=19), Locked)
    assert peer.errno(lock(number, owner=OTHER, start=9, end=9)) == errno.EAGAIN
    found = peer.get(lock(number, op=GETLK, owner=OTHER, start=0, end=5), Locked)
    assert (found.type, found.start, found.end, found.pid) == (F_WRLCK, 0, 9, 4711)
    peer.get(lock(number, F_UNLCK, start=5, end=9), Locked)
    peer.get(lock(number, owner=OTHER, start=5, end=9), Locked)
    assert peer.get(lock(number, op=GETLK), Locked).type == F_WRLCK
    peer.get(lock(number, F_UNLCK, owner=OTHER), Locked)
    assert peer.get(lock(number, op=GETLK), Locked).type == F_UNLCK


def test_flock_is_apart_from_fcntl(peer: Peer, number: int, tmp_path: Path) -> None:
    peer.get(lock(number, flock=1), Locked)
    assert not home_has(tmp_path / "f", fcntl.LOCK_SH, flock=True)
    assert home_has(tmp_path / "f", fcntl.LOCK_EX)
    assert peer.errno(lock(number, F_RDLCK, owner=OTHER, flock=1)) == errno.EAGAIN
    peer.get(lock(number, F_RDLCK, flock=1), Locked)
    peer.get(lock(number, F_RDLCK, owner=OTHER, flock=1), Locked)
    for owner in (OWNER, OTHER):
        peer.get(lock(number, F_UNLCK, owner=owner, flock=1), Locked)
    assert home_has(tmp_path / "f", fcntl.LOCK_EX, flock=True)


def test_flock_of_a_directory(peer: Peer, tmp_path: Path) -> None:
    peer.get(lock(1, flock=1), Locked)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(fd)


def test_who_waits_gets_the_lock_when_home_lets_go(peer: Peer, number: int, tmp_path: Path) -> None:
    with locked_at_home(tmp_path / "f"):
        _, answers = peer.begin(lock(number, op=SETLKW))
        peer.ask(Getattr(1))
        assert not answers
    peer.until(lambda: answers)
    assert isinstance(answers[0], Locked)
    # What was written under the lock is told before the lock is given.
    assert number in [attr.id for m in peer.pushed if isinstance(m, Invalidate) for attr in m.data]


def test_who_waits_gets_the_lock_when_another_body_lets_go(peer: Peer, number: int) -> None:
    peer.get(lock(number), Locked)
    _, answers = peer.begin(lock(number, op=SETLKW, owner=OTHER))
    peer.get(lock(number, F_UNLCK), Locked)
    peer.until(lambda: answers)
    assert isinstance(answers[0], Locked)


def test_waiting_ends_with_cancel(peer: Peer, number: int) -> None:
    peer.get(lock(number), Locked)
    tag, answers = peer.begin(lock(number, op=SETLKW, owner=OTHER))
    peer.node.post(Cancel(tag))
    peer.until(lambda: answers)
    assert isinstance(answers[0], Error)
    assert answers[0].errno == errno.EINTR
    peer.get(lock(number, F_UNLCK), Locked)
    assert peer.get(lock(number, op=GETLK), Locked).type == F_UNLCK
    peer.node.post(Cancel(tag))
    peer.ask(Getattr(1))


def test_a_read_lock_can_become_a_write_lock(peer: Peer, number: int) -> None:
    peer.get(lock(number, F_RDLCK), Locked)
    peer.get(lock(number, F_WRLCK), Locked)
    peer.get(lock(number, F_RDLCK), Locked)
    peer.get(lock(number, F_RDLCK, owner=OTHER), Locked)
    assert peer.errno(lock(number, F_WRLCK)) == errno.EAGAIN


def test_two_links_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    one, other = Peer(str(tmp_path)), Peer(str(tmp_path))
    ids = [peer.lookup("f").id for peer in (one, other)]
    one.get(lock(ids[0]), Locked)
    assert other.errno(lock(ids[1])) == errno.EAGAIN
    one.close()
    other.get(lock(ids[1]), Locked)
    other.close()


def test_locks_of_a_forgotten_inode_are_gone(peer: Peer, number: int, tmp_path: Path) -> None:
    peer.get(lock(number), Locked)
    peer.node.post(Forget([number]))
    peer.ask(Getattr(1))
    assert home_has(tmp_path / "f", fcntl.LOCK_EX)


def test_locking_and_unlocking_is_no_change(peer: Peer, number: int) -> None:
    peer.changes()
    for kind in (F_RDLCK, F_WRLCK, F_UNLCK):
        peer.get(lock(number, kind), Locked)
    assert not peer.changes().data


def test_requests_that_make_no_sense_are_refused(peer: Peer, number: int) -> None:
    for message in (
        lock(number, 7),
        lock(number, op=9),
        lock(number, start=5, end=4),
        lock(number, end=1 << 63),
        lock(number, op=GETLK, flock=1),
    ):
        assert peer.errno(message) == errno.EINVAL
    assert peer.errno(lock(999)) == errno.ESTALE


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
def test_a_file_that_may_only_be_read_can_be_locked_for_reading(open_dir: Path) -> None:
    (open_dir / "f").touch()

    def run() -> None:
        peer = Peer(str(open_dir))
        number = peer.lookup("f").id
        peer.get(lock(number, F_RDLCK), Locked)
        peer.get(lock(number, F_WRLCK, flock=1), Locked)

    in_child(run, 60123)
