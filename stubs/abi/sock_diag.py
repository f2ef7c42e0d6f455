"""Linux ABI: what sock_diag(7) tells of one AF_UNIX socket.

Names, values and layouts are those of include/uapi/linux/{netlink,sock_diag,unix_diag}.h. The
kernel answers for the network namespace of the caller.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class unix_socket(NamedTuple):
        """`state` TCP_*, `name` empty unless bound, `peer` inode or 0, `shutdown` 1: in, 2: out."""

        state: int
        name: bytes
        peer: int
        shutdown: int
else:
    from collections import namedtuple

    unix_socket = namedtuple("unix_socket", "state name peer shutdown")

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2

UDIAG_SHOW_NAME = 0x01
UDIAG_SHOW_PEER = 0x04

UNIX_DIAG_NAME = 0
UNIX_DIAG_PEER = 2
UNIX_DIAG_SHUTDOWN = 6

TCP_LISTEN = 10

_NLMSGHDR = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req; no cookie: ~0, ~0
_ANSWER = struct.Struct("=BBBxIII")  # struct unix_diag_msg: family, type, state, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this header, type
_NO_COOKIE = 0xFFFFFFFF
_ALL_STATES = 0xFFFFFFFF
_BUFFER = 8192


def query_unix(inode: int) -> unix_socket:
    """Return what the kernel knows of a socket; OSError ENOENT when there is none here."""
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, inode, show, _NO_COOKIE, _NO_COOKIE)
    header = _NLMSGHDR.pack(
        _NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, inode, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + body)
        answer = netlink.recv(_BUFFER)
    length, kind, *_ = _NLMSGHDR.unpack_from(answer)
    if kind == NLMSG_ERROR:
        (error,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
        raise OSError(-error, os.strerror(-error), f"socket:[{inode}]")
    return _parse(answer[_NLMSGHDR.size : length])


def _parse(data: bytes) -> unix_socket:
    state = _ANSWER.unpack_from(data)[2]
    found: dict[int, bytes] = {}
    at = _ANSWER.size
    while at < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    peer = found.get(UNIX_DIAG_PEER, bytes(4))
    shutdown = found.get(UNIX_DIAG_SHUTDOWN, b"\0")
    return unix_socket(
        state, found.get(UNIX_DIAG_NAME, b""), struct.unpack("=I", peer)[0], shutdown[0]
    )
