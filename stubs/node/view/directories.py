"""Names: LOOKUP, READDIR and READLINK, answered from snapshots of whole directories.

The first look into a directory asks home once for all its names and attributes; home watches it
from then on, so that hits and misses are answered here until an Invalidate says otherwise. While a
large directory is still coming, and in one that is too large or may not be listed, names are asked
for one by one.
"""

from __future__ import annotations

import errno
import stat

from stubs.abi import fuse
from stubs.node.view.callers import Callers
from stubs.node.view.fuse import BODY
from stubs.node.view.inodes import DAY, FOREVER, VOLATILE_SECONDS, Node
from stubs.node.view.responder import Responder
from stubs.node.view.walk import Walk
from stubs.wire.messages import (
    Attrs,
    Data,
    Found,
    Getattr,
    Lookup,
    Readlink,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.inodes import Directory
    from stubs.node.view.responder import Core
    from stubs.node.view.snapshots import Snapshots

NAME_MAX = 255  # include/uapi/linux/limits.h; FUSE itself has names of up to 1024 bytes

# Names per directory of which we remember that the kernel remembers their absence.
MAX_MISSES = 8192

_ENTRY = fuse.fuse_out_header.pack
_ENTRY_OUT = fuse.fuse_entry_out.pack
_ENTRY_SIZE = fuse.fuse_entry_out.size + fuse.fuse_attr.size
_ATTR_OUT = fuse.fuse_attr_out.pack
_DIRENT = fuse.fuse_dirent.pack
_NO_ENTRY = bytes(_ENTRY_SIZE)
# FUSE_UNKNOWN_INO in fs/fuse: readdir(3) takes number 0 for a name that was removed.
_UNKNOWN_INO = 0xFFFFFFFF


class Directories(Responder):
    """Answers questions about names."""

    def __init__(self, core: Core, snapshots: Snapshots) -> None:
        """Take over the opcodes of names."""
        super().__init__(core)
        # Asked before an inode's attributes are given out; set by the view.
        self.when_written: Callable[[Node, Callable[[], None]], None] = lambda node, then: then()
        self.hidden: Callable[[int, int, bytes], bool] = lambda unique, id_, name: False
        self.callers = Callers()
        self._snapshots = snapshots
        self._walk = Walk(snapshots)
        snapshots.awaken = self._awaken
        self._device.handlers.update(
            {
                fuse.FUSE_LOOKUP: self._lookup,
                fuse.FUSE_FORGET: self._forget,
                fuse.FUSE_BATCH_FORGET: self._batch_forget,
                fuse.FUSE_GETATTR: self._getattr,
                fuse.FUSE_READLINK: self._readlink,
                fuse.FUSE_READDIR: self._readdir,
                fuse.FUSE_READDIRPLUS: self._readdirplus,
            }
        )

    # replies

    def entry_out(self, parent: Node, node: Node) -> bytes:
        """Return fuse_entry_out and fuse_attr of a node, counting the reference it gives."""
        node.lookups += 1
        directory = parent.dir
        if directory is not None and directory.until == FOREVER == parent.until:
            name_valid = DAY
        else:
            name_valid = VOLATILE_SECONDS
        valid, valid_ns = self._validity(node)
        return _ENTRY_OUT(node.id, 0, name_valid, valid, 0, valid_ns) + self._inodes.packed(node)

    def _validity(self, node: Node) -> tuple[int, int]:
        """Return for how long the kernel may believe the attributes, in s and ns."""
        if node.pending:
            return 0, 0  # its times are home's to give
        if node.until == FOREVER:
            return DAY, 0
        left = node.until - self._clock()
        return (0, 0) if left <= 0 else (int(left), int(left % 1 * 1e9))

    def attr_out(self, node: Node) -> bytes:
        """Return fuse_attr_out and fuse_attr of a node."""
        valid, valid_ns = self._validity(node)
        return _ATTR_OUT(valid, valid_ns, 0) + self._inodes.packed(node)

    def reply_entry(self, unique: int, parent: Node, node: Node, more: bytes = b"") -> None:
        """Answer with an entry (and `more`), once no write to it is under way."""
        if node.pending:
            self._uplink.wait(unique, (parent,))
            self.when_written(node, lambda: self._reply_late(unique, parent, node, more))
        elif not self._device.reply(unique, self.entry_out(parent, node) + more):
            self._inodes.forget(node.id, 1)

    def _reply_late(self, unique: int, parent: Node, node: Node, more: bytes) -> None:
        self._uplink.waited(unique)
        self.reply_entry(unique, parent, node, more)

    def reply_attr(self, unique: int, node: Node) -> None:
        """Answer with attributes as they are known here."""
        self._device.reply(unique, self.attr_out(node))

    def _reply_miss(self, unique: int, directory: Directory, name: bytes) -> None:
        seconds = VOLATILE_SECONDS
        room = name in directory.misses or len(directory.misses) < MAX_MISSES
        if room and not directory.unlistable and directory.until == FOREVER:
            directory.misses.add(name)
            seconds = DAY
        self._device.reply(unique, _ENTRY_OUT(0, 0, seconds, 0, 0, 0) + _NO_ENTRY[40:])

    # LOOKUP

    def _lookup(self, unique: int, nodeid: int, length: int) -> None:
        name = bytes(self._device.view[BODY : length - 1])
        parent = self._inodes.nodes.get(nodeid)
        if parent is None:
            if not self.hidden(unique, nodeid, name):
                self._device.error(unique, errno.ESTALE)
            return
        if self._snapshots.note is not None:
            self._snapshots.note(parent)
        directory = parent.dir
        known = directory.names.get(name) if directory is not None else None
        if known is not None and known.local:
            self.reply_entry(unique, parent, known)
            return
        if (
            directory is not None
            and directory.trusted
            and (directory.until == FOREVER or directory.until > self._clock())
        ):
            child = directory.names.get(name)
            if child is not None and child.id:
                self.reply_entry(unique, parent, child)
                return
            if child is None and directory.complete and len(name) <= NAME_MAX:
                if parent is not self._inodes.root or not self.hidden(unique, nodeid, name):
                    self._reply_miss(unique, directory, name)
                return
        self._lookup_at_home(unique, parent, name)

    def _lookup_at_home(self, unique: int, parent: Node, name: bytes) -> None:
        if len(name) > NAME_MAX:
            self._device.error(unique, errno.ENAMETOOLONG)
            return
        if parent is self._inodes.root and self.hidden(unique, parent.id, name):
            return
        directory = parent.directory()
        if directory.fresh is None:
            if directory.large or directory.unlistable or directory.complete:
                self._lookup_one(unique, parent, name)
                return
        elif name in directory.fresh:
            self.reply_entry(unique, parent, directory.fresh[name])
            return
        elif directory.fresh:
            # The first part has come and others will: a single name comes sooner by itself.
            self._lookup_one(unique, parent, name)
            return
        self._uplink.wait(unique, (parent,))
        self._uplink.traffic.waits()
        directory.waiting.setdefault(name, []).append(unique)
        self._snapshots.load(parent)

    def _lookup_one(self, unique: int, parent: Node, name: bytes) -> None:
        def found(reply: Found) -> None:
            if self._uplink.is_dead(reply.entry.attr.id):
                self._lookup_one(unique, parent, name)
                return
            self._inodes.observe(reply.dir)
            node = self._inodes.observe(reply.entry.attr, reply.entry.target)
            self._inodes.add_name(parent, name, node)
            self.reply_entry(unique, parent, node)

        def refused(code: int) -> None:
            if code == errno.ENOENT:
                self._inodes.remove_name(parent, name)
                self._reply_miss(unique, parent.directory(), name)
            else:
                self._device.error(unique, code)

        self._uplink.request(unique, Lookup(parent.id, name), Found, found, (parent,), refused)

    def _awaken(self, unique: int, parent: Node, name: bytes, code: int) -> None:
        """Answer a LOOKUP that waited for a snapshot, or ask for its name alone."""
        self._uplink.waited(unique)
        directory = parent.directory()
        known = directory.names if directory.fresh is None else directory.fresh
        node = known.get(name)
        if node is not None and node.id:
            self.reply_entry(unique, parent, node)
        elif code and not directory.unlistable:
            self._device.error(unique, code)
        elif directory.complete and node is None:
            self._reply_miss(unique, directory, name)
        else:
            self._lookup_one(unique, parent, name)

    # FORGET, GETATTR, READLINK

    def _forget(self, _: int, nodeid: int, __: int) -> None:
        self._inodes.forget(nodeid, fuse.fuse_forget_in.unpack_from(self._device.buffer, BODY)[0])

    def _batch_forget(self, _: int, __: int, length: int) -> None:
        start = BODY + fuse.fuse_batch_forget_in.size
        for nodeid, count in fuse.fuse_forget_one.iter_unpack(self._device.view[start:length]):
            self._inodes.forget(nodeid, count)

    def _getattr(self, unique: int, nodeid: int, _: int) -> None:
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            if not self.hidden(unique, nodeid, b""):
                self._device.error(unique, errno.ESTALE)
        elif not node.pending:
            self.give_attr(unique, node)
        elif not self._answered_at_once(unique, node):
            self._uplink.wait(unique)
            self._uplink.traffic.waits()
            self.when_written(node, lambda: self._getattr_late(unique, node))

    def _answered_at_once(self, unique: int, node: Node) -> bool:
        """Answer who wants to know no more than is known while home's answer is under way.

        Every change of names makes the kernel ask for the attributes of the directory before it
        lets anybody pass through it; it has use for mode and owner only.
        """
        if not self.callers.takes_mode_and_size_only(self._device.pid):
            return False
        if stat.S_ISREG(node.attr.mode):
            size = node.opened().size
            if size < 0:
                return False
            if size != node.attr.size:
                self._inodes.change(node, size=size)
        self.reply_attr(unique, node)
        return True

    def _getattr_late(self, unique: int, node: Node) -> None:
        self._uplink.waited(unique)
        self.give_attr(unique, node)

    def give_attr(self, unique: int, node: Node) -> None:
        """Answer with attributes, asking home unless they are known."""
        if self._inodes.fresh(node):
            self._device.reply(unique, self.attr_out(node))
        else:
            self.refresh(unique, node, lambda: self.reply_attr(unique, node))

    def refresh(self, unique: int, node: Node, then: Callable[[], None]) -> None:
        """Ask home for the attributes of a node, then go on."""

        def got(reply: Attrs) -> None:
            for attr in reply.attrs:
                self._inodes.observe(attr)
            if stat.S_ISREG(node.attr.mode):
                self._notifier.contents_dropped(node, then)
            else:
                then()  # the asker may hold the lock of a directory that a notice waits for

        self._uplink.request(unique, Getattr(node.id), Attrs, got)

    def _readlink(self, unique: int, nodeid: int, _: int) -> None:
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            self._device.error(unique, errno.ESTALE)
        elif node.target:
            self._device.reply(unique, node.target)
        else:

            def got(reply: Data) -> None:
                node.target = reply.data
                self._device.reply(unique, reply.data)

            self._uplink.request(unique, Readlink(nodeid), Data, got)

    # READDIR

    def _readdir(self, unique: int, nodeid: int, _: int) -> None:
        self._list(unique, nodeid, plus=False)

    def _readdirplus(self, unique: int, nodeid: int, _: int) -> None:
        self._list(unique, nodeid, plus=True)

    def _list(self, unique: int, nodeid: int, plus: bool) -> None:
        _, offset, size, _, _, _, _ = fuse.fuse_read_in.unpack_from(self._device.buffer, BODY)
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            if not self.hidden(unique, nodeid, b"/"):
                self._device.error(unique, errno.ESTALE)
            return
        if self._snapshots.note is not None:
            self._snapshots.note(node)
        directory = node.directory()
        if not offset:
            self._walk.listed(node)
        current = directory.until == FOREVER or directory.until > self._clock()
        if directory.complete and directory.trusted and (current or offset):
            self._reply_listing(unique, node, directory, offset, size, plus)
            return

        def ready(code: int) -> None:
            self._uplink.waited(unique)
            if code:
                self._device.error(unique, code)
            else:
                self._reply_listing(unique, node, directory, offset, size, plus)

        directory.complete = False
        directory.large = False
        self._uplink.traffic.waits()
        self._uplink.wait(unique, (node,))
        directory.ready.append(ready)
        self._snapshots.load(node, whole=True)

    def _reply_listing(
        self, unique: int, node: Node, directory: Directory, offset: int, size: int, plus: bool
    ) -> None:
        parts: list[bytes] = []
        given: list[Node] = []
        left = size
        order = directory.listing(afresh=offset == 0)
        for position in range(offset, len(order) + 2):
            if position < 2:
                name = b".." if position else b"."
                child = (node.parent or node) if position else node
            else:
                known = order[position - 2]
                if known is None:
                    continue
                name = known
                child = directory.names[name]
            need = (len(name) + 31) & ~7
            if plus:
                need += _ENTRY_SIZE
            if need > left:
                break
            left -= need
            if plus:
                # While a write is under way its size would be wrong: then without attributes.
                if position < 2 or child.pending or not child.id:
                    parts.append(_NO_ENTRY)
                else:
                    parts.append(self.entry_out(node, child))
                    given.append(child)
            kind = stat.S_IFMT(child.attr.mode) >> 12
            ino = child.attr.ino or _UNKNOWN_INO
            parts.append(_DIRENT(ino, position + 1, len(name), kind))
            parts.append(name + bytes(-len(name) & 7))
        if not self._device.reply(unique, b"".join(parts)):
            for child in given:
                self._inodes.forget(child.id, 1)
