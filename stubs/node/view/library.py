"""The agent's side of the shelf: contents that home need not send, because the node has them.

What home has sent is handed to a child process (stubs.node.view.shelf), which keeps it and says
under which hash. Each file remembers the hashes of its parts until its contents change, no longer
(stubs.node.view.pieces), so that pages which the kernel has reclaimed need not be sent again. The
hashes that home offers are remembered, too; whether these are on the shelf is not known. What is
looked for and not found is asked from home. The child is started with the first contents; should it
end, everything is asked from home.
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
from stubs.node.view.pieces import UNIT
from stubs.node.view.shelf import HASH_BYTES, Shelf
from stubs.wire.messages import Contents, Find, Keep, Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.node.view.inodes import Node
    from stubs.node.view.pieces import Part, Shelved

    # Of which file it is, where it starts and ends there.
    Place = tuple[Shelved, int, int]
    # What is looked for, and who gets it (None: it is not there).
    Sought = tuple[Node, Part, Callable[[bytes | None], None]]

# Home does not offer smaller files (stubs.home.files.hashes).
SMALLEST = 64 << 10

# What a Find asks for; the child answers each part before it reads the next.
PART = 64

# Contents are handed over so late, or when they are so many bytes: headers are small, and many.
GATHER_SECONDS = 0.02
MAX_GATHERED = 256 << 10

# Bytes that the child has not kept yet above which nothing more is: they are in our memory.
MAX_BACKLOG = 16 << 20


class Library:
    """Has contents kept, and looks for them."""

    def __init__(self, loop: Loop, directory: str) -> None:
        """Keep contents in `directory`; start no child before there are some."""
        self._loop = loop
        self._directory = directory
        self._pid = 0
        self._child: Endpoint | None = None
        self._sought: deque[Callable[[bytes | None], None]] = deque()  # answered in this order
        # What is to be kept: gathered, and handed over to the child, which answers in this order.
        self._places: list[Place] = []
        self._lasting: list[int] = []
        self._contents: list[bytes] = []
        self._gathered = 0  # bytes
        self._keeping: deque[tuple[list[Place], int]] = deque()
        self._backlog = 0  # bytes in both
        self._full = False  # nothing can be kept any more

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

    def keep(self, shelved: Shelved, start: int, end: int, data: bytes, size: int) -> None:
        """Keep what home has sent of [start, end) of a file: less than that if the file ends there.

        `size` is that of the file. `shelved` is told when it is kept; if the contents of the file
        have changed by then, it is nobody's any more.
        """
        position, last = start, start + len(data)
        while position < last and not self._full and self._backlog < MAX_BACKLOG:
            following = (position // UNIT + 1) * UNIT
            part = data[position - start : following - start]
            # As home would offer it on another link.
            whole = position % UNIT == 0 and position + len(part) in (following, size)
            stop = min(following, end if last < following else last)
            self._gather((shelved, position, stop), part, whole and size >= SMALLEST)
            position = following

    def _gather(self, place: Place, data: bytes, lasting: bool) -> None:
        if not self._places:
            self._loop.call_later(GATHER_SECONDS, self._hand_over)
        self._places.append(place)
        self._contents.append(data)
        self._lasting.append(int(lasting))
        self._backlog += len(data)
        self._gathered += len(data)
        if self._gathered >= MAX_GATHERED:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have the child keep what was gathered."""
        if not self._places:
            return
        message = Keep(self._lasting, self._contents)
        self._keeping.append((self._places, self._gathered))
        self._places, self._lasting, self._contents, self._gathered = [], [], [], 0
        child = self._started()
        if child.lost is None:
            child.post(message)

    def _kept(self, message: Kept, _: int, __: list[int]) -> None:
        places, length = self._keeping.popleft()
        self._backlog -= length
        hashes = message.hashes
        self._full = len(hashes) < HASH_BYTES * len(places)
        for index in range(len(hashes) // HASH_BYTES):
            shelved, start, end = places[index]
            shelved.add((start, end, hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]))

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
        self._full = True
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
    to_keep: deque[Keep] = deque()
    hashes: list[bytes] = []  # of the first of them

    def find(message: Find, _: int, __: list[int]) -> None:
        for index, (size, path) in enumerate(zip(message.sizes, message.paths)):
            id_, offset, length = message.ranges[3 * index : 3 * index + 3]
            digest = message.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            data = shelf.find(digest, length, path, size, offset)
            code = errno.ENOENT if data is None else 0
            endpoint.post(Contents(id_, offset, code, 0, data or b""))

    def keep(message: Keep, _: int, __: list[int]) -> None:
        if not to_keep:
            loop.call_later(0.0, keep_one)
        to_keep.append(message)

    def keep_one() -> None:
        message = to_keep[0]
        index = len(hashes)
        hashes.append(shelf.keep(message.contents[index], bool(message.lasting[index])))
        if len(hashes) == len(message.contents):
            endpoint.post(Kept(b"".join(hashes)))
            hashes.clear()
            to_keep.popleft()
        if to_keep:
            loop.call_later(0.0, keep_one)

    endpoint = Endpoint(
        loop, SocketStream(sock), {Find: find, Keep: keep}, lambda _: loop.stop(), "agent"
    )
    loop.run()
