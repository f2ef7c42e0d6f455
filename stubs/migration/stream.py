"""The stream of a migration: a row of records from where a tree is frozen to where it goes on.

    u8   kind
    u32  bytes that follow
    …    a message of stubs.wire.codec

First a Head; then, while the program still runs, Layout, Pages and Drop of its first process; then
the Image, the Pages and SharedPages that are still missing, and End. Processes are known by their
index in the image. All of it comes from another machine, and is checked here as to its size.
"""

from __future__ import annotations

import struct

from stubs.migration.errors import RestoreError
from stubs.migration.image import Image
from stubs.wire.codec import Message
from stubs.wire.errors import RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.wire.codec import I32, U8, U32, U64, Blob, Blobs, U64s

    Read = Callable[[int], bytes]
    Write = Callable[[bytes], None]

# The bytes of memory in one record.
BLOCK_BYTES = 1 << 20

# A record with 64k mappings and as many threads is below this.
_MOST_BYTES = 256 << 20

_RECORD = struct.Struct("<BI")

RAW, ZLIB, ZSTD = 0, 1, 2


class Head(Message):
    """What is needed to make a stub: `path` of the executable, or `handle` if it has no name.

    `control` is a number that no descriptor of the tree has.
    """

    format: U32
    pid: U32
    path: Blob
    handle: I32
    control: U32


class Layout(Message):
    """The private anonymous mappings (Area) that the first process has while it runs."""

    areas: Blobs


class Pages(Message):
    """Memory of a process: `ranges` start and bytes of each; together `size`, as `encoding`."""

    process: U32
    encoding: U8
    size: U32
    ranges: U64s
    data: Blob


class SharedPages(Message):
    """A piece of Image.shared[`shared`]."""

    shared: U32
    encoding: U8
    size: U32
    offset: U64
    data: Blob


class Drop(Message):
    """Ranges of the first process that were sent before and are not there any more."""

    ranges: U64s


class End(Message):
    """Everything has been sent."""

    processes: U32


_KINDS: dict[int, type[Message]] = {
    1: Head,
    2: Layout,
    3: Pages,
    4: SharedPages,
    5: Drop,
    6: Image,
    7: End,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}


def send(write: Write, message: Message) -> None:
    """Write one record."""
    data = message.encode()
    write(_RECORD.pack(_NUMBERS[type(message)], len(data)) + data)


def number_of(kind: type[Message]) -> int:
    """Return the kind by which a record is known in a stream."""
    return _NUMBERS[kind]


def receive(read: Read) -> Message:
    """Read one record. RestoreError when it is none."""
    kind, size = _RECORD.unpack(read(_RECORD.size))
    if kind not in _KINDS or size > _MOST_BYTES:
        raise RestoreError(f"no such record in an image: {kind} of {size} bytes")
    return decoded(_KINDS[kind], read(size))


def decoded(kind: type[Message], data: bytes) -> Message:
    """Return the message in `data`. RestoreError when it is none."""
    try:
        return kind.decode(data)
    except RemoteProtocolError as error:
        raise RestoreError(f"the image is broken: {error}") from error
