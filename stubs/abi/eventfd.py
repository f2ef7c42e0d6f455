"""Linux ABI: eventfd(2), include/uapi/linux/eventfd.h (os.eventfd came with Python 3.10)."""

from __future__ import annotations

import ctypes
import os

from stubs.abi.libc import function

EFD_SEMAPHORE = 1
EFD_CLOEXEC = os.O_CLOEXEC
EFD_NONBLOCK = os.O_NONBLOCK

eventfd = function("eventfd", ctypes.c_uint, ctypes.c_int)
