"""What changes a file itself, not its names: one method per message, each answers with a message.

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
    UTIME_NOW,
    UTIME_OMIT,
    fallocate,
    split_ns,
    utimensat,
)
from stubs.home.files.resolve import PERMISSIONS, proc_path
from stubs.wire.messages import WRITE_APPEND, Attrs, Done

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.coherence import Coherence
    from stubs.home.files.contents import Contents
    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.wire.codec import Message
    from stubs.wire.messages import (
        Fallocate,
        Removexattr,
        Setattr,
        Setxattr,
        Write,
    )


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
                self._chmod(inode, path, message.mode & PERMISSIONS)
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


def _time(valid: int, given: int, now: int, time_ns: int) -> tuple[int, int]:
    if not valid & given:
        return 0, UTIME_OMIT
    if valid & now:
        return 0, UTIME_NOW
    return split_ns(time_ns)


def _check_xattr(name: bytes) -> None:
    if not name.startswith(b"user.") or b"\0" in name:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name)
