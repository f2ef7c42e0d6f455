"""Linux ABI: modes and size of a terminal.

Names, values and layouts are those of include/uapi/asm-generic/{termbits,ioctls,termios}.h.
struct termios2 is passed around whole, as bytes: Python's termios module knows the older,
smaller struct, which loses speeds that have no B constant.
"""

from __future__ import annotations

import fcntl
import os
import struct

TCGETS2 = 0x802C542A
TCSETS2 = 0x402C542B
TCSETSW2 = 0x402C542C
TIOCSCTTY = 0x540E
TIOCGPGRP = 0x540F
TIOCSPGRP = 0x5410
TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414
FIONREAD = 0x541B  # bytes to be read: also in a pipe, from either end
TIOCOUTQ = 0x5411  # bytes written and not taken yet: also of a socket
TIOCGSID = 0x5429
TIOCGDEV = 0x80045432
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441

TERMIOS2_SIZE = 44

_WINSIZE = struct.Struct("=4H")  # ws_row, ws_col, ws_xpixel, ws_ypixel


def tcgets2(fd: int) -> bytes:
    """Return struct termios2 of the terminal; OSError ENOTTY when it is none."""
    return fcntl.ioctl(fd, TCGETS2, bytes(TERMIOS2_SIZE))


def tcsets2(fd: int, termios2: bytes) -> None:
    """Set the modes at once. A caller in the background is sent SIGTTOU unless it blocks that."""
    fcntl.ioctl(fd, TCSETS2, termios2)


def get_winsize(fd: int) -> tuple[int, int]:
    """Return (rows, columns), 0 when nobody has set them."""
    rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(fd, TIOCGWINSZ, bytes(_WINSIZE.size)))
    return rows, columns


def set_winsize(fd: int, rows: int, columns: int) -> None:
    """Set the size; the foreground process group gets SIGWINCH if it changed."""
    fcntl.ioctl(fd, TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))


def get_foreground(fd: int) -> int:
    """Return the process group in the foreground; OSError unless the terminal controls us."""
    group: int = struct.unpack("=i", fcntl.ioctl(fd, TIOCGPGRP, bytes(4)))[0]
    return group


def set_foreground(fd: int, group: int) -> None:
    """Put a process group of our session into the foreground of the terminal that controls us."""
    fcntl.ioctl(fd, TIOCSPGRP, struct.pack("=i", group))


def count(fd: int, request: int) -> int:
    """Return the answer to FIONREAD or TIOCOUTQ, in bytes."""
    answer: int = struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return answer


def tcsetsw2(fd: int, termios2: bytes) -> None:
    """Set the modes once all output is written; input that waits is kept."""
    fcntl.ioctl(fd, TCSETSW2, termios2)


def get_device(fd: int) -> int:
    """Return the terminal's device number as stat(2) has it, also for /dev/tty."""
    number: int = struct.unpack("=I", fcntl.ioctl(fd, TIOCGDEV, bytes(4)))[0]
    # new_encode_dev(), include/linux/kdev_t.h
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
