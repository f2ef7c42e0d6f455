"""Collecting: every open file of a tree that stands still, each once, as records of the image.

Runs in the namespaces of the tree, as its tracer: /proc is the tree's, and a path means here what
it means there. Two descriptors are one open file if kcmp(2) says so, across processes as well,
so that offsets that are shared stay shared. Nothing that the tree can see is changed. What cannot
be moved is Unmovable, with the reason; whether somebody outside has a pipe or memory open as well
is not looked for here, but by whynot.
"""

from __future__ import annotations

import os
import stat

from stubs.abi.pidfd import is_same_file, pidfd_getfd, pidfd_open
from stubs.migration import events, memory, pipes, sockets
from stubs.migration.fdinfo import Descriptor
from stubs.migration.image import (
    OPEN_DEVICE,
    OPEN_EPOLL,
    OPEN_MEMORY,
    OPEN_OUTSIDE,
    OPEN_PIDFD,
    OPEN_PIPE,
    OpenFile,
)
from stubs.migration.kinds import DEVICES, PIDFD, TTY
from stubs.migration.locks import describe_locks
from stubs.migration.naming import Names
from stubs.migration.reasons import Unmovable
from stubs.migration.watching import Paths, describe_inotify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from stubs.migration.image import Shared

    T = TypeVar("T")


