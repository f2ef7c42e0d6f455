"""The operations that change home's files: one method per message, each answers with a message.

Every one is enclosed by `before` and `after` of the coherence, so that the node is not told of its
own doing. All act with the user's rights, under the export policy, and raise OSError for the body.
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.abi.fcntl import OFFSET_MAX
from stubs.abi.fuse import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_GID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
)
from stubs.abi.stat import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UTIME_NOW,
    UTIME_OMIT,
    fallocate,
    renameat2,
    split_ns,
    utimensat,
)
from stubs.home.inodes import Directory, stale
from stubs.home.resolve import proc_path
from stubs.wire.codec import Entry
from stubs.wire.messages import WRITE_APPEND, Attrs, Done, Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.coherence import Coherence
    from stubs.home.contents import Contents
    from stubs.home.inodes import Inode
    from stubs.home.resolve import Tree
    from stubs.wire.codec import Attr, Message
    from stubs.wire.messages import (
        Create,
        Fallocate,
        Link,
        Mkdir,
        Mknod,
        Removexattr,
        Rename,
        Rmdir,
        Setattr,
        Setxattr,
        Symlink,
        Unlink,
        Write,
    )

# How a file that Create makes or opens is opened.
_CREATE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# Bits of a mode that a program may choose.
_PERMISSIONS = 0o7777


class Changes:
    """Operations that modify."""

    def __init__(self, tree: Tree, contents: Contents, coherence: Coherence) -> None:
        """Work on `tree`."""
        self._tree = tree
        self._contents = contents
        self._coherence = coherence

    # contents

    def write(self, message: Write) -> None:
        """Write all of `message.data`, or raise OSError."""
        inode = self._tree.table.get(message.id)
        data = memoryview(message.data)
        if message.offset + len(data) > OFFSET_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._coherence.before()
        try:
            fd = self._contents.writer(inode)
            if message.flags & WRITE_APPEND:
                self._append(inode, fd, data)
            else:
                offset = message.offset
                while data:
                    count = os.pwrite(fd, data, offset)
                    data = data[count:]
                    offset += count
        finally:
            self._coherence.after(*self._coherence.echo_of(inode))

    def _append(self, inode: Inode, fd: int, data: memoryview) -> None:
        expected = inode.size + len(data)
        while data:
            data = data[os.pwritev(fd, [data], 0, os.RWF_APPEND) :]
        if os.fstat(fd).st_size != expected:
            # Others have appended too: what the node has of the file lacks their part.
            self._coherence.changed(inode)

    def setattr(self, message: Setattr) -> Message:
        """Change size, owner, mode and times, in this order: each would undo what comes later."""
        inode = self._tree.table.get(message.id)
        if self._tree.readonly(inode):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        fd = self._tree.path_fd(inode)
        path = proc_path(fd)
        valid = message.valid
        self._coherence.before()
        try:
            if valid & FATTR_SIZE:
                self._truncate(inode, message.size)
            if valid & (FATTR_UID | FATTR_GID):
                uid = message.uid if valid & FATTR_UID else -1
                gid = message.gid if valid & FATTR_GID else -1
                os.chown(path, uid, gid)
            if valid & FATTR_MODE:
                self._chmod(inode, path, message.mode & _PERMISSIONS)
            if valid & (FATTR_ATIME | FATTR_MTIME):
                utimensat(
                    path,
                    _time(valid, FATTR_ATIME, FATTR_ATIME_NOW, message.atime_ns),
                    _time(valid, FATTR_MTIME, FATTR_MTIME_NOW, message.mtime_ns),
                )
        finally:
            self._coherence.after(*self._coherence.echo_of(inode))
        return Attrs([self._tree.attributes(inode)])

    def _truncate(self, inode: Inode, size: int) -> None:
        if inode.kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if inode.kind != stat.S_IFREG or size > OFFSET_MAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.ftruncate(self._contents.writer(inode), size)

    def _chmod(self, inode: Inode, path: bytes, mode: int) -> None:
        if inode.kind == stat.S_IFLNK:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        taken = 0
        if inode.held:
            taken = stat.S_IMODE(os.stat(path).st_mode) & ~mode & (stat.S_IRUSR | stat.S_IWUSR)
        # A file that becomes executable is about to be executed.
        self._contents.settle_file(inode)
        os.chmod(path, mode)
        if taken:
            inode.revoked = True

    def fallocate(self, message: Fallocate) -> Message:
        """Allocate or punch space."""
        inode = self._tree.table.get(message.id)
        if max(message.offset, message.length) > OFFSET_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._coherence.before()
        try:
            mode = message.mode & 0x7FFFFFFF
            fallocate(self._contents.writer(inode), mode, message.offset, message.length)
        finally:
            self._coherence.after(*self._coherence.echo_of(inode))
        return Attrs([self._tree.attributes(inode)])

    # names that come

    def create(self, message: Create) -> Message:
        """Make a regular file, or open the one that is there."""
        directory = self._tree.table.directory(message.dir)
        parent = self._tree.writable_directory(directory, message.name)
        access = message.flags & os.O_ACCMODE
        if access not in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._coherence.before()
        try:
            mode = message.mode & _PERMISSIONS
            flags = access | os.O_CREAT | os.O_EXCL | _CREATE_FLAGS
            try:
                fd = os.open(message.name, flags, mode, dir_fd=parent)
            except FileExistsError:
                if message.flags & os.O_EXCL:
                    raise
                return self._open_existing(directory, message)
        finally:
            self._coherence.after((directory.wd, message.name))
        inode = self._tree.table.place(directory, message.name, os.fstat(fd))
        self._contents.add_created(inode, fd, access, mode)
        return self._found(directory, message.name)

    def _open_existing(self, directory: Directory, message: Create) -> Message:
        inode, _ = self._tree.find(directory, message.name)
        if inode.kind != stat.S_IFREG:
            # The node believed that there was nothing: let it look again.
            raise stale(os.fsdecode(message.name))
        access = message.flags & os.O_ACCMODE
        if access != os.O_WRONLY:
            self._contents.reader(inode)
        if access != os.O_RDONLY:
            fd = self._contents.writer(inode)
            if message.flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
        return self._found(directory, message.name)

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
            os.mknod(message.name, kind | message.mode & _PERMISSIONS, 0, dir_fd=parent)
        finally:
            self._coherence.after((directory.wd, message.name))
        return self._found(directory, message.name)

    def mkdir(self, message: Mkdir) -> Message:
        """Make a directory."""
        directory = self._tree.table.directory(message.dir)
        parent = self._tree.writable_directory(directory, message.name, mkdir=True)
        self._coherence.before()
        try:
            os.mkdir(message.name, message.mode & _PERMISSIONS, dir_fd=parent)
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

    # extended attributes

    def setxattr(self, message: Setxattr) -> Message:
        """Set an attribute of the user's name space; EOPNOTSUPP for any other."""
        inode = self._tree.table.get(message.id)
        _check_xattr(message.name)
        if self._tree.readonly(inode):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        path = proc_path(self._tree.path_fd(inode))
        self._coherence.before()
        try:
            os.setxattr(path, message.name, message.value, message.flags & 3)
        finally:
            self._coherence.after(*self._coherence.echo_of(inode))
        return Done()

    def removexattr(self, message: Removexattr) -> Message:
        """Remove an attribute of the user's name space."""
        inode = self._tree.table.get(message.id)
        _check_xattr(message.name)
        if self._tree.readonly(inode):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        path = proc_path(self._tree.path_fd(inode))
        self._coherence.before()
        try:
            os.removexattr(path, message.name)
        finally:
            self._coherence.after(*self._coherence.echo_of(inode))
        return Done()

    # shared

    def _parent(self, number: int, name: bytes) -> tuple[Directory, int]:
        directory = self._tree.table.directory(number)
        return directory, self._tree.writable_directory(directory, name)

    def _found(self, directory: Directory, name: bytes) -> Message:
        entry: Entry = self._tree.entry(directory, name)
        parent: Attr = self._tree.attributes(directory)
        return Found(entry, parent)


def _time(valid: int, given: int, now: int, time_ns: int) -> tuple[int, int]:
    if not valid & given:
        return 0, UTIME_OMIT
    if valid & now:
        return 0, UTIME_NOW
    return split_ns(time_ns)


def _check_xattr(name: bytes) -> None:
    if not name.startswith(b"user.") or b"\0" in name:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name)
