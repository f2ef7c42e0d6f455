"""Making a checkpoint: a body leaves its node for a file, and goes on where it is.

    source     Leave ──▶ stands still: Left, and its image ──▶ file     Resume ──▶ goes on

What it has open at home is looked at while it stands still, for its memory goes with the files as
they are at that moment (stubs.home.run.checkpoint).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time

from stubs.home.run.checkpoint import CheckpointError, Kept, Last, State, Written, started_at
from stubs.link.loop import READ
from stubs.migration import keys
from stubs.migration.image import OPEN_FILE, OPEN_OUTSIDE, OpenFile, Process
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    FD_FILE,
    Checkpointed,
    Error,
    Leave,
    Left,
    Moved,
    Resume,
    Signal,
    Spawn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.home.run.links import Connection
    from stubs.link.loop import Loop
    from stubs.migration.image import Image
    from stubs.wire.codec import Descriptor, Message

_CHUNK = 256 << 10

# Of these every machine has its own; the restored body opens them where it is.
_ELSEWHERE = (b"/proc/", b"/sys/", b"/dev/")


class Checkpointing:
    """One body, of which a checkpoint is made."""

    def __init__(
        self,
        loop: Loop,
        body: Body,
        source: Connection,
        path: str,
        how: int,
        done: Callable[[Message], None],
    ) -> None:
        """Begin; `done` gets Moved, or Error with the reason why there is no new file."""
        self._loop = loop
        self._body = body
        self._source = source
        self._path = path
        self._done = done
        self._began = time.monotonic_ns()
        self._left: Left | None = None
        self._image: socket.socket | None = None
        self._problem = ""
        try:
            self._file = Written(path)
        except OSError as error:
            done(Error(error.errno or errno.EIO, f"{path}: {error.strerror}".encode()))
            return
        except CheckpointError as error:
            done(Error(errno.EINVAL, str(error).encode(errors="surrogateescape")))
            return
        self._image, theirs = socket.socketpair()
        self._image.setblocking(False)
        loop.watch(self._image.fileno(), READ, self._read)
        source.request(Leave(body.pid, how), self._told, [theirs.detach()])

    def _read(self, _: int) -> None:
        """Take what has come of the image; all of it, even if it cannot be written."""
        assert self._image is not None
        try:
            data = self._image.recv(_CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close_image()
            if self._left is not None:
                self._complete(self._left)
            return
        try:
            if not self._problem:
                self._file.write(data)
        except OSError as error:
            self._problem = f"{self._path}: {error.strerror}"

    def _close_image(self) -> None:
        if self._image is not None:
            self._loop.forget(self._image.fileno())
            self._image.close()
            self._image = None

    def _told(self, reply: Message) -> None:
        """Hear that it stands still, or why it does not."""
        if not isinstance(reply, Left):
            self._close_image()
            self._fail(reply if isinstance(reply, Error) else Error(errno.EPROTO, b"no answer"))
            return
        handles = self._source.reply_fds
        for fd in handles:
            os.close(fd)
        if reply.locks:
            # Home's link process has them; nobody could take all of them again at once.
            self._problem = "it has locked a file"
        elif handles:
            self._problem = (
                "it holds a lock on a file"
                if reply.locks
                else "it has a file open that has no name any more"
            )
        self._left = reply
        if self._image is None:
            self._complete(reply)

    def _complete(self, left: Left) -> None:
        """Look at its files, and let it go on: all of the image has come."""
        state: State | None = None
        try:
            if not self._problem:
                state = state_of(self._body, left, self._file.image())
        except (CheckpointError, RemoteProtocolError) as error:
            self._problem = str(error)
        except OSError as error:
            self._problem = f"{self._path}: {error.strerror}"
        if state is not None:
            # What is noted from here on goes with the new one only.
            self._body.departure.last = None
            self._source.post(Checkpointed(self._body.pid))
        self._source.request(
            Resume(self._body.pid), lambda reply: self._resumed(left, state, reply)
        )

    def _resumed(self, left: Left, state: State | None, reply: Message) -> None:
        now = time.monotonic_ns()
        if isinstance(reply, Error):
            self._fail(reply)
            return
        for signo, scope in zip(left.signals[::2], left.signals[1::2]):
            self._source.post(Signal(self._body.pid, signo, scope))
        try:
            if state is not None:
                status = self._file.finish(state)
                # What its readers had not taken yet they get all the same: nobody could tell.
                if not any(left.unwritten):
                    names = dict(zip(left.keys, left.fds))
                    self._body.departure.last = Last(self._path, status, names)
        except OSError as error:
            self._problem = f"{self._path}: {error.strerror}"
        if self._problem:
            self._fail(Error(errno.EBUSY, self._problem.encode(errors="surrogateescape")))
            return
        self._done(
            Moved(
                pid=self._body.pid,
                node=os.fsencode(self._body.departure.node),
                frozen_us=max(0, now - left.standing_ns) // 1000,
                wall_us=(now - self._began) // 1000,
                bytes=self._file.bytes,
            )
        )

    def _fail(self, error: Error) -> None:
        self._file.discard()
        self._done(error)


def state_of(body: Body, left: Left, image: Image) -> State:
    """Return what a body that stands still has at home.

    CheckpointError says what of it could not be had again.
    """
    departure = body.departure
    assert departure.capture is not None
    opens = [OpenFile.decode(data) for data in image.opens]
    used = {each.ref for each in opens if each.kind == OPEN_OUTSIDE}
    under = _numbers(image, opens)
    spawn = Spawn.decode(departure.capture.spawn.encode())
    spawn.descriptors = []
    state = State(
        started=started_at(body.pid),
        spawn=b"",
        numbers=[],
        unread=[],
        termios=left.termios if keys.TERMINAL in used else b"",
        typed=left.typed,
        cpu_us=left.cpu_us,
        files=[kept.encode() for kept in _files(opens, _inherited(body, left, used))],
    )
    # What it has written reaches its readers at home, whatever becomes of it.
    for key, name, unread in zip(left.keys, left.fds, left.unread):
        item = departure.descriptor(name)
        number = under.get(key, item.fd)
        if key not in used:
            continue  # closed since
        if item.kind != FD_FILE and number > 2:
            number = item.fd
        if item.kind != FD_FILE and number > 2:
            what = "pipe or socket" if key != keys.TERMINAL else "terminal"
            raise CheckpointError(f"its descriptor {number} is a {what} that cannot be had again")
        spawn.descriptors.append(item._replace(fd=key, share=-1))
        state.numbers.append(number)
        state.unread.append(unread)
    state.spawn = spawn.encode()
    return state


def _numbers(image: Image, opens: list[OpenFile]) -> dict[int, int]:
    """Return the lowest number under which the tree has each key."""
    found: dict[int, int] = {}
    for data in image.processes:
        numbers = Process.decode(data).descriptors
        for number, index in zip(numbers[::3], numbers[1::3]):
            key = opens[index].ref
            if opens[index].kind == OPEN_OUTSIDE:
                found[key] = min(number, found.get(key, number))
    return found


def _inherited(body: Body, left: Left, used: set[int]) -> dict[int, Descriptor]:
    """Return the files that it was given, and still has, by key."""
    pairs = zip(left.keys, left.fds)
    items = {key: body.departure.descriptor(name) for key, name in pairs if key in used}
    return {key: item for key, item in items.items() if item.kind == FD_FILE}


def _files(opens: list[OpenFile], inherited: dict[int, Descriptor]) -> list[Kept]:
    """Return all files that are open, each once, as they are now."""
    found: dict[bytes, Kept] = {}
    for each in opens:
        path = each.path
        if each.kind == OPEN_OUTSIDE and each.ref in inherited:
            path = inherited[each.ref].path
        elif each.kind != OPEN_FILE or path.startswith(_ELSEWHERE):
            continue
        kept = _look(path, each)
        before = found.setdefault(path, kept)
        # What one may write anywhere can change anywhere, whatever others may.
        written = {before.written, kept.written} - {0}
        before.written = min(written, default=0)
    return list(found.values())


def _look(path: bytes, file: OpenFile) -> Kept:
    try:
        status = os.stat(path)
    except OSError as error:
        name = os.fsdecode(path)
        raise CheckpointError(f"{name}, which it has open: {error.strerror}") from error
    if file.ino not in (0, status.st_ino) and file.kind == OPEN_FILE:
        raise CheckpointError(f"{os.fsdecode(path)} is not the file any more that it has open")
    mode = file.flags & os.O_ACCMODE
    grows = file.flags & os.O_APPEND or file.offset == status.st_size
    return Kept(
        path=path,
        directory=int(stat.S_ISDIR(status.st_mode)),
        written=0 if mode == os.O_RDONLY else 2 if mode == os.O_WRONLY and grows else 1,
        dev=status.st_dev,
        ino=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
