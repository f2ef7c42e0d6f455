"""Snapshots of directories: fetched whole, kept in step with home, given up when there are many.

A snapshot is fetched in parts; the names of an unfinished one are `fresh`. What changes at home and
what bodies change is entered into both, so the parts may come as they like. A directory of which
home says that it must be forgotten is fetched again and compared: only what became different is
taken from the kernel.

A name of which a change of ours is under way (`Directory.changing`) is here as it will be at home:
what home tells of it meanwhile is older. What the node fetches was asked for behind its changes,
but for those that begin while it is on its way; what home sends unasked may be older than any.
"""

from __future__ import annotations

import errno
import stat

from stubs.node.view.inodes import FOREVER, VOLATILE_SECONDS, Node
from stubs.node.view.responder import Responder
from stubs.wire.messages import Error, Listing, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.inodes import Directory
    from stubs.node.view.responder import Core
    from stubs.wire.codec import Change, Entry, Message

# A directory with more names than this is not fetched for the sake of one of them.
LARGE = 10_000

# Names in all snapshots together, some 800 bytes each; beyond it the oldest ones are given up.
MAX_NAMES = 15_000

# Inodes beyond which the kernel is asked to let go of those of a snapshot that is given up.
MAX_NODES = 25_000


class Snapshots(Responder):
    """What is known of all directories."""

    def __init__(self, core: Core) -> None:
        """Begin with none."""
        super().__init__(core)
        # Set by Directories: answers a LOOKUP that waited; and by Walk: a snapshot is complete.
        self.awaken: Callable[[int, Node, bytes, int], None] = lambda unique, node, name, code: None
        self.completed: Callable[[Node], None] = lambda node: None
        # Told of directories in which names are asked for, while somebody wants to know.
        self.note: Callable[[Node], None] | None = None
        # Told of those whose names home is asked for.
        self.asked: Callable[[Node], None] = lambda node: None
        self._giving: dict[Node, int] = {}  # of which home sends the names unasked: serial number
        self._complete: dict[Node, int] = {}  # by age, with their sizes
        self._names = 0

    # fetching

    def load(self, parent: Node, whole: bool = False) -> None:
        """Fetch the names of a directory, unless that is under way; `whole`: however many."""
        directory = parent.directory()
        if directory.fresh is not None:
            return
        directory.fresh = {}
        directory.again = False
        serial = self._notifier.begin() if not directory.trusted else 0
        parent.busy += 1
        self.asked(parent)

        def part(reply: Message) -> None:
            if self._take(parent, directory, reply, whole):
                cookie = reply.cookie if type(reply) is Listing and not directory.again else 0
                directory.again = False
                self._uplink.ask(Snapshot(parent.id, cookie), part)
                return
            parent.busy -= 1
            if not parent.busy:
                self._notifier.unpark(parent)
            if serial:
                self._notifier.finish(serial)
            self._inodes.release(parent)

        self._uplink.ask(Snapshot(parent.id, 0), part)

    def give(self, part: Listing, first: bool) -> None:
        """Take a part of a snapshot that home sends unasked, unless it may be older than we are."""
        parent = self._inodes.get(part.dir.id)
        if parent is None:
            return
        directory = parent.directory()
        known = directory.complete and directory.trusted
        if first and directory.fresh is None and not (known or directory.changing):
            self._giving[parent] = self._notifier.begin() if not directory.trusted else 0
            directory.fresh = {}
            directory.again = False
            parent.busy += 1
        if parent not in self._giving:
            return
        spoilt = directory.again
        if not spoilt:
            self._take(parent, directory, part, whole=True)
            spoilt = directory.fresh is not None and directory.again
        if part.cookie and not spoilt:
            return
        self._given(parent, directory, spoilt)

    def _given(self, parent: Node, directory: Directory, spoilt: bool) -> None:
        """End what home sends unasked; what was overtaken by a change is asked for instead."""
        serial = self._giving.pop(parent)
        if spoilt:
            self._inodes.drop_fresh(directory)
            self.load(parent)
        parent.busy -= 1
        if not parent.busy:
            self._notifier.unpark(parent)
        if serial:
            self._notifier.finish(serial)
        self._inodes.release(parent)

    def _take(self, parent: Node, directory: Directory, reply: Message, whole: bool) -> bool:
        """Take in a part; returns whether to ask for another (or, if `again`, from the start)."""
        if type(reply) is not Listing:
            code = reply.errno if type(reply) is Error and reply.errno > 0 else errno.EIO
            if code == errno.ESTALE:
                self.lost(parent)
            self._end(parent, directory, code)
            return False
        if any(self._uplink.is_dead(entry.attr.id) for entry in reply.entries):
            directory.again = True
        if directory.again:
            self._inodes.drop_fresh(directory)
            directory.fresh = {}
            return True
        self._inodes.observe(reply.dir)
        for entry in reply.entries:
            self._add(parent, entry)
        self._awaken(parent, directory, 0, bool(reply.cookie))
        if not reply.cookie:
            self._end(parent, directory, 0)
            return False
        assert directory.fresh is not None
        if len(directory.fresh) > LARGE and directory.trusted and not (whole or directory.ready):
            directory.large = True
            self._end(parent, directory, 0)
            return False
        return True

    def _add(self, parent: Node, entry: Entry) -> None:
        name, attr, target = entry
        if name in parent.directory().changing:
            return
        if attr.id:
            node = self._inodes.observe(attr, target)
        else:
            # A directory that may be read but not searched: there is only the name.
            node = Node(attr, target)
            node.until = 0.0
        self._inodes.add_fresh(parent, name, node)

    def _awaken(self, parent: Node, directory: Directory, code: int, more: bool) -> None:
        """Let LOOKUPs go on whose name has come, or that do better to ask by themselves."""
        assert directory.fresh is not None
        names = directory.waiting if more else directory.waiting.keys() & directory.fresh.keys()
        for name in list(names):
            for unique in directory.waiting.pop(name):
                self.awaken(unique, parent, name, code)

    def _end(self, parent: Node, directory: Directory, code: int) -> None:
        """Make what was gathered the snapshot; `code`: it was refused with this errno."""
        fresh = directory.fresh
        assert fresh is not None
        if code == 0:
            self._replace(parent, directory, fresh)
        elif code in (errno.EACCES, errno.EPERM):
            directory.unlistable = True
        self._inodes.drop_fresh(directory)
        directory.trusted = code == 0 or directory.unlistable
        directory.until = FOREVER
        if parent.until != FOREVER:
            directory.until = self._clock() + VOLATILE_SECONDS
        waiting, directory.waiting = directory.waiting, {}
        ready, directory.ready = directory.ready, []
        for name, uniques in waiting.items():
            for unique in uniques:
                self.awaken(unique, parent, name, code)
        for call in ready:
            call(code)
        if directory.complete:
            self.completed(parent)

    def _replace(self, parent: Node, directory: Directory, fresh: dict[bytes, Node]) -> None:
        """Put `fresh` in the place of the names known, and tell the kernel what is different."""
        complete = not directory.large
        for name, node in list(directory.names.items()):
            found = fresh.get(name)
            if node.local:
                continue  # home has yet to be told of it
            if found is not node and (complete or found is not None):
                self.changed(parent, name, found)
        for name in directory.misses & fresh.keys():
            directory.misses.discard(name)
            self._notifier.entry(parent, name)
        for name, node in fresh.items():
            old = directory.names.get(name)
            if old is not None and old.local:
                continue
            if complete or node.lookups:
                self._inodes.add_name(parent, name, node)
        if complete:
            directory.complete = True
            self._account(parent, directory)

    # not too many

    def _account(self, parent: Node, directory: Directory) -> None:
        """Give up the oldest snapshots when there are too many names."""
        self._names += len(directory.names) - self._complete.pop(parent, 0)
        self._complete[parent] = len(directory.names)
        while self._names > MAX_NAMES and len(self._complete) > 1:
            oldest = next(iter(self._complete))
            self._names -= self._complete.pop(oldest)
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
            if node.local or name in directory.changing:
                continue  # home does not know, and whoever fetches the names has to be told
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
        if parent is None or self._is_ahead(parent, change.name):
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

    def _is_ahead(self, parent: Node, name: bytes) -> bool:
        """Tell whether a change of ours to this name is under way: it comes after home's."""
        directory = parent.dir
        if directory is None:
            return False
        node = directory.names.get(name)
        return name in directory.changing or (node is not None and node.local)

    def distrust(self, parent: Node) -> None:
        """Fetch the names of a directory again, and its attributes."""
        parent.until = 0.0
        self._notifier.contents(parent)
        directory = parent.dir
        if directory is None:
            return
        directory.trusted = False
        directory.complete = False
        directory.large = directory.unlistable = False
        directory.again = True
        if directory.names or directory.misses:
            self.load(parent)

    def lost(self, node: Node) -> None:
        """Take in that home does not know this inode any more: what has its name now is another."""
        parent = node.parent
        if parent is not None and parent.dir is not None:
            if parent.dir.names.get(node.name) is node:
                self.changed(parent, node.name, None)
            self.distrust(parent)
