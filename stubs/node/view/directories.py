"""Names: LOOKUP, READDIR and READLINK, answered from snapshots of whole directories.

The first look into a directory asks home once for all its names and attributes; home watches it
from then on, so that hits and misses are answered here until an Invalidate says otherwise. While a
large directory is still coming, and in one that is too large or may not be listed, names are asked
for one by one. A directory of which home says that it must be forgotten is asked for again at once
and compared: only what became different is taken from the kernel.
"""

from __future__ import annotations

import errno
import stat
from collections import deque

from stubs.abi import fuse
from stubs.node.view.fuse import BODY
from stubs.node.view.inodes import DAY, FOREVER, VOLATILE_SECONDS, Node
from stubs.wire.messages import (
    Attrs,
    Data,
    Error,
    Found,
    Getattr,
    Listing,
    Lookup,
    Readlink,
    Snapshot,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.fuse import Device
    from stubs.node.view.inodes import Directory, Inodes
    from stubs.node.view.invalidation import Notifier
    from stubs.node.view.uplink import Uplink
    from stubs.wire.codec import Change, Message

NAME_MAX = 255  # include/uapi/linux/limits.h; FUSE itself has names of up to 1024 bytes

# A directory with more names than this is not fetched for the sake of one of them.
LARGE = 10_000

# Names in all snapshots together, some 800 bytes each; beyond it the oldest ones are given up.
MAX_NAMES = 15_000

# Inodes beyond which the kernel is asked to let go of those of a snapshot that is given up.
MAX_NODES = 25_000

# So many directories listed in one directory, and it is taken for a walk through the tree; so
# many others are then fetched at once, and so many remembered to be fetched.
WALK = 2
MAX_AHEAD = 16
MAX_TO_LIST = 256

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


class Directories:
    """Answers questions about names."""

    def __init__(
        self,
        device: Device,
        uplink: Uplink,
        inodes: Inodes,
        notifier: Notifier,
        clock: Callable[[], float],
    ) -> None:
        """Take over the opcodes of names."""
        # Asked before an inode's attributes are given out; set by the view.
        self.when_written: Callable[[Node, Callable[[], None]], None] = lambda node, then: then()
        self.hidden: Callable[[int, int, bytes], bool] = lambda unique, id_, name: False
        self._device = device
        self._uplink = uplink
        self._inodes = inodes
        self._notifier = notifier
        self._clock = clock
        self._complete: dict[Node, int] = {}  # snapshots by age, with their sizes
        self._held_names = 0
        self._to_list: deque[Node] = deque(maxlen=MAX_TO_LIST)
        self._listing_ahead = 0
        device.handlers.update(
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
        if node.file is not None and node.file.pending:
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
        directory = parent.dir
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
        self._uplink.round_trips += 1
        directory.waiting.setdefault(name, []).append(unique)
        self._load(parent, whole=False)

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

    # snapshots

    def _load(self, parent: Node, whole: bool) -> None:
        """Fetch the names of a directory; `whole`: all of them, however many."""
        directory = parent.directory()
        if directory.fresh is not None:
            return
        directory.fresh = {}
        serial = self._notifier.begin() if not directory.trusted else 0
        parent.busy += 1

        def part(reply: Message) -> None:
            if type(reply) is Listing:
                if any(self._uplink.is_dead(entry.attr.id) for entry in reply.entries):
                    directory.fresh = {}
                    self._uplink.ask(Snapshot(parent.id, 0), part)
                    return
                self._take_part(parent, directory, reply)
                if reply.cookie and directory.fresh is not None:
                    gathered = len(directory.fresh)
                    if whole or directory.ready or gathered <= LARGE or not directory.trusted:
                        self._uplink.ask(Snapshot(parent.id, reply.cookie), part)
                        return
                    directory.large = True
                self._loaded(parent, directory, 0)
            else:
                code = reply.errno if type(reply) is Error and reply.errno > 0 else errno.EIO
                if code == errno.ESTALE:
                    self.lost(parent)
                self._loaded(parent, directory, code)
            parent.busy -= 1
            if not parent.busy:
                self._notifier.unpark(parent)
            if serial:
                self._notifier.finish(serial)
            self._inodes.release(parent)

        self._uplink.ask(Snapshot(parent.id, 0), part)

    def _take_part(self, parent: Node, directory: Directory, reply: Listing) -> None:
        self._inodes.observe(reply.dir)
        fresh = directory.fresh
        assert fresh is not None
        observe = self._inodes.observe
        for name, attr, target in reply.entries:
            if attr.id:
                node = observe(attr, target)
            else:
                # A directory that may be read but not searched: there is only the name.
                node = Node(attr, target)
                node.until = 0.0
            fresh[name] = node
            node.parent = parent
            node.name = name
        for name in [name for name in directory.waiting if name in fresh]:
            for unique in directory.waiting.pop(name):
                self._uplink.waited(unique)
                self.reply_entry(unique, parent, fresh[name])
        if reply.cookie:
            # What was not in this part comes sooner by itself than with the last one.
            for name, uniques in list(directory.waiting.items()):
                for unique in uniques:
                    self._uplink.waited(unique)
                    self._lookup_one(unique, parent, name)
            directory.waiting.clear()

    def _loaded(self, parent: Node, directory: Directory, code: int) -> None:
        """Make what was gathered the snapshot; `code`: it was refused with this errno."""
        fresh, directory.fresh = directory.fresh, None
        assert fresh is not None
        if code == 0 and not directory.large:
            self._replace(parent, directory, fresh)
            directory.complete = True
            self._account(parent, directory)
        elif code == 0:
            for name, node in fresh.items():
                self._inodes.add_name(parent, name, node)
        elif code in (errno.EACCES, errno.EPERM):
            directory.unlistable = True
        directory.trusted = code == 0 or directory.unlistable
        directory.until = FOREVER
        if parent.until != FOREVER:
            directory.until = self._clock() + VOLATILE_SECONDS
        waiting, directory.waiting = directory.waiting, {}
        ready, directory.ready = directory.ready, []
        for name, uniques in waiting.items():
            for unique in uniques:
                self._uplink.waited(unique)
                self._answer_waiting(unique, parent, directory, name, code)
        for call in ready:
            call(code)
        self._queue_children(parent)

    def _answer_waiting(
        self, unique: int, parent: Node, directory: Directory, name: bytes, code: int
    ) -> None:
        node = directory.names.get(name)
        if node is not None:
            self.reply_entry(unique, parent, node)
        elif directory.complete and code == 0:
            self._reply_miss(unique, directory, name)
        elif directory.unlistable or directory.large:
            self._lookup_one(unique, parent, name)
        else:
            self._device.error(unique, code)

    def _replace(self, parent: Node, directory: Directory, fresh: dict[bytes, Node]) -> None:
        """Put `fresh` in the place of the names known, and tell the kernel what is different."""
        for name, node in list(directory.names.items()):
            if fresh.get(name) is not node:
                self.changed(parent, name, None)
        for name in [name for name in directory.misses if name in fresh]:
            directory.misses.discard(name)
            self._notifier.entry(parent, name)
        for name, node in fresh.items():
            self._inodes.add_name(parent, name, node)

    def _account(self, parent: Node, directory: Directory) -> None:
        """Give up the oldest snapshots when there are too many names."""
        self._held_names += len(directory.names) - self._complete.pop(parent, 0)
        self._complete[parent] = len(directory.names)
        while self._held_names > MAX_NAMES and len(self._complete) > 1:
            oldest = next(iter(self._complete))
            self._held_names -= self._complete.pop(oldest)
            self._shrink(oldest)

    def _shrink(self, parent: Node) -> None:
        """Keep of a snapshot only the names that the kernel knows: it has to be told of changes.

        When there are too many, the kernel forgets files that nobody has opened.
        """
        directory = parent.dir
        if directory is None or directory.fresh is not None:
            return
        directory.complete = False
        directory.order.clear()
        directory.index.clear()
        crowded = len(self._inodes.nodes) > MAX_NODES
        for name, node in list(directory.names.items()):
            if not node.lookups:
                self._inodes.remove_name(parent, name)
            elif crowded and node.file is None and not stat.S_ISDIR(node.attr.mode):
                self._notifier.entry(parent, name)
                self._inodes.remove_name(parent, name)

    # changes at home

    def changed(self, parent: Node, name: bytes, node: Node | None) -> None:
        """Take in that `name` is now `node` (None: gone); tell the kernel if it knew otherwise."""
        directory = parent.dir
        if directory is None:
            return
        old = directory.names.get(name)
        if node is None:
            self._inodes.remove_name(parent, name)
        elif directory.complete or directory.fresh is not None or old is not None:
            self._inodes.add_name(parent, name, node)
        missed = name in directory.misses
        directory.misses.discard(name)
        if old is node:
            old = None
        if missed or (old is not None and old.lookups):
            self._notifier.entry(parent, name)
        if old is not None and old.attr.nlink > 1:
            # Its other names show the link count, too.
            old.until = 0.0
            self._notifier.attributes(old)

    def apply(self, change: Change) -> None:
        """Take in one Change of an Invalidate."""
        parent = self._inodes.get(change.dir)
        if parent is None:
            return
        node = None
        if change.attr is not None and self._uplink.is_dead(change.attr.id):
            self.distrust(parent)
        elif change.attr is not None:
            before = self._inodes.get(change.attr.id)
            old = before.attr if before is not None else None
            node = self._inodes.observe(change.attr, change.target)
            if old is not None and old != change.attr:
                self._notifier.attributes(node)
        self.changed(parent, change.name, node)
        if node is not None:
            self._inodes.release(node)

    def distrust(self, parent: Node) -> None:
        """Ask again for the names of a directory, and for its attributes."""
        parent.until = 0.0
        self._notifier.contents(parent)
        directory = parent.dir
        if directory is not None and directory.fresh is None:
            directory.trusted = False
            directory.complete = False
            directory.large = directory.unlistable = False
            if directory.names or directory.misses:
                self._load(parent, whole=False)

    def lost(self, node: Node) -> None:
        """Take in that home does not know this inode any more: what has its name now is another."""
        parent = node.parent
        if parent is not None and parent.dir is not None:
            if parent.dir.names.get(node.name) is node:
                self.changed(parent, node.name, None)
            self.distrust(parent)

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
        elif node.file is not None and node.file.pending:
            self._uplink.wait(unique)
            self._uplink.round_trips += 1
            self.when_written(node, lambda: self._getattr_late(unique, node))
        else:
            self.give_attr(unique, node)

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
            then()

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
            if not self.hidden(unique, nodeid, b""):
                self._device.error(unique, errno.ESTALE)
            return
        directory = node.directory()
        if not offset:
            self._note_walk(node)
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
        self._uplink.round_trips += 1
        self._uplink.wait(unique, (node,))
        directory.ready.append(ready)
        self._load(node, whole=True)

    def _note_walk(self, node: Node) -> None:
        """See whether somebody lists a whole tree, and be ahead of him."""
        parent = node.parent
        if parent is None or parent.dir is None:
            return
        if parent.dir.walked < WALK:
            parent.dir.walked += 1
        if parent.dir.walked >= WALK:
            node.directory().walked = max(node.directory().walked, WALK)
            self._queue_children(parent)
            self._queue_children(node)

    def _queue_children(self, node: Node) -> None:
        """Have the directories in one that is walked through fetched, those added last first."""
        directory = node.dir
        if directory is None or directory.walked != WALK or not directory.complete:
            return
        directory.walked += 1
        for _, child in sorted(directory.names.items(), reverse=True):
            if stat.S_ISDIR(child.attr.mode) and child.id and child.dir is None:
                self._to_list.append(child)
        self._list_ahead()

    def _list_ahead(self) -> None:
        while self._to_list and self._listing_ahead < MAX_AHEAD:
            child = self._to_list.pop()
            if child.dir is None and child.links:
                self._listing_ahead += 1
                self._load(child, whole=False)
                child.directory().ready.append(self._listed_ahead)

    def _listed_ahead(self, _: int) -> None:
        self._listing_ahead -= 1
        self._list_ahead()

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
                pending = child.file is not None and child.file.pending
                if position < 2 or pending or not child.id:
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
