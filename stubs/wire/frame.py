"""Frames: the unit in which two ends exchange bytes.

A frame is a 16-byte header and a payload, little-endian:

    u32 length    bytes of payload that follow the header
    u16 kind      the KIND of a message of stubs.wire.messages; 0x8000 added in a reply
    u16 fds       descriptors that travel with the frame (unix sockets; 0 on a link)
    u32 tag       pairs a reply with its request; 0 when no reply is expected
    u32 after     on the bulk connection: how many frames (modulo 2**32) the sender
                  had sent on the rpc connection before this one; the receiver holds
                  the frame until it has handled as many. 0 on the rpc connection.

Nothing here does I/O. `FrameReader.feed` takes whatever bytes arrived and gives back
the frames they complete, so a test can cut a stream at every byte.
"""

from __future__ import annotations

import struct

from stubs.wire.errors import LocalProtocolError, RemoteProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple

    class Frame(NamedTuple):
        """One frame as received: header fields and payload."""

        kind: int
        fds: int
        tag: int
        after: int
        payload: bytes
else:
    from collections import namedtuple

    Frame = namedtuple("Frame", "kind fds tag after payload")

HEADER = struct.Struct("<IHHII")

# The largest message is START: argv and environment are at most 2 MiB together
# (MAX_ARG_STRINGS, execve(2), with the usual 8 MiB stack), a directory listing is
# cut into pieces far below. Whoever claims more must not make us buffer it.
MAX_PAYLOAD = 8 << 20

# SCM_MAX_FD, include/net/scm.h: more descriptors cannot travel in one message.
MAX_FDS = 253


def encode_frame(kind: int, payload: bytes, tag: int = 0, after: int = 0, fds: int = 0) -> bytes:
    """Return the bytes of one frame; LocalProtocolError when it would be too large."""
    if len(payload) > MAX_PAYLOAD or fds > MAX_FDS:
        raise LocalProtocolError(f"frame too large: kind {kind}, {len(payload)} bytes, {fds} fds")
    return HEADER.pack(len(payload), kind, fds, tag, after) + payload


class FrameReader:
    """Cuts a stream of bytes into frames; bounded by MAX_PAYLOAD plus one read."""

    def __init__(self, allow_fds: bool = False) -> None:
        """Only unix sockets pass `allow_fds`: elsewhere a descriptor count is an error."""
        self._buffer = bytearray()
        self._allow_fds = allow_fds

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that `data` completes; RemoteProtocolError for a bad header."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                length, kind, fds, tag, after = HEADER.unpack_from(buffer, start)
                # Checked before the payload is waited for: a peer that lies about the
                # length must not be able to make us buffer without bound.
                if length > MAX_PAYLOAD or fds > (MAX_FDS if self._allow_fds else 0):
                    raise RemoteProtocolError(f"bad frame header: {length=} {kind=} {fds=}")
                end = start + HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[start + HEADER.size : end])
                start = end
                yield Frame(kind, fds, tag, after, payload)
        finally:
            if start:
                del buffer[:start]

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame held back."""
        return len(self._buffer)
