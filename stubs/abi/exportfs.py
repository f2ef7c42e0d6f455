"""Linux ABI: name_to_handle_at(2), and the handles of FUSE.

Names and values are those of include/uapi/linux/fcntl.h and include/linux/exportfs.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from stubs.abi.libc import function

AT_EMPTY_PATH = 0x1000
AT_HANDLE_FID = 0x200  # Linux 6.5: only to identify, for file systems that cannot open by handle

# enum fid_type; FUSE's: nodeid in two halves, the higher first, then the generation.
FILEID_INO64_GEN = 0x81
_FUSE_HANDLE = struct.Struct("=3I")

_MAX_HANDLE_SZ = 128
_HEADER = struct.Struct("=Ii")  # struct file_handle: handle_bytes, handle_type

_name_to_handle_at = function(
    "name_to_handle_at",
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)


def handle_of(fd: int) -> tuple[int, bytes]:
    """Return (type, handle) of an open file; OSError when its file system has none."""
    buffer = ctypes.create_string_buffer(_HEADER.size + _MAX_HANDLE_SZ)
    mount = ctypes.c_int()
    try:
        _handle(fd, buffer, mount, AT_EMPTY_PATH)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        _handle(fd, buffer, mount, AT_EMPTY_PATH | AT_HANDLE_FID)
    size, kind = _HEADER.unpack_from(buffer.raw)
    return kind, buffer.raw[_HEADER.size : _HEADER.size + size]


def _handle(fd: int, buffer: ctypes.Array[ctypes.c_char], mount: ctypes.c_int, flags: int) -> None:
    _HEADER.pack_into(buffer, 0, _MAX_HANDLE_SZ, 0)
    _name_to_handle_at(fd, b"", ctypes.addressof(buffer), ctypes.byref(mount), flags)


def fuse_node(kind: int, handle: bytes) -> int:
    """Return the node id in a handle of a FUSE file system; ValueError when it is another's."""
    if kind != FILEID_INO64_GEN or len(handle) != _FUSE_HANDLE.size:
        raise ValueError(f"not a handle of FUSE: type {kind:#x}, {len(handle)} bytes")
    high, low, _ = _FUSE_HANDLE.unpack(handle)
    return int(high << 32 | low)
