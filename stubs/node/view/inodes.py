"""What the node knows of home's inodes: attributes, snapshots, and who still refers to them.

A node's id is home's id and the kernel's nodeid. It lives here as long as the kernel knows it
(`lookups`) or a snapshot names it (`links`); then home is told to forget it. Attributes change in
two ways: `own` takes those that home sends after a call of ours, `observe` those that home sends
because we looked, and reports contents that turn out to have changed behind our back. While
a change of ours is not answered what is known here is ahead of home, and neither takes effect.

Files made here without waiting get ids of ours (`NODE_IDS`) and, until home has answered,
attributes of ours.
"""

from __future__ import annotations

import stat

from stubs.abi import fuse
from stubs.wire.codec import Attr
from stubs.wire.messages import ATTR_VOLATILE, NODE_IDS, ROOT_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.pieces import ReadAhead

# Seconds for which the kernel may believe a name or attributes: changes are pushed, so a long
# time; for what home cannot watch, a short one.
DAY = 86400
VOLATILE_SECONDS = 1

FOREVER = float("inf")

READABLE, WRITABLE, EXECUTABLE = 4, 2, 1

_NS = 1_000_000_000
_PACK_ATTR = fuse.fuse_attr.pack


class OpenState:
    """What only an inode in use has: open counts, changes under way, read-ahead, locks."""

    __slots__ = (
        "ahead",
        "error",
        "excused",
        "lock_owners",
        "opens",
        "pending",
        "size",
        "waiters",
        "writers",
        "written",
    )

    def __init__(self) -> None:
        """Nothing is open yet."""
        self.opens = 0
        self.writers = 0  # opens that may write
        self.written = False  # one of them was closed since nobody had it open
        self.pending = 0  # posted changes that home has not answered
        self.size = -1  # while some are pending: the size after them, if it is known
        self.error = 0  # errno of a posted change that failed, not told yet
        self.excused = 0  # so many of the pending ones were under way when one was told
        self.waiters: list[Callable[[], None]] = []  # to be called when nothing is pending
        self.ahead: ReadAhead | None = None
        self.lock_owners: set[int] = set()  # that may hold a POSIX lock


class Directory:
    """The names of a directory, as far as they are known."""

    __slots__ = (
        "again",
        "changing",
        "complete",
        "fresh",
        "index",
        "large",
        "misses",
        "names",
        "order",
        "ready",
        "trusted",
        "unlistable",
        "until",
        "waiting",
        "walked",
    )

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.walked = 0  # directories in it that were listed
        self.names: dict[bytes, Node] = {}
        self.misses: set[bytes] = set()  # of which the kernel was told that they do not exist
        self.trusted = True  # what `names` has is right
        self.complete = False  # and there is nothing else
        self.large = False  # too many names to gather for the sake of a single one
        self.unlistable = False  # home's user may search it but not read it
        self.until = FOREVER  # when `names` has to be asked for again (time.monotonic)
        self.fresh: dict[bytes, Node] | None = None  # the names gathered so far while loading
        self.again = False  # what is being loaded has changed: begin again
        self.changing: dict[bytes, int] = {}  # changes of a name that home has not answered
        self.waiting: dict[bytes, list[int]] = {}  # LOOKUPs until the name is known
        self.ready: list[Callable[[int], None]] = []  # called with an errno when loaded
        self.order: list[bytes | None] = []  # names by READDIR offset; None where one went away
        self.index: dict[bytes, int] = {}  # where in `order`

    def add(self, name: bytes, node: Node) -> Node | None:
        """Record that `name` is `node`; return what it was before."""
        old = self.names.get(name)
        self.names[name] = node
        if self.order and name not in self.index:
            self.index[name] = len(self.order)
            self.order.append(name)
        return old

    def remove(self, name: bytes) -> Node | None:
        """Record that `name` is gone; return what it was."""
        if name in self.index:
            self.order[self.index.pop(name)] = None
        return self.names.pop(name, None)

    def listing(self, afresh: bool) -> list[bytes | None]:
        """Return the names by READDIR offset; `afresh` when a reader starts at the beginning."""
        if not self.order or (afresh and len(self.order) > 2 * len(self.names) + 64):
            self.order = list(self.names)
            self.index = {name: position for position, name in enumerate(self.order) if name}
        return self.order


