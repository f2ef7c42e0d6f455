"""Linux ABI: mount(2), umount2(2), pivot_root(2), mount_setattr(2).

Names, values and layouts are those of include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function, syscall
from stubs.abi.x86_64 import NR_mount_setattr, NR_pivot_root

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

MNT_FORCE = 1
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 1

AT_FDCWD = -100
AT_RECURSIVE = 0x8000


class mount_attr(ctypes.Structure):
    """struct mount_attr: attributes to set and to clear on a mount."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_mount = function(
    "mount",
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_umount2 = function("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = syscall(NR_pivot_root, ctypes.c_char_p, ctypes.c_char_p)
_mount_setattr = syscall(
    NR_mount_setattr,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_long,
    ctypes.POINTER(mount_attr),
    ctypes.c_size_t,
)


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """Mount; OSError names the target."""
    try:
        _mount(source, target, kind, flags, data)
    except OSError as error:
        error.filename = target
        raise


def mount_fuse(device: int, target: bytes, uid: int, gid: int) -> None:
    """Mount what an open /dev/fuse answers for; the kernel checks permissions, for all users.

    The root has mode 755 until the kernel has asked for its attributes, not 0 as with fuse(8): an
    answer that a change at home overtakes is dropped (fuse_change_attributes), and what was the
    first to look would not be asked about again, but refused (fuse_permission, fs/fuse/dir.c).
    """
    options = (
        f"fd={device},rootmode=40755,user_id={uid},group_id={gid},allow_other,default_permissions"
    )
    mount(b"mlaunch", target, b"fuse", MS_NOSUID | MS_NODEV, options.encode())


def umount2(target: bytes, flags: int) -> None:
    """Unmount what is on top at `target`."""
    _umount2(target, flags)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make `new_root` the root of this mount namespace, and the old one appear at `put_old`."""
    _pivot_root(new_root, put_old)


def make_readonly(target: bytes) -> None:
    """Make the mount at `target` and all below it read-only; ENOSYS before Linux 5.12."""
    attr = mount_attr(attr_set=MOUNT_ATTR_RDONLY)
    _mount_setattr(AT_FDCWD, target, AT_RECURSIVE, ctypes.byref(attr), ctypes.sizeof(attr))
