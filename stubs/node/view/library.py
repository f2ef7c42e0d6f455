"""The agent's side of the shelf: contents that home need not send, because the node has them.

What home has sent is handed to a child process (stubs.node.view.shelf), which keeps it and says
under which hash. Each file remembers the hashes of its parts as long as its contents are what they
were, no longer (`Shelved`): the kernel reclaims pages that home would send again. The hashes that
home offers are remembered, too, and may or may not be on the shelf. What is looked for and not
found is asked from home. The child is started with the first contents; should it end, there is no
shelf.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections import deque

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.unistd import close_except
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.node.view.shelf import HASH_BYTES, Shelf
from stubs.wire.messages import Contents, Find, Keep, Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.inodes import Node

    # Where it starts and ends in its file, and the SHA-256 of what is in it: less than that when
    # the file ends there.
    Part = tuple[int, int, bytes]
    # What is looked for, and who gets it (None: it is not there).
    Sought = tuple[Node, Part, Callable[[bytes | None], None]]

# Files are kept in parts that do not cross a multiple of this: what home hashes.
UNIT = 128 << 10

# What a Find asks for; the child answers each part before it reads the next.
PART = 64

# Bytes that the child has not kept yet, above which nothing more is kept: not worth the memory.
MAX_BACKLOG = 40 << 20


class Shelved:
    """The parts of a file of which the hashes are known, while its contents do not change."""

    __slots__ = ("_units",)

    def __init__(self) -> None:
        """None is known."""
        self._units: dict[int, list[Part]] = {}

    def add(self, part: Part) -> None:
        """Remember a part, in place of those that are within it, unless it is within another."""
        start, end, _ = part
        known = self._units.get(start // UNIT, ())
        if not any(each[0] <= start and end <= each[1] for each in known):
            others = [each for each in known if each[0] < start or end < each[1]]
            self._units[start // UNIT] = [*others, part]

    def remove(self, part: Part) -> None:
        """Forget a part: the shelf has it not."""
        known = self._units.get(part[0] // UNIT, [])
        if part in known:
            known.remove(part)

    def at(self, position: int) -> Part | None:
        """Return the part in which `position` is."""
        for part in self._units.get(position // UNIT, ()):
            if part[0] <= position < part[1]:
                return part
        return None

    def following(self, position: int, end: int) -> int:
        """Return where the next part begins behind `position`, which is in none; `end` at last."""
        if not self._units:
            return end
        for unit in range(position // UNIT, -(-end // UNIT)):
            starts = [part[0] for part in self._units.get(unit, ()) if part[0] > position]
            if starts:
                return min(end, *starts)
        return end


class Library:
    """Has contents kept, and looks for them."""

    def __init__(self, loop: Loop, directory: str) -> None:
        """Keep contents in `directory`; start no child before there are some."""
        self._loop = loop
        self._directory = directory
        self._pid = 0
        self._child: Endpoint | None = None
        self._sought: deque[Callable[[bytes | None], None]] = deque()  # answered in this order
        self._keeping: deque[tuple[Shelved, int, int, int]] = deque()  # so are these: start, end
        self._backlog = 0  # bytes in them
        self._full = False  # nothing can be kept

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close("the view is closed")

    # finding

    def find(self, wanted: list[Sought]) -> None:
        """Look for parts of files; each of those who want them is called, perhaps at once."""
        child = self._started()
        for start in range(0, len(wanted), PART):
            some = wanted[start : start + PART]
            self._sought.extend(found for *_, found in some)
            if child.lost is None:
                child.post(_find(some))
        if child.lost is not None:
            self._lost("")

    def _found(self, message: Contents, _: int, __: list[int]) -> None:
        self._sought.popleft()(None if message.errno else message.data)

    # keeping

    def keep(self, shelved: Shelved, start: int, end: int, data: bytes) -> None:
        """Keep what home has sent of [start, end) of a file: less than that if the file ends there.

        `shelved` is told when it is kept, if somebody still refers to it by then.
        """
        child = self._started()
        position, last = start, start + len(data)
        while position < last and child.lost is None and not self._full:
            following = (position // UNIT + 1) * UNIT
            part = data[position - start : following - start]
            if self._backlog + len(part) > MAX_BACKLOG:
                return
            stop = min(following, end if last < following else last)
            child.post(Keep(part))
            self._keeping.append((shelved, position, stop, len(part)))
            self._backlog += len(part)
            position = following

    def _kept(self, message: Kept, _: int, __: list[int]) -> None:
        shelved, start, end, length = self._keeping.popleft()
        self._backlog -= length
        if message.hash:
            shelved.add((start, end, message.hash))
        else:
            self._full = True

    # the child

    def _started(self) -> Endpoint:
        if self._child is None:
            ours, theirs = socket.socketpair()
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(theirs, self._directory)
            theirs.close()
            self._child = Endpoint(
                self._loop,
                SocketStream(ours),
                {Contents: self._found, Kept: self._kept},
                self._lost,
                "shelf",
            )
        return self._child

    def _lost(self, _: str) -> None:
        """Find nothing of what the child was to look for: it has ended."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._keeping.clear()
        while self._sought:
            self._sought.popleft()(None)


def _find(wanted: list[Sought]) -> Find:
    ranges: list[int] = []
    sizes: list[int] = []
    paths: list[bytes] = []
    for node, (start, end, _), _ in wanted:
        ranges += (node.id, start, end - start)
        sizes.append(node.attr.size)
        paths.append(node.path())
    return Find(ranges, sizes, b"".join(part[2] for _, part, _ in wanted), paths)


def _be_child(sock: socket.socket, directory: str) -> None:
    """Serve the shelf until the agent ends; does not return."""
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The link and /dev/fuse above all: while one of us holds them, their end goes unnoticed.
        close_except([2, sock.fileno()])
        serve(sock, Shelf(directory))
        status = 0
    finally:
        os._exit(status)


def serve(sock: socket.socket, shelf: Shelf) -> None:
    """Answer Find with Contents for each range and Keep with Kept, each kind in order.

    Somebody waits for what is to be found, nobody for what is to be kept: that comes last.
    """
    loop = Loop()
    to_keep: deque[bytes] = deque()

    def find(message: Find, _: int, __: list[int]) -> None:
        for index, (size, path) in enumerate(zip(message.sizes, message.paths)):
            id_, offset, length = message.ranges[3 * index : 3 * index + 3]
            digest = message.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            data = shelf.find(digest, length, path, size, offset)
            code = errno.ENOENT if data is None else 0
            endpoint.post(Contents(id_, offset, code, 0, data or b""))

    def keep(message: Keep, _: int, __: list[int]) -> None:
        if not to_keep:
            loop.call_later(0.0, keep_next)
        to_keep.append(message.data)

    def keep_next() -> None:
        endpoint.post(Kept(shelf.keep(to_keep.popleft())))
        if to_keep:
            loop.call_later(0.0, keep_next)

    endpoint = Endpoint(
        loop, SocketStream(sock), {Find: find, Keep: keep}, lambda _: loop.stop(), "agent"
    )
    loop.run()
