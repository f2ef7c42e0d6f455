"""eventfd, timerfd, signalfd and epoll: how each is described, and made again.

All that they are stands in their fdinfo (proc(5)). `state` of an OpenFile is

    eventfd    count, 1: a semaphore (told by Linux 6.5 and later; earlier none is one)
    timerfd    clock, expirations not read, flags, ns that remain, interval in ns
    signalfd   the set of signals

An epoll's entries are numbers of a process: `ref` says whose, and that process makes them itself.
"""

from __future__ import annotations

import os

from stubs.abi.eventfd import EFD_CLOEXEC, EFD_SEMAPHORE, eventfd
from stubs.abi.eventpoll import EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_EVENT, epoll_create1
from stubs.abi.pidfd import is_watched
from stubs.abi.signalfd import SFD_CLOEXEC, signalfd_of_set
from stubs.abi.timerfd import (
    TFD_CLOEXEC,
    TFD_TIMER_ABSTIME,
    set_ticks,
    timerfd_create,
    timerfd_gettime,
    timerfd_settime,
)
from stubs.abi.x86_64 import NR_epoll_ctl
from stubs.migration.image import (
    OPEN_EPOLL,
    OPEN_EVENTFD,
    OPEN_SIGNALFD,
    OPEN_TIMERFD,
    OpenFile,
    Watched,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.fdinfo import Descriptor

_SECOND = 1_000_000_000
_ALARMS = (8, 9)  # CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM


def describe_eventfd(found: Descriptor) -> OpenFile:
    """Return the record of an eventfd."""
    state = [int(found.value("eventfd-count"), 16), int(found.value("eventfd-semaphore", "0"))]
    return found.record(OPEN_EVENTFD, state=state)


def reopen_eventfd(file: OpenFile) -> int:
    """Return a descriptor of a new one like it."""
    count, semaphore = file.state
    flags = EFD_CLOEXEC | file.flags & os.O_NONBLOCK | (EFD_SEMAPHORE if semaphore else 0)
    fd = eventfd(0, flags)
    if count:
        # The count may need 64 bits, of which eventfd(2) takes 32.
        os.write(fd, count.to_bytes(8, "little"))
    return fd


def describe_timerfd(found: Descriptor, fd: int) -> OpenFile:
    """Return the record of a timerfd, of which `fd` is our descriptor; Unmovable as below."""
    check_timerfd(found)
    # One that has expired repeats only when somebody looks: till then nothing shows how far it is.
    timerfd_gettime(fd)
    found.read_fdinfo()
    value, interval = (
        seconds * _SECOND + ns for seconds, ns in map(found.numbers, ("it_value", "it_interval"))
    )
    flags = int(found.value("settime flags"), 8)
    ticks = int(found.value("ticks"))
    if ticks and not value:
        value = interval  # it has expired since we looked
    clock = int(found.value("clockid"))
    return found.record(OPEN_TIMERFD, state=[clock, ticks, flags, value, interval])


def check_timerfd(found: Descriptor) -> None:
    """Raise Unmovable if it is one that wakes the machine."""
    if int(found.value("clockid")) in _ALARMS:
        raise found.refuse("wake_alarm", "has a timer that wakes the machine")


def reopen_timerfd(file: OpenFile) -> int:
    """Return a descriptor of a new one like it, that goes on from what remained."""
    clock, ticks, flags, value, interval = file.state
    fd = timerfd_create(clock, TFD_CLOEXEC | file.flags & os.O_NONBLOCK)
    # The rest to wait is relative, also where it was armed for a point in time.
    timerfd_settime(fd, flags & ~TFD_TIMER_ABSTIME, interval, value)
    if ticks:
        set_ticks(fd, ticks)
    return fd


def describe_signalfd(found: Descriptor) -> OpenFile:
    """Return the record of a signalfd."""
    return found.record(OPEN_SIGNALFD, state=[int(found.value("sigmask"), 16)])


def reopen_signalfd(file: OpenFile) -> int:
    """Return a descriptor of a new one like it; it reports to whoever reads it."""
    return signalfd_of_set(file.state[0], SFD_CLOEXEC | file.flags & os.O_NONBLOCK)


def describe_epoll(found: Descriptor) -> OpenFile:
    """Return the record of an epoll, its entries as numbers of the process that `found` is of.

    Unmovable when an entry is not that process's descriptor of that number any more.
    """
    watched = []
    times: dict[int, int] = {}
    for line in found.lines:
        if not line.startswith("tfd:"):
            continue
        # "tfd: 5 events: 19 data: 5 pos:0 ino:1c sdev:d"
        words = line.split()
        fd = int(words[1])
        nth = times[fd] = times.get(fd, -1) + 1
        if not _is_watched(found, fd, nth):
            raise found.refuse("epoll_stale", f"has an epoll that watches what was descriptor {fd}")
        entry = Watched(fd=fd, events=int(words[3], 16), data=int(words[5], 16), path=b"")
        watched.append(entry.encode())
    return found.record(OPEN_EPOLL, ref=found.pid, watched=watched)


def _is_watched(found: Descriptor, fd: int, nth: int) -> bool:
    try:
        return is_watched(found.pid, found.fd, fd, nth)
    except OSError:
        return False  # EBADF: nothing has that number


def reopen_epoll(file: OpenFile) -> int:
    """Return a descriptor of a new epoll, without entries: see epoll_calls."""
    return epoll_create1(EPOLL_CLOEXEC)


def epoll_calls(file: OpenFile, number: int) -> list[tuple[int | bytes, ...]]:
    """Return the system calls by which the process adds the entries of its epoll `number`."""
    calls: list[tuple[int | bytes, ...]] = []
    for data in file.watched:
        entry = Watched.decode(data)
        event = EPOLL_EVENT.pack(entry.events, entry.data)
        calls.append((NR_epoll_ctl, number, EPOLL_CTL_ADD, entry.fd, event))
    return calls


DESCRIBE = {
    b"anon_inode:[eventfd]": describe_eventfd,
    b"anon_inode:[signalfd]": describe_signalfd,
}
REOPEN = {
    OPEN_EVENTFD: reopen_eventfd,
    OPEN_TIMERFD: reopen_timerfd,
    OPEN_SIGNALFD: reopen_signalfd,
    OPEN_EPOLL: reopen_epoll,
}
