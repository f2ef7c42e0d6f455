"""Prefetch: what a program is expected to want is sent before it asks, in one burst with Spawn.

That is the program's ELF closure, the files named by its arguments, and what it touched when it
last ran (stubs.home.files.traces): names of directories, and ranges of files. Everything is looked
up as a request of the node would be, under the export policy and with the user's rights; what
has been sent over this link is not sent again.

Names and the announcement of contents go out ahead of Spawn, in order with Invalidate; the
contents follow at the pace of the link. Contents are read after they were announced, so that
a change of theirs in between is told after the announcement, and spoils it at the node.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from stubs.home.files.closure import Closure
from stubs.home.files.hashes import HASH_BYTES, UNIT
from stubs.home.files.inodes import Directory
from stubs.home.files.traces import MAX_FILES, Trace, key_of
from stubs.home.files.walking import walk
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import Coming, Contents, Listing, Names, Offered, Snapshot
from stubs.wire.messages import Trace as TraceBody

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.contents import Contents as Readers
    from stubs.home.files.hashes import Hashes
    from stubs.home.files.inodes import Inode
    from stubs.home.files.listing import Listings
    from stubs.home.files.resolve import Tree
    from stubs.home.files.traces import Key, Traces
    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop
    from stubs.wire.messages import Forget, Lacking, Spawn, Traced

# Contents in one message, and bytes of them that wait for the link: a body's own request
# queues behind those.
PIECE = 512 << 10
BACKLOG = 512 << 10
PACE_SECONDS = 0.001

# One burst. The node keeps some 15 000 names in snapshots, and 48 MB of contents.
MAX_NAMES = 10_000
MAX_SENT = 40 << 20

# What is sent whole up to this size, else only its first unit: files that a program needs to start,
# and those that its arguments name, of which nobody knows yet whether it reads them.
WHOLE = 2 << 20
WHOLE_ARGUMENT = 256 << 10
MAX_ARGUMENTS = 16

# No node notes more than this of one body.
MAX_TRACED = 256 << 20

# Ranges offered to which the node has not replied.
MAX_OFFERED = 100_000

# Programs of which we remember that their burst was sent.
MAX_KEYS = 10_000


class Prefetch:
    """Sends ahead over one link."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        readers: Readers,
        listings: Listings,
        traces: Traces,
        hashes: Hashes,
    ) -> None:
        """Send nothing before `attach`."""
        self._loop = loop
        self._tree = tree
        self._readers = readers
        self._listings = listings
        self._traces = traces
        self._link: Link | None = None
        self._closure = Closure(self._opened)
        self._done: set[Key] = set()
        self._hashes = hashes
        self._offered: dict[tuple[int, int], int] = {}  # id and offset -> length
        self._traced: dict[int, Key] = {}  # by body
        self._listed: set[int] = set()  # directories whose names the node has
        # By inode: its size and change time, and the units of it that were sent.
        self._sent: dict[int, tuple[tuple[int, int], set[int]]] = {}
        self._queue: deque[tuple[int, int, int]] = deque()  # announced: id, offset, length
        self._timer_runs = False
        listings.complete = self._listed.add

    def attach(self, link: Link) -> None:
        """Send over `link`."""
        self._link = link

    def close(self) -> None:
        """Send no more."""
        self._link = None
        self._queue.clear()
        self._traces.close()
        self._hashes.close()

    # what is sent

    def begin(self, spawn: Spawn) -> None:
        """Send what the program will want, and have it noted what it does want.

        Once for a program, kind of argument and directory: after that the node has it.
        """
        key = key_of(spawn.exe, spawn.argv, spawn.cwd)
        if self._link is None or key in self._done:
            return
        if len(self._done) >= MAX_KEYS:
            self._done.clear()
        self._done.add(key)
        self._traced[spawn.body] = key
        self._link.post(TraceBody(spawn.body))
        trace = self._traces.recall(key)
        burst = Burst(self._tree, self._listings, self._listed, self._sent, self._hashes)
        for path in trace.dirs:
            burst.directory(path)
        for path in self._closure.of(spawn.exe, spawn.env):
            if path not in trace.files:
                burst.start_of(path, WHOLE)
        for path in _arguments(spawn):
            burst.start_of(path, WHOLE_ARGUMENT)
        for path, (_, ranges) in trace.files.items():
            burst.file(path, ranges)
        for message in burst.messages():
            self._link.post(message)
        self._queue.extend(burst.ranges)
        if len(self._offered) > MAX_OFFERED:
            self._offered.clear()
        for number, offset, length, _ in burst.offers:
            self._offered[number, offset] = length
        self._loop.at_turn_end(self._send)

    def lacking(self, message: Lacking) -> None:
        """Send what of an offer the node has not."""
        if len(message.ranges) % 3:
            raise RemoteProtocolError("a range has an id, an offset and a length")
        numbers = iter(message.ranges)
        for number, offset, _ in zip(numbers, numbers, numbers):
            length = self._offered.pop((number, offset), 0)
            if length:
                self._queue.append((number, offset, length))
        self._send()

    def _opened(self, path: bytes) -> int:
        inode = walk(self._tree, path)
        return self._readers.reader(inode)

    def _send(self) -> None:
        """Send announced contents as the link takes them."""
        link = self._link
        while link is not None and self._queue and link.backlog < BACKLOG:
            number, offset, length = self._queue.popleft()
            link.post(self._contents(number, offset, length))
        if self._queue and not self._timer_runs:
            self._timer_runs = True
            self._loop.call_later(PACE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._timer_runs = False
        self._send()

    def _contents(self, number: int, offset: int, length: int) -> Contents:
        try:
            fd = self._readers.reader(self._tree.table.get(number))
            return Contents(number, offset, 0, os.pread(fd, length, offset))
        except OSError as error:
            return Contents(number, offset, error.errno or errno.EIO, b"")

    # what is learned

    def traced(self, message: Traced) -> None:
        """Remember what a body has touched; a body that we do not ask about is not heard."""
        key = self._traced.pop(message.body, None)
        if key is None:
            return
        if len(message.ranges) % 3 or len(message.ranges) > 3 * 4 * MAX_FILES:
            raise RemoteProtocolError("not a list of ranges")
        if sum(message.ranges[2::3]) > MAX_TRACED:
            raise RemoteProtocolError("more was read than is noted")
        trace = Trace()
        for number in message.dirs:
            path = self._path(number)
            if path:
                trace.dirs[path] = 0
        numbers = iter(message.ranges)
        for number, offset, length in zip(numbers, numbers, numbers):
            path = self._path(number)
            if not path or offset + length > 1 << 62:
                continue
            if length:
                self._note_sent(number, offset, length)
            ranges = trace.files.setdefault(path, (0, []))[1]
            if length:
                ranges.append((offset, length))
        self._traces.record(key, trace)

    def _path(self, number: int) -> bytes:
        """Return the path in the export by which an inode was last seen; empty if there is none."""
        inode = self._tree.table.find(number)
        names: list[bytes] = []
        while inode is not None and inode is not self._tree.root:
            names.append(inode.name)
            inode = inode.parent
        return b"/" + b"/".join(reversed(names)) if inode is not None else b""

    def _note_sent(self, number: int, offset: int, length: int) -> None:
        inode = self._tree.table.find(number)
        if inode is not None:
            try:
                units = _units_sent(self._sent, inode, self._tree.status(inode))
            except OSError:
                return  # gone meanwhile
            end = min(offset + length, inode.size)
            units.update(range(offset // UNIT, -(-end // UNIT)))
            self._learn(inode)

    def _learn(self, inode: Inode) -> None:
        """Have it hashed, so that it can be offered the next time."""
        if inode.parent is not None and not self._tree.filesystem(inode.parent).network:
            flags = os.O_RDONLY
            self._hashes.learn(
                self._tree.status(inode), lambda: self._tree.open_again(inode, flags)
            )

    def forgotten(self, message: Forget) -> None:
        """Note that the node has dropped ids: so the snapshots that had them are not whole."""
        for number in message.ids:
            self._listed.discard(number)
            self._sent.pop(number, None)
            inode = self._tree.table.find(number)
            if inode is not None and inode.parent is not None:
                self._listed.discard(inode.parent.id)


class Burst:
    """What is to be sent at once."""

    def __init__(
        self,
        tree: Tree,
        listings: Listings,
        listed: set[int],
        sent: dict[int, tuple[tuple[int, int], set[int]]],
        hashes: Hashes,
    ) -> None:
        """Begin with nothing; `listed` and `sent` say what the node has, and are kept up."""
        self.ranges: list[tuple[int, int, int]] = []
        self.offers: list[tuple[int, int, int, bytes]] = []  # each with its hash
        self._hashes = hashes
        self._tree = tree
        self._listings = listings
        self._listed = listed
        self._sent = sent
        self._names: list[Names] = []
        self._count = 0  # of names
        self._bytes = 0
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
        units = _units_sent(self._sent, inode, status)
        hashes = self._hashes.units(status)
        piece = UNIT if hashes else PIECE
        for offset, length in ranges:
            end = min(offset + length, status.st_size)
            start = -1
            for unit in range(offset // UNIT, -(-end // UNIT) + 1):
                wanted = unit * UNIT < end and unit not in units
                if start >= 0 and (not wanted or (unit - start) * UNIT >= piece):
                    self._add(inode, start, min(unit * UNIT, status.st_size), hashes)
                    start = -1
                if wanted and self._bytes < MAX_SENT:
                    units.add(unit)
                    start = unit if start < 0 else start

    def _add(self, inode: Inode, unit: int, end: int, hashes: bytes) -> None:
        start = unit * UNIT
        self._bytes += end - start
        # Whole pages, as the kernel reads them: what is short of that is the end of the file.
        item = (inode.id, start, -(-(end - start) // 4096) * 4096)
        if hashes:
            digest = hashes[unit * HASH_BYTES : (unit + 1) * HASH_BYTES]
            self.offers.append((*item, digest))
        else:
            self.ranges.append(item)


def _units_sent(
    sent: dict[int, tuple[tuple[int, int], set[int]]], inode: Inode, status: os.stat_result
) -> set[int]:
    """Return the units of a file that the node has, as it is now; to be added to."""
    version = (status.st_size, status.st_ctime_ns)
    known = sent.get(inode.id)
    if known is None or known[0] != version:
        known = sent[inode.id] = (version, set())
    return known[1]


def _arguments(spawn: Spawn) -> list[bytes]:
    """Return the arguments that could be files."""
    words = [word for word in spawn.argv[1:] if word and not word.startswith(b"-")]
    return [os.path.join(spawn.cwd, word) for word in words[:MAX_ARGUMENTS] if len(word) < 4096]
