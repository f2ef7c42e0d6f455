"""The file of a checkpoint: a body at one moment, so that it can go on from there later.

    16s  MAGIC
    u32  VERSION
    u64  bytes of the image, u64 bytes of the state
    u32  crc32 of both
    …    the image, as it passes between nodes (stubs.migration.stream)
    …    State

It holds all that the body had in memory, secrets too, so nobody else may read it. It is written
under another name, and has its own when it is whole.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib

from stubs.migration import stream
from stubs.migration.image import Image
from stubs.wire.codec import Message
from stubs.wire.errors import RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from stubs.wire.codec import U8, U64, Blob, Blobs, U64s

MAGIC = b"MLAUNCH CHECKPT\n"
VERSION = 1

_HEAD = struct.Struct("<16sIQQI")
_RECORD = struct.Struct("<BI")
_CHUNK = 1 << 20


class Last:
    """The last checkpoint of a body that runs, as long as it can be used if its node is lost."""

    def __init__(self, path: str, status: os.stat_result, names: dict[int, int]) -> None:
        """`names` are keys, and what mrun calls the same (Left.fds)."""
        self.path = path
        self.names = names
        self._file = (status.st_dev, status.st_ino, status.st_mtime_ns)

    def is_there(self) -> bool:
        """Tell whether the file is what was written then."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino, now.st_mtime_ns) == self._file


class CheckpointError(Exception):
    """A checkpoint cannot be made, or cannot be used; the text is one line that says why."""


class State(Message):
    """What a body has at home. `started` is when its deputy was (`started_at`).

    `spawn` as in Spawn, its `descriptors` what leads out of the tree with keys as `fd`; `numbers`
    under which the body had each, `unread` of each as in Arrive; `termios` of its
    terminal (empty: it has none open), `typed` there; `files` (Kept) that it had open.
    """

    started: Blob
    spawn: Blob
    numbers: U64s
    unread: Blobs
    termios: Blob
    typed: Blob
    cpu_us: U64
    files: Blobs


class Kept(Message):
    """A file or directory that a body had open, or mapped, as it was then.

    `written` 1: open for writing, 2: so that it only grows at its end.
    """

    path: Blob
    directory: U8
    written: U8
    dev: U64
    ino: U64
    size: U64
    mtime_ns: U64


class Written:
    """A checkpoint that is being written."""

    def __init__(self, path: str) -> None:
        """Begin; OSError when it cannot be written there."""
        # Through symbolic links: it is the file that is replaced.
        self._path = os.path.realpath(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise CheckpointError(f"{path} is no regular file")
        self._part = f"{self._path}.{os.getpid()}.part"
        fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "w+b")
        self._file.write(bytes(_HEAD.size))
        self._crc = 0
        self.bytes = 0  # of the image

    def write(self, data: bytes) -> None:
        """Add to the image; OSError when the disk is full."""
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.bytes += len(data)

    def image(self) -> Image:
        """Return what the image says besides memory; CheckpointError when it is not whole."""
        self._file.flush()
        found = find_image(self._file, self.bytes)[1]
        self._file.seek(0, os.SEEK_END)
        return found

    def finish(self, state: State) -> os.stat_result:
        """Put it in its place, and return what it is; OSError when that cannot be."""
        data = state.encode()
        self._file.write(data)
        self._file.seek(0)
        crc = zlib.crc32(data, self._crc)
        self._file.write(_HEAD.pack(MAGIC, VERSION, self.bytes, len(data), crc))
        self._file.flush()
        os.fsync(self._file.fileno())
        found = os.fstat(self._file.fileno())
        os.replace(self._part, self._path)
        self._file.close()
        return found

    def discard(self) -> None:
        """Leave nothing of it."""
        try:
            self._file.close()
        except OSError:
            pass  # the disk is full: what was to be written is not wanted any more
        os.unlink(self._part)


class Checkpoint:
    """A checkpoint that has been read: `state`, `image` without memory."""

    def __init__(self, path: str) -> None:
        """Read it, and see that it is whole; OSError, CheckpointError."""
        self._file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb")
        try:
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: str) -> None:
        file = self._file
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{path} is no regular file")
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(MAGIC):
            raise CheckpointError(f"{path} is no checkpoint")
        _, version, self._bytes, state_bytes, crc = _HEAD.unpack(head)
        if version != VERSION:
            text = f"{path} is a checkpoint of format {version}, this mrun knows {VERSION}"
            raise CheckpointError(text)
        if os.fstat(file.fileno()).st_size != _HEAD.size + self._bytes + state_bytes:
            raise CheckpointError(f"{path} is broken: it is not as long as it was")
        found = 0
        while data := file.read(_CHUNK):
            found = zlib.crc32(data, found)
        if found != crc:
            raise CheckpointError(f"{path} is broken: its bytes have changed")
        file.seek(_HEAD.size + self._bytes)
        try:
            self.state = State.decode(file.read(state_bytes))
            self._at, self.image = find_image(file, self._bytes)
        except (RemoteProtocolError, CheckpointError) as error:
            raise CheckpointError(f"{path} is broken: {error}") from error

    def send(self, write: stream.Write) -> None:
        """Write the image, with `image` as it is now; OSError as `write` raises it."""
        file = self._file
        file.seek(_HEAD.size)
        self._copy(self._at - _HEAD.size, write)
        _, size = _RECORD.unpack(file.read(_RECORD.size))
        file.seek(size, os.SEEK_CUR)
        stream.send(write, self.image)
        self._copy(_HEAD.size + self._bytes - file.tell(), write)

    def _copy(self, count: int, write: stream.Write) -> None:
        while count:
            data = self._file.read(min(count, _CHUNK))
            if not data:
                raise OSError("the checkpoint has become shorter")
            write(data)
            count -= len(data)


def find_image(file: BinaryIO, size: int) -> tuple[int, Image]:
    """Return where the Image is in a checkpoint, and it; `size` bytes are to be looked at.

    CheckpointError when there is none, or the end is missing.
    """
    at, end = _HEAD.size, _HEAD.size + size
    found: tuple[int, Image] | None = None
    last = 0
    while at + _RECORD.size <= end:
        file.seek(at)
        last, count = _RECORD.unpack(file.read(_RECORD.size))
        if last == stream.number_of(Image) and at + _RECORD.size + count <= end:
            found = at, Image.decode(file.read(count))
        at += _RECORD.size + count
    if found is None or at != end or last != stream.number_of(stream.End):
        raise CheckpointError("its image is not whole")
    return found


def started_at(pid: int) -> bytes:
    """Return what tells a process from others that had the same pid; empty when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read().strip()
    except OSError:
        return b""
    return b"" if fields[0] in (b"Z", b"X") else boot + b" " + fields[19]
