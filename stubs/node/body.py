"""Becoming the body: what happens between clone and execve, and which files it inherits.

Runs in the capsule: `open_inherited` in the ghost that will be the body's parent, `become` in the
child. Whatever a program can see of how it was started is set here, from what home captured.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import struct
import sys

from stubs.abi.sigaction import ignore, set_mask
from stubs.abi.termbits import set_foreground
from stubs.abi.unistd import Strings, close_except, execve
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import Descriptor
    from stubs.wire.messages import Spawn

# Where the view shows inodes by their id; never listed (stubs.node.view).
BY_ID = b"/.mlaunch-view/%d"

# The flags of open(2) that F_GETFL shows and that a new open file can be given.
_KEPT_FLAGS = (
    os.O_ACCMODE
    | os.O_APPEND
    | os.O_NONBLOCK
    | os.O_SYNC
    | os.O_DSYNC
    | os.O_NOATIME
    | os.O_DIRECTORY
    | os.O_PATH
)

_DEVICES = {
    os.makedev(1, 3): b"/dev/null",
    os.makedev(1, 5): b"/dev/zero",
    os.makedev(1, 7): b"/dev/full",
    os.makedev(1, 8): b"/dev/random",
    os.makedev(1, 9): b"/dev/urandom",
}

STREAMS = (FD_STREAM_IN, FD_STREAM_OUT, FD_STREAM_BOTH)

_PID = struct.Struct("=I")
_ERRNO = struct.Struct("=i")

_INFINITY = 0xFFFFFFFFFFFFFFFF


class Inheritance:
    """The open files that a body will have, as descriptors of its parent ghost."""

    def __init__(self) -> None:
        """Begin with none."""
        self.sources: dict[int, int] = {}  # number in the body -> descriptor here
        self.files: list[tuple[int, int]] = []  # (number in the body, descriptor here) of FD_FILE
        self.terminal = -1

    def close(self) -> None:
        """Close all of them, except those whose position will be asked for."""
        kept = {fd for _, fd in self.files}
        for fd in set(self.sources.values()) | {self.terminal}:
            if fd >= 0 and fd not in kept:
                os.close(fd)

    def close_files(self) -> None:
        """Close those as well."""
        for _, fd in self.files:
            os.close(fd)
        self.files.clear()

    def positions(self) -> list[tuple[int, int]]:
        """Return (number in the body, offset) of every inherited file."""
        return [(number, os.lseek(fd, 0, os.SEEK_CUR)) for number, fd in self.files]


def open_inherited(spawn: Spawn, fds: list[int]) -> Inheritance:
    """Open what `spawn` inherits; takes over `fds`: its streams in order, and its terminal last.

    Raises OSError when something cannot be opened; nothing stays open then.
    """
    result = Inheritance()
    streams = [each for each in spawn.descriptors if each.kind in STREAMS and each.share < 0]
    if len(fds) > len(streams):
        result.terminal = fds.pop()
    for item, fd in zip(streams, fds):
        result.sources[item.fd] = fd
    try:
        for item in spawn.descriptors:
            _add(result, item)
    except OSError:
        result.close()
        result.close_files()
        raise
    return result


def _add(result: Inheritance, item: Descriptor) -> None:
    if item.share >= 0:
        result.sources[item.fd] = result.sources[item.share]
    elif item.kind == FD_FILE:
        fd = _open_file(item)
        result.sources[item.fd] = fd
        if not item.flags & os.O_PATH and not stat.S_ISDIR(os.fstat(fd).st_mode):
            result.files.append((item.fd, fd))
    elif item.kind == FD_DEVICE:
        result.sources[item.fd] = os.open(_DEVICES[item.ref], item.flags & _KEPT_FLAGS)
    elif item.kind == FD_TTY:
        path = b"/proc/self/fd/%d" % result.terminal
        result.sources[item.fd] = os.open(path, item.flags & _KEPT_FLAGS | os.O_NOCTTY)


def _open_file(item: Descriptor) -> int:
    flags = item.flags & _KEPT_FLAGS | os.O_NOCTTY
    try:
        fd = os.open(BY_ID % item.ref, flags)
    except IsADirectoryError:
        # A directory has one place in the kernel's tree, so it has no second name by its id.
        fd = os.open(item.path, flags)
    if item.offset > 0 and not item.flags & os.O_PATH:
        os.lseek(fd, item.offset, os.SEEK_SET)
    return fd


def become(spawn: Spawn, inherited: Inheritance, status: int, foreground: bool) -> None:
    """Turn this process, just cloned, into the body; never returns.

    Writes its pid to `status`, which execve closes, or then the errno of what failed.
    """
    try:
        os.write(status, _PID.pack(os.getpid()))
        argv, env = Strings(spawn.argv), Strings(spawn.env)
        _join_group(spawn)
        if foreground and inherited.terminal >= 0:
            set_foreground(inherited.terminal, os.getpgrp())
        _enter_directory(spawn)
        os.umask(spawn.umask)
        _be_nice(spawn.nice)
        status = _place(inherited.sources, status)
        ignore(spawn.ignored)
        _limit(spawn.limits)
        set_mask(spawn.blocked)
        execve(spawn.exe, argv, env)
    except OSError as error:
        os.write(status, _ERRNO.pack(error.errno or 0))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os.write(status, _ERRNO.pack(errno.EIO))
    finally:
        os._exit(127)


def _join_group(spawn: Spawn) -> None:
    if spawn.pgrp == spawn.body:
        os.setpgid(0, 0)
    elif os.getpgrp() != spawn.pgrp:
        try:
            os.setpgid(0, spawn.pgrp)
        except OSError:
            # Its pid was taken on the node, so the group has another number; a group of its
            # own is nearest to what home has.
            os.setpgid(0, 0)


def _enter_directory(spawn: Spawn) -> None:
    try:
        os.chdir(spawn.cwd)
    except OSError:
        # Renamed or deleted at home, or below a directory that the user may not search.
        os.chdir(BY_ID % spawn.cwd_id)


def _be_nice(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        pass  # less than the node's own users have: not ours to take


def _place(sources: dict[int, int], status: int) -> int:
    """Put every descriptor where the body has it, and close all others; return `status` moved."""
    above = max(sources, default=2) + 1
    status = fcntl.fcntl(status, fcntl.F_DUPFD_CLOEXEC, above)
    moved = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in set(sources.values())}
    for number, fd in sources.items():
        os.dup2(moved[fd], number)
    close_except([*sources, status])
    return status


def _limit(limits: list[int]) -> None:
    """Set the limits of setrlimit(2), as far as the node allows."""
    for number in range(len(limits) // 2):
        _, most = resource.getrlimit(number)
        soft, hard = (_lower(value, most) for value in limits[2 * number : 2 * number + 2])
        resource.setrlimit(number, (soft, hard))


def _lower(value: int, most: int) -> int:
    """Return the lower of two limits, infinity as Python spells it (-1)."""
    if value == _INFINITY:
        return most
    return value if most == resource.RLIM_INFINITY else min(value, most)
