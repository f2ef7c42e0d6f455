"""One burst of what is sent ahead: which names, which contents, and which of them the node has.

Paths are followed under the export policy, with the user's rights; what is gone, hidden or not to
be read is left out, for a guess is not worth an error. The directories on the way to a file are
sent with it, from the root on, so that the node knows each inode that it is told of.
"""

from __future__ import annotations

import os
import stat

from stubs.home.files.hashes import HASH_BYTES, UNIT
from stubs.home.files.inodes import Directory
from stubs.home.files.walking import walk
from stubs.wire.messages import Coming, Names, Offered, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.hashes import Hashes
    from stubs.home.files.inodes import Inode
    from stubs.home.files.listing import Listings
    from stubs.home.files.resolve import Tree
    from stubs.wire.messages import Listing

    # By inode: its size and change time, and the units of it that were sent.
    Sent = dict[int, tuple[tuple[int, int], set[int]]]

# Contents in one message.
PIECE = 512 << 10

# One burst. The node keeps some 15 000 names in snapshots, and 64 MB of contents.
MAX_NAMES = 10_000
MAX_SENT = 52 << 20

# Of what is offered the node takes as much into its memory; for the rest it remembers the hashes.
MAX_OFFERED = 256 << 20


class Burst:
    """What is to be sent at once."""

    def __init__(
        self,
        tree: Tree,
        listings: Listings,
        listed: set[int],
        sent: Sent,
        hashes: Hashes,
        watch: Callable[[Inode], None],
    ) -> None:
        """Begin with nothing; `listed` and `sent` say what the node has, and are kept up.

        `watch` sees to it that changes of a file are noticed by whatever name they are made.
        """
        self._watch = watch
        self.ranges: list[tuple[int, int, int]] = []
        self.offers: list[tuple[int, int, int, bytes]] = []  # each with its hash
        self._hashes = hashes
        self._tree = tree
        self._listings = listings
        self._listed = listed
        self._sent = sent
        self._names: list[Names] = []
        self._count = 0  # of names
        self._left = MAX_SENT  # bytes
        self._left_to_offer = MAX_OFFERED
        self._refused: set[int] = set()  # directories that are not to be sent
        self._known: dict[bytes, Inode | None] = {}

    def messages(self) -> list[Names | Coming | Offered]:
        """Return what goes ahead of Spawn."""
        numbers = [number for item in self.ranges for number in item]
        messages: list[Names | Coming | Offered] = [*self._names]
        if numbers:
            messages.append(Coming(numbers))
        if self.offers:
            numbers = [number for item in self.offers for number in item[:3]]
            messages.append(Offered(numbers, b"".join(item[3] for item in self.offers)))
        return messages

    def directory(self, path: bytes) -> None:
        """Send the names of the directory at `path`, and of those on the way to it."""
        inode = self._find(path)
        if isinstance(inode, Directory):
            self._list(inode)

    def file(self, path: bytes, ranges: list[tuple[int, int]]) -> None:
        """Send these ranges of a file, and the names on the way to it."""
        found = self._regular(path)
        if found is not None:
            self._announce(*found, ranges)

    def start_of(self, path: bytes, whole: int) -> None:
        """Send a file if it is not larger than `whole`, else its first unit; and the way to it."""
        found = self._regular(path)
        if found is not None:
            size = found[1].st_size
            self._announce(*found, [(0, size if size <= whole else UNIT)])

    def _regular(self, path: bytes) -> tuple[Inode, os.stat_result] | None:
        """Return the regular file at `path` and its status; None if there is none to be shown."""
        parent, name = os.path.split(os.path.normpath(path))
        above = self._find(parent)
        if not isinstance(above, Directory) or not name:
            return None
        self._list(above)
        try:
            inode, status = self._tree.find(above, name)
            if inode.kind == stat.S_IFLNK:
                inode = walk(self._tree, path, self._list)
                status = self._tree.status(inode)
        except OSError:
            return None  # gone, or not for the node: no guess is worth an error
        return (inode, status) if inode.kind == stat.S_IFREG else None

    def _find(self, path: bytes) -> Inode | None:
        path = os.path.normpath(path)
        if path not in self._known:
            try:
                self._known[path] = walk(self._tree, path, self._list)
            except OSError:
                self._known[path] = None
        return self._known[path]

    def _list(self, directory: Directory) -> None:
        """Send the names of a directory, unless the node has them or they are too many."""
        number = directory.id
        if number in self._listed or number in self._refused:
            return
        parts: list[Listing] = []
        cookie, count = 0, 0
        try:
            while not parts or (cookie and self._count + count <= MAX_NAMES):
                part = self._listings.snapshot(Snapshot(number, cookie))
                parts.append(part)
                cookie = part.cookie
                count += len(part.entries)
        except OSError:
            cookie = 1
        if cookie or self._count + count > MAX_NAMES:
            self._listed.discard(number)
            self._refused.add(number)
            return
        self._count += count
        self._listed.add(number)
        last = len(parts) - 1
        for index, part in enumerate(parts):
            self._names.append(Names(part.dir, index == 0, index == last, part.entries))

    def _announce(
        self, inode: Inode, status: os.stat_result, ranges: list[tuple[int, int]]
    ) -> None:
        """Note what of these ranges is still to be sent, whole units in pieces."""
        hashes = self._hashes.units(status)
        if hashes and status.st_nlink > 1:
            # Else it is watched when it is read; what is offered may never be.
            try:
                self._watch(inode)
                status = self._tree.status(inode)
            except OSError:
                return  # gone meanwhile
            hashes = self._hashes.units(status)
        units = units_sent(self._sent, inode, status)
        piece = UNIT if hashes else PIECE
        for offset, length in ranges:
            end = min(offset + length, status.st_size)
            start = -1
            for unit in range(offset // UNIT, -(-end // UNIT) + 1):
                wanted = unit * UNIT < end and unit not in units
                if start >= 0 and (not wanted or (unit - start) * UNIT >= piece):
                    self._add(inode, start, min(unit * UNIT, status.st_size), hashes)
                    start = -1
                if wanted and (self._left_to_offer if hashes else self._left) > 0:
                    units.add(unit)
                    start = unit if start < 0 else start

    def _add(self, inode: Inode, unit: int, end: int, hashes: bytes) -> None:
        start = unit * UNIT
        # Whole pages, as the kernel reads them: what is short of that is the end of the file.
        item = (inode.id, start, -(-(end - start) // 4096) * 4096)
        if hashes:
            digest = hashes[unit * HASH_BYTES : (unit + 1) * HASH_BYTES]
            self.offers.append((*item, digest))
            self._left_to_offer -= end - start
        else:
            self._left -= end - start
            self.ranges.append(item)


def units_sent(sent: Sent, inode: Inode, status: os.stat_result) -> set[int]:
    """Return the units of a file that the node has, as it is now; to be added to."""
    version = (status.st_size, status.st_ctime_ns)
    known = sent.get(inode.id)
    if known is None or known[0] != version:
        known = sent[inode.id] = (version, set())
    return known[1]
