"""What kind of file system a directory is on, and what the user may do with a file there.

Rights are worked out from mode, owner and groups where that is certain to be the kernel's own
answer, and asked of it (faccessat2) where an ACL or a group could make a difference.
"""

from __future__ import annotations

import os
import stat

from stubs.abi.statfs import KERNEL, NETWORK, OVERLAYFS_SUPER_MAGIC, ST_NOEXEC, ST_RDONLY, fstatfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Filesystem(NamedTuple):
        """What matters of a mounted file system.

        `kernel` its files are doors into the kernel; `network` inotify does not see all changes;
        `overlay` the first write changes what an open descriptor reads.
        """

        kernel: bool
        network: bool
        overlay: bool
        readonly: bool
        noexec: bool
else:
    from collections import namedtuple

    Filesystem = namedtuple("Filesystem", "kernel network overlay readonly noexec")

R, W, X = 4, 2, 1

# include/uapi/linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


def filesystem_of(fd: int) -> Filesystem:
    """Return what `fd` (O_PATH will do) is on."""
    kind, flags = fstatfs(fd)
    return Filesystem(
        kernel=kind in KERNEL,
        network=kind in NETWORK,
        overlay=kind == OVERLAYFS_SUPER_MAGIC,
        readonly=bool(flags & ST_RDONLY),
        noexec=bool(flags & ST_NOEXEC),
    )


class Credentials:
    """Who we are, as far as permissions go."""

    def __init__(self) -> None:
        """Look at this process."""
        self.uid = os.geteuid()
        self.groups = {os.getegid(), *os.getgroups()}
        # Capabilities count only for inodes whose owner is mapped in our user namespace; with the
        # full map of the initial one that is everywhere.
        self.almighty = _overrides_permissions() and _all_ids_mapped()

    def rights(self, status: os.stat_result, directory: int, name: bytes) -> int:
        """Return R | W | X as faccessat(AT_EACCESS) would allow them for `name` in `directory`."""
        mode = status.st_mode
        if self.almighty:
            return R | W | (X if mode & 0o111 or stat.S_ISDIR(mode) else 0)
        if stat.S_ISLNK(mode):
            return R | W | X
        if status.st_uid == self.uid:
            return mode >> 6 & 7
        other = mode & 7
        # The group bits are the mask of an ACL when there is one. Where they allow exactly
        # what everybody may, neither our groups nor a sane ACL make a difference.
        doubtful = (mode >> 3 & 7) ^ other
        if not doubtful:
            return other
        rights = other & ~doubtful
        for right in (R, W, X):
            if doubtful & right and os.access(
                name, right, dir_fd=directory, effective_ids=True, follow_symlinks=False
            ):
                rights |= right
        return rights


def _overrides_permissions() -> bool:
    needed = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return int(line.split()[1], 16) & needed == needed
    return False


def _all_ids_mapped() -> bool:
    with open("/proc/self/uid_map", "rb") as table:
        return [int(field) for field in table.read().split()] == [0, 0, 0xFFFFFFFF]