class Opens:
    """The open files of a tree. `opens` and `shared` are what the image says of them.

    `orphans` are node ids of files of the home view that have no name, in the order of
    OpenFile.handle. `pids` without zombies, the first is the body; `outside` maps the
    link of what leads out of the tree to its key.
    """

    def __init__(self, pids: list[int], outside: dict[bytes, int], proc: str = "/proc") -> None:
        """Read all descriptors; Unmovable when one cannot be moved, OSError of /proc."""
        self._pids, self._outside, self._proc = pids, outside, proc
        self._names = Names(proc)
        self._memory = memory.Memory()
        self.opens: list[OpenFile] = self._names.opens
        self.orphans: list[int] = self._names.orphans
        self.shared: list[Shared] = self._memory.shared
        self._firsts: dict[int, Descriptor] = {}  # of each open file that has a descriptor
        self._indices: dict[tuple[object, ...], list[int]] = {}
        self._tables: dict[int, list[tuple[int, int, bool]]] = {}
        self._stale: dict[int, Unmovable] = {}  # epolls that no process has described yet
        self._pidfds: dict[int, int] = {}
        found = {pid: self._read(pid) for pid in pids}
        everything = [each for table in found.values() for each in table]
        self._sockets = {each.stat.st_ino for each in everything if each.kind == stat.S_IFSOCK}
        self._watched = Paths(self._directories(everything))
        try:
            for pid, table in found.items():
                self._tables[pid] = [(each.fd, self._index(each), each.cloexec) for each in table]
            self._complete_pipes()
        finally:
            for fd in self._pidfds.values():
                os.close(fd)
        for error in self._stale.values():
            raise error

    def descriptors(self, pid: int) -> list[tuple[int, int, bool]]:
        """Return (number, index of its open file, close-on-exec) of each descriptor."""
        return self._tables[pid]

    def executable(self, pid: int) -> int:
        """Return the index of the executable, to be opened for reading."""
        return self._names.index(pid, "exe", os.O_RDONLY, "runs a program that has no name")

    def directory(self, pid: int) -> int:
        """Return the index of the working directory."""
        flags = os.O_PATH | os.O_DIRECTORY
        return self._names.index(pid, "cwd", flags, "is in a directory that has been removed")

    def mapped(self, pid: int, area: Any) -> tuple[int, int]:
        """Return the index of the open file and of the shared memory that a mapping is of, or -1.

        `area` has `start`, `end`, `offset`, `flags` (VmFlags of smaps), `inode`, `path`. Both -1:
        it is anonymous memory, or is to be from now on.
        """
        self._names.check(pid, area)
        if self._memory.is_of(area):
            return -1, self._memory.mapped(area)
        return self._names.mapped(pid, area, self._firsts.values()), -1

    def _read(self, pid: int) -> list[Descriptor]:
        numbers = sorted(map(int, os.listdir(f"{self._proc}/{pid}/fd")))
        return [Descriptor(self._proc, pid, fd) for fd in numbers]

    def _directories(self, everything: Iterable[Descriptor]) -> Iterable[bytes]:
        for pid in self._pids:
            yield os.fsencode(os.readlink(f"{self._proc}/{pid}/cwd"))
        for each in everything:
            if each.kind == stat.S_IFDIR:
                yield each.text
            elif each.kind == stat.S_IFREG:
                yield each.text.rpartition(b"/")[0]

    def _index(self, found: Descriptor) -> int:
        """Return the index of the open file of a descriptor; it is described when it is new."""
        candidates = self._indices.setdefault(found.identity, [])
        for index in candidates:
            first = self._firsts[index]
            if is_same_file(first.pid, first.fd, found.pid, found.fd):
                self._see_again(index, found)
                return index
        index = len(self.opens)
        found.check(self._outside)
        file = self._describe(found, index)
        file.locks = describe_locks(found)
        self.opens.append(file)
        self._firsts[index] = found
        candidates.append(index)
        return index

    def _see_again(self, index: int, found: Descriptor) -> None:
        file = self.opens[index]
        file.locks += [lock for lock in describe_locks(found) if lock not in file.locks]
        if self._stale.pop(index, None) is not None:
            self.opens[index] = self._describe(found, index)

    def _describe(self, found: Descriptor, index: int) -> OpenFile:
        if found.text in self._outside:
            return found.record(OPEN_OUTSIDE, ref=self._outside[found.text], path=found.text)
        if found.text.startswith(b"/"):
            return self._describe_path(found)
        return self._describe_object(found, index)

    def _describe_path(self, found: Descriptor) -> OpenFile:
        if found.kind == stat.S_IFCHR and not found.flags & os.O_PATH:
            return self._describe_device(found)
        if found.kind == stat.S_IFREG and self._memory.has(found):
            seals = self._with_copy(found, memory.seals_of)
            ref = self._memory.index(found, seals)
            return found.record(OPEN_MEMORY, ref=ref, offset=found.offset)
        return self._names.describe(found)

    def _describe_device(self, found: Descriptor) -> OpenFile:
        device = found.stat.st_rdev
        if device != TTY:
            return found.record(OPEN_DEVICE, path=DEVICES[device])
        # Opened as /dev/tty it is the terminal that is open under its own name as well.
        keys = {key for text, key in self._outside.items() if text.startswith(b"/dev/pts/")}
        if len(keys) != 1:
            raise found.refuse("terminal", "has a terminal open that is not the user's")
        return found.record(OPEN_OUTSIDE, ref=keys.pop(), path=found.text)

    def _describe_object(self, found: Descriptor, index: int) -> OpenFile:
        text = found.text
        if text.startswith(b"pipe:["):
            return self._with_copy(found, lambda fd: pipes.describe_pipe(found, fd))
        if text.startswith(b"socket:["):
            return self._with_copy(
                found, lambda fd: sockets.describe_socket(found, fd, self._sockets)
            )
        if text == b"anon_inode:[eventpoll]":
            return self._describe_epoll(found, index)
        if text == b"anon_inode:inotify":
            return describe_inotify(found, self._watched, self._names.handle)
        if text == b"anon_inode:[timerfd]":
            return self._with_copy(found, lambda fd: events.describe_timerfd(found, fd))
        if text.startswith(PIDFD):
            return self._describe_pidfd(found)
        return events.DESCRIBE[text](found)

    def _describe_epoll(self, found: Descriptor, index: int) -> OpenFile:
        try:
            return events.describe_epoll(found)
        except Unmovable as error:
            # Its entries may be numbers of another process that has it, see _see_again.
            self._stale[index] = error
            return found.record(OPEN_EPOLL)

    def _describe_pidfd(self, found: Descriptor) -> OpenFile:
        pid = int(found.value("Pid"))  # -1: it has ended, and was waited for
        if pid not in (-1, *self._pids):
            raise found.refuse("pidfd", "has a pidfd of a process that is not its own")
        flags = found.flags & (os.O_NONBLOCK | os.O_EXCL)
        file = found.record(OPEN_PIDFD, ref=pid)
        file.flags = flags
        return file

    def _copy(self, found: Descriptor) -> int:
        """Return a descriptor of our own for an open file of the tree."""
        if found.pid not in self._pidfds:
            self._pidfds[found.pid] = pidfd_open(found.pid)
        return pidfd_getfd(self._pidfds[found.pid], found.fd)

    def _with_copy(self, found: Descriptor, use: Callable[[int], T]) -> T:
        fd = self._copy(found)
        try:
            return use(fd)
        finally:
            os.close(fd)

    def _complete_pipes(self) -> None:
        """Read what is in the pipes; Unmovable when one leads out of the tree."""
        ends: dict[int, list[int]] = {}
        for index, file in enumerate(self.opens):
            if file.kind == OPEN_PIPE:
                ends.setdefault(file.ref, []).append(index)
        for indices in ends.values():
            copies = [(self.opens[index], self._copy(self._firsts[index])) for index in indices]
            try:
                if not pipes.is_whole(copies):
                    raise self._firsts[indices[0]].refuse(
                        "pipe_outside", "has a pipe open that leads to another program"
                    )
                copies[0][0].content = pipes.content_of(copies)
            finally:
                for _, fd in copies:
                    os.close(fd)
