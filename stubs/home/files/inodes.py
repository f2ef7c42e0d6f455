"""The inodes that a node knows: their ids, their identity at home, and where they were last seen.

One id per (device, inode number), never given twice. An inode has a place, a name in a directory,
as far as one is known; a file with several names has the one seen last, and falls back on the
others. A place is a hint: whoever opens by it compares device and inode
(`stubs.home.files.resolve`). No system calls here.
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.wire.messages import NODE_IDS, ROOT_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.filesystem import Filesystem
    from stubs.home.files.policy import View

# What a node may make us remember: some 100 MB. Beyond, the oldest ids that nothing depends on
# are forgotten; the node that still uses one is told ESTALE and looks the name up again.
MAX_INODES = 1 << 18

# Ids that the node has passed over and may still give: it tells of some files later than of others.
MAX_PASSED = 1 << 12


class Inode:
    """A file that is not a directory."""

    __slots__ = (
        "dev",
        "failed",
        "granted",
        "held",
        "id",
        "ino",
        "kind",
        "mtime_ns",
        "name",
        "nlink",
        "others",
        "parent",
        "revoked",
        "size",
        "wd",
    )

    def __init__(self, number: int, dev: int, ino: int, kind: int) -> None:
        """Begin without a place; `kind` is S_IFMT of the mode."""
        self.id = number
        self.dev = dev
        self.ino = ino
        self.kind = kind
        self.parent: Directory | None = None
        self.name = b""
        self.others: list[tuple[Directory, bytes]] | None = None  # further places, if it has any
        self.size = 0  # these three: as the node was last told
        self.mtime_ns = 0
        self.nlink = 0
        self.wd = -1  # inotify watch on this very inode
        self.held = False  # bodies have it open
        self.granted = (
            0  # rights (R, W) that an inherited descriptor gives, whatever the path allows
        )
        self.failed = 0  # errno of a posted write that the node has not asked about since
        self.revoked = False  # the node took its own permission away while it had it open


class Directory(Inode):
    """A directory: what is known in it, and how its names are to be treated."""

    __slots__ = ("children", "fs", "generation", "unwatchable", "view")

    def __init__(self, number: int, dev: int, ino: int) -> None:
        """Begin with nothing known in it."""
        super().__init__(number, dev, ino, stat.S_IFDIR)
        self.children: dict[bytes, Inode] = {}
        self.generation = -1  # of the tree when `view` and `fs` were found out
        self.view: View | None = None
        self.fs: Filesystem | None = None
        self.unwatchable = False  # no inotify watch is to be had: what it holds is volatile


def stale(what: str) -> OSError:
    """Return the error for an id that no longer leads to what it was given for."""
    return OSError(errno.ESTALE, f"{os.strerror(errno.ESTALE)}: {what}")


class InodeTable:
    """All inodes, by id and by identity."""

    def __init__(self, root: os.stat_result) -> None:
        """Begin with the root directory."""
        self._ids: dict[int, Inode] = {}
        self._devices: dict[int, dict[int, Inode]] = {}
        self._next = ROOT_ID
        self._claimable = NODE_IDS  # the lowest id that the node has neither given nor passed over
        self._passed: dict[int, None] = {}
        inode = self.identify(root)
        assert isinstance(inode, Directory)
        self.root = inode

    def __len__(self) -> int:
        """Count the inodes."""
        return len(self._ids)

    def get(self, number: int) -> Inode:
        """Return the inode with this id; OSError ESTALE when there is none."""
        inode = self._ids.get(number)
        if inode is None:
            raise stale(f"inode {number}")
        return inode

    def find(self, number: int) -> Inode | None:
        """Return the inode with this id, if there is one."""
        return self._ids.get(number)

    def directory(self, number: int) -> Directory:
        """Return the directory with this id; OSError ESTALE or ENOTDIR."""
        inode = self._ids.get(number)
        if isinstance(inode, Directory):
            return inode
        if inode is None:
            raise stale(f"inode {number}")
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def claim(self, number: int) -> None:
        """Take note that the node gives this id to a file; OSError EINVAL unless it still may."""
        if number in self._passed:
            del self._passed[number]
            return
        if not self._claimable <= number < 2 * NODE_IDS:
            raise OSError(errno.EINVAL, "not an id for the node to give")
        for passed in range(max(self._claimable, number - MAX_PASSED), number):
            self._passed[passed] = None
        while len(self._passed) > MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        self._claimable = number + 1

    def identify(self, status: os.stat_result, claimed: int = 0) -> Inode:
        """Return the inode that stat(2) described, with a new id if it was not known.

        A `claimed` id is for a file that was not known: what had its number is no more.
        """
        dev, ino = status.st_dev, status.st_ino
        kind = stat.S_IFMT(status.st_mode)
        numbers = self._devices.get(dev)
        if numbers is None:
            numbers = self._devices[dev] = {}
        inode = numbers.get(ino)
        if inode is not None:
            if inode.kind == kind and not claimed:
                return inode
            self.retire(inode)  # the number was given to another file meanwhile
        number = claimed or self._next
        if not claimed:
            self._next += 1
        if kind == stat.S_IFDIR:
            inode = Directory(number, dev, ino)
        else:
            inode = Inode(number, dev, ino, kind)
        self._ids[number] = inode
        numbers[ino] = inode
        return inode

    def place(
        self, parent: Directory, name: bytes, status: os.stat_result, claimed: int = 0
    ) -> Inode:
        """Return the inode that stat(2) found at `name`, and note that it is there."""
        inode = self.identify(status, claimed)
        known = parent.children.get(name)
        if known is not inode:
            if known is not None:
                self.displace(parent, name)
            if inode.parent is not None:
                self._leave(inode)
            parent.children[name] = inode
            inode.parent = parent
            inode.name = name
        return inode

    def displace(self, parent: Directory, name: bytes) -> Inode | None:
        """Note that `name` is no more what it was; return the inode that had it, if known."""
        inode = parent.children.pop(name, None)
        if inode is None:
            return None
        if inode.others and (parent, name) in inode.others:
            inode.others.remove((parent, name))
        elif inode.others:
            inode.parent, inode.name = inode.others.pop()
        else:
            inode.parent, inode.name = None, b""
        return inode

    def _leave(self, inode: Inode) -> None:
        """Prepare `inode` for another place: a directory has only one, a file may have several."""
        assert inode.parent is not None
        if inode.kind == stat.S_IFDIR:
            self.displace(inode.parent, inode.name)
        elif inode.others is None:
            inode.others = [(inode.parent, inode.name)]
        else:
            inode.others.append((inode.parent, inode.name))

    def rekey(self, inode: Inode, status: os.stat_result) -> None:
        """Give `inode` the identity in `status`: overlayfs changes it on the first write."""
        self._forget_key(inode)
        inode.dev, inode.ino = status.st_dev, status.st_ino
        self._devices.setdefault(inode.dev, {})[inode.ino] = inode

    def retire(self, inode: Inode) -> None:
        """Take the id back for good; whoever uses it is told ESTALE."""
        if inode is self.root:
            return
        self._ids.pop(inode.id, None)
        self._forget_key(inode)
        if inode.parent is not None:
            for parent, name in [(inode.parent, inode.name), *(inode.others or ())]:
                parent.children.pop(name, None)
        inode.parent, inode.name, inode.others = None, b"", None

    def is_known(self, inode: Inode) -> bool:
        """Tell whether the id of `inode` is still good."""
        return self._ids.get(inode.id) is inode

    def _forget_key(self, inode: Inode) -> None:
        numbers = self._devices.get(inode.dev)
        if numbers is not None and numbers.get(inode.ino) is inode:
            del numbers[inode.ino]

    def surplus(self) -> list[Inode]:
        """Return some of the oldest inodes to be dropped when there are too many, else nothing."""
        if len(self._ids) <= MAX_INODES:
            return []
        found = []
        for inode in self._ids.values():
            if not inode.held and not (isinstance(inode, Directory) and inode.children):
                found.append(inode)
                if len(found) >= MAX_INODES // 8:
                    break
        return found
