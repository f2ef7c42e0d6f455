"""Demand: whether a body waits to read from a pipe, a socket or the terminal.

Home's pipes and terminal are read only once a body reads, for what is read too early is lost to
the next reader at home. Whether a process waits, and for how many bytes, is in
/proc/PID/task/TID/syscall. Runs in a ghost, over its descendants: this may read a body's memory,
for which the agent must not wait.
"""

from __future__ import annotations

import os
import struct
import time

from stubs.abi import x86_64 as nr
from stubs.node.capsule.processes import pids_below, read_process
from stubs.wire.messages import Error, StreamWant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message
    from stubs.wire.messages import Watch

    Answer = Callable[[Message], None]

ECANCELED = 125

# How long until the next look, as a share of the time for which nothing has changed: what waiting
# adds to a body's own pauses stays small, and so does what looking costs.
SHARE = 0.1
SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 0.100

# One who waits in poll(2) has not said how much it will read: of a pipe a single byte loses
# nothing; a terminal gives lines, which are read whole.
POLL_PIPE = 1
POLL_TERMINAL = 65536

# No read(2) of a pipe gives more than that at once, and no frame carries more.
MOST = 65536

# Calls that read from the descriptor in argument 0, and where they say how much.
_READS = {nr.NR_read: 2, nr.NR_recvfrom: 2}
_VECTORS = {nr.NR_readv, nr.NR_preadv, nr.NR_preadv2}
_MESSAGES = {nr.NR_recvmsg, nr.NR_recvmmsg}
_PIPES = {nr.NR_splice: 4, nr.NR_tee: 2}
_EPOLLS = {nr.NR_epoll_wait, nr.NR_epoll_pwait, nr.NR_epoll_pwait2}

# A 32-bit program has its stack below 4 GiB, and other numbers (syscall_32.tbl). Those whose
# arguments hold no pointers or longs in memory are the same otherwise.
_HIGHEST_I386 = 0xFFFFFFFF
_I386 = {
    3: nr.NR_read,
    142: nr.NR_select,
    168: nr.NR_poll,
    256: nr.NR_epoll_wait,
    308: nr.NR_pselect6,
    309: nr.NR_ppoll,
    319: nr.NR_epoll_pwait,
}

_POLLFD = struct.Struct("=ihh")
_POLLIN = 1
_IOVEC = struct.Struct("=QQ")

# A program that gives poll(2) more descriptors than this one is looked at in part.
_MANY = 4096


class Demand:
    """The questions that the agent has asked, and the looking for their answers."""

    def __init__(self, loop: Loop) -> None:
        """Look for nothing yet."""
        self._loop = loop
        self._asked: dict[int, tuple[Watch, Answer]] = {}
        self._timer: Timer | None = None
        self._since = 0.0  # time.monotonic() of the last change

    def watch(self, question: Watch, answer: Answer) -> None:
        """Call `answer` with StreamWant once it is another than the one known; see Watch."""
        earlier = self._asked.pop(question.stream, None)
        if earlier is not None:
            earlier[1](Error(ECANCELED, b""))
        if question.link:
            self._asked[question.stream] = (question, answer)
            self._since = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
            self._look()
        else:
            answer(StreamWant(question.stream, 0))

    def _look(self) -> None:
        self._timer = None
        if not self._asked:
            return
        wanted = waiting({question.link for question, _ in self._asked.values()})
        for question, answer in list(self._asked.values()):
            count = wanted.get(question.link, 0)
            if count != question.bytes:
                del self._asked[question.stream]
                answer(StreamWant(question.stream, count))
        patience = SHARE * (time.monotonic() - self._since)
        patience = min(max(patience, SHORTEST_SECONDS), LONGEST_SECONDS)
        self._timer = self._loop.call_later(patience, self._look)


