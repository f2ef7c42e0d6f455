"""Short ways to say what checks do."""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

DEADLINE_SECONDS = 20.0

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)


def make(d: str, name: str, data: bytes = b"", mode: int = 0o644) -> None:
    """Write a file anew."""
    fd = os.open(f"{d}/{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with open(fd, "wb") as file:
        file.write(data)


def read(d: str, name: str) -> bytes:
    """Return the contents of a file."""
    with open(f"{d}/{name}", "rb") as file:
        return file.read()


def names(d: str) -> list[str]:
    """Return what is in a directory, sorted."""
    return sorted(os.listdir(d))


def fails(number: int, call: Callable[..., object], *arguments: Any, **named: Any) -> bool:
    """Tell whether `call` raises OSError with this errno; another error is raised."""
    try:
        call(*arguments, **named)
    except OSError as error:
        if error.errno != number:
            raise
        return True
    return False


def renameat2(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    result = libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def in_child(call: Callable[[], object]) -> int:
    """Fork, run `call`, return the exit status: what it returned, or 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = int(call() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never true"
        time.sleep(0.001)
