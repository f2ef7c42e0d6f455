"""CLOCK_MONOTONIC and CLOCK_BOOTTIME of a program: elsewhere they must go on from where they were.

Every machine counts them from its own start; deadlines that a program keeps (futexes, timers,
sleeps until a time) would be years off. A time namespace (time_namespaces(7), Linux 5.6) shifts
them for what is born in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from stubs.abi.libc import function
from stubs.abi.sched import CLONE_NEWTIME, unshare
from stubs.migration.proc import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NS = 1_000_000_000
_NAMES = {b"monotonic": time.CLOCK_MONOTONIC, b"boottime": time.CLOCK_BOOTTIME}

_setns = function("setns", ctypes.c_int, ctypes.c_int)


def _offsets(pid: int | str) -> dict[bytes, int]:
    try:
        text = read_file(f"/proc/{pid}/timens_offsets")
    except FileNotFoundError:
        return {}  # before Linux 5.6 nobody has an offset
    found = {}
    for line in text.splitlines():
        name, seconds, ns = line.split()
        found[name] = int(seconds) * _NS + int(ns)
    return found


def read_clocks(pid: int) -> list[int]:
    """Return CLOCK_MONOTONIC and CLOCK_BOOTTIME as a process has them now, in ns."""
    theirs, ours = _offsets(pid), _offsets("self")
    return [
        time.clock_gettime_ns(clock) + theirs.get(name, 0) - ours.get(name, 0)
        for name, clock in _NAMES.items()
    ]


@contextlib.contextmanager
def going_on(clocks: list[int]) -> Iterator[None]:
    """Have what is forked in a `with` block, by the single thread that we are, go on from `clocks`.

    It must have memory of its own (Calls.start without code), for to none else are such clocks
    given. Needs CAP_SYS_ADMIN and CAP_SYS_TIME over our user namespace. Where there are no time
    namespaces, or they are not allowed, its clocks are those of this machine.
    """
    own = _offsets("self")
    shifts = {
        name: wanted - time.clock_gettime_ns(clock) + own.get(name, 0)
        for wanted, (name, clock) in zip(clocks, _NAMES.items())
    }
    try:
        before = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            unshare(CLONE_NEWTIME)
            lines = [b"%b %d %d\n" % (name, *divmod(at, _NS)) for name, at in shifts.items()]
            with open("/proc/self/timens_offsets", "wb", buffering=0) as file:
                file.write(b"".join(lines))
        except OSError:
            pass  # not allowed, or such a clock could not be: they jump, as without namespaces
        yield
    finally:
        with contextlib.suppress(PermissionError):
            _setns(before, CLONE_NEWTIME)
        os.close(before)
