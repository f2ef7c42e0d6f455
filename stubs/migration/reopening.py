"""Reopening: the open files of an image, each made again once, as descriptors of ours.

Runs in the namespaces in which the tree is to live. The processes get these descriptors by
SCM_RIGHTS; what only they can do themselves is left as system calls for them, `calls_after`.
"""

from __future__ import annotations

import fcntl
import os

from stubs.abi.pidfd import pidfd_open
from stubs.migration import events, keys, memory
from stubs.migration.image import (
    OPEN_DEVICE,
    OPEN_EPOLL,
    OPEN_FILE,
    OPEN_INOTIFY,
    OPEN_MEMORY,
    OPEN_OUTSIDE,
    OPEN_PIDFD,
    OPEN_PIPE,
    OPEN_SOCKET,
    OpenFile,
    Shared,
)
from stubs.migration.locks import lock_calls, take_locks
from stubs.migration.pipes import Pipe
from stubs.migration.sockets import Pair
from stubs.migration.watching import reopen_inotify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.image import Image, Process

_STATUS_FLAGS = os.O_NONBLOCK | os.O_APPEND


class Opened:
    """The open files of `image`, open here. OSError names what could not be opened.

    `outside` maps keys to descriptors of ours, which stay the caller's; `handles` are paths of the
    files that have no name, by OpenFile.handle.
    """

    def __init__(self, image: Image, outside: dict[int, int], handles: list[bytes]) -> None:
        """Open everything but pidfds and files of /proc, for whose processes it is too early."""
        self._outside, self._handles = outside, handles
        self._files = [OpenFile.decode(data) for data in image.opens]
        self._shared = [Shared.decode(data) for data in image.shared]
        self._made: list[int] = []
        self._fds: dict[int, int] = {}
        self._pipes: dict[int, Pipe] = {}
        self._pairs: dict[int, Pair] = {}
        self._given: set[int] = set()  # keys of `outside` whose open file somebody has
        try:
            for shared in self._shared:
                self._made.append(memory.make(shared))
            self._open_all()
        except BaseException:
            self.undo()
            raise

    def fd(self, index: int) -> int:
        """Return our descriptor for an open file, which stays ours.

        What needs the processes of the tree, a pidfd or a file of /proc, is opened at the first
        call: ProcessLookupError or FileNotFoundError if that is too early.
        """
        if index not in self._fds:
            self._fds[index] = self._open(self._files[index])
        return self._fds[index]

    def shared_fd(self, index: int) -> int:
        """Return our descriptor for shared memory, for reading and writing; it stays ours."""
        return self._made[index]

    def seal(self) -> None:
        """Put the seals on memfds, when the memory has its content."""
        for shared, fd in zip(self._shared, self._made):
            memory.seal(shared, fd)

    def calls_after(self, process: Process) -> list[tuple[int | bytes, ...]]:
        """Return the system calls (number, arguments) that `process` must make itself.

        They are for when all its descriptors are in place. Bytes are passed by address.
        """
        calls: list[tuple[int | bytes, ...]] = []
        seen = set()
        for at in range(0, len(process.descriptors), 3):
            number, index = process.descriptors[at : at + 2]
            if index in seen:
                continue
            seen.add(index)
            file = self._files[index]
            if file.kind == OPEN_EPOLL and file.ref == process.pid:
                calls += events.epoll_calls(file, number)
            calls += lock_calls(file, process.pid, number)
        return calls

    def close(self) -> None:
        """Close all descriptors of ours; what has been given to processes lives on."""
        pairs = {end.fileno() for pair in self._pairs.values() for end in pair.ends}
        for fd in {*self._fds.values(), *self._made} - pairs:
            os.close(fd)
        for pair in self._pairs.values():
            pair.close()
        self._close_pipes()
        self._fds, self._made, self._pairs = {}, [], {}

    def undo(self) -> None:
        """Close, and remove the files of /dev/shm that have been made: nothing came of it."""
        for shared, _ in zip(self._shared, self._made):
            if shared.path:
                os.unlink(shared.path)
        self.close()

    def _open_all(self) -> None:
        for file in self._files:
            if file.kind == OPEN_PIPE:
                self._pipe(file).fill(file.content)
        for index, file in enumerate(self._files):
            if not _is_late(file):
                self._fds[index] = self._open(file)
                take_locks(file, self._fds[index])
        for pair in self._pairs.values():
            pair.finish()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        self._pipes = {}

    def _open(self, file: OpenFile) -> int:
        if file.kind == OPEN_FILE:
            return self._open_file(file)
        if file.kind == OPEN_DEVICE:
            return os.open(file.path, file.flags | os.O_NOCTTY | os.O_CLOEXEC)
        if file.kind == OPEN_OUTSIDE:
            return self._open_outside(file)
        if file.kind == OPEN_MEMORY:
            return _again(self._made[file.ref], file.flags, file.offset)
        if file.kind == OPEN_PIPE:
            return self._pipe(file).end(file.flags)
        if file.kind == OPEN_SOCKET:
            if file.ref not in self._pairs:
                self._pairs[file.ref] = Pair(file.state[1])
            return self._pairs[file.ref].add(file)
        if file.kind == OPEN_PIDFD:
            return _open_pidfd(file)
        if file.kind == OPEN_INOTIFY:
            return reopen_inotify(file, self._handles)
        fd = events.REOPEN[file.kind](file)
        os.set_blocking(fd, not file.flags & os.O_NONBLOCK)
        return fd

    def _open_file(self, file: OpenFile) -> int:
        path = file.path if file.handle < 0 else self._handles[file.handle]
        fd = os.open(path, file.flags | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            found = os.fstat(fd).st_ino
            if file.ino not in (0, found):
                raise OSError(f"{os.fsdecode(file.path)} is another file here: inode {found}")
            if file.offset:
                os.lseek(fd, file.offset, os.SEEK_SET)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _open_outside(self, file: OpenFile) -> int:
        """Return what leads out itself for the first that has it, then other open files of it."""
        ours = self._outside[file.ref]
        flags = fcntl.fcntl(ours, fcntl.F_GETFL)
        is_terminal = file.path.startswith(b"/dev/")
        if is_terminal or file.ref in self._given or (flags ^ file.flags) & os.O_ACCMODE:
            return _again(ours, file.flags, 0)
        self._given.add(file.ref)
        fd = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 0)
        fcntl.fcntl(fd, fcntl.F_SETFL, file.flags & _STATUS_FLAGS)
        if keys.is_file(file.ref):
            os.lseek(fd, file.offset, os.SEEK_SET)
        return fd

    def _pipe(self, file: OpenFile) -> Pipe:
        if file.ref not in self._pipes:
            self._pipes[file.ref] = Pipe(file.state[0])
        return self._pipes[file.ref]


def _is_late(file: OpenFile) -> bool:
    return file.kind == OPEN_PIDFD or (file.kind == OPEN_FILE and file.path.startswith(b"/proc/"))


def _open_pidfd(file: OpenFile) -> int:
    if file.ref > 0:
        return pidfd_open(file.ref, file.flags)
    # Of a process that has ended and was waited for: any such will do.
    child = os.fork()
    if child == 0:
        os._exit(0)
    fd = pidfd_open(child, file.flags)
    os.waitpid(child, 0)
    return fd


def _again(fd: int, flags: int, offset: int) -> int:
    """Return a new open file of the same inode."""
    again = os.open(f"/proc/self/fd/{fd}", flags & ~os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    if offset:
        os.lseek(again, offset, os.SEEK_SET)
    return again