class Node:
    """One inode."""

    __slots__ = (
        "attr",
        "busy",
        "dir",
        "file",
        "held",
        "id",
        "ino",
        "links",
        "local",
        "lookups",
        "name",
        "packed",
        "parent",
        "target",
        "until",
    )

    def __init__(self, attr: Attr, target: bytes) -> None:
        """Begin with what home said."""
        self.id = attr.id
        self.attr = attr
        self.target = target
        self.packed: bytes | None = None  # struct fuse_attr, made when the kernel first asks
        self.lookups = 0  # references that the kernel has
        self.links = 0  # names in snapshots
        self.busy = 0  # requests of the kernel that hold locks of this inode until answered
        self.until = FOREVER  # when the attributes have to be asked for again (0.0: now)
        self.held = False  # home was told to keep it reachable
        self.local = False  # home does not know it (stubs.node.view.temporaries)
        self.ino = 0  # shown instead of home's inode number
        self.parent: Node | None = None  # one place where it was seen: for messages and ".."
        self.name = b""
        self.dir: Directory | None = None
        self.file: OpenState | None = None

    @property
    def volatile(self) -> bool:
        """Whether home cannot watch it."""
        return bool(self.attr.flags & ATTR_VOLATILE)

    @property
    def pending(self) -> bool:
        """Whether changes of it are under way: what home knows is older."""
        return self.file is not None and self.file.pending > 0

    def opened(self) -> OpenState:
        """Return the state of an inode in use, made at first use."""
        if self.file is None:
            self.file = OpenState()
        return self.file

    def directory(self) -> Directory:
        """Return what is known about the names in it."""
        if self.dir is None:
            self.dir = Directory()
        return self.dir

    def path(self) -> bytes:
        """Return a path by which it was seen, for messages."""
        if self.id == ROOT_ID:
            return b"/"
        parts: list[bytes] = []
        node: Node | None = self
        while node is not None and node.id != ROOT_ID and len(parts) < 256:
            parts.append(node.name)
            node = node.parent
        return b"/" + b"/".join(reversed(parts))


class Owners:
    """Which owner the kernel is shown, so that its own check gives home's answer.

    A capsule with a single mapped uid and gid shows all others as nobody, and the VFS refuses to
    write a file with an unmapped owner or group, whatever its mode (HAS_UNMAPPED_ID). So: the
    user's own files as the user's; others' as they are, if the kernel concludes from that what
    the user may really do (Attr.rights), and as the user's where the user may do more, removing
    the file included.
    """

    def __init__(self, uid: int, gid: int, full_map: bool) -> None:
        """Show owners to a capsule in which only `uid` and `gid` are mapped, unless `full_map`."""
        self._uid = uid
        self._gid = gid
        self._full_map = full_map
        self._known: dict[tuple[int, int, int, int, bool], tuple[int, int]] = {}

    def shown(self, attr: Attr, parent: Attr | None) -> tuple[int, int]:
        """Return the uid and gid to be reported for an inode that was seen in `parent`."""
        if self._full_map:
            return attr.uid, attr.gid
        removable = parent is not None and self._may_remove_from(parent)
        key = (attr.uid, attr.gid, attr.mode, attr.rights, removable)
        shown = self._known.get(key)
        if shown is None:
            shown = self._known[key] = self._choose(attr, removable)
        return shown

    def _may_remove_from(self, parent: Attr) -> bool:
        if not parent.rights & WRITABLE:
            return False
        return not parent.mode & stat.S_ISVTX or parent.uid == self._uid

    def _choose(self, attr: Attr, removable: bool) -> tuple[int, int]:
        # Without a valid owner the VFS neither removes nor renames it: EOVERFLOW (may_delete).
        if attr.uid == self._uid or removable:
            return self._uid, self._gid
        if stat.S_ISLNK(attr.mode):
            return attr.uid, attr.gid
        in_group = attr.gid == self._gid
        concluded = (attr.mode >> (3 if in_group else 0)) & 7 & ~WRITABLE
        if attr.rights & ~concluded:
            return self._uid, self._gid
        return attr.uid, attr.gid

    def rights(self, mode: int) -> int:
        """Return what the user may do with a file of its own that has this mode."""
        if self._uid == 0:
            return READABLE | WRITABLE | (EXECUTABLE if mode & 0o111 else 0)
        return mode >> 6 & 7

    def made(self, id_: int, parent: Attr, mode: int) -> Attr:
        """Return the attributes of an empty file that the user makes, without its times."""
        gid = parent.gid if parent.mode & stat.S_ISGID else self._gid
        rights = self.rights(mode)
        mode |= stat.S_IFREG
        return Attr(id_, id_, 0, 0, 0, 0, 0, mode, 1, self._uid, gid, 0, 4096, rights, 0)

    def is_users(self, attr: Attr) -> bool:
        """Tell whether the file belongs to the user of the capsule."""
        return attr.uid == self._uid

    def pack(self, attr: Attr, parent: Attr | None) -> bytes:
        """Return struct fuse_attr for an inode that was seen in `parent`."""
        uid, gid = self.shown(attr, parent)
        atime, atime_ns = divmod(attr.atime_ns, _NS)
        mtime, mtime_ns = divmod(attr.mtime_ns, _NS)
        ctime, ctime_ns = divmod(attr.ctime_ns, _NS)
        # The kernel's encoding of device numbers is the lower half of glibc's (makedev(3)).
        return _PACK_ATTR(
            attr.ino,
            attr.size,
            attr.blocks,
            atime,
            mtime,
            ctime,
            atime_ns,
            mtime_ns,
            ctime_ns,
            attr.mode,
            attr.nlink,
            uid,
            gid,
            attr.rdev & 0xFFFFFFFF,
            attr.blksize,
            0,
        )


