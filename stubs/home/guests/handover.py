"""Handover: what becomes of the descriptors that a body inherits.

mrun sends home's open files beside the records of them. Here each finds its place: a file is
adopted by the file service, a pipe becomes a stream, the terminal is joined; and the record is
completed by what the node must know of it.
"""

from __future__ import annotations

import os
import stat

from stubs.wire.messages import (
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
    FdClosed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from stubs.home.guests.guest import Guest
    from stubs.home.guests.streams import Streams
    from stubs.home.guests.terminals import Terminals
    from stubs.link.loop import Loop
    from stubs.wire.codec import Attr, Descriptor, Usage
    from stubs.wire.messages import Spawn

    class Files(Protocol):
        """What guests need of the file service."""

        def adopt(self, fd: int) -> Attr:
            """Serve the inode that `fd` is open on; OSError if the node may not see it."""

        def disown(self, number: int) -> None:
            """Let go of an inode that was adopted; once for each time."""

        def resolve(self, path: bytes) -> Attr:
            """Return the inode at `path`; OSError if there is none that the node may see."""

        def prefetch(self, spawn: Spawn) -> None:
            """Send what the program will want; before Spawn."""

        def barrier(self) -> None:
            """Send what changed at home until now; before a body may act on it."""

        def begin_body(self, body: int, exe: bytes) -> None:
            """Take note that a body of the program at that path starts."""

        def end_body(self, body: int) -> None:
            """Take note that nothing of a body is left."""

        def is_without_effect(self, body: int) -> bool:
            """Tell whether a body, which may live on, has left nothing that could be noticed."""

        def is_unseen(self, body: int) -> bool:
            """Tell whether a body that is lost changed no file but those that it made itself."""

        def note_checkpoint(self, body: int) -> None:
            """Take note that a body can be had again as it is now."""

        def since_checkpoint(self, body: int) -> list[tuple[int, int]] | None:
            """Return (device, inode) of all that it wrote to since; None: it did other things."""

        def lend_locks(self, body: int) -> list[tuple[int, int, int]]:
            """Return what a body has locked: flock, pid, and a descriptor that has the lock."""

        def take_lock(self, body: int, flock: int, pid: int, fd: int) -> int:
            """Take over such a lock; returns the inode, adopted. OSError as `adopt`."""

        def lend(self, number: int) -> int:
            """Return a descriptor of our own for an inode of the node's, with O_PATH; OSError."""

        def reading(self) -> tuple[bytes, int, int] | None:
            """Return the file that the node read last: its name, up to where, its size."""

        def settle(self) -> None:
            """Finish what a body changed until now; before home may act on it."""


# Ctrl-C ends a whole pipeline at once. That a neighbour at home has ended by it must not reach a
# body before the key itself, which takes the way over its mrun.
KEY_SECONDS = 0.02

# Who closes a pipe may be about to end. mrun lets go of its copy for one that lives on, so that
# others see the end of the file; without that copy a body cannot be started again, and one whose
# end is known, but not that all it wrote has arrived, may still be lost. So the node is asked
# whether it lives on, unless its end is told first, as nearly always.
CLOSED_SECONDS = 0.05

_STREAMS = (FD_STREAM_IN, FD_STREAM_OUT, FD_STREAM_BOTH)


class Handover:
    """Hands descriptors to the parts of the link process that look after them."""

    def __init__(
        self,
        loop: Loop,
        files: Files,
        streams: Streams,
        terminals: Terminals,
        measure: Callable[[Callable[[list[Usage]], None]], None],
    ) -> None:
        """Hand them to these; `measure` asks the node about bodies."""
        self._loop = loop
        self._files = files
        self._streams = streams
        self._terminals = terminals
        self._measure = measure

    def take(self, guest: Guest, fds: list[int]) -> None:
        """Move every descriptor of `fds` to where it belongs (-1 is left in its place).

        Raises OSError when one cannot be; what has been moved belongs to `guest` all the same.
        """
        self._join_terminal(guest, fds)
        self.place(guest, fds)

    def place(self, guest: Guest, fds: list[int]) -> None:
        """Do as `take`, for one whose terminal has been joined."""
        spawn = guest.spawn
        exclusive = set(spawn.exclusive)
        pipes: dict[tuple[int, int, int], Descriptor] = {}
        for index, item in enumerate(spawn.descriptors):
            fd, fds[index] = fds[index], -1
            if item.kind == FD_TTY:
                item = item._replace(kind=self._kind_of_tty(guest, fd, item))
            if item.kind == FD_FILE:
                guest.files[item.fd] = fd
                item = item._replace(ref=self._adopt(guest, fd), offset=_offset(fd, item))
            elif item.kind in _STREAMS:
                item = self._take_stream(guest, fd, item, item.fd in exclusive, pipes)
            else:
                os.close(fd)
                if item.kind == FD_TTY and guest.terminal is not None:
                    item = item._replace(ref=guest.terminal.number)
            spawn.descriptors[index] = item
        self.begin_count(guest)
        spawn.exclusive = sorted({item.ref for item in spawn.descriptors if item.fd in exclusive})

    def begin_count(self, guest: Guest) -> None:
        """Note how much has gone over the streams of a guest that has not used them yet."""
        numbers = set(guest.streams)
        if guest.terminal is not None:
            numbers.add(guest.terminal.number)
        guest.passed = {number: self._streams.passed(number) for number in numbers}

    def _adopt(self, guest: Guest, fd: int) -> int:
        number = self._files.adopt(fd).id
        guest.adopted.append(number)
        return number

    def _take_stream(
        self,
        guest: Guest,
        fd: int,
        item: Descriptor,
        exclusive: bool,
        pipes: dict[tuple[int, int, int], Descriptor],
    ) -> Descriptor:
        # One stream for all descriptors on the same pipe: what goes through it stays in order.
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, item.kind)
        first = pipes.get(key)
        if first is not None:
            os.close(fd)
            share = item.share if item.share >= 0 else first.fd
            item = item._replace(ref=first.ref, share=share)
        else:
            patience = KEY_SECONDS if guest.terminal is not None else 0.0
            number = self._streams.open(fd, item.kind, exclusive, patience)
            guest.streams.add(number)
            item = item._replace(ref=number)
            pipes[key] = item
        message = FdClosed(guest.pid, item.fd)
        self._streams.on_end(item.ref, lambda: self._closed(guest, message))
        return item

    def _closed(self, guest: Guest, message: FdClosed) -> None:
        guest.closed.append(message)
        self._loop.call_later(CLOSED_SECONDS, lambda: self._ask(guest, message))

    def _ask(self, guest: Guest, message: FdClosed) -> None:
        """Tell mrun that a body has closed something once the node says that it lives on."""

        def answered(usages: list[Usage]) -> None:
            if any(usage.body == guest.pid for usage in usages):
                guest.tell_closed(message)
            else:
                self._loop.call_later(CLOSED_SECONDS, lambda: self._ask(guest, message))

        if message in guest.closed and not guest.ended:
            self._measure(answered)

    def _join_terminal(self, guest: Guest, fds: list[int]) -> None:
        spawn = guest.spawn
        if not spawn.termios:
            return
        candidates = [fd for fd, item in zip(fds, spawn.descriptors) if item.kind == FD_TTY]
        guest.terminal = self._terminals.join(spawn, candidates, guest.session.post)
        if guest.terminal is not None:
            spawn.terminal = guest.terminal.number
        else:
            spawn.termios, spawn.rows, spawn.columns = b"", 0, 0

    def _kind_of_tty(self, guest: Guest, fd: int, item: Descriptor) -> int:
        if guest.terminal is not None and guest.terminal.is_open_on(fd):
            return FD_TTY
        # Another terminal than that of its session: the body has it as a pipe.
        modes = {os.O_RDONLY: FD_STREAM_IN, os.O_WRONLY: FD_STREAM_OUT}
        return modes.get(item.flags & os.O_ACCMODE, FD_STREAM_BOTH)

    def working_directory(self, guest: Guest) -> int:
        """Return the inode of the directory that the body starts in; OSError if not exported."""
        try:
            return self._files.resolve(guest.spawn.cwd).id
        except FileNotFoundError:
            # Removed, or moved away: the process stands in it all the same.
            fd = os.open(f"/proc/{guest.pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return self._adopt(guest, fd)
            finally:
                os.close(fd)


def _offset(fd: int, item: Descriptor) -> int:
    """Return the offset as it is now: others share it, and mrun itself may have written a line."""
    if item.flags & os.O_PATH or not stat.S_ISREG(os.fstat(fd).st_mode):
        return item.offset
    return os.lseek(fd, 0, os.SEEK_CUR)
