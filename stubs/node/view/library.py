"""The agent's side of the shelf: contents that home need not send, because the node has them.

Home offers contents by their hashes. A child process (stubs.node.view.shelf) looks for them; what
it finds is given to who reads the file as if home had sent it, and home is asked for the rest at
once. What comes then is handed to the child to be kept. The child is started with the first offer;
should it end, everything is asked from home.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.unistd import close_except
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.node.view.shelf import HASH_BYTES, Shelf
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import Contents, Find, Keep, Lacking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.inodes import Inodes
    from stubs.node.view.reading import Reading
    from stubs.node.view.uplink import Uplink
    from stubs.wire.messages import Offered

# What a Find asks for; the child answers each part before it reads the next.
PART = 64

# Bytes on their way to the child above which nothing more is kept: it is not worth memory.
MAX_BACKLOG = 40 << 20


class Library:
    """Looks for offered contents on the node."""

    def __init__(
        self, loop: Loop, uplink: Uplink, inodes: Inodes, reading: Reading, directory: str
    ) -> None:
        """Keep contents in `directory`; start no child before there is an offer."""
        self._loop = loop
        self._uplink = uplink
        self._inodes = inodes
        self._reading = reading
        self._directory = directory
        self._pid = 0
        self._child: Endpoint | None = None
        self._sought: dict[tuple[int, int], int] = {}  # (id, offset) -> length: asked the child
        self._lacking: list[int] = []
        self._to_keep: dict[tuple[int, int], bytes] = {}  # hashes of what home is asked for

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close("the view is closed")

    # offers

    def offered(self, message: Offered) -> None:
        """Look for what home offers, as far as somebody will read it."""
        count = len(message.ranges) // 3
        if len(message.ranges) % 3 or len(message.hashes) != count * HASH_BYTES:
            raise RemoteProtocolError("an offer has an id, an offset, a length and a hash")
        wanted: list[tuple[int, int, int, bytes]] = []
        for index in range(count):
            id_, offset, length = message.ranges[3 * index : 3 * index + 3]
            node = self._inodes.get(id_)
            if node is not None and self._reading.expect(node, offset, offset + length):
                digest = message.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
                wanted.append((id_, offset, length, digest))
                self._to_keep[id_, offset] = digest
                self._sought[id_, offset] = length
        child = self._started()
        for start in range(0, len(wanted), PART):
            if child.lost is None:
                child.post(self._find(wanted[start : start + PART]))
        if child.lost is not None:
            self._lost("")

    def _find(self, wanted: list[tuple[int, int, int, bytes]]) -> Find:
        ranges: list[int] = []
        sizes: list[int] = []
        paths: list[bytes] = []
        for id_, offset, length, _ in wanted:
            node = self._inodes.nodes[id_]
            ranges += (id_, offset, length)
            sizes.append(node.attr.size)
            paths.append(node.path())
        return Find(ranges, sizes, b"".join(digest for *_, digest in wanted), paths)

    def _found(self, message: Contents, _: int, __: list[int]) -> None:
        place = (message.id, message.offset)
        length = self._sought.pop(place, 0)
        if message.errno:
            self._lack(place, length)
            return
        self._to_keep.pop(place, None)
        node = self._inodes.get(message.id)
        if node is not None:
            self._reading.give(node, message.offset, message.data, 0)

    def _lack(self, place: tuple[int, int], length: int) -> None:
        if not self._lacking:
            self._loop.at_turn_end(self._tell_lacking)
        self._lacking += (*place, length)

    def _tell_lacking(self) -> None:
        lacking, self._lacking = self._lacking, []
        if lacking:
            self._uplink.post(Lacking(lacking))

    def arrived(self, message: Contents) -> None:
        """Keep what home has sent, if it came for the lack of it."""
        digest = self._to_keep.pop((message.id, message.offset), None)
        child = self._child
        if digest is None or message.errno or child is None or child.lost is not None:
            return
        if child.backlog < MAX_BACKLOG:
            child.post(Keep(digest, message.data))

    # the child

    def _started(self) -> Endpoint:
        if self._child is None:
            ours, theirs = socket.socketpair()
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(theirs, self._directory)
            theirs.close()
            self._child = Endpoint(
                self._loop, SocketStream(ours), {Contents: self._found}, self._lost, "shelf"
            )
        return self._child

    def _lost(self, _: str) -> None:
        """Ask home for what the child was to look for: it has ended."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        sought, self._sought = self._sought, {}
        for place, length in sought.items():
            self._lack(place, length)


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
    """Answer Find with Contents for each range, in order; take Keep."""
    loop = Loop()

    def find(message: Find, _: int, __: list[int]) -> None:
        for index, (size, path) in enumerate(zip(message.sizes, message.paths)):
            id_, offset, length = message.ranges[3 * index : 3 * index + 3]
            digest = message.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            data = shelf.find(digest, length, path, size, offset)
            code = errno.ENOENT if data is None else 0
            endpoint.post(Contents(id_, offset, code, 0, data or b""))

    def keep(message: Keep, _: int, __: list[int]) -> None:
        shelf.keep(message.hash, message.data)

    endpoint = Endpoint(
        loop, SocketStream(sock), {Find: find, Keep: keep}, lambda _: loop.stop(), "agent"
    )
    loop.run()
