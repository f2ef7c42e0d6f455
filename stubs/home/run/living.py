"""The descriptors of a program that has been running at home for a while, and is to leave.

What it found open when it began may be closed by now, and other things be open. What leads out of
it (files, pipes, sockets, its terminal) is given keys, for mrun to hand over; what is its own
alone (pipes between its threads, event loops) goes with its image (stubs.migration.files).
"""

from __future__ import annotations

import os
import stat

from stubs.abi.pidfd import pidfd_getfd, same_open_file
from stubs.abi.sock_diag import query_unix
from stubs.home.run.inherited import ImmovableError, check_stream
from stubs.migration import keys
from stubs.wire.codec import Descriptor
from stubs.wire.frame import MAX_FDS
from stubs.wire.messages import (
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
)

_DEV_TTY = os.makedev(5, 0)  # /dev/tty: whichever terminal controls the process

_PIPE_KINDS = {os.O_RDONLY: FD_STREAM_IN, os.O_WRONLY: FD_STREAM_OUT}


class Living:
    """What leads out of a stopped process: `records` with keys as `fd`, and `fds`, copies of ours.

    `outside` and `inherited` are what stubs.migration.source must know of it.
    """

    def __init__(self, pid: int, tty: int) -> None:
        """Look at each descriptor. `tty` is the device of its terminal, 0 for none.

        Raises ImmovableError; every copy is closed then.
        """
        self.records: list[Descriptor] = []
        self.fds: list[int] = []
        self.outside: dict[bytes, int] = {}
        self.inherited: list[tuple[int, int, int]] = []
        self._pid = pid
        self._tty = tty
        self._pidfd = os.pidfd_open(pid)
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        links = {fd: os.readlink(b"/proc/%d/fd/%d" % (pid, fd)) for fd in numbers}
        self._own = _own_pipes(pid, links)
        self._sockets = {int(link[8:-1]) for link in links.values() if link.startswith(b"socket:[")}
        try:
            for fd, link in links.items():
                self._look(fd, link)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(self._pidfd)

    def close(self) -> None:
        """Close our copies."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def _look(self, fd: int, link: bytes) -> None:
        found = os.stat(b"/proc/%d/fd/%d" % (self._pid, fd))
        if stat.S_ISREG(found.st_mode) and not link.startswith(
            (b"/memfd:", b"/dev/shm/", b"/SYSV")
        ):
            if not any(same_open_file(self._pid, fd, other) for _, other, _ in self.inherited):
                self.inherited.append((self._pid, fd, keys.of_file(fd)))
                self._take(fd, link, FD_FILE, keys.of_file(fd))
        elif stat.S_ISFIFO(found.st_mode) and link not in self._own:
            self._take_stream(fd, link, _PIPE_KINDS.get(self._mode(fd), 0))
        elif stat.S_ISSOCK(found.st_mode) and query_unix(found.st_ino).peer not in self._sockets:
            self._take_stream(fd, link, FD_STREAM_BOTH)
        elif stat.S_ISCHR(found.st_mode) and self._tty and found.st_rdev in (self._tty, _DEV_TTY):
            self.outside[link] = keys.TERMINAL
            # Any of them will do, but one at least must be there (stubs.home.guests.terminals).
            self._take(fd, link, FD_TTY, keys.TERMINAL + fd)

    def _take_stream(self, fd: int, link: bytes, kind: int) -> None:
        if link in self.outside:
            return
        if not kind:
            raise ImmovableError(f"fd {fd} is a pipe open for reading and writing")
        key = self.outside[link] = len(self.outside) + 1
        self._take(fd, link, kind, key)
        if kind == FD_STREAM_BOTH:
            check_stream(self.fds[-1], fd)

    def _take(self, fd: int, link: bytes, kind: int, key: int) -> None:
        if len(self.fds) == MAX_FDS:
            raise ImmovableError(f"it has more than {MAX_FDS} files open")
        self.fds.append(pidfd_getfd(self._pidfd, fd))
        flags = self._flags(fd) & ~os.O_CLOEXEC
        offset = os.lseek(self.fds[-1], 0, os.SEEK_CUR) if kind == FD_FILE else 0
        self.records.append(Descriptor(key, kind, 0, flags, offset, -1, link))

    def _mode(self, fd: int) -> int:
        return self._flags(fd) & os.O_ACCMODE

    def _flags(self, fd: int) -> int:
        with open(f"/proc/{self._pid}/fdinfo/{fd}") as file:
            for line in file:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8)
        return 0


def _own_pipes(pid: int, links: dict[int, bytes]) -> set[bytes]:
    """Return the pipes of which a process has both ends: nobody else has them, for all we know."""
    ends: dict[bytes, set[int]] = {}
    for fd, link in links.items():
        if link.startswith(b"pipe:["):
            # Permission bits of the links in /proc/PID/fd say how a descriptor was opened.
            mode = os.lstat(b"/proc/%d/fd/%d" % (pid, fd)).st_mode
            ends.setdefault(link, set()).add(mode & (stat.S_IRUSR | stat.S_IWUSR))
    both = stat.S_IRUSR | stat.S_IWUSR
    return {
        link
        for link, modes in ends.items()
        if both in modes or modes >= {stat.S_IRUSR, stat.S_IWUSR}
    }
