"""The C library: how a call is made through ctypes, and how its failure becomes OSError.

Leaf of leaves: every other module of stubs.abi that needs ctypes for a call builds on this one.
Each user gets a prototype of its own (`libc[name]` is a new object every time; `libc.name` is
one shared object whose argtypes two users would fight over).
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The library that the interpreter itself is linked with; its errno is kept per thread.
libc = ctypes.CDLL(None, use_errno=True)
# The same, for calls that return at once: the interpreter's lock is kept meanwhile.
locked = ctypes.PyDLL(None, use_errno=True)


def check(result: int, what: str | bytes | None = None) -> int:
    """Return `result` unless it is negative: then raise OSError with errno, naming `what`."""
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)
    return result


def _checked(result: int, call: Any, arguments: tuple[Any, ...]) -> int:
    return check(result)


def function(
    name: str,
    *arguments: type,
    result: type = ctypes.c_int,
    library: ctypes.CDLL | ctypes.PyDLL = libc,
) -> Callable[..., int]:
    """Return libc's `name`, which takes `arguments` and raises OSError when it fails (-1).

    AttributeError when this C library does not have it.
    """
    call: Any = library[name]
    call.argtypes = arguments
    call.restype = result
    call.errcheck = _checked
    checked: Callable[..., int] = call
    return checked


def syscall(number: int, *arguments: type) -> Callable[..., int]:
    """Return system call `number`, for what the C library has no function; raises OSError.

    Every argument is passed as a long: narrower types must be widened by their ctypes type.
    """
    call = function("syscall", ctypes.c_long, *arguments, result=ctypes.c_long)
    return lambda *values: call(number, *values)
