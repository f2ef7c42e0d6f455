import inspect
import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stubs.wire.codec import FIXED, Attr, Change, Descriptor, Entry, Message, Usage
from stubs.wire.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from stubs.wire.frame import HEADER, MAX_FDS, MAX_PAYLOAD, FrameReader, encode_frame
from stubs.wire.messages import (
    MESSAGES,
    Data,
    Done,
    Error,
    Found,
    Hold,
    Invalidate,
    Lookup,
    Place,
    Read,
    Resize,
    Spawn,
    StreamEnd,
    Write,
)

ATTR = Attr(2, 3, 4, 5, 6, -7, 8, 0o100644, 1, 1000, 1001, 0, 4096, 6, 1)
ATTR_HEX = (
    "0200000000000000 0300000000000000 0400000000000000 0500000000000000"
    "0600000000000000 f9ffffffffffffff 0800000000000000"
    "a4810000 01000000 e8030000 e9030000 0000000000000000 00100000 06 01"
)

VECTORS: list[tuple[Message, str]] = [
    (Done(), ""),
    (Lookup(1, b"a\n\xff"), "0100000000000000 03000000 610aff"),
    (Read(258, 1 << 40, 131072), "0201000000000000 0000000000010000 00000200"),
    (
        Write(7, 1, 1, 4711, b"xyz"),
        "0700000000000000 0100000000000000 01000000 67120000 03000000 78797a",
    ),
    (Error(-5, b"why"), "fbffffff 03000000 776879"),
    (Data(b""), "00000000"),
    (Hold([1, 2]), "02000000 0100000000000000 0200000000000000"),
    (Found(Entry(b"n", ATTR, b"t"), ATTR), f"01000000 6e {ATTR_HEX} 01000000 74 {ATTR_HEX}"),
    (
        Invalidate([ATTR], [], [Change(1, b"x", None, b""), Change(1, b"y", ATTR, b"")], [9]),
        f"01000000 {ATTR_HEX} 00000000"
        "02000000 0100000000000000 00 01000000 78"
        f"0100000000000000 01 01000000 79 {ATTR_HEX} 00000000"
        "01000000 0900000000000000",
    ),
    (
        Place(1, 2, b"e", b"c", b"", [b"o", b""], 1, 0, 0, [b"v"]),
        "01000000 02000000 01000000 65 01000000 63 00000000"
        "02000000 01000000 6f 00000000 01 00 00 01000000 01000000 76",
    ),
    (Resize(1, 24, 80), "01000000 18000000 50000000"),
    (StreamEnd(3), "03000000"),
]


@pytest.mark.parametrize(("message", "text"), VECTORS, ids=lambda value: type(value).__name__)
def test_messages_are_spelled_like_this(message: Message, text: str) -> None:
    payload = bytes.fromhex(text)
    assert message.encode() == payload
    assert type(message).decode(payload) == message


def test_a_frame_is_a_header_and_a_payload() -> None:
    frame = encode_frame(0x24, b"abc", tag=7, after=9)
    assert frame == bytes.fromhex("03000000 2400 0000 07000000 09000000 616263")
    (found,) = FrameReader().feed(frame)
    assert found == (0x24, 0, 7, 9, b"abc")


def test_every_message_has_a_number_of_its_own_and_fits_a_frame_kind() -> None:
    assert {kind.KIND for kind in MESSAGES.values()} == set(MESSAGES)
    assert all(0 < number < 0x8000 for number in MESSAGES)
    # Records of an image are messages too, but travel in a stream of their own.
    own = [kind for kind in Message.__subclasses__() if "wire.messages" in kind.__module__]
    assert len(MESSAGES) == len(own)


# what hypothesis makes of every message

_UNSIGNED = {name: 8 * struct.calcsize("<" + code) for name, code in FIXED.items()}
_BLOB = st.binary(max_size=40)


def _integers(kind: str) -> st.SearchStrategy[int]:
    bits = _UNSIGNED[kind]
    if kind.startswith("I"):
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    return st.integers(0, (1 << bits) - 1)


_ATTR = st.builds(
    Attr,
    **{name: _integers("U64") for name in ("id", "ino", "size", "blocks", "rdev")},
    **{name: _integers("I64") for name in ("atime_ns", "mtime_ns", "ctime_ns")},
    **{name: _integers("U32") for name in ("mode", "nlink", "uid", "gid", "blksize")},
    **{name: _integers("U8") for name in ("rights", "flags")},
)
_ENTRY = st.builds(Entry, _BLOB, _ATTR, _BLOB)
_CHANGE = st.one_of(
    st.builds(Change, _integers("U64"), _BLOB, st.none(), st.just(b"")),
    st.builds(Change, _integers("U64"), _BLOB, _ATTR, _BLOB),
)
_DESCRIPTOR = st.builds(
    Descriptor,
    _integers("I32"),
    _integers("U8"),
    _integers("U64"),
    _integers("U32"),
    _integers("I64"),
    _integers("I32"),
    _BLOB,
)
_USAGE = st.builds(
    Usage,
    _integers("U32"),
    _integers("U8"),
    *[_integers("U64")] * 2,
    *[_integers("U32")] * 3,
    *[_integers("U64")] * 2,
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "Blob": _BLOB,
    "Blobs": st.lists(_BLOB, max_size=4),
    "U64s": st.lists(_integers("U64"), max_size=4),
    "Attr": _ATTR,
    "list[Attr]": st.lists(_ATTR, max_size=3),
    "Entry": _ENTRY,
    "list[Entry]": st.lists(_ENTRY, max_size=3),
    "list[Change]": st.lists(_CHANGE, max_size=3),
    "list[Descriptor]": st.lists(_DESCRIPTOR, max_size=3),
    "list[Usage]": st.lists(_USAGE, max_size=3),
    **{kind: _integers(kind) for kind in FIXED},
}


