"""Memory that is shared: anonymous mappings, memfds, files of /dev/shm.

All of it is a file of tmpfs, known by its device and inode. Its content travels with the memory
of the processes; here only what it is: its size, its name, its seals.
"""

from __future__ import annotations

import fcntl
import os
import stat

from stubs.migration.image import Shared
from stubs.migration.kinds import ANONYMOUS, DELETED, MEMFD, SHM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stubs.migration.fdinfo import Descriptor

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_NOEXEC_SEAL = 1, 2, 8
_F_SEAL_SEAL, _F_SEAL_EXEC = 1, 0x20


def memory_device() -> int:
    """Return st_dev of memfds and of shared anonymous memory, one for the whole machine."""
    fd = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


class Memory:
    """The shared memory of a tree; `shared` are the records."""

    def __init__(self) -> None:
        """Begin with none."""
        self.shared: list[Shared] = []
        self._device = memory_device()
        self._indices: dict[tuple[bool, int], int] = {}
        self._unsized: set[tuple[bool, int]] = set()

    def has(self, found: Descriptor) -> bool:
        """Tell whether an open file is shared memory."""
        return found.stat.st_dev == self._device or _is_shm(found.text)

    def key(self, found: Descriptor) -> tuple[bool, int]:
        """Return what memory is known by: whether it is of /dev/shm, and its inode."""
        return _is_shm(found.text), found.stat.st_ino

    def index(self, found: Descriptor, seals: int) -> int:
        """Return the index of the memory that is open as a file."""
        key = self.key(found)
        if key not in self._indices:
            size, mode = found.stat.st_size, stat.S_IMODE(found.stat.st_mode)
            self._add(key, found.text, size, mode, seals)
        return self._indices[key]

    def is_of(self, area: Any) -> bool:
        """Tell whether a mapping is of shared memory."""
        path = os.fsencode(area.path)
        return path == ANONYMOUS or path.startswith(MEMFD) or _is_shm(path)

    def mapped(self, area: Any) -> int:
        """Return the index of the memory that is mapped; what is open must have been added before.

        What is not open as a file is as large as its mappings reach.
        """
        path = os.fsencode(area.path)
        key = (_is_shm(path), area.inode)
        reach = area.offset + area.end - area.start
        if key not in self._indices:
            size, mode = _size_of(path, area.inode)
            self._add(key, path, size, mode, 0)
            if not size:
                self._unsized.add(key)
        index = self._indices[key]
        if key in self._unsized:
            self.shared[index].bytes = max(self.shared[index].bytes, reach)
        return index

    def _add(self, key: tuple[bool, int], text: bytes, size: int, mode: int, seals: int) -> None:
        self._indices[key] = len(self.shared)
        path, name = shared_path(text), shared_name(text)
        self.shared.append(Shared(bytes=size, name=name, path=path, seals=seals, mode=mode))


def _is_shm(text: bytes) -> bool:
    return text.startswith(SHM)


def shared_path(text: bytes) -> bytes:
    """Return the path under which a file of /dev/shm is to be made again, empty when it has none.

    `text` is its link as /proc has it.
    """
    return text if text.startswith(SHM) and not text.endswith(DELETED) else b""


def shared_name(text: bytes) -> bytes:
    """Return the name for a memfd that stands for what /proc shows as `text`."""
    text = text[: -len(DELETED)] if text.endswith(DELETED) else text
    return text[len(MEMFD) :] if text.startswith(MEMFD) else text.rpartition(b"/")[2]


def seals_of(fd: int) -> int:
    """Return the seals F_SEAL_*; of a file of /dev/shm none."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return 0  # EINVAL: this kind of file cannot have any


def _size_of(path: bytes, inode: int) -> tuple[int, int]:
    """Return size and permissions of a file that is mapped, if its name leads to it; else 0."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0o600
    return (found.st_size, stat.S_IMODE(found.st_mode)) if found.st_ino == inode else (0, 0o600)


def make(shared: Shared) -> int:
    """Return a descriptor of memory like it, all zero, without seals: see seal.

    OSError when a file of that name is there already.
    """
    if shared.path:
        # A file of that name here is another program's, or what a visit left behind: not ours.
        fd = os.open(shared.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, shared.mode)
        os.fchmod(fd, shared.mode)
    else:
        fd = os.memfd_create(os.fsdecode(shared.name), _flags(shared.seals))
        os.fchmod(fd, shared.mode)
    os.ftruncate(fd, shared.bytes)
    return fd


def _flags(seals: int) -> int:
    if seals & _F_SEAL_EXEC:
        return _MFD_CLOEXEC | _MFD_NOEXEC_SEAL
    # Without the permission to seal the kernel sets F_SEAL_SEAL itself.
    return _MFD_CLOEXEC | (0 if seals == _F_SEAL_SEAL else _MFD_ALLOW_SEALING)


def seal(shared: Shared, fd: int) -> None:
    """Put the seals on, once the content is there; OSError as fcntl(2), F_ADD_SEALS."""
    missing = shared.seals & ~seals_of(fd)
    if missing and not shared.path:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, missing)
