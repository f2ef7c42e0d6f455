"""Pipes with both ends in the tree: what is in them, and how they are made again.

`ref` of an OpenFile is the inode of its pipe; `state` of each end is the capacity, `content` of the
first end the bytes that are in it.
"""

from __future__ import annotations

import fcntl
import os
import select

from stubs.abi.splice import pipe_size, set_pipe_size, tee
from stubs.migration.image import OPEN_PIPE, OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stubs.migration.fdinfo import Descriptor

_STATUS_FLAGS = os.O_NONBLOCK | os.O_APPEND


def describe_pipe(found: Descriptor, fd: int) -> OpenFile:
    """Return the record of an end of a pipe, of which `fd` is our descriptor.

    Unmovable when it keeps packets apart.
    """
    if found.flags & os.O_DIRECT:
        raise found.refuse("packet_pipe", "has a pipe that keeps packets apart")
    return found.record(OPEN_PIPE, ref=found.stat.st_ino, state=[pipe_size(fd)])


def is_whole(ends: Iterable[tuple[OpenFile, int]]) -> bool:
    """Tell whether nobody but `ends` (with a descriptor of ours for each) can be in a pipe.

    A pipe whose other end is closed for good is whole. Others with an end of the same kind are not
    seen here.
    """
    kinds = {file.flags & os.O_ACCMODE for file, _ in ends}
    if os.O_RDWR in kinds or kinds >= {os.O_RDONLY, os.O_WRONLY}:
        return True
    fd = next(fd for _, fd in ends)
    poll = select.poll()
    poll.register(fd, 0)
    # POLLHUP: no writer is left; POLLERR: no reader.
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def content_of(ends: Iterable[tuple[OpenFile, int]]) -> bytes:
    """Return the bytes in a pipe, and leave them in it; none when nobody can read them."""
    for file, fd in ends:
        if file.flags & os.O_ACCMODE != os.O_WRONLY:
            return content_of_end(fd)
    return b""


def content_of_end(reading: int) -> bytes:
    """Return the bytes in the pipe of which `reading` is an end; none if it is one for writing."""
    if fcntl.fcntl(reading, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        return b""
    source, sink = os.pipe()
    try:
        set_pipe_size(sink, pipe_size(reading))
        length = tee(reading, sink, pipe_size(reading))
        return _read(source, length)
    except BlockingIOError:
        return b""
    finally:
        os.close(source)
        os.close(sink)


def _read(fd: int, length: int) -> bytes:
    parts = []
    while length > 0:
        parts.append(os.read(fd, length))
        length -= len(parts[-1])
    return b"".join(parts)


class Pipe:
    """A pipe made again, from which its ends are taken one by one."""

    def __init__(self, size: int) -> None:
        """Make an empty one with room for `size` bytes; OSError as fcntl(2), F_SETPIPE_SZ."""
        self.ends = list(os.pipe())  # for reading, for writing
        self._free = {os.O_RDONLY, os.O_WRONLY}
        if pipe_size(self.ends[0]) != size:
            set_pipe_size(self.ends[0], size)

    def fill(self, data: bytes) -> None:
        """Put `data` into it; OSError when there is no room."""
        _, writing = self.ends
        os.set_blocking(writing, False)
        while data:
            data = data[os.write(writing, data) :]
        os.set_blocking(writing, True)

    def end(self, flags: int) -> int:
        """Return a descriptor for one more open file of it."""
        mode = flags & os.O_ACCMODE
        if mode in self._free:
            self._free.remove(mode)
            fd = fcntl.fcntl(self.ends[mode], fcntl.F_DUPFD_CLOEXEC, 0)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & _STATUS_FLAGS)
            return fd
        # What was opened once more, through /proc/PID/fd, is an open file of its own.
        path = f"/proc/self/fd/{self.ends[0]}"
        return os.open(path, mode | flags & _STATUS_FLAGS | os.O_CLOEXEC)

    def close(self) -> None:
        """Close our own ends, when all that were wanted have been taken."""
        for fd in self.ends:
            os.close(fd)
