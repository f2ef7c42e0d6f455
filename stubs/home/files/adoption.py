"""Files that home names: by path (a working directory), or by a descriptor that a body inherits.

An inherited descriptor counts as open: its file stays reachable when its name is gone, and what the
descriptor allows stays allowed, although the path alone might not (a log opened before
privileges were dropped).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from stubs.home.files.inodes import Directory
from stubs.home.files.resolve import proc_path
from stubs.home.files.walking import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.coherence import Coherence
    from stubs.home.files.contents import Contents
    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.wire.codec import Attr


class Adoption:
    """Inodes that home itself introduces."""

    def __init__(self, tree: Tree, contents: Contents, coherence: Coherence) -> None:
        """Begin with none."""
        self._tree = tree
        self._contents = contents
        self._coherence = coherence
        self._adopted: dict[int, int] = {}

    def resolve(self, path: bytes) -> Attr:
        """Return what `path`, absolute in the export, leads to; OSError as stat(2)."""
        inode = walk(self._tree, path)
        if inode.parent is not None:
            self._coherence.watch(inode.parent)
        if isinstance(inode, Directory):
            self._coherence.watch(inode)
        return self._tree.attributes(inode)

    def adopt(self, fd: int) -> Attr:
        """Return the inode of the file open as `fd`, and keep it reachable."""
        status = os.fstat(fd)
        if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, "neither a regular file nor a directory")
        path = self._tree.path_of(fd)
        if self._tree.policy.is_hidden(path) or self._tree.policy.is_secret(
            status.st_dev, status.st_ino
        ):
            raise PermissionError(errno.EACCES, "not exported", path)
        inode = self._placed(path, status)
        if not inode.held:
            own = os.open(proc_path(fd), os.O_PATH | os.O_CLOEXEC)
            self._tree.paths.keep(inode.id, own)
            inode.held = True
        if inode.parent is None:
            self._coherence.watch_file(inode)
        if inode.kind == stat.S_IFREG:
            self._keep_access(inode, fd)
        self._adopted[inode.id] = self._adopted.get(inode.id, 0) + 1
        return self._tree.attributes(inode)

    def _placed(self, path: bytes, status: os.stat_result) -> Inode:
        """Return the inode, known by the name it has now if it has one."""
        try:
            inode = walk(self._tree, self._tree.exported(path))
        except OSError:
            # Removed, or out of the user's reach by name: the descriptor is all there is.
            return self._tree.table.identify(status)
        if (inode.dev, inode.ino) != (status.st_dev, status.st_ino):
            return self._tree.table.identify(status)
        if inode.parent is not None:
            self._coherence.watch(inode.parent)
        return inode

    def _keep_access(self, inode: Inode, fd: int) -> None:
        """Keep a copy of `fd` for what could not be opened again."""
        access = os.O_ACCMODE & fcntl.fcntl(fd, fcntl.F_GETFL)
        path = proc_path(fd)
        granted = 0
        if access != os.O_WRONLY and not os.access(path, os.R_OK, effective_ids=True):
            self._contents.readers.keep(inode.id, os.dup(fd))
            granted |= os.R_OK
        if access != os.O_RDONLY and not os.access(path, os.W_OK, effective_ids=True):
            self._contents.writers.keep(inode.id, os.dup(fd))
            granted |= os.W_OK
        if granted & ~inode.granted:
            inode.granted |= granted
            # The node may know it as a file that the user may not open.
            self._coherence.changed(inode)

    def holds(self, number: int) -> bool:
        """Tell whether a body that has not ended yet inherits this inode."""
        return number in self._adopted

    def disown(self, number: int) -> None:
        """Let go of an adopted inode."""
        count = self._adopted.pop(number, 0)
        if count > 1:
            self._adopted[number] = count - 1
        elif count == 1:
            inode = self._tree.table.find(number)
            if inode is not None:
                inode.granted = 0
                self._contents.readers.drop(number)
                self._contents.unhold(inode)
