"""Changes of names and attributes, extended attributes, space: requests that home decides on.

Each waits for home, unless it can be posted (stubs.node.view.posting). Its reply carries the
attributes of everything that the change touched, so nothing has to be asked afterwards: snapshots
and attributes here follow our own changes, and the kernel updates its own caches by itself.
"""

from __future__ import annotations

import errno

from stubs.abi import fuse
from stubs.node.view.fuse import BODY
from stubs.node.view.opening import OPENED, Opening
from stubs.node.view.responder import Responder
from stubs.wire.messages import (
    Attrs,
    Create,
    Data,
    Done,
    Fallocate,
    Filesystem,
    Found,
    Getxattr,
    Link,
    Listxattr,
    Mkdir,
    Mknod,
    Offset,
    Removexattr,
    Rename,
    Rmdir,
    Seek,
    Setattr,
    Setxattr,
    Statfs,
    Symlink,
    Unlink,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.directories import Directories
    from stubs.node.view.inodes import Node
    from stubs.node.view.posting import Posting
    from stubs.node.view.reading import Reading
    from stubs.node.view.responder import Core
    from stubs.wire.codec import Message

RENAME_EXCHANGE = 2

_NS = 1_000_000_000
# Bits of fuse_setattr_in.valid that home is told; the others are about handles and caches.
_TOLD = (
    fuse.FATTR_MODE
    | fuse.FATTR_UID
    | fuse.FATTR_GID
    | fuse.FATTR_SIZE
    | fuse.FATTR_ATIME
    | fuse.FATTR_MTIME
    | fuse.FATTR_ATIME_NOW
    | fuse.FATTR_MTIME_NOW
)

# Every write and exec asks for capabilities, ls(1) for labels and ACLs: answered here. The view has
# no labels; ACLs take effect at home, which alone decides, and are not shown.
_PRIVATE_XATTRS = (b"security.", b"system.", b"trusted.")


class Changing(Responder):
    """Answers what changes home's files otherwise than by WRITE."""

    def __init__(
        self,
        core: Core,
        directories: Directories,
        opening: Opening,
        reading: Reading,
        posting: Posting,
    ) -> None:
        """Take over the opcodes of changes."""
        super().__init__(core)
        self._directories = directories
        self._opening = opening
        self._reading = reading
        self._posting = posting
        self._device.handlers.update(
            {
                fuse.FUSE_SETATTR: self._setattr,
                fuse.FUSE_CREATE: self._create,
                fuse.FUSE_MKNOD: self._mknod,
                fuse.FUSE_MKDIR: self._mkdir,
                fuse.FUSE_SYMLINK: self._symlink,
                fuse.FUSE_LINK: self._hardlink,
                fuse.FUSE_UNLINK: self._unlink,
                fuse.FUSE_RMDIR: self._rmdir,
                fuse.FUSE_RENAME: self._rename,
                fuse.FUSE_RENAME2: self._rename2,
                fuse.FUSE_FALLOCATE: self._fallocate,
                fuse.FUSE_LSEEK: self._lseek,
                fuse.FUSE_STATFS: self._statfs,
                fuse.FUSE_GETXATTR: self._getxattr,
                fuse.FUSE_SETXATTR: self._setxattr,
                fuse.FUSE_LISTXATTR: self._listxattr,
                fuse.FUSE_REMOVEXATTR: self._removexattr,
            }
        )

    def _node(self, unique: int, nodeid: int) -> Node | None:
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            self._device.error(unique, errno.ESTALE)
        return node

    def _own(self, reply: Attrs) -> None:
        for attr in reply.attrs:
            self._inodes.own(attr)

    # attributes

    def _setattr(self, unique: int, nodeid: int, _: int) -> None:
        node = self._node(unique, nodeid)
        if node is None:
            return
        fields = fuse.fuse_setattr_in.unpack_from(self._device.buffer, BODY)
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields
        target = node
        message = Setattr(
            nodeid,
            valid & _TOLD,
            mode & 0o7777,
            uid,
            gid,
            size,
            atime * _NS + atime_ns,
            mtime * _NS + mtime_ns,
            self._device.pid,
        )
        if self._posting.setattr(unique, node, message):
            return
        if valid & fuse.FATTR_SIZE:
            self._reading.discard(node)

        def done(reply: Attrs) -> None:
            self._own(reply)
            if valid & fuse.FATTR_SIZE:
                self._reading.discard(target)
                self._reading.drafts.truncate(target, size)
            self._directories.reply_attr(unique, target)

        self._uplink.request(unique, message, Attrs, done, (node,))

    def _fallocate(self, unique: int, nodeid: int, _: int) -> None:
        node = self._node(unique, nodeid)
        if node is None:
            return
        _, offset, length, mode, _ = fuse.fuse_fallocate_in.unpack_from(self._device.buffer, BODY)
        target = node
        if node.local:
            self._temporaries.announce(node)
        self._reading.discard(node)
        self._reading.drafts.end(node)

        def done(reply: Attrs) -> None:
            self._own(reply)
            self._reading.discard(target)
            self._device.error(unique, 0)

        message = Fallocate(nodeid, mode, offset, length, self._device.pid)
        self._uplink.request(unique, message, Attrs, done, (node,))

    # names that come

    def _made(self, unique: int, parent: Node, name: bytes, message: Message) -> None:
        """Ask for a new name and answer with its entry."""
        if self._posting.told_failure(unique, parent):
            return

        def found(reply: Found) -> None:
            node = self._take_in(parent, name, reply)
            self._directories.reply_entry(unique, parent, node)

        self._uplink.request(unique, message, Found, found, (parent,))

    def _take_in(self, parent: Node, name: bytes, reply: Found) -> Node:
        self._inodes.own(reply.dir)
        node = self._inodes.observe(reply.entry.attr, reply.entry.target)
        parent.directory().misses.discard(name)
        self._inodes.add_name(parent, name, node)
        return node

    def _create(self, unique: int, nodeid: int, length: int) -> None:
        flags, mode, _, _ = fuse.fuse_create_in.unpack_from(self._device.buffer, BODY)
        name = self._device.names(length, BODY + fuse.fuse_create_in.size)[0]
        parent = self._node(unique, nodeid)
        if parent is None:
            return
        directory = parent
        if self._posting.told_failure(unique, parent):
            return
        if self._posting.create(unique, parent, name, mode & 0o7777, flags):
            return

        def found(reply: Found) -> None:
            node = self._take_in(directory, name, reply)
            self._opening.count_open(node, flags)
            if node.attr.size == 0 and not node.opened().pending:
                self._reading.drafts.begin(node)
            self._directories.reply_entry(unique, directory, node, OPENED)

        message = Create(nodeid, name, mode & 0o7777, flags, 0, self._device.pid)
        self._uplink.request(unique, message, Found, found, (parent,))

    def _mknod(self, unique: int, nodeid: int, length: int) -> None:
        mode, rdev, _, _ = fuse.fuse_mknod_in.unpack_from(self._device.buffer, BODY)
        name = self._device.names(length, BODY + fuse.fuse_mknod_in.size)[0]
        parent = self._node(unique, nodeid)
        if parent is not None:
            self._made(unique, parent, name, Mknod(nodeid, name, mode, rdev, self._device.pid))

    def _mkdir(self, unique: int, nodeid: int, length: int) -> None:
        mode, _ = fuse.fuse_mkdir_in.unpack_from(self._device.buffer, BODY)
        name = self._device.names(length, BODY + fuse.fuse_mkdir_in.size)[0]
        parent = self._node(unique, nodeid)
        if parent is not None:
            self._made(unique, parent, name, Mkdir(nodeid, name, mode & 0o7777, self._device.pid))

    def _symlink(self, unique: int, nodeid: int, length: int) -> None:
        name, target = self._device.names(length)
        parent = self._node(unique, nodeid)
        if parent is not None:
            self._made(unique, parent, name, Symlink(nodeid, name, target, self._device.pid))

    def _hardlink(self, unique: int, nodeid: int, length: int) -> None:
        (old,) = fuse.fuse_link_in.unpack_from(self._device.buffer, BODY)
        name = self._device.names(length, BODY + fuse.fuse_link_in.size)[0]
        parent = self._node(unique, nodeid)
        if parent is not None:
            self._made(unique, parent, name, Link(old, nodeid, name, self._device.pid))

    # names that go

    def _unlink(self, unique: int, nodeid: int, length: int) -> None:
        name = self._device.body(length - 1)
        self._remove(unique, nodeid, name, Unlink(nodeid, name, self._device.pid))

    def _rmdir(self, unique: int, nodeid: int, length: int) -> None:
        name = self._device.body(length - 1)
        self._remove(unique, nodeid, name, Rmdir(nodeid, name, self._device.pid))

    def _remove(self, unique: int, nodeid: int, name: bytes, message: Message) -> None:
        parent = self._node(unique, nodeid)
        if parent is None:
            return
        directory = parent
        if self._posting.told_failure(unique, parent):
            return
        if type(message) is Unlink and self._posting.unlink(unique, parent, name):
            return

        def done(reply: Attrs) -> None:
            victim = directory.directory().names.get(name)
            if victim is not None:
                left = [attr for attr in reply.attrs if attr.id == victim.id]
                if not left:
                    # Home has nothing more to say about it: this was its last name.
                    victim.attr = victim.attr._replace(nlink=0)
                    victim.packed = None
            self._own(reply)
            self._inodes.remove_name(directory, name)
            self._device.error(unique, 0)

        self._opening.name_goes(parent.directory().names.get(name))
        self._uplink.request(unique, message, Attrs, done, (parent,))

    def _rename(self, unique: int, nodeid: int, length: int) -> None:
        (new_dir,) = fuse.fuse_rename_in.unpack_from(self._device.buffer, BODY)
        old, new = self._device.names(length, BODY + fuse.fuse_rename_in.size)
        self._move(unique, nodeid, old, new_dir, new, 0)

    def _rename2(self, unique: int, nodeid: int, length: int) -> None:
        new_dir, flags, _ = fuse.fuse_rename2_in.unpack_from(self._device.buffer, BODY)
        old, new = self._device.names(length, BODY + fuse.fuse_rename2_in.size)
        self._move(unique, nodeid, old, new_dir, new, flags)

    def _move(
        self, unique: int, nodeid: int, old: bytes, new_dir: int, new: bytes, flags: int
    ) -> None:
        source = self._node(unique, nodeid)
        target = self._inodes.nodes.get(new_dir)
        if source is None:
            return
        if target is None:
            self._device.error(unique, errno.ESTALE)
            return
        origin, destination = source, target
        if self._posting.told_failure(unique, source):
            return
        for node in (source.directory().names.get(old), target.directory().names.get(new)):
            if node is not None and node.local:
                self._temporaries.announce(node)

        def done(reply: Attrs) -> None:
            self._own(reply)
            self._moved(origin, old, destination, new, flags, {attr.id for attr in reply.attrs})
            self._device.error(unique, 0)

        self._opening.name_goes(target.directory().names.get(new))
        message = Rename(nodeid, old, new_dir, new, flags, self._device.pid)
        self._uplink.request(unique, message, Attrs, done, (source, target))

    def _moved(
        self, origin: Node, old: bytes, destination: Node, new: bytes, flags: int, told: set[int]
    ) -> None:
        moved = origin.directory().names.get(old)
        replaced = destination.directory().names.get(new)
        if moved is replaced and moved is not None:
            return  # two names of one file: rename(2) does nothing
        if moved is not None:
            moved.links += 1  # not to be released between two names
        if replaced is not None and flags & RENAME_EXCHANGE:
            self._inodes.add_name(origin, old, replaced)
        else:
            if replaced is not None and replaced.id not in told:
                replaced.attr = replaced.attr._replace(nlink=0)
                replaced.packed = None
            self._inodes.remove_name(origin, old)
        destination.directory().misses.discard(new)
        if moved is not None:
            self._inodes.add_name(destination, new, moved)
            moved.links -= 1
        elif replaced is not None:
            self._inodes.remove_name(destination, new)

    # space and holes

    def _lseek(self, unique: int, nodeid: int, _: int) -> None:
        _, offset, whence, _ = fuse.fuse_lseek_in.unpack_from(self._device.buffer, BODY)

        def done(reply: Offset) -> None:
            self._device.reply(unique, fuse.fuse_lseek_out.pack(reply.offset))

        self._uplink.request(unique, Seek(nodeid, offset, whence), Offset, done)

    def _statfs(self, unique: int, nodeid: int, _: int) -> None:
        def done(reply: Filesystem) -> None:
            self._device.reply(
                unique,
                fuse.fuse_statfs_out.pack(
                    reply.blocks,
                    reply.bfree,
                    reply.bavail,
                    reply.files,
                    reply.ffree,
                    reply.bsize,
                    reply.namelen,
                    reply.frsize,
                    0,
                ),
            )

        if self._inodes.get(nodeid) is None:
            nodeid = self._inodes.root.id
        self._uplink.request(unique, Statfs(nodeid), Filesystem, done)

    # extended attributes

    def _getxattr(self, unique: int, nodeid: int, length: int) -> None:
        size, _ = fuse.fuse_getxattr_in.unpack_from(self._device.buffer, BODY)
        name = self._device.body(length - 1, BODY + fuse.fuse_getxattr_in.size)
        if name == b"security.capability":
            self._device.error(unique, errno.ENODATA)
        elif name.startswith(_PRIVATE_XATTRS):
            self._device.error(unique, errno.EOPNOTSUPP)
        else:
            self._uplink.request(unique, Getxattr(nodeid, name), Data, self._sized(unique, size))

    def _listxattr(self, unique: int, nodeid: int, _: int) -> None:
        size, _ = fuse.fuse_getxattr_in.unpack_from(self._device.buffer, BODY)
        answer = self._sized(unique, size)

        def done(reply: Data) -> None:
            names = [name for name in reply.data.split(b"\0") if name]
            shown = [name + b"\0" for name in names if not name.startswith(_PRIVATE_XATTRS)]
            answer(Data(b"".join(shown)))

        self._uplink.request(unique, Listxattr(nodeid), Data, done)

    def _sized(self, unique: int, size: int) -> Callable[[Data], None]:
        def done(reply: Data) -> None:
            if not size:
                self._device.reply(unique, fuse.fuse_getxattr_out.pack(len(reply.data), 0))
            elif len(reply.data) > size:
                self._device.error(unique, errno.ERANGE)
            else:
                self._device.reply(unique, reply.data)

        return done

    def _setxattr(self, unique: int, nodeid: int, length: int) -> None:
        size, flags = fuse.fuse_setxattr_in.unpack_from(self._device.buffer, BODY)
        rest = self._device.body(length, BODY + fuse.fuse_setxattr_in.size)
        name, _, value = rest.partition(b"\0")
        if name.startswith(_PRIVATE_XATTRS):
            self._device.error(unique, errno.EOPNOTSUPP)
        else:
            message = Setxattr(nodeid, name, value[:size], flags, self._device.pid)
            self._change_xattr(unique, nodeid, message)

    def _removexattr(self, unique: int, nodeid: int, length: int) -> None:
        name = self._device.body(length - 1)
        if name.startswith(_PRIVATE_XATTRS):
            self._device.error(unique, errno.EOPNOTSUPP)
        else:
            self._change_xattr(unique, nodeid, Removexattr(nodeid, name, self._device.pid))

    def _change_xattr(self, unique: int, nodeid: int, message: Message) -> None:
        node = self._node(unique, nodeid)
        if node is None:
            return
        file = node

        def done(_: Done) -> None:
            file.until = 0.0  # the change time is not what it was
            self._device.error(unique, 0)

        self._uplink.request(unique, message, Done, done, (node,))
