"""Prefetch: what a program is expected to want is sent before it asks, in one burst with Spawn.

That is the program's ELF closure, the files named by its arguments, the headers of what it is to
compile, and what it touched when it last ran (stubs.home.files.traces), and others of its kind
asked for: names of directories, and ranges of files. Everything is looked up as a request of the
node would be, under the export policy and with the user's rights; what has been sent over this link
is not sent again.

Names and the announcement of contents go out ahead of Spawn, in order with Invalidate; the
contents follow at the pace of the link. Contents are read after they were announced, so that
a change of theirs in between is told after the announcement, and spoils it at the node.
"""

from __future__ import annotations

import errno
import os
from collections import deque

from stubs.home.files import gcc
from stubs.home.files.burst import Burst, units_sent
from stubs.home.files.closure import Closure
from stubs.home.files.hashes import UNIT
from stubs.home.files.includes import Includes
from stubs.home.files.traces import MAX_FILES, Trace, key_of
from stubs.home.files.walking import walk
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import Contents
from stubs.wire.messages import Trace as TraceBody

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.burst import Sent
    from stubs.home.files.contents import Contents as Readers
    from stubs.home.files.hashes import Hashes
    from stubs.home.files.inodes import Inode
    from stubs.home.files.listing import Listings
    from stubs.home.files.resolve import Tree
    from stubs.home.files.traces import Key, Traces
    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop
    from stubs.wire.messages import Forget, Lacking, Spawn, Traced

# Bytes of contents that wait for the link: a body's own request queues behind those.
BACKLOG = 512 << 10
PACE_SECONDS = 0.001

# What is sent whole up to this size, else only its first unit: files that a program needs to start,
# and those that its arguments name, of which nobody knows yet whether it reads them.
WHOLE = 2 << 20
# What a compiler's driver starts is read nearly whole: of cc1's 33 MB 25.
WHOLE_ARGUMENT = 256 << 10
WHOLE_PASS = 40 << 20
MAX_ARGUMENTS = 16

# No node notes more than this of one body: bytes, and directories or ranges.
MAX_TRACED = 256 << 20
MAX_NOTED = 4 * MAX_FILES

# Ranges offered to which the node has not replied.
MAX_OFFERED = 100_000

