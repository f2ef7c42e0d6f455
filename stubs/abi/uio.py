"""Linux ABI: process_vm_readv(2) and process_vm_writev(2): the memory of another process.

Who may trace it may do this. A page that it may not read (or write) itself is refused; the file
/proc/PID/mem shows those as well.
"""

from __future__ import annotations

import ctypes
import struct

from stubs.abi.libc import syscall
from stubs.abi.x86_64 import NR_process_vm_readv, NR_process_vm_writev

# How many ranges one call takes.
IOV_MAX = 1024

_IOVEC = struct.Struct("=QQ")

_CALL = [ctypes.c_long, *[ctypes.c_void_p, ctypes.c_ulong] * 2, ctypes.c_ulong]
_readv = syscall(NR_process_vm_readv, *_CALL)
_writev = syscall(NR_process_vm_writev, *_CALL)


def process_vm_readv(pid: int, address: int, ranges: list[tuple[int, int]]) -> int:
    """Read (start, size) ranges of a process to `address` on; return how many bytes there were.

    At most IOV_MAX ranges. OSError EFAULT when not even the first byte can be read.
    """
    return _move(_readv, pid, address, ranges)


def process_vm_writev(pid: int, address: int, ranges: list[tuple[int, int]]) -> int:
    """Write what is at `address` to the (start, size) ranges; otherwise as process_vm_readv."""
    return _move(_writev, pid, address, ranges)


def _move(call: object, pid: int, address: int, ranges: list[tuple[int, int]]) -> int:
    here = _IOVEC.pack(address, sum(size for _, size in ranges))
    there = b"".join([_IOVEC.pack(*each) for each in ranges])
    moved: int = call(pid, here, 1, there, len(ranges), 0)  # type: ignore[operator]
    return moved
