"""Linux ABI: /proc/PID/pagemap and its PAGEMAP_SCAN (Linux 6.7).

Names, values and layouts are those of include/uapi/linux/fs.h; the file itself is described in
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct

PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5

PM_SCAN_WP_MATCHING = 1 << 0
PM_SCAN_CHECK_WPASYNC = 1 << 1

PAGEMAP_SCAN = 0xC0606610

# What the file itself holds, 64 bits for each page.
PM_FILE = 1 << 61
PM_SWAP = 1 << 62
PM_PRESENT = 1 << 63

# struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages,
# category_inverted, category_mask, category_anyof_mask, return_mask.
_ARG = struct.Struct("=12Q")
# struct page_region: start, end, categories.
_REGION = struct.Struct("=3Q")
_REGIONS = 4096


class Scan:
    """What to look for: pages with all of `mask` (but for `inverted`: none) and one of `anyof`."""

    def __init__(self, mask: int, inverted: int, anyof: int, flags: int = 0) -> None:
        """Prepare; PAGE_IS_* and PM_SCAN_*."""
        self._mask, self._inverted, self._anyof, self._flags = mask, inverted, anyof, flags
        self._vector = ctypes.create_string_buffer(_REGION.size * _REGIONS)

    def run(self, fd: int, start: int, end: int) -> list[tuple[int, int]]:
        """Return (start, end) of the ranges between two addresses; `fd` is a pagemap.

        OSError ENOTTY before Linux 6.7; EPERM with CHECK_WPASYNC where writes are not tracked.
        """
        found: list[tuple[int, int]] = []
        while start < end:
            arg = bytearray(
                _ARG.pack(
                    *(_ARG.size, self._flags, start, end, 0, ctypes.addressof(self._vector)),
                    *(_REGIONS, 0, self._inverted, self._mask | self._inverted, self._anyof, 0),
                )
            )
            count = fcntl.ioctl(fd, PAGEMAP_SCAN, arg)
            regions = self._vector.raw[: _REGION.size * count]
            found += [(first, last) for first, last, _ in _REGION.iter_unpack(regions)]
            start = _ARG.unpack(arg)[4]
        return found
