"""What test_moving_files moves: how it is set up, and what must still be so afterwards."""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
from collections.abc import Callable

from stubs.abi.eventfd import EFD_SEMAPHORE, eventfd
from stubs.abi.eventpoll import epoll_create1
from stubs.abi.fcntl import F_RDLCK, F_WRLCK, OFFSET_MAX, get_lock, set_lock
from stubs.abi.inotify import init as inotify_init
from stubs.abi.inotify import inotify_add_watch, inotify_rm_watch, read_events
from stubs.abi.pidfd import pidfd_open, same_open_file
from stubs.abi.signalfd import read_signals, signalfd
from stubs.abi.splice import pipe_size, set_pipe_size
from stubs.abi.timerfd import timerfd_create, timerfd_settime
from tests.kernel.filemoves import Scenario
from tests.kernel.viewcalls import outcome

_kept: list[object] = []

SECOND = 1_000_000_000

MOVED: dict[str, Scenario] = {}
REFUSED: dict[str, tuple[Scenario, str]] = {}


def at(number: int, fd: int) -> None:
    """Have a descriptor at this number."""
    os.dup2(fd, number)
    os.close(fd)


def is_error(number: int, call: Callable[..., object], *arguments: object) -> None:
    assert outcome(call, *arguments) == errno.errorcode[number]


# Regular files.


