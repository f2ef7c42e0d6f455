"""Linux ABI: userfaultfd(2), as far as it tracks which pages are written to (WP_ASYNC, Linux 6.7).

Names, values and layouts are those of include/uapi/linux/userfaultfd.h. A descriptor belongs to
the memory of the process that made it; whoever has it may register its mappings.
"""

from __future__ import annotations

import fcntl
import struct

UFFD_USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_REGISTER_MODE_WP = 1 << 1

UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00

_API = struct.Struct("=3Q")
_REGISTER = struct.Struct("=4Q")


def track(fd: int) -> None:
    """Have it track writes; OSError EINVAL where the kernel cannot."""
    features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC
    fcntl.ioctl(fd, UFFDIO_API, bytearray(_API.pack(UFFD_API, features, 0)))


def register(fd: int, start: int, end: int) -> None:
    """Track writes between two addresses; OSError EINVAL or EPERM for what cannot be."""
    mode = UFFDIO_REGISTER_MODE_WP
    fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(_REGISTER.pack(start, end - start, mode, 0)))
