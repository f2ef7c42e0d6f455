"""Messages between the pipes and terminals of home and those on the node."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import U32, Blob


class StreamData(Message):
    """Either way: bytes, in order."""

    KIND = 0xA0
    BULK = True
    stream: U32
    data: Blob


class StreamEnd(Message):
    """Either way: the writers are gone; the reader sees end of file."""

    KIND = 0xA1
    BULK = True
    stream: U32


class StreamBroken(Message):
    """Either way: the readers are gone; the writer gets EPIPE and SIGPIPE."""

    KIND = 0xA2
    stream: U32


class StreamWant(Message):
    """N→H: a reader waits for up to `bytes` of home's pipe or terminal. 0: it gave up."""

    KIND = 0xA3
    stream: U32
    bytes: U32


class StreamTaken(Message):
    """Either way: so many bytes went on to their reader: the sender's window opens by them."""

    KIND = 0xA4
    stream: U32
    bytes: U32


class Modes(Message):
    """Either way: a program there has changed the modes of the terminal (struct termios2)."""

    KIND = 0xA5
    stream: U32
    termios: Blob
