"""Linux ABI: what glibc offers about its heap, malloc_trim(3)."""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function


def malloc_trim() -> None:
    """Give free memory back to the kernel; does nothing with a C library that cannot."""
    try:
        trim = function("malloc_trim", ctypes.c_size_t)
    except AttributeError:
        return
    trim(0)
