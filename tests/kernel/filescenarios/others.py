"""memfds, sockets, and descriptors of processes."""

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket

from stubs.abi.pidfd import pidfd_open
from tests.kernel.filemoves import Scenario
from tests.kernel.filescenarios.common import MOVED, at, is_error

# Memory.


def make_memfds() -> None:
    at(10, os.memfd_create("first", os.MFD_ALLOW_SEALING))
    os.ftruncate(10, 10000)
    os.lseek(10, 77, os.SEEK_SET)
    fcntl.fcntl(10, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    at(11, os.open("/proc/self/fd/10", os.O_RDONLY))
    at(12, os.memfd_create("second"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink("/dev/shm/mlaunch-files")  # of a run that was cut short
    at(13, os.open("/dev/shm/mlaunch-files", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640))
    os.ftruncate(13, 5000)
    at(14, os.open("/dev/shm/mlaunch-gone", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    os.unlink("/dev/shm/mlaunch-gone")


def check_memfds() -> None:
    assert os.readlink("/proc/self/fd/10") == "/memfd:first (deleted)"
    assert os.fstat(10).st_size == 10000
    assert os.fstat(10).st_ino == os.fstat(11).st_ino
    assert os.lseek(10, 0, os.SEEK_CUR) == 77
    assert os.lseek(11, 0, os.SEEK_CUR) == 0
    is_error(errno.EBADF, os.write, 11, b"x")
    is_error(errno.EPERM, os.ftruncate, 10, 0)
    assert fcntl.fcntl(10, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    assert fcntl.fcntl(12, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL
    found = os.stat("/dev/shm/mlaunch-files")
    assert (found.st_ino, found.st_size, found.st_mode & 0o777) == (
        os.fstat(13).st_ino,
        5000,
        0o640,
    )
    os.unlink("/dev/shm/mlaunch-files")
    os.write(14, b"x")
    assert os.fstat(14).st_nlink == 0


MOVED["shared memory"] = Scenario(make_memfds, [check_memfds])


# Sockets and processes.


def make_pairs() -> None:
    for number, kind in enumerate((socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.send(b"to the other")
        one.send(b"again")
        other.send(b"to the one")
        one.setblocking(False)
        at(10 + 2 * number, one.detach())
        at(11 + 2 * number, other.detach())
    one, other = socket.socketpair()
    one.send(b"last")
    one.close()
    at(20, other.detach())
    one, other = socket.socketpair()
    one.shutdown(socket.SHUT_WR)
    at(21, one.detach())
    at(22, other.detach())
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for message in (b"", b"x" * 5000, b"", b"end"):
        one.send(message)
    at(23, one.detach())
    at(24, other.detach())


def check_pairs() -> None:
    for number, kind in enumerate((socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)):
        one, other = socket.socket(fileno=10 + 2 * number), socket.socket(fileno=11 + 2 * number)
        assert one.type == other.type == kind
        assert not os.get_blocking(one.fileno())
        assert os.get_blocking(other.fileno())
        parts = (
            [b"to the otheragain"] if kind == socket.SOCK_STREAM else [b"to the other", b"again"]
        )
        for part in parts:
            assert other.recv(100) == part
        assert one.recv(100) == b"to the one"
        one.send(b"new")
        assert other.recv(100) == b"new"
    closed = socket.socket(fileno=20)
    assert closed.recv(100) == b"last"
    assert closed.recv(100) == b""
    shut, other = socket.socket(fileno=21), socket.socket(fileno=22)
    assert other.recv(1) == b""
    is_error(errno.EPIPE, shut.send, b"x")
    other.send(b"back")
    assert shut.recv(100) == b"back"
    receiver = socket.socket(fileno=24)
    messages = [receiver.recv(9000, socket.MSG_DONTWAIT) for _ in range(4)]
    assert messages == [b"", b"x" * 5000, b"", b"end"]


MOVED["socket pairs"] = Scenario(make_pairs, [check_pairs])


def part_of_pair(number: int) -> None:
    os.close(21 if number else 22)


def check_one_end() -> None:
    assert os.read(21, 10) == b"back"


def check_other_end() -> None:
    assert os.read(22, 10) == b""
    os.write(22, b"back")


MOVED["a socket pair between two processes"] = Scenario(
    make_pairs, [check_one_end, check_other_end], part_of_pair
)


def part_of_pidfd(number: int) -> None:
    if number:
        at(10, pidfd_open(os.getppid(), os.O_NONBLOCK))
        at(11, pidfd_open(os.getpid()))
        child = os.fork()
        if child == 0:
            os._exit(0)
        at(12, pidfd_open(child))
        os.waitpid(child, 0)


def check_pidfd() -> None:
    signal.pidfd_send_signal(11, 0)
    assert not os.get_blocking(10)
    with open("/proc/self/fdinfo/10") as file:
        assert f"Pid:\t{_body()}\n" in file.read()
    assert select.select([12], [], [], 0)[0] == [12]
    is_error(errno.ESRCH, signal.pidfd_send_signal, 12, 0)


def _body() -> int:
    """Return the pid of the first process of a scenario, which has the lower one."""
    return os.getpid() - 1


def make_lasting() -> None:
    reading, writing = os.pipe()
    at(20, reading)
    at(21, writing)


def check_lasting() -> None:
    """Be there until the other process has ended."""
    os.close(21)
    assert os.read(20, 1) == b""


MOVED["pidfds"] = Scenario(make_lasting, [check_lasting, check_pidfd], part_of_pidfd)
