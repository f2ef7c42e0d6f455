"""Names that come, go and move: one method per message, each answers with a message.

As in `stubs.home.files.changes`: enclosed by `before` and `after` of the coherence, with the user's
rights, under the export policy, OSError for the body.
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.abi.stat import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from stubs.home.files.inodes import Directory, stale
from stubs.home.files.resolve import PERMISSIONS, proc_path
from stubs.wire.messages import Attrs, Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.coherence import Coherence
    from stubs.home.files.contents import Contents
    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.wire.codec import Message
    from stubs.wire.messages import (
        Create,
        Link,
        Mkdir,
        Mknod,
        Rename,
        Rmdir,
        Symlink,
        Unlink,
    )

# How a file that Create makes or opens is opened.
_CREATE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Naming:
    """Operations on names."""

    def __init__(self, tree: Tree, contents: Contents, coherence: Coherence) -> None:
        """Work on `tree`."""
        self._tree = tree
        self._contents = contents
        self._coherence = coherence
        self.made: Inode | None = None  # by the last create, if the file was not there before

    # names that come

    def create(self, message: Create) -> Message:
        """Make a regular file, or open the one that is there; `made` tells which."""
        self.made = None
        if message.id:
            self._tree.table.claim(message.id)
        directory = self._tree.table.directory(message.dir)
        parent = self._tree.writable_directory(directory, message.name)
        access = message.flags & os.O_ACCMODE
        if access not in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._coherence.before()
        try:
            mode = message.mode & PERMISSIONS
            flags = access | os.O_CREAT | os.O_EXCL | _CREATE_FLAGS
            try:
                fd = os.open(message.name, flags, mode, dir_fd=parent)
            except FileExistsError:
                if message.flags & os.O_EXCL:
                    raise
                return self._open_existing(directory, message)
        finally:
            self._coherence.after((directory.wd, message.name))
        inode = self._tree.table.place(directory, message.name, os.fstat(fd), message.id)
        self._contents.add_created(inode, fd, access, mode)
        self.made = inode
        return self._found(directory, message.name)

    def _open_existing(self, directory: Directory, message: Create) -> Message:
        inode, _ = self._tree.find(directory, message.name)
        if inode.kind != stat.S_IFREG:
            # The node believed that there was nothing: let it look again.
            raise stale(os.fsdecode(message.name))
        if message.id:
            inode = self._rename_inode(directory, message, inode)
        access = message.flags & os.O_ACCMODE
        if access != os.O_WRONLY:
            self._contents.reader(inode)
        if access != os.O_RDONLY:
            fd = self._contents.writer(inode)
            if message.flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
        return self._found(directory, message.name)

    def _rename_inode(self, directory: Directory, message: Create, inode: Inode) -> Inode:
        """Give a file that somebody was faster to make the id by which the node calls it already.

        The node takes it for empty, and is told better.
        """
        if inode.held:
            raise stale(os.fsdecode(message.name))
        self._contents.forget(inode)
        self._tree.drop(inode)
        status = os.stat(message.name, dir_fd=self._tree.path_fd(directory), follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise stale(os.fsdecode(message.name))
        inode = self._tree.table.place(directory, message.name, status, message.id)
        self._coherence.changed(inode)
        return inode

    def mknod(self, message: Mknod) -> Message:
        """Make a regular file, a FIFO or a socket; never a device (EPERM)."""
        kind = stat.S_IFMT(message.mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        directory, parent = self._parent(message.dir, message.name)
        self._coherence.before()
        try:
            os.mknod(message.name, kind | message.mode & PERMISSIONS, 0, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name))
        return self._found(directory, message.name)

    def mkdir(self, message: Mkdir) -> Message:
        """Make a directory."""
        directory = self._tree.table.directory(message.dir)
        parent = self._tree.writable_directory(directory, message.name, mkdir=True)
        self._coherence.before()
        try:
            os.mkdir(message.name, message.mode & PERMISSIONS, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name))
        return self._found(directory, message.name)

    def symlink(self, message: Symlink) -> Message:
        """Make a symbolic link; its target is only text here."""
        if not message.target or b"\0" in message.target:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        directory, parent = self._parent(message.dir, message.name)
        self._coherence.before()
        try:
            os.symlink(message.target, message.name, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name))
        return self._found(directory, message.name)

    def link(self, message: Link) -> Message:
        """Give an inode one more name."""
        inode = self._tree.table.get(message.id)
        directory, parent = self._parent(message.dir, message.name)
        if isinstance(inode, Directory):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if self._tree.readonly(inode):
            # As between two mounts: through its new name it could be written.
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        self._contents.settle_file(inode)
        source = self._tree.path_fd(inode)
        parent = self._tree.path_fd(directory)
        self._coherence.before()
        try:
            os.link(proc_path(source), message.name, dst_dir_fd=parent, follow_symlinks=True)
        finally:
            echo = self._coherence.echo_of(inode)
            self._coherence.after((directory.wd, message.name), *echo)
        return self._found(directory, message.name)

    # names that go

    def unlink(self, message: Unlink) -> Message:
        """Remove a name; the answer tells of the file when a name or a user of it is left."""
        directory, _ = self._parent(message.dir, message.name)
        inode, status = self._tree.find(directory, message.name)
        if inode.kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if inode.held or status.st_nlink > 1:
            self._tree.path_fd(inode)
        parent = self._tree.path_fd(directory)
        echo = self._coherence.echo_of(inode)
        self._coherence.before()
        try:
            os.unlink(message.name, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name), *echo)
        self._tree.table.displace(directory, message.name)
        attrs = [self._tree.attributes(directory)]
        if inode.held or status.st_nlink > 1:
            attrs.append(self._tree.attributes(inode))
        self._after_removal(inode, status.st_nlink - 1)
        return Attrs(attrs)

    def _after_removal(self, inode: Inode, names: int) -> None:
        """See what is to become of an inode that lost a name."""
        if inode.held:
            self._coherence.watch_file(inode)
        elif not names:
            self._contents.forget(inode)
            self._tree.drop(inode)

    def rmdir(self, message: Rmdir) -> Message:
        """Remove an empty directory."""
        directory, _ = self._parent(message.dir, message.name)
        inode, _ = self._tree.find(directory, message.name)
        parent = self._tree.path_fd(directory)
        self._coherence.before()
        try:
            os.rmdir(message.name, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name), (inode.wd, b""))
        self._tree.table.displace(directory, message.name)
        if not inode.held:
            self._contents.forget(inode)
            self._tree.drop(inode)
        return Attrs([self._tree.attributes(directory)])

    def rename(self, message: Rename) -> Message:
        """Rename or exchange; the answer: both directories, the file, and what it replaced."""
        if message.flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        old, _ = self._parent(message.dir, message.name)
        new, _ = self._parent(message.new_dir, message.new_name)
        inode, _ = self._tree.find(old, message.name)
        self._contents.settle_file(inode)
        replaced, names = self._replaced(new, message, inode)
        if replaced is not None:
            self._tree.path_fd(replaced)
        source, target = self._tree.path_fd(old), self._tree.path_fd(new)
        places = ((old.wd, message.name), (new.wd, message.new_name))
        self._coherence.before()
        try:
            renameat2(source, message.name, target, message.new_name, message.flags)
        finally:
            echo = self._coherence.echo_of(inode)
            self._coherence.after(*places, *echo)
        self._note_rename(message, old, new, replaced)
        attrs = [self._tree.attributes(old), self._tree.attributes(new)]
        attrs.append(self._tree.attributes(inode))
        if replaced is not None and (replaced.held or names):
            attrs.append(self._tree.attributes(replaced))
        if replaced is not None and not message.flags & RENAME_EXCHANGE:
            self._after_removal(replaced, names)
        return Attrs(attrs)

    def _replaced(self, new: Directory, message: Rename, inode: Inode) -> tuple[Inode | None, int]:
        """Return what has the new name, if it is another file, and how many names it keeps."""
        try:
            replaced, status = self._tree.find(new, message.new_name)
        except FileNotFoundError:
            return None, 0
        if replaced is inode:
            return None, 0
        if message.flags & RENAME_EXCHANGE:
            return replaced, status.st_nlink
        return replaced, 0 if isinstance(replaced, Directory) else status.st_nlink - 1

    def _note_rename(
        self, message: Rename, old: Directory, new: Directory, replaced: Inode | None
    ) -> None:
        table = self._tree.table
        if message.flags & RENAME_EXCHANGE:
            table.displace(old, message.name)
            table.displace(new, message.new_name)
            self._note_place(old, message.name)
        else:
            moved = self._stat(old, message.name) is None
            if moved:
                table.displace(old, message.name)
            if replaced is not None:
                table.displace(new, message.new_name)
        self._note_place(new, message.new_name)

    def _note_place(self, directory: Directory, name: bytes) -> None:
        status = self._stat(directory, name)
        if status is not None:
            inode = self._tree.table.place(directory, name, status)
            if isinstance(inode, Directory):
                self._tree.moved()

    def _stat(self, directory: Directory, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._tree.path_fd(directory), follow_symlinks=False)
        except FileNotFoundError:
            return None

    # shared

    def _parent(self, number: int, name: bytes) -> tuple[Directory, int]:
        directory = self._tree.table.directory(number)
        return directory, self._tree.writable_directory(directory, name)

    def _found(self, directory: Directory, name: bytes) -> Message:
        return Found(self._tree.entry(directory, name), self._tree.attributes(directory))