def _messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = inspect.get_annotations(kind)
    return st.builds(kind, **{name: _FIELDS[fields[name]] for name in fields})


ANY_MESSAGE = st.sampled_from(sorted(MESSAGES.values(), key=lambda kind: kind.KIND)).flatmap(
    _messages
)


@settings(max_examples=1000, deadline=None)
@given(ANY_MESSAGE)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert type(message).decode(message.encode()) == message


@settings(max_examples=500, deadline=None)
@given(ANY_MESSAGE, st.binary(min_size=1, max_size=8))
def test_bytes_too_many_or_too_few_are_found(message: Message, more: bytes) -> None:
    payload = message.encode()
    with pytest.raises(RemoteProtocolError):
        type(message).decode(payload + more)
    for cut in {0, len(payload) // 2, len(payload) - 1}:
        if 0 <= cut < len(payload):
            with pytest.raises(RemoteProtocolError):
                type(message).decode(payload[:cut])


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_MESSAGE, max_size=5), st.data())
def test_frames_survive_any_cut_of_the_stream(messages: list[Message], data: Any) -> None:
    stream = b"".join(
        encode_frame(message.KIND, message.encode(), tag) for tag, message in enumerate(messages, 1)
    )
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    reader = FrameReader()
    frames = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += list(reader.feed(stream[start:end]))
    assert [MESSAGES[frame.kind].decode(frame.payload) for frame in frames] == messages
    assert [frame.tag for frame in frames] == list(range(1, len(messages) + 1))
    assert reader.pending == 0


@settings(max_examples=10_000, deadline=None)
@given(
    st.lists(ANY_MESSAGE, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=4),
    st.integers(0, 1 << 16),
)
def test_a_corrupted_stream_is_messages_or_a_protocol_error(
    messages: list[Message], flips: list[tuple[int, int]], cut: int
) -> None:
    stream = bytearray(b"".join(encode_frame(m.KIND, m.encode()) for m in messages))
    for at, flip in flips:
        stream[at % len(stream)] ^= flip
    stream = stream[: cut % (len(stream) + 1) or len(stream)]
    try:
        for frame in FrameReader().feed(bytes(stream)):
            kind = MESSAGES.get(frame.kind)
            if kind is not None:
                again = kind.decode(frame.payload).encode()
                assert again == frame.payload
    except ProtocolError:
        pass  # what a damaged stream deserves


@settings(max_examples=3000, deadline=None)
@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=300))
@example(Invalidate.KIND, struct.pack("<I", 0xFFFFFFFF) + bytes(200))
@example(Spawn.KIND, b"\xff" * 299)
def test_garbage_is_a_message_or_a_protocol_error(number: int, payload: bytes) -> None:
    kind = MESSAGES[number]
    try:
        message = kind.decode(payload)
    except RemoteProtocolError:
        return
    assert message.encode() == payload


def test_a_huge_length_is_refused_before_its_bytes_come() -> None:
    header = HEADER.pack(MAX_PAYLOAD + 1, 1, 0, 0, 0)
    with pytest.raises(RemoteProtocolError):
        list(FrameReader().feed(header))
    with pytest.raises(LocalProtocolError):
        encode_frame(1, bytes(MAX_PAYLOAD + 1))


def test_descriptors_are_announced_only_where_they_can_come() -> None:
    header = HEADER.pack(0, 1, 1, 0, 0)
    with pytest.raises(RemoteProtocolError):
        list(FrameReader().feed(header))
    assert [frame.fds for frame in FrameReader(allow_fds=True).feed(header)] == [1]
    with pytest.raises(RemoteProtocolError):
        list(FrameReader(allow_fds=True).feed(HEADER.pack(0, 1, MAX_FDS + 1, 0, 0)))


def test_what_does_not_fit_its_field_is_our_own_error() -> None:
    for message in (
        Read(-1, 0, 0),
        Read(1 << 64, 0, 0),
        Lookup(1, "text"),  # type: ignore[arg-type]  # the point of the test
        Data(None),  # type: ignore[arg-type]  # likewise
    ):
        with pytest.raises(LocalProtocolError):
            message.encode()


def test_fields_are_all_given_and_none_is_invented() -> None:
    with pytest.raises(TypeError):
        Lookup(1)  # type: ignore[call-arg]  # the point of the test
    with pytest.raises(TypeError):
        Lookup(1, b"a", b"b")  # type: ignore[call-arg]  # likewise
    with pytest.raises(TypeError):
        Lookup(1, b"a", text=b"b")  # type: ignore[call-arg]  # likewise
    assert Lookup(1, name=b"a") == Lookup(dir=1, name=b"a")
    assert Lookup(1, b"a") != Lookup(1, b"b")
    assert "name=b'a'" in repr(Lookup(1, b"a"))
