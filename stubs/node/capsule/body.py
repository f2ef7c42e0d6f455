"""Becoming the body: which files it inherits, and what happens between clone and execve.

Runs in the ghost that will be the body's parent. Whatever a program can see of how it was started
is set here, from what home captured.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import stat
import struct

from stubs.abi import x86_64 as nr
from stubs.abi.calls import ENDS_CHOICE, MAY_FAIL, Calls
from stubs.abi.sigaction import SIG_IGN, SIG_SETMASK, SIGKILL, SIGSTOP
from stubs.abi.termbits import TIOCSPGRP
from stubs.abi.unistd import Strings
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

# Where the view shows inodes by their id; never listed (stubs.node.view.view).
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

_U64 = struct.Struct("=Q")

_INFINITY = 0xFFFFFFFFFFFFFFFF


class Inheritance:
    """The open files that a body will have, as descriptors of its parent ghost."""

    def __init__(self) -> None:
        """Begin with none."""
        self.sources: dict[int, int] = {}  # number in the body -> descriptor here
        self.files: list[tuple[int, int]] = []  # (number in the body, descriptor here) of FD_FILE
        self.terminal = -1

    def move(self, old: int, new: int) -> None:
        """Note that `new` stands for `old` from now on, and close that."""
        self.sources = {at: new if fd == old else fd for at, fd in self.sources.items()}
        self.files = [(at, new if fd == old else fd) for at, fd in self.files]
        if self.terminal == old:
            self.terminal = new
        os.close(old)

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
    try:
        return open_by_id(item.ref, item.flags, item.offset)
    except IsADirectoryError:
        # A directory has one place in the kernel's tree, so it has no second name by its id.
        return os.open(item.path, item.flags & _KEPT_FLAGS | os.O_NOCTTY)


def open_by_id(number: int, flags: int, offset: int) -> int:
    """Open the file of the home view with inode id `number`; OSError as open(2).

    EISDIR for directories. Of `flags` only those count that stay with an open file.
    """
    fd = os.open(BY_ID % number, flags & _KEPT_FLAGS | os.O_NOCTTY)
    if offset > 0 and not flags & os.O_PATH:
        os.lseek(fd, offset, os.SEEK_SET)
    return fd


def prepare(spawn: Spawn, inherited: Inheritance, foreground: bool) -> Calls:
    """Lay out what the body's process does before it is the body; see stubs.abi.calls.

    Descriptors are put in place by dup2(2) alone: all others of a ghost are close-on-exec.
    """
    calls = Calls()
    _join_group(calls, spawn)
    if foreground and inherited.terminal >= 0:
        group = calls.own_pid if spawn.pgrp == spawn.body else ctypes.c_int(spawn.pgrp)
        calls.keep(group)
        calls.add(
            nr.NR_ioctl, inherited.terminal, TIOCSPGRP, ctypes.addressof(group), flags=MAY_FAIL
        )
    # The path may have been renamed or deleted at home, or lead through what may not be searched.
    calls.add(nr.NR_chdir, spawn.cwd, flags=MAY_FAIL | ENDS_CHOICE)
    calls.add(nr.NR_chdir, BY_ID % spawn.cwd_id)
    calls.add(nr.NR_umask, spawn.umask)
    # A value below 0 is refused when this user may not have it: not ours to take.
    calls.add(nr.NR_setpriority, os.PRIO_PROCESS, 0, spawn.nice, flags=MAY_FAIL)
    _place(calls, inherited)
    _ignore(calls, spawn.ignored)
    _limit(calls, spawn.limits)
    calls.add(nr.NR_rt_sigprocmask, SIG_SETMASK, _U64.pack(spawn.blocked), 0, _U64.size)
    argv, env = Strings(spawn.argv), Strings(spawn.env)
    calls.keep((argv, env))
    calls.add(nr.NR_execve, spawn.exe, argv.address, env.address)
    return calls


def _join_group(calls: Calls, spawn: Spawn) -> None:
    if spawn.pgrp == spawn.body:
        calls.add(nr.NR_setpgid, 0, 0)
    elif spawn.pgrp != os.getpgrp():
        # Should its pid have been taken on the node, the group has another number; a group of its
        # own is nearest to what home has.
        calls.add(nr.NR_setpgid, 0, spawn.pgrp, flags=MAY_FAIL | ENDS_CHOICE)
        calls.add(nr.NR_setpgid, 0, 0)


def _place(calls: Calls, inherited: Inheritance) -> None:
    """Put every descriptor where the body has it."""
    above = max(inherited.sources, default=2) + 1
    for fd in set(inherited.sources.values()):
        if fd < above:
            # Where it is, another may have to be put before it has been copied.
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)
            inherited.move(fd, moved)
    for number, fd in inherited.sources.items():
        calls.add(nr.NR_dup2, fd, number)


def _ignore(calls: Calls, ignored: int) -> None:
    action = struct.pack("=4Q", SIG_IGN, 0, 0, 0)
    for signo in range(1, 65):
        if ignored >> (signo - 1) & 1 and signo not in (SIGKILL, SIGSTOP):
            calls.add(nr.NR_rt_sigaction, signo, action, 0, _U64.size)


def _limit(calls: Calls, limits: list[int]) -> None:
    """Set the limits of setrlimit(2), as far as the node allows."""
    for number in range(len(limits) // 2):
        now = tuple(value & _INFINITY for value in resource.getrlimit(number))
        wanted = tuple(min(value, now[1]) for value in limits[2 * number : 2 * number + 2])
        if wanted != now:
            calls.add(nr.NR_prlimit64, 0, number, struct.pack("=2Q", *wanted), 0)
