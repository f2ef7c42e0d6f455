"""Field codecs: how each type of field is written, and the base class of all messages.

A message is a class whose annotations name codecs of this module:

    class Write(Message):
        KIND = 0x25
        id: U64
        data: Blob

Annotations stay strings (PEP 563), so reading them costs no import of typing on a node.
Decoding is always checked: short fields, trailing bytes and oversized counts are
RemoteProtocolError.
"""

from __future__ import annotations

import struct

from stubs.wire.errors import LocalProtocolError, RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar, dataclass_transform

    U8: TypeAlias = int
    U16: TypeAlias = int
    U32: TypeAlias = int
    U64: TypeAlias = int
    I32: TypeAlias = int
    I64: TypeAlias = int
    Blob: TypeAlias = bytes
    Blobs: TypeAlias = list[bytes]
    U64s: TypeAlias = list[int]
    M = TypeVar("M", bound="Message")

    class Attr(NamedTuple):
        """Attributes of one inode of home, as stat(2) has them. Times in ns since 1970.

        `rights` is what the user may really do (faccessat: 4 read, 2 write, 1 execute or
        search); `flags` is a sum of ATTR_* of stubs.wire.messages.
        """

        id: int
        ino: int
        size: int
        blocks: int
        atime_ns: int
        mtime_ns: int
        ctime_ns: int
        mode: int
        nlink: int
        uid: int
        gid: int
        rdev: int
        blksize: int
        rights: int
        flags: int

    class Entry(NamedTuple):
        """A name in a directory: its inode's attributes, and the target of a symlink."""

        name: bytes
        attr: Attr
        target: bytes

    class Change(NamedTuple):
        """What became of one name in a directory: `attr` is None when it is gone."""

        dir: int
        name: bytes
        attr: Attr | None
        target: bytes

    class Descriptor(NamedTuple):
        """One descriptor that the body inherits; see stubs.wire.messages.FD_*.

        `fd` number in the body; `kind` FD_*; `ref` inode id (FD_FILE), stream number
        (FD_STREAM*, FD_TTY) or device number (FD_DEVICE); `flags` of open(2), O_CLOEXEC
        never; `offset` in bytes; `share` the `fd` of an earlier record with which it shares one
        open file, or -1; `path` as home shows it, for messages and for reopening.
        """

        fd: int
        kind: int
        ref: int
        flags: int
        offset: int
        share: int
        path: bytes

    class Usage(NamedTuple):
        """What a body uses, with all that descends from it.

        `state` is the letter that proc(5) has for the body itself; `cpu_us` counts children that
        have ended and were waited for; `rss_kib` is the sum over `processes`, shared pages with
        each; `round_trips` and bytes as in Exited, so far.
        """

        body: int
        state: int
        cpu_us: int
        rss_kib: int
        processes: int
        threads: int
        round_trips: int
        bytes_to_node: int
        bytes_to_home: int
else:
    from collections import namedtuple

    Attr = namedtuple(
        "Attr",
        "id ino size blocks atime_ns mtime_ns ctime_ns mode nlink"
        " uid gid rdev blksize rights flags",
    )
    Entry = namedtuple("Entry", "name attr target")
    Change = namedtuple("Change", "dir name attr target")
    Descriptor = namedtuple("Descriptor", "fd kind ref flags offset share path")
    Usage = namedtuple(
        "Usage",
        "body state cpu_us rss_kib processes threads round_trips bytes_to_node bytes_to_home",
    )

    def dataclass_transform() -> Callable[[type], type]:
        """typing.dataclass_transform, which Python 3.9 does not have: a no-op at run time."""
        return lambda cls: cls


_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_ATTR = struct.Struct("<QQQQqqqIIIIQIBB")
_CHANGE = struct.Struct("<QB")
_DESCRIPTOR = struct.Struct("<iBQIqi")
_USAGE = struct.Struct("<IBQQIIIQQ")

# Numbers of fixed size: the letter of the struct module.
FIXED = {"U8": "B", "U16": "H", "U32": "I", "U64": "Q", "I32": "i", "I64": "q"}


