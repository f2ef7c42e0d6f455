"""Linux ABI: signalfd(2), and the codes that say who sent a signal.

Names, values and layouts are those of include/uapi/linux/signalfd.h and
include/uapi/asm-generic/siginfo.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from stubs.abi.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    class signalfd_siginfo(NamedTuple):
        """struct signalfd_siginfo: the fields that say which signal, why, and from whom."""

        ssi_signo: int
        ssi_errno: int
        ssi_code: int
        ssi_pid: int
        ssi_uid: int
else:
    from collections import namedtuple

    signalfd_siginfo = namedtuple(
        "signalfd_siginfo", "ssi_signo ssi_errno ssi_code ssi_pid ssi_uid"
    )

SFD_CLOEXEC = os.O_CLOEXEC
SFD_NONBLOCK = os.O_NONBLOCK

SI_USER = 0
SI_KERNEL = 0x80  # the terminal, among others

_SIZE = 128  # of struct signalfd_siginfo
_SENDER = struct.Struct("=IiiII")
_MANY = 32  # read at once

_signalfd = function("signalfd", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def sigset(signals: Iterable[int]) -> int:
    """Return a set of signals as the kernel has it: bit signo-1."""
    mask = 0
    for signo in signals:
        mask |= 1 << (signo - 1)
    return mask


def signalfd(signals: Iterable[int]) -> int:
    """Return a non-blocking descriptor that reports `signals`, which the caller has blocked."""
    return signalfd_of_set(sigset(signals), SFD_CLOEXEC | SFD_NONBLOCK)


def signalfd_of_set(signals: int, flags: int) -> int:
    """Return a descriptor that reports a set of signals (bit signo-1); `flags` SFD_*."""
    # glibc's sigset_t has 1024 bits, of which the kernel is shown the first 64.
    mask = ctypes.create_string_buffer(struct.pack("=Q", signals), 128)
    return _signalfd(-1, ctypes.addressof(mask), flags)


def read_signals(fd: int) -> list[signalfd_siginfo]:
    """Return the signals that came, oldest first of each number; empty when there are none."""
    try:
        data = os.read(fd, _MANY * _SIZE)
    except BlockingIOError:
        return []
    return [signalfd_siginfo(*_SENDER.unpack_from(data, at)) for at in range(0, len(data), _SIZE)]
