"""Linux ABI: the auxiliary vector that a new program finds on its stack.

Names and values are those of include/uapi/linux/auxvec.h.
"""

from __future__ import annotations

import struct

AT_NULL = 0
AT_ENTRY = 9
AT_SECURE = 23
AT_EXECFN = 31
AT_SYSINFO_EHDR = 33

_PAIR = struct.Struct("=QQ")


def read_auxv(pid: int) -> dict[int, int]:
    """Return the vector of a process (x86-64); OSError when it may not be read."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        data = file.read()
    return dict(_PAIR.iter_unpack(data[: len(data) - len(data) % _PAIR.size]))
