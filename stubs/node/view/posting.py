"""Changes of names and attributes that are answered at once and posted: home cannot but agree.

They are posted where what the node knows proves that home will do the same: in a directory of
which it has all names and which home lets the user change freely (ATTR_OPEN), and where nothing is
decided by who comes first. What is exclusive by nature waits for home: O_EXCL, mkdir(2),
symlink(2), link(2), rename(2) are how programs take locks and claim work.

A file made so has an id of the node's (NODE_IDS), but its inode number is home's, as its times are:
who asks for attributes waits for the answers that are under way, who only passes or opens does not
(stubs.node.view.callers). What home refuses all the same (somebody there was faster, the disk is
full) is told as a refused write is: by the next call on the file, or on the directory when it is
about a name that could not be removed, and at the latest when the body ends.

Until home has answered a change of a name, what it tells of that name happened before and is
passed over (`Directory.changing`).
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.abi import fuse
from stubs.node.view.inodes import EXECUTABLE, FOREVER, WRITABLE
from stubs.node.view.opening import OPENED
from stubs.node.view.responder import Responder
from stubs.node.view.temporaries import PART, suits
from stubs.node.view.uplink import errno_of
from stubs.wire.messages import ATTR_OPEN, ATTR_PLAIN, Attrs, Create, Found, Unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.directories import Directories
    from stubs.node.view.inodes import Node
    from stubs.node.view.opening import Opening
    from stubs.node.view.reading import Reading
    from stubs.node.view.responder import Core
    from stubs.node.view.snapshots import Snapshots
    from stubs.node.view.temporaries import Temporary
    from stubs.node.view.writing import Writing
    from stubs.wire.codec import Message
    from stubs.wire.messages import Setattr

NAME_MAX = 255

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
# What ftruncate(2) and truncate(2) ask for.
_NOW = fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW
_TRUNCATIONS = (fuse.FATTR_SIZE, fuse.FATTR_SIZE | _NOW)
_OWNERS = fuse.FATTR_UID | fuse.FATTR_GID


class Posting(Responder):
    """Answers changes at once where that is sound; each method tells whether it did."""

    def __init__(
        self,
        core: Core,
        directories: Directories,
        snapshots: Snapshots,
        opening: Opening,
        reading: Reading,
        writing: Writing,
    ) -> None:
        """Post by `writing`; keep what suits in `temporaries`."""
        super().__init__(core)
        self._directories = directories
        self._snapshots = snapshots
        self._opening = opening
        self._reading = reading
        self._writing = writing

    def told_failure(self, unique: int, directory: Node) -> bool:
        """Answer with the errno of a change in the directory that was refused, if there is one."""
        if directory.file is None or not directory.file.error:
            return False
        self._device.error(unique, self._writing.told(directory))
        return True

    def _is_free(self, parent: Node, name: bytes) -> bool:
        """Tell whether `name` may be made and removed in a directory that is known in full."""
        directory = parent.dir
        needed = ATTR_OPEN if name.startswith(b".") else ATTR_PLAIN
        return (
            directory is not None
            and directory.complete
            and directory.trusted
            and directory.fresh is None
            and directory.until == FOREVER == parent.until
            and bool(parent.attr.flags & needed)
            and parent.attr.rights & (WRITABLE | EXECUTABLE) == WRITABLE | EXECUTABLE
            and parent is not self._inodes.root
            and len(name) <= NAME_MAX
            and self._writing.has_room()
        )

    # names that come

    def create(self, unique: int, parent: Node, name: bytes, mode: int, flags: int) -> bool:
        """Make a regular file where the node knows that there is nothing."""
        if not self._is_free(parent, name) or name in parent.directory().names:
            return False
        pid = self._device.pid
        if suits(parent, name, flags, mode):
            node = self._temporaries.begin(parent, name, mode, flags, pid)
        elif flags & os.O_EXCL or mode & _SPECIAL_BITS:
            return False
        else:
            node = self._inodes.make(parent, mode)
            self._inodes.add_name(parent, name, node)
            self._post_create(parent, name, node, mode, flags, pid)
            self._reading.drafts.begin(node)
        parent.directory().misses.discard(name)
        self._opening.count_open(node, flags)
        entry = self._directories.entry_out(parent, node)
        if not self._device.reply(unique, entry + OPENED):
            self._opening.count_close(node, flags)
            self._inodes.forget(node.id, 1)
        return True

    def _post_create(
        self, parent: Node, name: bytes, node: Node, mode: int, flags: int, pid: int
    ) -> None:
        shown = node.attr
        self._begin(parent, name)

        def answered(reply: Message, told: bool) -> None:
            self._end(parent, name)
            if type(reply) is not Found or reply.entry.attr.id != node.id:
                self._refused(parent, name, node, errno_of(reply), told)
                return
            self._inodes.own(reply.dir)
            attr = reply.entry.attr
            self._inodes.own(attr)
            # An ACL of the directory, or a mount option, has it otherwise.
            if (attr.mode, attr.uid, attr.gid) != (shown.mode, shown.uid, shown.gid):
                self._notifier.attributes(node)

        message = Create(parent.id, name, mode, flags, node.id, pid)
        self._writing.post(message, (node, parent), answered)

    def _refused(self, parent: Node, name: bytes, node: Node, code: int, told: bool) -> None:
        if parent.directory().names.get(name) is node:
            self._snapshots.changed(parent, name, None)
        self._snapshots.distrust(parent)
        self._writing.failed(node, code, told)

    def tell_temporary(self, node: Node, held: Temporary) -> None:
        """Make a file at home that was kept here until now."""
        if held.parent.directory().fresh is not None:
            # It was asked for before home hears of the file.
            self._inodes.add_fresh(held.parent, held.name, node)
        self._post_create(held.parent, held.name, node, held.mode, held.flags, held.pid)
        self._reading.drafts.begin(node)
        content = bytes(held.content)
        for start in range(0, len(content), PART):
            part = content[start : start + PART]
            self._writing.put(node, start, part, False, held.pid)
            self._reading.drafts.write(node, start, part)
        if node.opened().opens:
            self._opening.hold(node)
        # Its times are home's from now on.
        self._notifier.attributes(node)

    # names that go

    def unlink(self, unique: int, parent: Node, name: bytes) -> bool:
        """Remove a file or symbolic link that the user may remove."""
        node = parent.directory().names.get(name)
        if node is not None and node.local and self._temporaries.remove(node):
            self._device.error(unique, 0)
            return True
        if node is None or not self._is_free(parent, name) or not self._may_remove(parent, node):
            return False
        self._opening.name_goes(node)
        self._begin(parent, name)
        removed = node

        def answered(reply: Message, told: bool) -> None:
            self._end(parent, name)
            if type(reply) is Attrs:
                for attr in reply.attrs:
                    self._inodes.own(attr)
            elif errno_of(reply) == errno.ENOENT:
                parent.until = 0.0  # somebody at home did the same
            else:
                removed.until = 0.0
                self._snapshots.distrust(parent)
                self._writing.failed(parent, errno_of(reply), told)

        message = Unlink(parent.id, name, self._device.pid)
        self._writing.post(message, (parent, node), answered)
        self._inodes.change(node, nlink=max(0, node.attr.nlink - 1))
        self._inodes.remove_name(parent, name)
        self._device.error(unique, 0)
        return True

    def _may_remove(self, parent: Node, node: Node) -> bool:
        kind = stat.S_IFMT(node.attr.mode)
        if not node.id or node.volatile or kind not in (stat.S_IFREG, stat.S_IFLNK):
            return False
        owners = self._inodes.owners
        sticky = parent.attr.mode & stat.S_ISVTX
        return not sticky or owners.is_users(node.attr) or owners.is_users(parent.attr)

    # attributes

    def setattr(self, unique: int, node: Node, message: Setattr) -> bool:
        """Change mode, times or size (to less) of a file of the user's."""
        valid = message.valid
        if node.local:
            if valid in _TRUNCATIONS and self._temporaries.truncate(node, message.size):
                self._directories.reply_attr(unique, node)
                return True
            if node.local:
                self._temporaries.announce(node)
        if not self._may_set(node, message):
            return False
        self._writing.post_change(node, message)
        state = node.opened()
        if valid & fuse.FATTR_SIZE:
            self._reading.discard(node)
            self._reading.drafts.truncate(node, message.size)
            state.size = message.size
        changed = {"size": state.size}
        if valid & fuse.FATTR_MODE:
            changed["mode"] = stat.S_IFREG | message.mode
            changed["rights"] = self._inodes.owners.rights(message.mode)
        if valid & fuse.FATTR_ATIME and not valid & fuse.FATTR_ATIME_NOW:
            changed["atime_ns"] = message.atime_ns
        if valid & fuse.FATTR_MTIME and not valid & fuse.FATTR_MTIME_NOW:
            changed["mtime_ns"] = message.mtime_ns
        self._inodes.change(node, **changed)
        self._directories.reply_attr(unique, node)
        return True

    def _may_set(self, node: Node, message: Setattr) -> bool:
        attr = node.attr
        if (
            not stat.S_ISREG(attr.mode)
            or not self._inodes.owners.is_users(attr)
            or not attr.rights & WRITABLE
            or node.volatile
            or node.until != FOREVER
            or message.valid & _OWNERS
            or (attr.mode | message.mode) & _SPECIAL_BITS
            or not self._writing.has_room()
        ):
            return False
        size = node.opened().size if node.pending else attr.size
        if size < 0 or not message.valid:
            return False
        return not message.valid & fuse.FATTR_SIZE or message.size <= size

    # names under way

    def _begin(self, parent: Node, name: bytes) -> None:
        changing = parent.directory().changing
        changing[name] = changing.get(name, 0) + 1

    def _end(self, parent: Node, name: bytes) -> None:
        changing = parent.directory().changing
        left = changing.get(name, 0) - 1
        if left > 0:
            changing[name] = left
        else:
            changing.pop(name, None)