class Reader:
    """A cursor over a payload; every step is checked against its end."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte of `data`."""
        self.data = data
        self.at = 0

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the values of `layout` at the cursor, and step over them."""
        start = self.at
        self.at = start + layout.size
        if self.at > len(self.data):
            raise RemoteProtocolError("message too short")
        return layout.unpack_from(self.data, start)

    def blob(self) -> bytes:
        """Return a counted string of bytes."""
        (length,) = self.unpack(_U32)
        start = self.at
        self.at = start + length
        if self.at > len(self.data):
            raise RemoteProtocolError("message too short")
        return self.data[start : self.at]

    def count(self, smallest: int) -> int:
        """Return a number of items of at least `smallest` bytes, if they can be there at all."""
        number: int = self.unpack(_U32)[0]
        if number * smallest > len(self.data) - self.at:
            raise RemoteProtocolError("list longer than its message")
        return number

    def attr(self) -> Attr:
        """Return the attributes of one inode."""
        return Attr._make(self.unpack(_ATTR))


def _put_blob(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _put_blobs(values: list[bytes]) -> bytes:
    parts = [_U32.pack(len(values))]
    for value in values:
        parts.append(_U32.pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def _get_blobs(reader: Reader) -> list[bytes]:
    return [reader.blob() for _ in range(reader.count(4))]


def _put_u64s(values: list[int]) -> bytes:
    return struct.pack(f"<I{len(values)}Q", len(values), *values)


def _get_u64s(reader: Reader) -> list[int]:
    return list(reader.unpack(struct.Struct(f"<{reader.count(8)}Q")))


def _put_attr(attr: Attr) -> bytes:
    return _ATTR.pack(*attr)


def _put_attrs(attrs: list[Attr]) -> bytes:
    return _U32.pack(len(attrs)) + b"".join([_ATTR.pack(*attr) for attr in attrs])


def _get_attrs(reader: Reader) -> list[Attr]:
    return [reader.attr() for _ in range(reader.count(_ATTR.size))]


def _put_entry(entry: Entry) -> bytes:
    return _put_blob(entry.name) + _ATTR.pack(*entry.attr) + _put_blob(entry.target)


def _get_entry(reader: Reader) -> Entry:
    return Entry(reader.blob(), reader.attr(), reader.blob())


def _put_entries(entries: list[Entry]) -> bytes:
    return _U32.pack(len(entries)) + b"".join([_put_entry(entry) for entry in entries])


def _get_entries(reader: Reader) -> list[Entry]:
    return [_get_entry(reader) for _ in range(reader.count(_ATTR.size + 8))]


def _put_changes(changes: list[Change]) -> bytes:
    parts = [_U32.pack(len(changes))]
    for change in changes:
        parts.append(_CHANGE.pack(change.dir, change.attr is not None))
        parts.append(_put_blob(change.name))
        if change.attr is not None:
            parts.append(_ATTR.pack(*change.attr))
            parts.append(_put_blob(change.target))
    return b"".join(parts)


def _get_changes(reader: Reader) -> list[Change]:
    changes = []
    for _ in range(reader.count(_CHANGE.size + 4)):
        directory, present = reader.unpack(_CHANGE)
        if present > 1:
            raise RemoteProtocolError("a name is there or it is not")
        name = reader.blob()
        attr = reader.attr() if present else None
        changes.append(Change(directory, name, attr, reader.blob() if present else b""))
    return changes


def _put_descriptors(items: list[Descriptor]) -> bytes:
    parts = [_U32.pack(len(items))]
    for item in items:
        parts.append(_DESCRIPTOR.pack(*item[:6]))
        parts.append(_put_blob(item.path))
    return b"".join(parts)


def _get_descriptors(reader: Reader) -> list[Descriptor]:
    return [
        Descriptor._make((*reader.unpack(_DESCRIPTOR), reader.blob()))
        for _ in range(reader.count(_DESCRIPTOR.size + 4))
    ]


def _put_usages(items: list[Usage]) -> bytes:
    return _U32.pack(len(items)) + b"".join([_USAGE.pack(*item) for item in items])


def _get_usages(reader: Reader) -> list[Usage]:
    return [Usage._make(reader.unpack(_USAGE)) for _ in range(reader.count(_USAGE.size))]


VARIABLE: dict[str, tuple[Callable[[Any], bytes], Callable[[Reader], Any]]] = {
    "Blob": (_put_blob, Reader.blob),
    "Blobs": (_put_blobs, _get_blobs),
    "U64s": (_put_u64s, _get_u64s),
    "Attr": (_put_attr, Reader.attr),
    "list[Attr]": (_put_attrs, _get_attrs),
    "Entry": (_put_entry, _get_entry),
    "list[Entry]": (_put_entries, _get_entries),
    "list[Change]": (_put_changes, _get_changes),
    "list[Descriptor]": (_put_descriptors, _get_descriptors),
    "list[Usage]": (_put_usages, _get_usages),
}


@dataclass_transform()
class Message:
    """Base of all messages: fields by annotation, encoded in that order.

    BULK messages travel on the bulk connection of a link when there is one.
    """

    KIND: ClassVar[int] = 0
    BULK: ClassVar[bool] = False
    FIELDS: ClassVar[tuple[str, ...]] = ()
    # Consecutive fixed fields share one struct: (names, struct, put, get).
    PLAN: ClassVar[tuple[tuple[Any, ...], ...]] = ()

    def __init_subclass__(cls) -> None:
        """Work out how the fields of this message are written."""
        plan: list[tuple[Any, ...]] = []
        names: list[str] = []
        letters = ""

        def close_run() -> None:
            nonlocal names, letters
            if names:
                plan.append((tuple(names), struct.Struct("<" + letters), None, None))
            names, letters = [], ""

        # inspect.get_annotations came with Python 3.10, and importing inspect costs 8 ms.
        fields = cls.__dict__.get("__annotations__", {})  # noqa: RUF063
        for name, kind in fields.items():
            if kind in FIXED:
                names.append(name)
                letters += FIXED[kind]
            else:
                close_run()
                plan.append(((name,), None, *VARIABLE[kind]))
        close_run()
        cls.FIELDS = tuple(fields)
        cls.PLAN = tuple(plan)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take every field, by position or by name; none has a default."""
        if len(values) > len(self.FIELDS):
            raise TypeError(f"{type(self).__name__} has {len(self.FIELDS)} fields")
        fields = dict(zip(self.FIELDS, values))
        fields.update(named)
        if fields.keys() != set(self.FIELDS):
            raise TypeError(f"{type(self).__name__} needs {self.FIELDS}, got {tuple(fields)}")
        self.__dict__.update(fields)

    def encode(self) -> bytes:
        """Return the payload; LocalProtocolError when a value does not fit its field."""
        values = self.__dict__
        parts = []
        try:
            for names, layout, put, _ in self.PLAN:
                if layout is not None:
                    parts.append(layout.pack(*[values[name] for name in names]))
                else:
                    parts.append(put(values[names[0]]))
        except (struct.error, TypeError) as error:
            raise LocalProtocolError(f"{self!r}: {error}") from error
        return b"".join(parts)

    @classmethod
    def decode(cls: type[M], payload: bytes) -> M:
        """Return the message in `payload`; RemoteProtocolError unless it is exactly one."""
        reader = Reader(payload)
        fields: dict[str, Any] = {}
        for names, layout, _, get in cls.PLAN:
            if layout is not None:
                fields.update(zip(names, reader.unpack(layout)))
            else:
                fields[names[0]] = get(reader)
        if reader.at != len(payload):
            raise RemoteProtocolError(f"{cls.__name__}: {len(payload) - reader.at} bytes too many")
        message = cls.__new__(cls)
        message.__dict__.update(fields)
        return message

    def __eq__(self, other: object) -> bool:
        """Equal when of one class with equal fields."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable, like a list

    def __repr__(self) -> str:
        """Show every field, long bytes cut short."""
        shown = ", ".join(f"{name}={_short(self.__dict__.get(name))}" for name in self.FIELDS)
        return f"{type(self).__name__}({shown})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
