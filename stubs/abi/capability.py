"""Linux ABI: capget(2), capset(2). Values and layouts of include/uapi/linux/capability.h."""

from __future__ import annotations

import struct

CAP_SYS_ADMIN = 21
CAP_CHECKPOINT_RESTORE = 40  # Linux 5.9

_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# struct __user_cap_header_struct: version, pid.
_HEADER = struct.Struct("=Ii")
# Twice struct __user_cap_data_struct: effective, permitted, inheritable; 32 bits each time.
_DATA = struct.Struct("=6I")
_LOW = 0xFFFFFFFF

HEADER = _HEADER.pack(_LINUX_CAPABILITY_VERSION_3, 0)


def pack(inheritable: int, permitted: int, effective: int) -> bytes:
    """Return what capset(2) takes beside HEADER; a bit for each capability."""
    sets = (effective, permitted, inheritable)
    return _DATA.pack(*[each & _LOW for each in sets], *[each >> 32 for each in sets])
