"""Linux ABI: timerfd_create(2), names and values as in include/uapi/linux/timerfd.h."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from stubs.abi.libc import function

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
TFD_CLOEXEC = os.O_CLOEXEC
TFD_NONBLOCK = os.O_NONBLOCK
TFD_IOC_SET_TICKS = 0x40085400

# struct itimerspec: it_interval, it_value, each tv_sec and tv_nsec.
_ITIMERSPEC = struct.Struct("=4q")
_SECOND = 1_000_000_000

timerfd_create = function("timerfd_create", ctypes.c_int, ctypes.c_int)
_timerfd_settime = function(
    "timerfd_settime", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
)
_timerfd_gettime = function("timerfd_gettime", ctypes.c_int, ctypes.c_void_p)


def timerfd_gettime(fd: int) -> tuple[int, int]:
    """Return (interval, remaining time) in ns. A periodic timer counts what it has missed."""
    buffer = ctypes.create_string_buffer(_ITIMERSPEC.size)
    _timerfd_gettime(fd, ctypes.addressof(buffer))
    interval, interval_ns, value, value_ns = _ITIMERSPEC.unpack(buffer.raw)
    return interval * _SECOND + interval_ns, value * _SECOND + value_ns


def timerfd_settime(fd: int, flags: int, interval: int, value: int) -> None:
    """Arm a timer, times in ns; `value` 0 disarms it. No expiration is left to be read."""
    spec = _ITIMERSPEC.pack(*divmod(interval, _SECOND), *divmod(value, _SECOND))
    _timerfd_settime(fd, flags, spec, None)


def set_ticks(fd: int, ticks: int) -> None:
    """Say how many expirations are to be read, at least 1 (Linux with CHECKPOINT_RESTORE)."""
    fcntl.ioctl(fd, TFD_IOC_SET_TICKS, struct.pack("=Q", ticks))
