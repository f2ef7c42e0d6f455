"""Linux ABI: epoll, names and layout as in include/uapi/linux/eventpoll.h on x86-64."""

from __future__ import annotations

import ctypes
import os
import struct

from stubs.abi.libc import function

EPOLL_CLOEXEC = os.O_CLOEXEC
EPOLL_CTL_ADD = 1

# struct epoll_event, packed on x86-64: events, data.
EPOLL_EVENT = struct.Struct("=IQ")

epoll_create1 = function("epoll_create1", ctypes.c_int)
