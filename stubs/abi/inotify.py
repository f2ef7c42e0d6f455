"""Linux ABI: inotify, names and layout as in include/uapi/linux/inotify.h."""

from __future__ import annotations

import ctypes
import os
import struct

from stubs.abi.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800

IN_UNMOUNT = 0x00002000
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000

IN_ONLYDIR = 0x01000000
IN_MASK_CREATE = 0x10000000
IN_EXCL_UNLINK = 0x04000000
IN_ONESHOT = 0x80000000
IN_ALL_EVENTS = 0x00000FFF
IN_ISDIR = 0x40000000

# struct inotify_event without its name: wd, mask, cookie, len.
EVENT = struct.Struct("iIII")

# Room for a few thousand events; one event needs at most EVENT.size + NAME_MAX + 1.
BUFFER = 64 << 10

inotify_init1 = function("inotify_init1", ctypes.c_int)
inotify_add_watch = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
inotify_rm_watch = function("inotify_rm_watch", ctypes.c_int, ctypes.c_int)


def init() -> int:
    """Return a new inotify descriptor: non-blocking, close-on-exec."""
    return inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)


def read_events(fd: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (wd, mask, cookie, name) of every event queued on `fd`; the name may be empty."""
    while True:
        try:
            data = os.read(fd, BUFFER)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            wd, mask, cookie, length = EVENT.unpack_from(data, at)
            at += EVENT.size
            yield wd, mask, cookie, data[at : at + length].rstrip(b"\0")
            at += length
        # A read that left room took all there was; what comes later is for the next call.
        if len(data) < BUFFER - EVENT.size - 256:
            return
