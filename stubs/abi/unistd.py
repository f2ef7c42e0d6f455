"""Linux ABI: execve(2) with exactly the strings given, and close_range(2)."""

from __future__ import annotations

import ctypes
import os

from stubs.abi.libc import function, syscall
from stubs.abi.x86_64 import NR_close_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ALL = 0xFFFFFFFF

_close_range = syscall(NR_close_range, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_execve = function("execve", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)


class Strings:
    """An array of pointers to strings, ended by NULL, as execve(2) takes it."""

    def __init__(self, strings: list[bytes]) -> None:
        """Lay out `strings`, which os.execve would check and reorder."""
        self._array = (ctypes.c_char_p * (len(strings) + 1))(*strings, None)

    @property
    def address(self) -> int:
        """Where the array is; it lives as long as this object."""
        return ctypes.addressof(self._array)


def execve(path: bytes, argv: Strings, env: Strings) -> None:
    """Replace this process; returns only by raising OSError."""
    _execve(path, argv.address, env.address)


def close_range(first: int, last: int) -> None:
    """Close the descriptors from `first` to `last`, both included."""
    if first > last:
        return
    try:
        _close_range(first, last, 0)
    except OSError:
        # Before Linux 5.9. The listing's own descriptor is in the list, and closed by then.
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if first <= fd <= last:
                _close_if_open(fd)


def knows_close_range() -> bool:
    """Tell whether this kernel has the call: Linux 5.9 or later, and no filter that hides it."""
    try:
        _close_range(_ALL, _ALL, 0)
    except OSError:
        return False
    return True


def close_except(kept: Iterable[int]) -> None:
    """Close every descriptor but those `kept`."""
    first = 0
    for fd in sorted(set(kept)):
        close_range(first, fd - 1)
        first = fd + 1
    close_range(first, _ALL)


def _close_if_open(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # it was the listing's
