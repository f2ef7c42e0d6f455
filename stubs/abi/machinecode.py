"""Machine code (x86-64) that is called like a C function, for what Python is too slow or unfit."""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function
from stubs.abi.mman import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_mmap = function(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
    result=ctypes.c_long,
)
_mprotect = function("mprotect", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


# The interpreter's lock is let go of: this is where a thread sleeps.
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)


def load(code: bytes) -> int:
    """Return the address of at most a page of `code`; OSError where none may be executable."""
    page = _mmap(None, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(page, code, len(code))
    _mprotect(page, PAGE_SIZE, PROT_READ | PROT_EXEC)
    return page


def function_of_struct(code: bytes) -> Callable[[int], int]:
    """Return `code` as long function(struct *), called by address; OSError as `load`."""
    call: Callable[[int], int] = _FUNCTION(load(code))
    return call
