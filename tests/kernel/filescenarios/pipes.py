"""Pipes, and what leads outside."""

import errno
import fcntl
import os
import termios

from stubs.abi.pidfd import same_open_file
from stubs.abi.splice import pipe_size, set_pipe_size
from tests.kernel.filemoves import Scenario
from tests.kernel.filescenarios.common import MOVED, at, is_error


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
