"""Files by their names: what is open or mapped as a file, and how the other node can find it.

A file is found there by its path if that leads to the same inode here. What has no name any more
in the home view is found by its node id: see `orphans`.
"""

from __future__ import annotations

import os
import stat

from stubs.abi.exportfs import fuse_node, handle_of
from stubs.abi.statfs import FUSE_SUPER_MAGIC, MQUEUE_MAGIC, fstatfs
from stubs.migration.fdinfo import open_file
from stubs.migration.image import OPEN_FILE
from stubs.migration.kinds import refused_area
from stubs.migration.reasons import Unmovable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from stubs.migration.fdinfo import Descriptor
    from stubs.migration.image import OpenFile

# File systems of the kernel's: a file there has another inode number on each machine.
_PER_NODE = (b"/proc", b"/sys", b"/dev")


class Names:
    """The files of a tree that are known by path or node id; `opens` is the list of all records."""

    def __init__(self, proc: str) -> None:
        """Begin with none."""
        self.opens: list[OpenFile] = []
        self.orphans: list[int] = []
        self._proc = proc
        self._indices: dict[tuple[bytes, int, int], int] = {}

    def describe(self, found: Descriptor) -> OpenFile:
        """Return the record of a file that is open; Unmovable when nothing leads to it."""
        path, ino = found.text, found.stat.st_ino
        if _is_at(path, ino, follow=found.kind != stat.S_IFLNK):
            return found.record(OPEN_FILE, path=path, ino=_ino(path, ino), offset=found.offset)
        handle = self._handle_of(found.link)
        if handle < 0:
            name = "mqueue" if _is_queue(found.link) else "unnamed_file"
            raise found.refuse(name, f"has {os.fsdecode(path)} open")
        return found.record(OPEN_FILE, path=path, ino=ino, offset=found.offset, handle=handle)

    def handle(self, node: int) -> int:
        """Return the index of the handle for a node id of the home view."""
        if node not in self.orphans:
            self.orphans.append(node)
        return self.orphans.index(node)

    def index(self, pid: int, link: str, flags: int, complaint: str) -> int:
        """Return the index for /proc/PID/`link`; Unmovable with `complaint` if nothing leads there.

        Those with the same path and flags share an index: they are not descriptors of the tree.
        """
        link = f"{self._proc}/{pid}/{link}"
        path, ino = os.fsencode(os.readlink(link)), os.stat(link).st_ino
        if _is_at(path, ino):
            return self._at(path, ino, flags, -1)
        handle = self._handle_of(link)
        if handle < 0:
            raise Unmovable(reason("unnamed_file", pid, complaint, self._proc))
        return self._at(path, ino, flags, handle)

    def check(self, pid: int, area: Any) -> None:
        """Raise Unmovable if a mapping is of a kind that cannot be moved."""
        objection = refused_area(os.fsencode(area.path), area.flags)
        if objection is not None:
            raise Unmovable(reason(objection[0], pid, objection[1], self._proc))

    def mapped(self, pid: int, area: Any, opened: Iterable[Descriptor]) -> int:
        """Return the index of the file that is mapped, -1 for anonymous memory.

        A private mapping of a file that nothing leads to is anonymous from now on.
        """
        path = os.fsencode(area.path)
        if not area.inode or path == b"/dev/zero":
            return -1
        shared = "sh" in area.flags or "ms" in area.flags
        flags = os.O_RDWR if shared and "mw" in area.flags else os.O_RDONLY
        if _is_at(path, area.inode):
            return self._at(path, area.inode, flags, -1)
        if not shared:
            return -1
        for each in opened:
            if each.text == path and each.stat.st_ino == area.inode:
                handle = self._handle_of(each.link)
                if handle >= 0:
                    return self._at(path, area.inode, flags, handle)
        what = f"has {os.fsdecode(path)} mapped"
        raise Unmovable(reason("unnamed_file", pid, what, self._proc))

    def _at(self, path: bytes, ino: int, flags: int, handle: int) -> int:
        key = (path, ino, flags)
        if key not in self._indices:
            self._indices[key] = len(self.opens)
            self.opens.append(
                open_file(OPEN_FILE, flags, path=path, ino=_ino(path, ino), handle=handle)
            )
        return self._indices[key]

    def _handle_of(self, link: str) -> int:
        """Return the index of the handle of a file of the home view, -1 if it is another's."""
        fd = os.open(link, os.O_PATH)
        try:
            # Since Linux 6.6 file systems that cannot open by handle have some of the same type.
            if fstatfs(fd)[0] != FUSE_SUPER_MAGIC:
                return -1
            return self.handle(fuse_node(*handle_of(fd)))
        except (OSError, ValueError):
            return -1
        finally:
            os.close(fd)


def _is_queue(link: str) -> bool:
    fd = os.open(link, os.O_PATH)
    try:
        return fstatfs(fd)[0] == MQUEUE_MAGIC
    finally:
        os.close(fd)


def _ino(path: bytes, ino: int) -> int:
    is_per_node = path in _PER_NODE or path.startswith(tuple(top + b"/" for top in _PER_NODE))
    return 0 if is_per_node else ino


def _is_at(path: bytes, ino: int, follow: bool = True) -> bool:
    try:
        return os.stat(path, follow_symlinks=follow).st_ino == ino
    except OSError:
        return False
