"""Socket pairs (AF_UNIX) with both ends in the tree: what is in them, and how they are made again.

`ref` of an OpenFile is the inode of the pair's lower end; `state` is

    0 or 1, which of the two    SOCK_*    SO_SNDBUF    SO_RCVBUF (as set, half of what is told)
    SO_PASSCRED    shutdown, 1: receives no more, 2: sends no more, 4: the other end is closed
    SO_RCVTIMEO, SO_SNDTIMEO in us

`content` is what is to be received: the bytes of a stream, or messages, each behind its length as
u32. SO_PEERCRED of a pair made again names the process that made it.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from stubs.abi.sock_diag import query_unix
from stubs.migration.image import OPEN_SOCKET, OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.fdinfo import Descriptor

SHUT_IN, SHUT_OUT, PEER_CLOSED = 1, 2, 4

_LENGTH = struct.Struct("<I")
_TIMEVAL = struct.Struct("=qq")
_SO_PEEK_OFF = 42
_LARGEST = 1 << 20  # more than a message of AF_UNIX can have with the usual net.core.wmem_max
_ANCILLARY = 4096


def describe_socket(found: Descriptor, fd: int, inodes: set[int]) -> OpenFile:
    """Return the record of a socket, of which `fd` is our descriptor.

    `inodes` are those of all sockets in the tree. Unmovable when its other end is not among them.
    """
    with socket.socket(fileno=os.dup(fd)) as ours:
        if ours.family != socket.AF_UNIX:
            raise found.refuse("socket", "has a network socket open")
        inode = found.stat.st_ino
        known = query_unix(inode)
        closed = not known.peer and _is_hung_up(ours)
        if known.name or not (known.peer in inodes or closed):
            raise found.refuse("socket", "has a socket open that leads to another program")
        lower = min(inode, known.peer or inode)
        shut = known.shutdown & (SHUT_IN | SHUT_OUT) | (PEER_CLOSED if closed else 0)
        state = [int(inode != lower), ours.type, *_options(ours), shut, *_timeouts(ours)]
        try:
            data = peek(ours)
        except ValueError as error:
            raise found.refuse("socket", f"has a socket open with {error}") from None
    return found.record(OPEN_SOCKET, ref=lower, state=state, content=data)


def _is_hung_up(ours: socket.socket) -> bool:
    poll = select.poll()
    poll.register(ours.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _options(ours: socket.socket) -> list[int]:
    return [
        ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
        ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
        ours.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED),
    ]


def _timeouts(ours: socket.socket) -> list[int]:
    found = []
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        value = ours.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size)
        seconds, us = _TIMEVAL.unpack(value)
        found.append(seconds * 1_000_000 + us)
    return found


def peek(ours: socket.socket) -> bytes:
    """Return what is queued, and leave it there; ValueError when it cannot be carried."""
    # With an offset each MSG_PEEK goes on where the last one ended, socket(7).
    ours.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    parts = []
    try:
        while True:
            data, carried, flags, _ = _peek_once(ours)
            if carried:
                raise ValueError("descriptors on their way")
            if flags & socket.MSG_TRUNC:
                raise ValueError("a message too large to carry")
            if not data and (ours.type == socket.SOCK_STREAM or _is_shut(ours)):
                break
            parts.append(data if ours.type == socket.SOCK_STREAM else _framed(data))
    except BlockingIOError:
        pass  # that was all
    finally:
        ours.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)
    return b"".join(parts)


def _peek_once(ours: socket.socket) -> tuple[bytes, bool, int, object]:
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    data, ancillary, told, address = ours.recvmsg(_LARGEST, _ANCILLARY, flags)
    carried = False
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            carried = True
            for (fd,) in struct.iter_unpack("=i", value[: len(value) & ~3]):
                os.close(fd)
    return data, carried, told, address


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _is_shut(ours: socket.socket) -> bool:
    poll = select.poll()
    poll.register(ours.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


class Pair:
    """A pair made again: its two ends, or one of which the other is closed."""

    def __init__(self, kind: int) -> None:
        """Make an empty one; `kind` SOCK_*."""
        self.ends = socket.socketpair(socket.AF_UNIX, kind)
        self._files: list[OpenFile] = []

    def add(self, file: OpenFile) -> int:
        """Return the descriptor of an end, with what `file` has queued; OSError if it has no room.

        It stays ours.
        """
        side, _, sending, receiving, credentials, _, wait_in, wait_out = file.state
        end, other = self.ends[side], self.ends[1 - side]
        self._files.append(file)
        for option, value in (
            (socket.SO_SNDBUF, sending),
            (socket.SO_RCVBUF, receiving),
            (socket.SO_PASSCRED, credentials),
            (socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(wait_in, 1_000_000))),
            (socket.SO_SNDTIMEO, _TIMEVAL.pack(*divmod(wait_out, 1_000_000))),
        ):
            end.setsockopt(socket.SOL_SOCKET, option, value)
        _send(other, file.content)
        return end.fileno()

    def finish(self) -> None:
        """Shut and close what was: when both ends have been added, not before."""
        for file in self._files:
            side, shut = file.state[0], file.state[5]
            if shut & SHUT_IN:
                self.ends[side].shutdown(socket.SHUT_RD)
            if shut & SHUT_OUT:
                self.ends[side].shutdown(socket.SHUT_WR)
            if shut & PEER_CLOSED:
                self.ends[1 - side].close()
            self.ends[side].setblocking(not file.flags & os.O_NONBLOCK)

    def close(self) -> None:
        """Close our own descriptors."""
        for end in self.ends:
            end.close()


def _send(end: socket.socket, content: bytes) -> None:
    if end.type == socket.SOCK_STREAM:
        while content:
            content = content[end.send(content, socket.MSG_DONTWAIT) :]
        return
    at = 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        end.send(content[at : at + length], socket.MSG_DONTWAIT)
        at += length