class Inodes:
    """All inodes that the node knows, by id."""

    def __init__(self, root: Attr, owners: Owners, clock: Callable[[], float]) -> None:
        """Begin with the root directory, which is never forgotten."""
        self.owners = owners
        self._clock = clock
        self.root = Node(root, b"")
        self.root.lookups = 1
        self.nodes: dict[int, Node] = {root.id: self.root}
        self._next = NODE_IDS
        # Set by the view: contents of a node changed without our doing; an id was dropped.
        self.contents_changed: Callable[[Node], None] = lambda node: None
        self.dropped: Callable[[Node], None] = lambda node: None
        # Likewise: a file may not be read any more, or changes of it are not heard of.
        self.restricted: Callable[[Node], None] = lambda node: None

    def get(self, id_: int) -> Node | None:
        """Return the node with that id, if it is known."""
        return self.nodes.get(id_)

    def packed(self, node: Node) -> bytes:
        """Return the struct fuse_attr of a node."""
        if node.packed is None:
            parent = node.parent.attr if node.parent is not None else None
            node.packed = self.owners.pack(node.attr, parent)
        return node.packed

    def fresh(self, node: Node) -> bool:
        """Tell whether the attributes may be given out without asking home."""
        return node.until == FOREVER or node.until > self._clock()

    def make(self, parent: Node, mode: int) -> Node:
        """Return a node with an id of ours for an empty file that the user makes in `parent`."""
        node = Node(self.owners.made(self._next, parent.attr, mode), b"")
        self.nodes[node.id] = node
        self._next += 1
        return node

    def change(self, node: Node, **attributes: int) -> None:
        """Change attributes as home is going to."""
        node.attr = node.attr._replace(**attributes)
        node.packed = None
        if not node.attr.rights & READABLE:
            self.restricted(node)

    def observe(self, attr: Attr, target: bytes = b"") -> Node:
        """Take in what home says about an inode because we looked; return its node."""
        node = self.nodes.get(attr.id)
        if node is None:
            node = self.nodes[attr.id] = Node(attr, target)
            if attr.flags & ATTR_VOLATILE:
                node.until = self._clock() + VOLATILE_SECONDS
            return node
        if node.pending:
            return node
        old = node.attr
        self._set(node, attr)
        # A file removed and made anew can have the old one's inode number, hence its id, and with
        # cp -p its size and time; but not its change time.
        changed = old.ctime_ns != attr.ctime_ns or old.size != attr.size
        if target and target != node.target:
            node.target = target
            self.contents_changed(node)
        elif changed and stat.S_ISREG(attr.mode):
            self.contents_changed(node)
        return node

    def own(self, attr: Attr) -> None:
        """Take in the attributes after a call of ours."""
        node = self.nodes.get(attr.id)
        if node is not None and not node.pending:
            self._set(node, attr)

    def _set(self, node: Node, attr: Attr) -> None:
        node.attr = attr._replace(ino=node.ino) if node.ino else attr
        node.packed = None
        if attr.flags & ATTR_VOLATILE:
            node.until = self._clock() + VOLATILE_SECONDS
        else:
            node.until = FOREVER
        if attr.flags & ATTR_VOLATILE or not attr.rights & READABLE:
            self.restricted(node)

    def add_name(self, parent: Node, name: bytes, child: Node) -> None:
        """Record a name in the snapshot of a directory."""
        directory = parent.directory()
        if directory.fresh is not None:
            self.add_fresh(parent, name, child)
        child.links += 1
        self._unlink(directory.add(name, child))
        child.parent = parent
        child.name = name

    def add_fresh(self, parent: Node, name: bytes, child: Node) -> None:
        """Record a name in the snapshot that is being loaded."""
        fresh = parent.directory().fresh
        assert fresh is not None
        child.links += 1
        self._unlink(fresh.get(name))
        fresh[name] = child
        child.parent = parent
        child.name = name

    def drop_fresh(self, directory: Directory) -> None:
        """Let go of what has been loaded."""
        fresh, directory.fresh = directory.fresh or {}, None
        for child in fresh.values():
            self._unlink(child)

    def remove_name(self, parent: Node, name: bytes) -> Node | None:
        """Record that a name is gone; return the node that it was."""
        directory = parent.directory()
        if directory.fresh is not None:
            self._unlink(directory.fresh.pop(name, None))
        child = directory.remove(name)
        self._unlink(child)
        return child

    def _unlink(self, child: Node | None) -> None:
        if child is not None:
            child.links -= 1
            self.release(child)

    def forget(self, id_: int, count: int) -> None:
        """Take back `count` of the kernel's references."""
        node = self.nodes.get(id_)
        if node is not None and node is not self.root:
            node.lookups = max(0, node.lookups - count)
            self.release(node)

    def release(self, node: Node) -> None:
        """Drop the node if nobody refers to it any more."""
        if node.lookups or node.links or node.busy or node is self.root:
            return
        if node.pending:
            return
        if node.dir is not None:
            if node.dir.fresh is not None:
                return
            children = set(node.dir.names.values())
            for child in list(node.dir.names.values()):
                child.links -= 1
            node.dir = None
            for child in children:
                self.release(child)
        if self.nodes.pop(node.id, None) is not None:
            self.dropped(node)
