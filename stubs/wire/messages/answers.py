"""Messages of the file service: what home answers, and what it tells unasked."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I32, U8, U32, U64, Attr, Blob, Change, Entry, U64s


class Found(Message):
    """The entry asked for or made, and the directory's attributes after it."""

    KIND = 0x50
    entry: Entry
    dir: Attr


class Listing(Message):
    """Part of a directory. `cookie` of the next part, 0 when this was the last.

    Home watches the directory from before the first part was read, so the parts together are
    complete until an Invalidate says otherwise.
    """

    KIND = 0x51
    dir: Attr
    cookie: U64
    entries: list[Entry]


class Attrs(Message):
    """Attributes after a call; the first is the one asked for."""

    KIND = 0x52
    attrs: list[Attr]


class Data(Message):
    """Bytes of a file, a link target or an extended attribute."""

    KIND = 0x53
    BULK = True
    data: Blob


class Offset(Message):
    """An offset in a file, in bytes."""

    KIND = 0x54
    offset: U64


class Filesystem(Message):
    """statfs(2)'s numbers."""

    KIND = 0x55
    bsize: U32
    frsize: U32
    namelen: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64


class Locked(Message):
    """The lock now held, or for F_GETLK the one in the way (type F_UNLCK: none)."""

    KIND = 0x56
    type: U32
    start: U64
    end: U64
    pid: U32


class Failed(Message):
    """H→N posted: a posted write was refused. The next call on that inode gets the errno."""

    KIND = 0x57
    id: U64
    errno: I32
    path: Blob


class Acknowledge(Message):
    """H→N posted: so many bytes of posted writes have been done at home since the last one."""

    KIND = 0x58
    bytes: U64


class Invalidate(Message):
    """H→N posted: what changed at home other than by this node.

    `data` inodes whose contents changed (new attributes given), `attrs` inodes of which only the
    attributes did, `names` entries that came, went or changed, `dirs` directories to be forgotten
    whole.
    """

    KIND = 0x60
    data: list[Attr]
    attrs: list[Attr]
    names: list[Change]
    dirs: U64s


class InvalidateAll(Message):
    """H→N posted: home lost count (IN_Q_OVERFLOW): believe nothing that is cached."""

    KIND = 0x61


class Names(Message):
    """H→N posted, unasked: part of a directory, as Listing has it.

    `first` 1: the parts begin here; `last` 1: they end here. The parts of one directory are not
    mixed with those of another.
    """

    KIND = 0x62
    dir: Attr
    first: U8
    last: U8
    entries: list[Entry]


class Coming(Message):
    """H→N posted: Contents of these will follow, unasked: id, offset and length of each range."""

    KIND = 0x63
    ranges: U64s


class Contents(Message):
    """H→N posted: one of the ranges announced; short at the end of the file, `errno` if not.

    The `errno` tells that it could not be read, or that the node has to ask if it wants it; `body`
    is the one it is for.
    """

    KIND = 0x64
    BULK = True
    id: U64
    offset: U64
    errno: I32
    body: U32
    data: Blob


class Trace(Message):
    """H→N posted, before Spawn: note what this body touches, and tell (Traced).

    With another body in `like` it does the same as that one: note it there. Else 0.
    """

    KIND = 0x65
    body: U32
    like: U32


class Offered(Message):
    """H→N posted: ranges as in Coming, each with the SHA-256 of what is in it.

    The node takes them from where it has them; the others it asks for (Lacking).
    """

    KIND = 0x66
    ranges: U64s
    hashes: Blob
