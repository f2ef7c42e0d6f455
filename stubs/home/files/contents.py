"""Descriptors for the contents of files: for reading, and apart from them for writing.

A file is opened for writing only to serve a write, and closed soon after: an open file for writing
makes every execve(2) of it fail with ETXTBSY, and nobody tells when a body has closed it unless the
node says so (Unhold). A read never opens for writing.

Permission is checked once, when a file is opened; here too: what a body created read-only stays
writable for it, and what it took from itself by chmod(2) while it had the file open, it keeps.
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.home.files.descriptors import FdCache
from stubs.home.files.resolve import proc_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.coherence import Coherence
    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.link.loop import Loop, Timer

# How long a file stays open for writing when nobody writes to it (at most twice that).
WRITER_SECONDS = 0.05

# How long any other descriptor stays open when nobody uses it.
IDLE_SECONDS = 2.0

MAX_READERS = 256
MAX_WRITERS = 64


class Contents:
    """The open files of one link."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        coherence: Coherence,
        failed: Callable[[Inode, OSError], None],
        budget: int,
    ) -> None:
        """Use at most about half of `budget` descriptors.

        `failed` hears of a write that fails when its file is closed (quota, network).
        """
        self._loop = loop
        self._tree = tree
        self._coherence = coherence
        self._failed = failed
        self._held_limit = budget // 4
        kept = budget // 16
        self.readers = FdCache(min(MAX_READERS, budget // 8), keep_limit=kept)
        self.writers = FdCache(min(MAX_WRITERS, budget // 16), self._close_writer, kept)
        self._writer_timer: Timer | None = None
        self._idle_timer: Timer | None = None

    def close(self) -> None:
        """Close everything."""
        for timer in (self._writer_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self.writers.close()
        self.readers.close()

    # reading

    def reader(self, inode: Inode) -> int:
        """Return a descriptor to read from, borrowed; OSError as open(2)."""
        fd = self.readers.get(inode.id)
        if fd is None:
            fd = self.readers.put(inode.id, self._open_reader(inode))
            self.start_idling()
            if inode.nlink > 1:
                self._coherence.watch_file(inode)
        return fd

    def _open_reader(self, inode: Inode) -> int:
        if inode.kind != stat.S_IFREG:
            number = errno.EISDIR if inode.kind == stat.S_IFDIR else errno.EINVAL
            raise OSError(number, os.strerror(number))
        try:
            return self._tree.open_again(inode, os.O_RDONLY | os.O_NOATIME)
        except PermissionError:
            pass  # O_NOATIME is for the owner only
        try:
            return self._tree.open_again(inode, os.O_RDONLY)
        except PermissionError:
            if inode.revoked and inode.held:
                return self._open_regardless(inode, os.O_RDONLY, stat.S_IRUSR)
            raise

    # writing

    def writer(self, inode: Inode) -> int:
        """Return a descriptor to write to, borrowed; OSError as open(2), EROFS by the policy."""
        fd = self.writers.get(inode.id)
        if fd is None:
            if self._tree.readonly(inode):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            fd = self._open_writer(inode)
            self._add_writer(inode, fd)
        return fd

    def _open_writer(self, inode: Inode) -> int:
        try:
            fd = self._tree.open_again(inode, os.O_WRONLY)
        except PermissionError:
            if not (inode.revoked and inode.held):
                raise
            fd = self._open_regardless(inode, os.O_WRONLY, stat.S_IWUSR)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (inode.dev, inode.ino):
            # overlayfs has copied the file up; what was open until now reads the old one.
            self._tree.table.rekey(inode, status)
            self.readers.drop(inode.id)
        elif inode.parent is None or self._tree.filesystem(inode.parent).overlay:
            self.readers.drop(inode.id)
        return fd

    def _open_regardless(self, inode: Inode, flags: int, needed: int) -> int:
        """Open what its body opened before it took the permission from everybody."""
        path = proc_path(self._tree.path_fd(inode))
        mode = stat.S_IMODE(os.stat(path).st_mode)
        os.chmod(path, mode | needed)
        try:
            return self._tree.open_again(inode, flags)
        finally:
            os.chmod(path, mode)

    def add_created(self, inode: Inode, fd: int, access: int, mode: int) -> None:
        """Take over the descriptor with which a file was made."""
        if access == os.O_RDONLY:
            self.readers.put(inode.id, fd)
            return
        # What its mode would not let us open again is kept until no body has it open.
        if mode & 0o200 or self._tree.credentials.almighty:
            self._add_writer(inode, fd)
        else:
            self.writers.keep(inode.id, fd)
        if access == os.O_RDWR and not (mode & 0o400 or self._tree.credentials.almighty):
            self.readers.keep(inode.id, os.dup(fd))

    def _add_writer(self, inode: Inode, fd: int) -> None:
        self.writers.put(inode.id, fd)
        if self._writer_timer is None:
            self._writer_timer = self._loop.call_later(WRITER_SECONDS, self._age_writers)

    def _close_writer(self, number: int, fd: int) -> None:
        inode = self._tree.table.find(number)
        self._coherence.before()
        try:
            os.close(fd)
        except OSError as error:
            if inode is not None:
                self._failed(inode, error)
        self._coherence.after(*(self._coherence.echo_of(inode) if inode is not None else ()))

    def _age_writers(self) -> None:
        self._writer_timer = None
        if self.writers.age():
            self._writer_timer = self._loop.call_later(WRITER_SECONDS, self._age_writers)

    def settle(self) -> None:
        """Close all that is open for writing and can be opened again: somebody may execute it."""
        self.writers.empty()

    def settle_file(self, inode: Inode) -> None:
        """Close `inode` if it is open for writing and can be opened again."""
        self.writers.drop_passing(inode.id)

    # what bodies have open

    def hold(self, inode: Inode) -> None:
        """Keep `inode` reachable whatever becomes of its names; OSError when it is lost already."""
        if not inode.held and self._tree.paths.kept < self._held_limit:
            self._tree.path_fd(inode)
            self._tree.paths.keep(inode.id)
        inode.held = True

    def unhold(self, inode: Inode) -> None:
        """No body has `inode` open any more."""
        inode.held = False
        inode.revoked = False
        self.writers.drop(inode.id)
        self.readers.drop_kept(inode.id)
        if inode is not self._tree.root:
            self._tree.paths.release(inode.id)
            self.start_idling()
        if inode.parent is None and inode is not self._tree.root and not inode.nlink:
            self.forget(inode)
            self._tree.drop(inode)

    def forget(self, inode: Inode) -> None:
        """Close everything of `inode`, except what its path needs."""
        self.writers.drop(inode.id)
        self.readers.drop(inode.id)
        self._coherence.forget(inode)

    def written_elsewhere(self, inode: Inode) -> None:
        """Read from a fresh descriptor: on overlayfs an old one keeps the old contents."""
        if inode.parent is None or inode.parent.fs is None or inode.parent.fs.overlay:
            self.readers.drop(inode.id)

    # idling

    def start_idling(self) -> None:
        """See to it that descriptors are closed when nobody uses them."""
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_SECONDS, self._age)

    def _age(self) -> None:
        self._idle_timer = None
        readers = self.readers.age()
        if self._tree.paths.age() or readers:
            self.start_idling()
