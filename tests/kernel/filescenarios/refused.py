"""What cannot be moved."""

import ctypes
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable

from stubs.abi.pidfd import pidfd_open
from tests.kernel.filemoves import Scenario
from tests.kernel.filescenarios.common import KEPT, REFUSED


def refuse(name: str, reason: str, *checks: Callable[[], None]) -> Callable[..., None]:
    def add(make: Callable[[], None]) -> None:
        REFUSED[name] = (Scenario(make, list(checks) or [lambda: None]), reason)

    return add


@refuse("a pipe of packets", "packet_pipe")
def make_packets() -> None:
    os.pipe2(os.O_DIRECT)


@refuse("a network socket", "socket")
def make_network_socket() -> None:
    KEPT.append(socket.socket())


@refuse("a listening socket", "socket")
def make_listening_socket() -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    listening.listen()
    KEPT.append(listening)


@refuse("descriptors on their way", "socket")
def make_rights() -> None:
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [0])
    KEPT.append((one, other))


@refuse("an epoll with an entry that is closed", "epoll_stale")
def make_stale_epoll() -> None:
    reading, _ = os.pipe()
    epoll = select.epoll()
    epoll.register(reading)
    KEPT.append(epoll)
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
