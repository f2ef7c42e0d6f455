"""Descriptors that tell of events: eventfd, epoll, timerfd, signalfd, inotify."""

import errno
import os
import select
import signal
import struct

from stubs.abi.eventfd import EFD_SEMAPHORE, eventfd
from stubs.abi.eventpoll import epoll_create1
from stubs.abi.inotify import init as inotify_init
from stubs.abi.inotify import inotify_add_watch, inotify_rm_watch, read_events
from stubs.abi.signalfd import read_signals, signalfd
from stubs.abi.timerfd import timerfd_create, timerfd_settime
from tests.kernel.filemoves import Scenario
from tests.kernel.filescenarios.common import KEPT, MOVED, SECOND, at, is_error


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
    KEPT.append(epoll)  # it would close the descriptor
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
