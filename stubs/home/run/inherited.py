"""The descriptors that a program inherits: what each is, and whether it can follow the body.

Files are reopened through the home view, pipes and stream sockets are relayed, the
controlling terminal becomes a pty, and a few devices are the same everywhere. All else is tied to
the kernel it was made on: such a program stays at home.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat

from stubs.abi.pidfd import pidfd_getfd, same_open_file
from stubs.wire.codec import Descriptor
from stubs.wire.frame import MAX_FDS
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
)

_O_PATH = os.O_PATH

# Devices that behave alike on every machine, as (major, minor) of
# Documentation/admin-guide/devices.txt: null, zero, full, random, urandom.
_DEVICES = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))
_DEV_TTY = os.makedev(5, 0)  # /dev/tty: whichever terminal controls the process
_DEV_PTMX = os.makedev(5, 2)  # the master's side: it makes a terminal and is none itself

_PIPE_KINDS = {os.O_RDONLY: FD_STREAM_IN, os.O_WRONLY: FD_STREAM_OUT}

_OTHER_KINDS = {
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a device",
    stat.S_IFLNK: "a symbolic link opened with O_PATH",
}


class ImmovableError(Exception):
    """The program must stay at home; the text says why."""


class Inherited:
    """The descriptors of a stopped process, as records and as descriptors of our own."""

    def __init__(self, pid: int, tty: int) -> None:
        """Take a copy of each. `tty` is the device of its controlling terminal, 0 for none.

        Raises ImmovableError; every copy is closed then.
        """
        self.pid = pid
        self.records: list[Descriptor] = []
        self.fds: list[int] = []  # in the order of the records
        self._tty = tty
        self._first: dict[tuple[int, int], list[int]] = {}  # inode -> descriptors on it
        pidfd = os.pidfd_open(pid)
        try:
            for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
                self._take(pidfd, fd)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(pidfd)

    def close(self) -> None:
        """Close our copies."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def _take(self, pidfd: int, fd: int) -> None:
        if len(self.fds) == MAX_FDS:
            raise ImmovableError(f"it has more than {MAX_FDS} files open")
        ours = pidfd_getfd(pidfd, fd)
        self.fds.append(ours)
        found = os.fstat(ours)
        flags = fcntl.fcntl(ours, fcntl.F_GETFL)
        path = os.readlink(f"/proc/{self.pid}/fd/{fd}".encode())
        kind, ref = self._classify(ours, found, flags, path, fd)
        share = self._shares_with(fd, (found.st_dev, found.st_ino))
        offset = os.lseek(ours, 0, os.SEEK_CUR) if stat.S_ISREG(found.st_mode) else 0
        self.records.append(Descriptor(fd, kind, ref, flags, offset, share, path))

    def _classify(
        self, ours: int, found: os.stat_result, flags: int, path: bytes, fd: int
    ) -> tuple[int, int]:
        """Return (FD_*, device number or 0); ImmovableError for what is tied to home's kernel."""
        access = flags & os.O_ACCMODE
        if flags & _O_PATH:
            raise ImmovableError(f"fd {fd} is opened with O_PATH")
        if stat.S_ISREG(found.st_mode) and not path.startswith(b"/memfd:"):
            return FD_FILE, 0
        if stat.S_ISDIR(found.st_mode):
            return FD_FILE, 0
        if stat.S_ISFIFO(found.st_mode):
            if access == os.O_RDWR:
                raise ImmovableError(f"fd {fd} is a pipe open for reading and writing")
            return _PIPE_KINDS[access], 0
        if stat.S_ISSOCK(found.st_mode):
            check_stream(ours, fd)
            return FD_STREAM_BOTH, 0
        if stat.S_ISCHR(found.st_mode):
            if found.st_rdev in _DEVICES:
                return FD_DEVICE, found.st_rdev
            if self._tty and found.st_rdev in (self._tty, _DEV_TTY):
                return FD_TTY, 0
            if os.isatty(ours) and found.st_rdev != _DEV_PTMX:
                return _PIPE_KINDS.get(access, FD_STREAM_BOTH), 0
        raise ImmovableError(f"fd {fd} is {_name(found, path)}")

    def _shares_with(self, fd: int, inode: tuple[int, int]) -> int:
        """Return the first descriptor that shares one open file with `fd`, or -1."""
        others = self._first.setdefault(inode, [])
        for other in others:
            if self._is_shared(fd, other):
                return other
        others.append(fd)
        return -1

    def _is_shared(self, fd: int, other: int) -> bool:
        try:
            return same_open_file(self.pid, fd, other)
        except OSError:
            # A kernel built without kcmp(2): the same offset and flags on the same inode is what
            # a dup looks like, and treating two such as one harms only who opened a file twice.
            return _fdinfo(self.pid, fd) == _fdinfo(self.pid, other)


def check_stream(ours: int, fd: int) -> None:
    """See that our copy of a socket can be relayed; ImmovableError, which calls it `fd`."""
    # The socket module duplicates nothing: detach leaves `ours` open.
    sock = socket.socket(fileno=ours)
    try:
        if sock.type != socket.SOCK_STREAM:
            raise ImmovableError(f"fd {fd} is a socket that is not a stream")
        try:
            sock.getpeername()
        except OSError:
            raise ImmovableError(f"fd {fd} is a socket that is not connected") from None
    finally:
        sock.detach()


def _fdinfo(pid: int, fd: int) -> list[bytes]:
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as file:
        return file.read().splitlines()[:2]


def _name(found: os.stat_result, path: bytes) -> str:
    """Return what a descriptor is, for people."""
    if path.startswith(b"/memfd:"):
        return "a memfd"
    if path.startswith(b"anon_inode:"):
        name = path[len(b"anon_inode:") :].strip(b"[]").decode(errors="replace")
        return f"{'an' if name[:1] in 'aeio' else 'a'} {name}"
    kind = _OTHER_KINDS.get(stat.S_IFMT(found.st_mode), "of an unknown kind")
    return f"{kind} ({os.fsdecode(path)})"