def make_files() -> None:
    with open("text", "w") as file:
        file.write("0123456789")
    at(10, os.open("text", os.O_RDONLY))
    os.read(10, 3)
    os.dup2(10, 11)
    at(12, os.open("text", os.O_RDONLY))
    at(13, os.open("text", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    os.set_inheritable(12, False)
    at(14, os.open(".", os.O_RDONLY | os.O_DIRECTORY))
    at(15, os.open("text", os.O_PATH))
    os.symlink("text", "link")
    at(16, os.open("link", os.O_PATH | os.O_NOFOLLOW))
    at(17, os.open("/proc/self/status", os.O_RDONLY))


def check_files() -> None:
    pid = os.getpid()
    assert os.lseek(10, 0, os.SEEK_CUR) == 3
    assert os.read(11, 2) == b"34"
    assert os.lseek(10, 0, os.SEEK_CUR) == 5
    assert same_open_file(pid, 10, 11)
    assert os.read(12, 1) == b"0"
    assert not same_open_file(pid, 10, 12)
    assert not os.get_inheritable(12)
    assert os.get_inheritable(10)
    flags = fcntl.fcntl(13, fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == os.O_WRONLY
    assert flags & os.O_APPEND
    assert flags & os.O_NONBLOCK
    os.write(13, b"end")
    assert os.pread(10, 100, 0) == b"0123456789end"
    assert "text" in os.listdir(14)
    is_error(errno.EBADF, os.read, 15, 1)
    assert os.fstat(15).st_size == 13
    assert os.readlink("", dir_fd=16) == "text"
    assert b"Pid:\t%d\n" % pid in os.read(17, 4096)


MOVED["files"] = Scenario(make_files, [check_files])


def make_offset() -> None:
    make_files()
    reading, writing = os.pipe()
    at(20, reading)
    at(21, writing)


def check_offset_reader() -> None:
    assert os.read(10, 4) == b"3456"
    os.write(21, b"x")


def check_offset_other() -> None:
    os.read(20, 1)
    assert os.lseek(10, 0, os.SEEK_CUR) == 7


MOVED["an offset shared by two processes"] = Scenario(
    make_offset, [check_offset_reader, check_offset_other]
)


def make_devices() -> None:
    for number, name in enumerate(("null", "zero", "full", "random", "urandom"), 10):
        at(number, os.open(f"/dev/{name}", os.O_RDWR))


def check_devices() -> None:
    assert os.read(10, 1) == b""
    assert os.read(11, 2) == b"\0\0"
    is_error(errno.ENOSPC, os.write, 12, b"x")
    assert len(os.read(13, 3)) == 3
    assert len(os.read(14, 3)) == 3


MOVED["devices"] = Scenario(make_devices, [check_devices])


# Pipes.


def make_pipe() -> None:
    reading, writing = os.pipe()
    at(10, reading)
    at(11, writing)
    set_pipe_size(10, 1 << 18)
    os.set_blocking(10, False)
    os.write(11, b"one" * 20000)
    os.write(11, b"two")
    at(12, os.open("/proc/self/fd/10", os.O_RDONLY))
    at(13, os.dup(11))


def check_pipe() -> None:
    assert pipe_size(10) == 1 << 18
    is_error(errno.EBADF, os.write, 10, b"x")
    assert not os.get_blocking(10)
    assert os.get_blocking(12)
    assert same_open_file(os.getpid(), 11, 13)
    assert os.read(10, 60000) == b"one" * 20000
    assert os.read(12, 60000) == b"two"
    is_error(errno.EAGAIN, os.read, 10, 1)
    os.close(11)
    is_error(errno.EAGAIN, os.read, 10, 1)
    os.close(13)
    assert os.read(10, 1) == b""


MOVED["a pipe"] = Scenario(make_pipe, [check_pipe])


def make_closed_pipes() -> None:
    reading, writing = os.pipe()
    at(10, reading)
    os.write(writing, b"last")
    os.close(writing)
    reading, writing = os.pipe()
    at(11, writing)
    os.close(reading)


def check_closed_pipes() -> None:
    assert os.read(10, 100) == b"last"
    assert os.read(10, 100) == b""
    is_error(errno.EPIPE, os.write, 11, b"x")


MOVED["pipes with one end"] = Scenario(make_closed_pipes, [check_closed_pipes])


def part_of_pipe(number: int) -> None:
    for fd in ((10, 12), (11, 13))[number]:
        os.close(fd)


def check_writer() -> None:
    os.write(11, b"three")


def check_reader() -> None:
    data = b""
    while more := os.read(12, 100000):
        data += more
    assert data == b"one" * 20000 + b"two" + b"three"


MOVED["a pipe between two processes"] = Scenario(
    make_pipe, [check_writer, check_reader], part_of_pipe
)

_streams: list[int] = []


def open_outside() -> dict[bytes, int]:
    """Return a pipe that leads in, one that leads out, and a terminal."""
    _streams[:] = [*os.pipe(), *os.pipe(), *os.openpty()]
    chosen = (_streams[0], _streams[3], _streams[5])
    return {os.fsencode(os.readlink(f"/proc/self/fd/{fd}")): fd for fd in chosen}


def make_outside() -> None:
    into, fed, taken, out, master, terminal = _streams
    os.write(fed, b"in")
    for fd in (fed, taken, master):
        os.close(fd)
    at(100, into)
    at(101, out)
    os.set_blocking(101, False)
    at(102, terminal)
    at(103, os.open(os.ttyname(102), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))


def check_outside() -> None:
    assert os.read(100, 10) == b"in"
    os.write(101, b"out")
    assert not os.get_blocking(101)
    assert os.isatty(102)
    os.write(102, b"hello")
    assert fcntl.fcntl(103, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK) == os.O_NONBLOCK
    assert os.ttyname(103) == os.ttyname(102)
    assert termios.tcgetattr(103) == termios.tcgetattr(102)


MOVED["what leads outside"] = Scenario(make_outside, [check_outside], outside=open_outside)


# Events.


def make_eventfds() -> None:
    at(10, eventfd(7, os.O_NONBLOCK))
    at(11, eventfd(2, EFD_SEMAPHORE))
    at(12, eventfd(0, 0))
    os.write(12, struct.pack("=Q", 1 << 40))


def check_eventfds() -> None:
    assert struct.unpack("=Q", os.read(10, 8)) == (7,)
    is_error(errno.EAGAIN, os.read, 10, 8)
    assert struct.unpack("=Q", os.read(11, 8)) == (1,)
    assert struct.unpack("=Q", os.read(11, 8)) == (1,)
    assert os.get_blocking(11)
    assert struct.unpack("=Q", os.read(12, 8)) == (1 << 40,)


MOVED["eventfds"] = Scenario(make_eventfds, [check_eventfds])


def by_number(fd: int) -> select.epoll:
    epoll = select.epoll.fromfd(fd)
    _kept.append(epoll)  # it would close the descriptor
    return epoll


def make_epoll() -> None:
    reading, writing = os.pipe()
    at(10, reading)
    at(11, writing)
    at(12, eventfd(0, 0))
    at(13, epoll_create1(0))
    epoll = by_number(13)
    epoll.register(10, select.EPOLLIN | select.EPOLLET)
    epoll.register(12, select.EPOLLIN | select.EPOLLONESHOT)
    at(14, epoll_create1(0))
    by_number(14).register(13, select.EPOLLIN)


def check_epoll() -> None:
    epoll, outer = by_number(13), by_number(14)
    assert outer.poll(0) == []
    os.write(11, b"x")
    assert outer.poll(1) == [(13, select.EPOLLIN)]
    assert epoll.poll(0) == [(10, select.EPOLLIN)]
    assert epoll.poll(0) == []
    os.write(12, struct.pack("=Q", 1))
    assert epoll.poll(0) == [(12, select.EPOLLIN)]
    os.write(12, struct.pack("=Q", 1))
    assert epoll.poll(0) == []


MOVED["epolls"] = Scenario(make_epoll, [check_epoll])


def part_of_epoll(number: int) -> None:
    if number == 0:
        os.close(10)


MOVED["an epoll whose numbers are the child's"] = Scenario(
    make_epoll, [lambda: None, check_epoll], part_of_epoll
)


def make_timerfds() -> None:
    for number in (10, 11, 12):
        at(number, timerfd_create(1, os.O_NONBLOCK))
    timerfd_settime(10, 0, SECOND // 100, SECOND // 100)
    select.select([10], [], [])
    timerfd_settime(11, 1, 0, 3000 * SECOND)
    timerfd_settime(12, 0, 5 * SECOND, 1000 * SECOND)


def check_timerfds() -> None:
    assert struct.unpack("=Q", os.read(10, 8))[0] >= 1
    select.select([10], [], [])
    assert struct.unpack("=Q", os.read(10, 8))[0] >= 1
    is_error(errno.EAGAIN, os.read, 12, 8)
    with open("/proc/self/fdinfo/12") as file:
        lines = dict(line.split(":", 1) for line in file)
    assert lines["clockid"].strip() == "1"
    assert lines["it_interval"].strip() == "(5, 0)"
    assert 0 < int(lines["it_value"].strip(" (\n").split(",")[0]) <= 1000


MOVED["timerfds"] = Scenario(make_timerfds, [check_timerfds])


def make_signalfd() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    at(10, signalfd([signal.SIGUSR1]))


def check_signalfd() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    for signo in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), signo)
    assert [each.ssi_signo for each in read_signals(10)] == [signal.SIGUSR1]


MOVED["a signalfd"] = Scenario(make_signalfd, [check_signalfd])


def make_inotify() -> None:
    os.mkdir("watched")
    with open("watched/file", "w"):
        pass
    at(10, inotify_init())
    os.set_blocking(10, True)
    for _ in range(20):
        inotify_rm_watch(10, inotify_add_watch(10, b"watched", 0x100))
    inotify_add_watch(10, b"watched", 0x100)
    inotify_rm_watch(10, inotify_add_watch(10, b"..", 0x100))
    inotify_add_watch(10, b"watched/file", 0x2)
    at(11, os.open("watched", os.O_RDONLY))


def check_inotify() -> None:
    assert os.get_blocking(10)
    os.set_blocking(10, False)
    assert list(read_events(10)) == []
    with open("watched/new", "w"):
        pass
    with open("watched/file", "w") as file:
        file.write("x")
    assert list(read_events(10)) == [(21, 0x100, 0, b"new"), (23, 0x2, 0, b"")]


MOVED["inotify"] = Scenario(make_inotify, [check_inotify])


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


# Locks.


def make_locks() -> None:
    for name in ("posix", "flock", "ofd"):
        with open(name, "w") as file:
            file.write("x" * 100)
    at(10, os.open("posix", os.O_RDWR))
    fcntl.lockf(10, fcntl.LOCK_EX, 10, 5)
    fcntl.lockf(10, fcntl.LOCK_SH, 0, 50)
    at(11, os.open("flock", os.O_RDONLY))
    fcntl.flock(11, fcntl.LOCK_EX)
    at(12, os.open("ofd", os.O_RDWR))
    set_lock(12, F_WRLCK, 0, 9)


def check_locks() -> None:
    # Closing any descriptor of the file would give up its locks.
    other = os.open("posix", os.O_RDWR)
    assert get_lock(other, F_WRLCK, 0, 40) == (F_WRLCK, 5, 14, os.getpid())
    assert get_lock(other, F_WRLCK, 40, 60) == (F_RDLCK, 50, OFFSET_MAX, os.getpid())
    at(21, os.open("flock", os.O_RDONLY))
    is_error(errno.EWOULDBLOCK, fcntl.flock, 21, fcntl.LOCK_SH | fcntl.LOCK_NB)
    at(22, os.open("ofd", os.O_RDWR))
    assert get_lock(22, F_WRLCK, 0, 40)[:3] == (F_WRLCK, 0, 9)


MOVED["locks"] = Scenario(make_locks, [check_locks])


# What cannot be moved.


def refuse(name: str, reason: str, *checks: Callable[[], None]) -> Callable[..., None]:
    def add(make: Callable[[], None]) -> None:
        REFUSED[name] = (Scenario(make, list(checks) or [lambda: None]), reason)

    return add


@refuse("a pipe of packets", "packet_pipe")
def make_packets() -> None:
    os.pipe2(os.O_DIRECT)


@refuse("a network socket", "socket")
def make_network_socket() -> None:
    _kept.append(socket.socket())


@refuse("a listening socket", "socket")
def make_listening_socket() -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    listening.listen()
    _kept.append(listening)


@refuse("descriptors on their way", "socket")
def make_rights() -> None:
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [0])
    _kept.append((one, other))


@refuse("an epoll with an entry that is closed", "epoll_stale")
def make_stale_epoll() -> None:
    reading, _ = os.pipe()
    epoll = select.epoll()
    epoll.register(reading)
    _kept.append(epoll)
    os.dup(reading)
    os.close(reading)


@refuse("a lease", "lease")
def make_lease() -> None:
    with open("leased", "w"):
        pass
    fcntl.fcntl(os.open("leased", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)


@refuse("a pty master", "pty_master")
def make_pty() -> None:
    os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)


@refuse("a foreign terminal", "terminal")
def make_terminal() -> None:
    master, _ = os.openpty()
    os.close(master)


@refuse("a fifo", "fifo")
def make_fifo() -> None:
    os.mkfifo("fifo")
    os.open("fifo", os.O_RDWR)


@refuse("a file without a name, elsewhere than in the home view", "unnamed_file")
def make_unnamed() -> None:
    os.open(".", os.O_TMPFILE | os.O_RDWR)


@refuse("a pidfd of a process outside", "pidfd")
def make_foreign_pidfd() -> None:
    pidfd_open(1)


@refuse("a file that sends signals", "signal_io")
def make_async() -> None:
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETFL, os.O_ASYNC)


@refuse("an object of the kernel", "kernel_object")
def make_fanotify() -> None:
    landlock_create_ruleset = 444
    rules = struct.pack("=Q", 1)
    call = ctypes.CDLL(None)["syscall"]
    assert call(landlock_create_ruleset, rules, len(rules), 0) >= 0
