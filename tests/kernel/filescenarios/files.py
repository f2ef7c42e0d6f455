"""Regular files and devices, and the locks on files."""

import errno
import fcntl
import os

from stubs.abi.fcntl import F_RDLCK, F_WRLCK, OFFSET_MAX, get_lock, set_lock
from stubs.abi.pidfd import same_open_file
from tests.kernel.filemoves import Scenario
from tests.kernel.filescenarios.common import MOVED, at, is_error


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