def waiting(links: set[bytes]) -> dict[bytes, int]:
    """Return for each of `links` that a descendant waits to read, how many bytes it asks for."""
    found: dict[bytes, int] = {}
    for pid in pids_below(os.getpid()):
        try:
            waits = _waits_of(pid)
        except PermissionError:
            # It has made itself invisible (PR_SET_DUMPABLE, or Yama forbids looking at all). Better
            # a byte that it may not read than a program that waits for ever.
            waits = [(link, _polled(link)) for link in links] if _sleeps(pid) else []
        for link, count in waits:
            for name in _names(link, links):
                found[name] = max(found.get(name, 0), count)
    return found


def _sleeps(pid: int) -> bool:
    """Tell whether a process that may not be looked at waits for something, perhaps for input.

    One that ends cannot be looked at either, once its memory is gone, and may wait for the view to
    close its files.
    """
    process = read_process(pid)
    return process is not None and process.state == b"S" and not process.exiting


def _polled(link: bytes) -> int:
    """Return how much is wanted by one who has not said how much it will read."""
    return POLL_TERMINAL if link.startswith((b"/dev/pts/", b"/dev/tty")) else POLL_PIPE


def _names(link: bytes, links: set[bytes]) -> list[bytes]:
    """Return which of `links` is meant: /dev/tty is whatever terminal there is."""
    if link == b"/dev/tty":
        return [name for name in links if name.startswith(b"/dev/pts/")]
    return [link] if link in links else []


def _waits_of(pid: int) -> list[tuple[bytes, int]]:
    waits = []
    for task in _listdir(f"/proc/{pid}/task"):
        try:
            call = _read(f"/proc/{pid}/task/{task}/syscall").split()
            if len(call) < 9:  # "running", or -1 for a process that is not in a call
                continue
            number = int(call[0])
            *arguments, stack = [int(word, 16) for word in call[1:8]]
            if stack <= _HIGHEST_I386:
                number = _I386.get(number, -1)
            for fd, count in _reads(pid, number, arguments):
                link = os.readlink(b"/proc/%d/fd/%d" % (pid, fd))
                waits.append((link, min(count or _polled(link), MOST)))
        except PermissionError:
            raise
        except OSError:
            continue  # the process, or the descriptor, is gone by now
    return waits


def _reads(pid: int, call: int, arguments: list[int]) -> list[tuple[int, int]]:
    """Return (descriptor, bytes) of what this call waits to read; 0 bytes: it only polls."""
    first, second, third = arguments[:3]
    if call in _READS:
        return [(first, arguments[_READS[call]])]
    if call in _PIPES:
        return [(first, arguments[_PIPES[call]])]
    if call == nr.NR_sendfile:
        return [(second, arguments[3])]
    if call in _VECTORS:
        parts = _memory(pid, second, min(third, 1024) * _IOVEC.size)
        return [(first, sum(length for _, length in _IOVEC.iter_unpack(parts)))]
    if call in _MESSAGES:
        return [(first, MOST)]
    if call in (nr.NR_poll, nr.NR_ppoll):
        polled = _memory(pid, first, min(second, _MANY) * _POLLFD.size)
        return [(fd, 0) for fd, events, _ in _POLLFD.iter_unpack(polled) if events & _POLLIN]
    if call in (nr.NR_select, nr.NR_pselect6):
        return [(fd, 0) for fd in _fd_set(pid, first, second)]
    if call in _EPOLLS:
        return [(fd, 0) for fd in _epoll_set(pid, first)]
    return []


def _fd_set(pid: int, count: int, address: int) -> list[int]:
    if not address:
        return []
    # select(2) clears the set only when it returns, so it still holds what is waited for.
    count = min(count, _MANY)
    bits = _memory(pid, address, (count + 7) // 8)
    return [fd for fd in range(count) if bits[fd // 8] >> fd % 8 & 1]


def _epoll_set(pid: int, epoll: int) -> list[int]:
    found = []
    for line in _read(f"/proc/{pid}/fdinfo/{epoll}").splitlines():
        words = line.split()
        # tfd:        5 events:       19 data: ...
        if words[:1] == [b"tfd:"] and int(words[3], 16) & _POLLIN:
            found.append(int(words[1]))
    return found


def _memory(pid: int, address: int, size: int) -> bytes:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, size, address)
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
