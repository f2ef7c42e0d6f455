"""Snapshots of directories: all names with their attributes, in parts.

The directory is watched before its names are read, so that what comes after is told. The names of
an unfinished listing are kept here under a cookie; only a few at a time, the oldest gives way.
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.wire.codec import Attr, Entry
from stubs.wire.messages import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.coherence import Coherence
    from stubs.home.files.inodes import Directory
    from stubs.home.files.resolve import Tree
    from stubs.wire.messages import Snapshot

# Bytes of one part, about: a thousand names; what else has to be sent need not wait long behind it.
PART_BYTES = 128 << 10

# Unfinished listings, and names in all of them together.
MAX_LISTINGS = 16
MAX_NAMES = 1 << 20

# What an entry takes besides its name and target.
_ENTRY_BYTES = 96

# Stands for attributes that are not to be had: id 0, a regular file without permissions.
_NO_ATTR = Attr(0, 0, 0, 0, 0, 0, 0, stat.S_IFREG, 0, 0, 0, 0, 4096, 0, 0)


class Listings:
    """Listings under way."""

    def __init__(self, tree: Tree, coherence: Coherence) -> None:
        """Begin with none."""
        # Told the id of a directory of which all names have been given.
        self.complete: Callable[[int], None] = lambda number: None
        self._tree = tree
        self._coherence = coherence
        self._cookie = 0
        # By cookie: the directory's id and its names still to come, the next one last.
        self._rest: dict[int, tuple[int, list[bytes]]] = {}

    def snapshot(self, message: Snapshot) -> Listing:
        """Return the part that `cookie` stands for; ESTALE when it is not known any more."""
        directory = self._tree.table.directory(message.dir)
        if message.cookie:
            number, names = self._rest.pop(message.cookie, (0, []))
            if number != directory.id:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        else:
            self._coherence.watch(directory)
            names = self._names(directory)
        entries = self._part(directory, names)
        for inode in self._tree.table.surplus():
            self._coherence.forget(inode)
            self._tree.drop(inode)
        cookie = self._keep(directory, names)
        if not cookie:
            self.complete(directory.id)
        return Listing(self._tree.attributes(directory), cookie, entries)

    def _names(self, directory: Directory) -> list[bytes]:
        view = self._tree.view(directory)
        if view.empty:
            return []
        fd = self._tree.open_again(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)
        if view.hidden:
            names = [name for name in names if name not in view.hidden]
        names.reverse()
        return names

    def _part(self, directory: Directory, names: list[bytes]) -> list[Entry]:
        tree = self._tree
        view, fs = tree.view(directory), tree.filesystem(directory)
        fd = tree.path_fd(directory)
        entries: list[Entry] = []
        size = 0
        while names and size < PART_BYTES:
            name = names.pop()
            try:
                entry = tree.entry_at(directory, fd, view, fs, name)
            except FileNotFoundError:
                continue  # removed meanwhile; the watch on the directory tells of it
            except PermissionError:
                # Readable but not searchable: the names are all there is to be had.
                entry = Entry(name, _NO_ATTR, b"")
            entries.append(entry)
            size += _ENTRY_BYTES + len(name) + len(entry.target)
        return entries

    def _keep(self, directory: Directory, names: list[bytes]) -> int:
        if not names:
            return 0
        self._cookie += 1
        self._rest[self._cookie] = (directory.id, names)
        while len(self._rest) > 1 and (
            len(self._rest) > MAX_LISTINGS
            or sum(len(rest) for _, rest in self._rest.values()) > MAX_NAMES
        ):
            del self._rest[next(iter(self._rest))]
        return self._cookie
