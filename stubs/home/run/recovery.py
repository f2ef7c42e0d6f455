"""Recovery: a body goes on from a checkpoint, on whatever node; `mrun --recover`.

mrun starts the program of the body as it would start any other. Before its first instruction that
process becomes the deputy, and the body comes from the file. At 0, 1 and 2 it finds what mrun has
there now in the place of pipes, sockets and the terminal; files it finds where it had left them,
or it does not go on: one that it was writing is cut to what it had written, all others must be as
they were.
"""

from __future__ import annotations

import os
import socket
import stat
import threading

from stubs.home.run.checkpoint import Checkpoint, CheckpointError, Kept, started_at
from stubs.home.run.inherited import ImmovableError
from stubs.migration import keys
from stubs.migration.image import OPEN_DEVICE, OPEN_OUTSIDE, OpenFile, Process
from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_TTY,
    Arrive,
    Prepare,
    Spawn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.capture import Capture
    from stubs.home.run.departure import Departure
    from stubs.home.run.links import Connection
    from stubs.link.endpoint import Done

# Flags of open(2) that make or empty a file.
_MAKING = os.O_CREAT | os.O_EXCL | os.O_TRUNC


class Recovery:
    """A body that is to go on from a checkpoint."""

    def __init__(self, path: str, grown: set[tuple[int, int]] | None = None) -> None:
        """Read it; CheckpointError when it cannot be used, and why.

        `grown`: the files that a body has written to since then whose deputy is there still; None:
        of that nothing is known, but it must be gone.
        """
        try:
            self._checkpoint = Checkpoint(path)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
        self._state = self._checkpoint.state
        self._files = [Kept.decode(data) for data in self._state.files]
        self.spawn = Spawn.decode(self._state.spawn)
        pid = self.spawn.body
        runs = bool(self._state.started) and started_at(pid) == self._state.started
        if runs and grown is None:
            raise CheckpointError(f"{path}: the program still runs, pid {pid}")
        known = {(file.dev, file.ino) for file in self._files if file.written == 2}
        if grown is not None and not grown <= known:
            raise CheckpointError("it has written to files that were not open then")
        for file in self._files:
            _check(file)

    # how it is at home now

    def adapt(self, capture: Capture) -> None:
        """Put what the body has in the place of what its new process has been given.

        Cuts the files that it was writing. ImmovableError when something is not to be had.
        """
        spawn, present = capture.spawn, {}
        for item, fd in zip(capture.spawn.descriptors, capture.fds):
            present[item.fd] = item, fd
        items: list[Descriptor] = []
        fds: list[int] = []
        try:
            self._unread: list[bytes] = []
            self._exclusive: list[int] = []
            for index, number in enumerate(self._state.numbers):
                self._take(index, number, present, spawn, items, fds)
            self._take_terminal(present, items, fds)
            self._regroup(spawn)
            for file in self._files:
                _cut(file)
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, CheckpointError):
                raise ImmovableError(str(error)) from error
            raise
        for _, fd in present.values():
            os.close(fd)
        capture.fds = fds
        spawn.descriptors, spawn.exclusive = items, self._exclusive

    def _take(
        self,
        index: int,
        number: int,
        present: dict[int, tuple[Descriptor, int]],
        spawn: Spawn,
        items: list[Descriptor],
        fds: list[int],
    ) -> None:
        """Find what takes the place of one thing that led out of the body."""
        item = self.spawn.descriptors[index]
        if item.kind == FD_FILE:
            fds.append(os.open(item.path, item.flags & ~_MAKING | os.O_CLOEXEC))
        else:
            if number not in present:
                raise ImmovableError(f"its descriptor {number} is closed here")
            now, fd = present[number]
            if now.kind == FD_DEVICE:
                self._replace_by_device(item.fd, now.path)
                return
            if now.kind == FD_FILE:
                end = now.flags & os.O_APPEND
                offset = os.fstat(fd).st_size if end else now.offset
                item = now._replace(fd=item.fd, offset=offset, share=-1)
            elif item.kind == FD_STREAM_BOTH and not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise ImmovableError(f"its descriptor {number} was a socket, and is none here")
            elif item.kind == FD_STREAM_IN and number in spawn.exclusive:
                self._exclusive.append(item.fd)
            fds.append(os.dup(fd))
        items.append(item)
        self._unread.append(self._state.unread[index])

    def _take_terminal(
        self, present: dict[int, tuple[Descriptor, int]], items: list[Descriptor], fds: list[int]
    ) -> None:
        found = [(now, fd) for now, fd in present.values() if now.kind == FD_TTY]
        if self._state.termios and not found:
            raise ImmovableError("it had a terminal open, and there is none here")
        for now, fd in found:
            items.append(now._replace(fd=keys.TERMINAL + now.fd, share=-1))
            fds.append(os.dup(fd))

    def _replace_by_device(self, key: int, path: bytes) -> None:
        """Have the body find a device where it had a stream: a node opens its own."""
        image = self._checkpoint.image
        for index, data in enumerate(image.opens):
            file = OpenFile.decode(data)
            if file.kind == OPEN_OUTSIDE and file.ref == key:
                file.kind, file.path = OPEN_DEVICE, path
                image.opens[index] = file.encode()

    def _regroup(self, spawn: Spawn) -> None:
        """Have the processes in the group and session of their new deputy that were in the old."""
        image = self._checkpoint.image
        processes = [Process.decode(data) for data in image.processes]
        own = {process.pid for process in processes}
        former = processes[0].pgid, processes[0].sid
        for process in processes:
            if process.pgid == former[0] not in own:
                process.pgid = spawn.pgrp
            if process.sid == former[1] not in own:
                process.sid = spawn.sid
        image.processes = [process.encode() for process in processes]

    def adapt_again(self, departure: Departure, names: dict[int, int]) -> tuple[Spawn, list[int]]:
        """Return the same for a body whose deputy has what it was given; CheckpointError."""
        assert departure.capture is not None
        former = departure.capture.spawn
        spawn = Spawn.decode(former.encode())
        shown = [item for item in former.descriptors if item.kind == FD_TTY]
        items = [*self.spawn.descriptors, *shown]
        names = {**names, **{item.fd: item.fd for item in shown}}
        fds = [departure.copy_of(names[item.fd]) for item in items]
        found = [fd for fd in fds if fd is not None]
        if len(found) < len(fds):
            for fd in found:
                os.close(fd)
            raise CheckpointError("it has closed what it had open then")
        for file in self._files:
            _cut(file)
        exclusive = set(former.exclusive)
        self._unread = list(self._state.unread)
        spawn.exclusive = [
            item.fd
            for item in self.spawn.descriptors
            if departure.descriptor(names[item.fd]).fd in exclusive
        ]
        spawn.descriptors = items
        return spawn, found

    # to the node

    def send(self, connection: Connection, spawn: Spawn, fds: list[int], done: Done) -> None:
        """Ask for it; `fds` are closed once they are sent. `done` gets Spawned: it is held there.

        Preconditions: `spawn` has been adapted.
        """
        pairs = list(zip(spawn.descriptors, fds))
        terminals = [pair for pair in pairs if pair[0].kind == FD_TTY]
        others = [pair for pair in pairs if pair[0].kind != FD_TTY]
        first, second = Spawn.decode(spawn.encode()), Spawn.decode(spawn.encode())
        first.descriptors = [item for item, _ in terminals]
        second.descriptors = [item for item, _ in others]
        first.exclusive = []
        second.termios = self._state.termios
        ours, theirs = socket.socketpair()
        carried = [*[fd for _, fd in terminals], theirs.detach()]
        connection.request(Prepare(first.encode()), done, carried)
        arrive = Arrive(
            spawn=second.encode(),
            unread=self._unread,
            unwritten=[b""] * len(self._unread),
            typed=self._state.typed,
            cpu_us=self._state.cpu_us,
            unseen=0,
            locks=[],
        )
        connection.post(arrive, [fd for _, fd in others])
        connection.flush()
        threading.Thread(target=self._send_image, args=(ours,), daemon=True).start()

    def _send_image(self, image: socket.socket) -> None:
        """Write the image; in a thread, for that takes as long as the node's link."""
        try:
            self._checkpoint.send(image.sendall)
        except OSError:
            pass  # cut short: the node says so, or has said why it wants no more
        finally:
            image.close()


def _check(file: Kept) -> None:
    """See that a file is as the body left it, or was only added to by it; CheckpointError."""
    path = os.fsdecode(file.path)
    try:
        now = os.stat(file.path)
    except OSError as error:
        raise CheckpointError(f"{path}, which it had open: {error.strerror}") from error
    if (now.st_dev, now.st_ino) != (file.dev, file.ino):
        raise CheckpointError(f"{path}, which it had open, is another file now")
    if file.directory or (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns):
        return
    if file.written != 2:
        raise CheckpointError(f"{path}, which it had open, has changed since")
    if now.st_size < file.size:
        raise CheckpointError(f"{path}, which it was writing, is shorter than it was")


def _cut(file: Kept) -> None:
    """Take away what was written after the checkpoint."""
    _check(file)
    if file.written == 2 and os.stat(file.path).st_size > file.size:
        os.truncate(file.path, file.size)