# What later bodies asked for is gathered so long before it is written.
GATHER_SECONDS = 10.0

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
        watch: Callable[[Inode], None],
    ) -> None:
        """Send nothing before `attach`; `watch` is Burst's."""
        self._watch = watch
        self._loop = loop
        self._tree = tree
        self._readers = readers
        self._listings = listings
        self._traces = traces
        self._link: Link | None = None
        self._closure = Closure(self._opened)
        self._includes = Includes(self._opened, self._names, self._image)
        self._done: set[Key] = set()
        self._hashes = hashes
        self._offered: dict[tuple[int, int], tuple[int, int]] = {}  # id, offset -> length, body
        self._traced: dict[int, Key] = {}  # by body, of which all is noted
        # By body, of all that have not told anything; with the files that its arguments name.
        self._kinds: dict[int, tuple[Key, list[bytes]]] = {}
        self._gathered: dict[Key, Trace] = {}  # what those asked for
        self._listed: set[int] = set()  # directories whose names the node has
        self._sent: Sent = {}
        self._queue: deque[tuple[int, int, int, int]] = deque()  # id, offset, length, body
        self._timer_runs = False
        listings.complete = self._listed.add

    def attach(self, link: Link) -> None:
        """Send over `link`."""
        self._link = link

    def close(self) -> None:
        """Send no more."""
        self._link = None
        self._queue.clear()
        self._write_gathered()
        self._traces.close()
        self._hashes.close()

    # what is sent

    def begin(self, spawn: Spawn) -> None:
        """Send what the program will want, and have it noted what it does want.

        Once for a program, kind of argument and directory: after that the node has it, but for
        the headers of each source.
        """
        if self._link is None:
            return
        key = key_of(spawn.exe, spawn.argv, spawn.cwd)
        named = _arguments(spawn)
        self._kinds[spawn.body] = key, named
        if key in self._done:
            # What others read at the same time it finds in the page cache: the two make one trace.
            for body, other in self._traced.items():
                if other == key:
                    self._link.post(TraceBody(spawn.body, body))
                    break
        else:
            if len(self._done) >= MAX_KEYS:
                self._done.clear()
            self._done.add(key)
            self._traced[spawn.body] = key
            self._link.post(TraceBody(spawn.body, 0))
            self._send_foretold(key, spawn, named)
        self._send_included(spawn)

    def _send_foretold(self, key: Key, spawn: Spawn, named: list[bytes]) -> None:
        """Send what the first program of its kind will want."""
        burst = self._burst()
        trace = self._traces.recall(key)
        for path in trace.dirs:
            burst.directory(path)
        for path in self._closure.of(spawn.exe, spawn.env):
            if path not in trace.files:
                burst.start_of(path, WHOLE)
        for path in named:
            burst.start_of(path, WHOLE_ARGUMENT)
        if not trace.files:
            passes = self._includes.passes(spawn.exe, spawn.argv, spawn.cwd)
            for program in passes:
                for path in self._closure.of(program, spawn.env):
                    burst.start_of(path, WHOLE_PASS)
            for path in gcc.messages(spawn.env) if passes else []:
                burst.start_of(path, WHOLE)
        for path, (_, ranges) in trace.files.items():
            burst.file(path, ranges)
        self._begin(burst, spawn.body)

    def _send_included(self, spawn: Spawn) -> None:
        """Send what a compiler will read."""
        directories, files = self._includes.of(spawn.exe, spawn.argv, spawn.cwd)
        if not files:
            return
        burst = self._burst()
        for path in directories:
            burst.directory(path)
        for path in files:
            burst.start_of(path, WHOLE_ARGUMENT)
        self._begin(burst, spawn.body)

    def _burst(self) -> Burst:
        return Burst(
            self._tree, self._listings, self._listed, self._sent, self._hashes, self._watch
        )

    def _begin(self, burst: Burst, body: int) -> None:
        """Send names and announcements now, and have the contents follow."""
        assert self._link is not None
        for message in burst.messages():
            self._link.post(message)
        self._queue.extend((*item, body) for item in burst.ranges)
        if len(self._offered) > MAX_OFFERED:
            self._offered.clear()
        for number, offset, length, _ in burst.offers:
            self._offered[number, offset] = length, body
        if self._queue:
            self._loop.at_turn_end(self._send)

    def lacking(self, message: Lacking) -> None:
        """Send what of an offer the node has not."""
        if len(message.ranges) % 3:
            raise RemoteProtocolError("a range has an id, an offset and a length")
        numbers = iter(message.ranges)
        for number, offset, _ in zip(numbers, numbers, numbers):
            length, body = self._offered.pop((number, offset), (0, 0))
            if length:
                self._queue.append((number, offset, length, body))
            elif self._link is not None:
                # Forgotten, there being so many: whoever waits for it has to ask.
                self._link.post(Contents(number, offset, errno.ESTALE, 0, b""))
        self._send()

    def _opened(self, path: bytes) -> int:
        inode = walk(self._tree, path)
        return self._readers.reader(inode)

    def _names(self, path: bytes) -> list[str]:
        fd = self._tree.open_again(walk(self._tree, path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _image(self, path: bytes) -> bytes:
        return walk(self._tree, path).name

    def _send(self) -> None:
        """Send announced contents as the link takes them."""
        link = self._link
        while link is not None and self._queue and link.backlog < BACKLOG:
            link.post(self._contents(*self._queue.popleft()))
        if self._queue and not self._timer_runs:
            self._timer_runs = True
            self._loop.call_later(PACE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._timer_runs = False
        self._send()

    def _contents(self, number: int, offset: int, length: int, body: int) -> Contents:
        try:
            fd = self._readers.reader(self._tree.table.get(number))
            return Contents(number, offset, 0, body, os.pread(fd, length, offset))
        except OSError as error:
            return Contents(number, offset, error.errno or errno.EIO, body, b"")

    # what is learned

    def traced(self, message: Traced) -> None:
        """Remember what a body has touched, or asked for; each that runs is heard once."""
        key, named = self._kinds.pop(message.body, (None, []))
        if key is None:
            return
        if len(message.ranges) % 3 or len(message.ranges) > 3 * MAX_NOTED:
            raise RemoteProtocolError("not a list of ranges")
        if len(message.dirs) > MAX_NOTED:
            raise RemoteProtocolError("more directories than are noted")
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
        if self._traced.pop(message.body, None) is not None:
            self._traces.record(key, trace)
        else:
            self._gather(key, trace, named)

    def ended(self, body: int) -> None:
        """Hear nothing more of a body."""
        self._kinds.pop(body, None)
        self._traced.pop(body, None)

    def _gather(self, key: Key, trace: Trace, named: list[bytes]) -> None:
        """Note what others of a kind may want as well: not what was named to this one, nor data.

        It is written later: builds run hundreds of bodies, and a trace is written as a whole.
        """
        own = {os.path.normpath(path) for path in named}
        trace.files = {
            path: (missed, ranges)
            for path, (missed, ranges) in trace.files.items()
            if path not in own and all(offset + length <= WHOLE for offset, length in ranges)
        }
        if not (trace.dirs or trace.files):
            return
        if not self._gathered:
            self._loop.call_later(GATHER_SECONDS, self._write_gathered)
        self._gathered[key] = self._gathered.get(key, Trace()).extended(trace)

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for key, trace in gathered.items():
            self._traces.extend(key, trace)

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
                units = units_sent(self._sent, inode, self._tree.status(inode))
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


def _arguments(spawn: Spawn) -> list[bytes]:
    """Return the arguments that could be files."""
    words = [word for word in spawn.argv[1:] if word and not word.startswith(b"-")]
    return [os.path.join(spawn.cwd, word) for word in words[:MAX_ARGUMENTS] if len(word) < 4096]
