"""Linux ABI: statfs(2) on x86-64, and the magic numbers of include/uapi/linux/magic.h."""

from __future__ import annotations

import ctypes

from stubs.abi.libc import function

FUSE_SUPER_MAGIC = 0x65735546

# File systems that other machines or a user-space server change behind inotify's back.
NETWORK = frozenset(
    {
        0x6969,  # NFS_SUPER_MAGIC
        0x517B,  # SMB_SUPER_MAGIC
        0xFE534D42,  # SMB2_SUPER_MAGIC
        0xFF534D42,  # CIFS_SUPER_MAGIC
        FUSE_SUPER_MAGIC,
        0x00C36400,  # CEPH_SUPER_MAGIC
        0x5346414F,  # AFS_SUPER_MAGIC
        0x6B414653,  # AFS_FS_MAGIC
        0x73757245,  # CODA_SUPER_MAGIC
        0x01021997,  # V9FS_MAGIC
        0x47504653,  # GPFS
        0x0BD00BD0,  # LUSTRE
        0x7461636F,  # OCFS2_SUPER_MAGIC
        0x01161970,  # GFS2_MAGIC
        0x786F4256,  # VBOXSF_SUPER_MAGIC
        0x4B414653,  # kAFS of older kernels
    }
)

MQUEUE_MAGIC = 0x19800202

# File systems whose files are doors into the kernel, not data: nothing of them leaves home.
KERNEL = frozenset(
    {
        0x9FA0,  # PROC_SUPER_MAGIC
        0x62656572,  # SYSFS_MAGIC
        0x1CD1,  # DEVPTS_SUPER_MAGIC
        0x64626720,  # DEBUGFS_MAGIC
        0x74726163,  # TRACEFS_MAGIC
        0x73636673,  # SECURITYFS_MAGIC
        0xF97CFF8C,  # SELINUX_MAGIC
        0x43415D53,  # SMACK_MAGIC
        0x0027E0EB,  # CGROUP_SUPER_MAGIC
        0x63677270,  # CGROUP2_SUPER_MAGIC
        0xCAFE4A11,  # BPF_FS_MAGIC
        0x6165676C,  # PSTOREFS_MAGIC
        0xDE5E81E4,  # EFIVARFS_MAGIC
        0x62656570,  # CONFIGFS_MAGIC
        0x42494E4D,  # BINFMTFS_MAGIC
        MQUEUE_MAGIC,
        0x6E736673,  # NSFS_MAGIC
    }
)

OVERLAYFS_SUPER_MAGIC = 0x794C7630

ST_RDONLY = 1
ST_NOEXEC = 8


class struct_statfs(ctypes.Structure):
    """struct statfs of x86-64, include/uapi/asm-generic/statfs.h."""

    _fields_ = (
        ("f_type", ctypes.c_long),
        ("f_bsize", ctypes.c_long),
        ("f_blocks", ctypes.c_ulong),
        ("f_bfree", ctypes.c_ulong),
        ("f_bavail", ctypes.c_ulong),
        ("f_files", ctypes.c_ulong),
        ("f_ffree", ctypes.c_ulong),
        ("f_fsid", ctypes.c_int * 2),
        ("f_namelen", ctypes.c_long),
        ("f_frsize", ctypes.c_long),
        ("f_flags", ctypes.c_long),
        ("f_spare", ctypes.c_long * 4),
    )


_fstatfs = function("fstatfs", ctypes.c_int, ctypes.POINTER(struct_statfs))


def fstatfs(fd: int) -> tuple[int, int]:
    """Return (f_type, f_flags) of the file system that `fd` is on (O_PATH will do)."""
    result = struct_statfs()
    _fstatfs(fd, ctypes.byref(result))
    return result.f_type & 0xFFFFFFFF, result.f_flags
