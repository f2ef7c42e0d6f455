"""READ: file contents, asked for ahead of the reader.

The kernel reads 128 KiB at a time; home is asked for more at once and before it is needed: a small
file whole, a file read in sequence in large pieces that keep several in flight. What was fetched
is dropped as soon as the kernel has taken it: it has a page cache of its own. In case that is
reclaimed the node keeps it on its disk (stubs.node.view.library), and looks there first. A piece
that was on its way while its file changed is asked for again: it may be older than what we were
told.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from functools import partial

from stubs.abi import fuse
from stubs.abi.malloc import malloc_trim
from stubs.node.view.drafts import Drafts
from stubs.node.view.fuse import BODY
from stubs.node.view.pieces import Piece, ReadAhead, Shelved
from stubs.node.view.responder import Responder
from stubs.wire.messages import Data, Error, Read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Timer
    from stubs.node.view.inodes import Node
    from stubs.node.view.library import Library, Sought
    from stubs.node.view.pieces import Part
    from stubs.node.view.responder import Core
    from stubs.wire.codec import Message

PIECE = 512 << 10  # of a sequential read; also the size up to which a file is small
MAX_WINDOW = 4 << 20  # fetched ahead for one file
MAX_BUFFERED = 56 << 20  # fetched ahead for all files: a compiler as a whole, and headers
MAX_GIVEN = 64 << 20  # the same, with what home sends unasked

# The kernel reads so much, or more, around a page fault; read(2) at random asks for what it needs.
READ_AROUND = 64 << 10
BLOCK = 1 << 20
PAGE = 4096

# Larger files are data, and hardly read again.
LARGEST_KEPT = 256 << 20

# How long what nobody reads stays here, at least; what home sent unasked, several times as long:
# its reader is a program that starts.
IDLE_SECONDS = 2.0
PATIENCE = 5

# How often a read that is overtaken by changes is asked again before it is given as it is.
MAX_REPEATS = 8


class Reading(Responder):
    """Answers READ."""

    def __init__(self, core: Core, library: Library) -> None:
        """Take over READ."""
        super().__init__(core)
        self._library = library
        self.drafts = Drafts()
        # Told of what is read, while somebody wants to know.
        self.note: Callable[[Node, int, int], None] | None = None
        # Told of what home is asked for.
        self.asked: Callable[[Node, int, int], None] = lambda node, offset, end: None
        self.buffered = 0  # bytes here or on their way that nobody waits for yet
        self._users: OrderedDict[Node, None] = OrderedDict()  # nodes with pieces, oldest first
        self._timer: Timer | None = None
        self._device.handlers[fuse.FUSE_READ] = self._read

    def _read(self, unique: int, nodeid: int, _: int) -> None:
        _, offset, size, _, _, _, _ = fuse.fuse_read_in.unpack_from(self._device.buffer, BODY)
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            self._device.error(unique, errno.ESTALE)
            return
        end = offset + size
        if node.local:
            self._device.reply(unique, self._temporaries.read(node, offset, end))
            return
        if self.note is not None:
            self.note(node, offset, min(end, node.attr.size))
        draft = self.drafts.read(node, offset, end)
        if draft is not None:
            self._device.reply(unique, draft)
            return
        ahead = self._ahead(node)
        self._ask_for(node, ahead, offset, end)
        self._serve(node, ahead, unique, offset, end, held=False)

    # what to ask for

    def _ask_for(self, node: Node, ahead: ReadAhead, offset: int, end: int) -> None:
        """Make sure that pieces cover [offset, end), and ask for more if that seems wise."""
        size = node.attr.size
        covered = self._covered(ahead, offset, end)
        if ahead.given and covered >= end:
            # What is not there was either taken already, or is not likely to be wanted.
            ahead.expected = end
            return
        if offset == ahead.expected and offset:
            ahead.window = min(max(ahead.window * 2, PIECE), MAX_WINDOW)
        elif not any(piece.start <= offset < piece.end for piece in ahead.pieces):
            ahead.window = 0
            ahead.asked = 0
        ahead.expected = end
        if covered < end:
            stop = end
            if offset == 0 and end < size <= PIECE:
                stop = size
            elif ahead.window and ahead.asked <= covered:
                stop = max(end, min(size, covered + PIECE))
            self._fetch(node, ahead, covered, stop)
            ahead.asked = stop
            if offset and not ahead.window and end - offset >= READ_AROUND:
                self._fetch_around(node, ahead, covered, end)
        limit = min(size, end + ahead.window)
        if ahead.window:
            ahead.asked = self._covered(ahead, max(ahead.asked, end), limit)
        while ahead.window and ahead.asked < limit and self.buffered < MAX_BUFFERED:
            start = ahead.asked
            ahead.asked = min(start + PIECE, size)
            if ahead.asked - start < PIECE and ahead.asked < size:
                break
            self._fetch(node, ahead, start, ahead.asked)

    def _fetch_around(self, node: Node, ahead: ReadAhead, start: int, end: int) -> None:
        """Ask for the rest of a block in which a page fault of a mapping made the kernel read.

        What is mapped is read in all places sooner or later: programs and their libraries. What
        the fault waits for was asked for first.
        """
        first = start // BLOCK * BLOCK
        last = min(first + BLOCK, node.attr.size)
        for piece in ahead.pieces:
            if piece.end <= start:
                first = max(first, piece.end)
            elif piece.start >= end:
                last = min(last, piece.start)
        if end < last and self.buffered < MAX_BUFFERED:
            self._fetch(node, ahead, end, last)
        if first < start and self.buffered < MAX_BUFFERED:
            self._fetch(node, ahead, first, start)

    def _covered(self, ahead: ReadAhead, offset: int, end: int) -> int:
        """Return up to where [offset, end) is covered without a gap."""
        for piece in ahead.pieces:  # in order of their start
            if piece.start <= offset < piece.end:
                offset = piece.end
                if piece.data is not None and len(piece.data) < piece.end - piece.start:
                    return end  # the end of the file
                if offset >= end:
                    break
        return offset

    def _fetch(self, node: Node, ahead: ReadAhead, start: int, end: int) -> None:
        """Ask for [start, end), which is in no piece: the shelf for what it should have."""
        if end == node.attr.size:
            # The kernel reads whole pages. What is short of that says that the file ends.
            end = -(-end // PAGE) * PAGE
        if not _keepable(node):
            ahead.shelved = Shelved()  # its directory cannot be watched any more
        wanted: list[Sought] = []
        while start < end:
            part = ahead.shelved.at(start)
            stop = ahead.shelved.following(start, end) if part is None else min(part[1], end)
            piece = self._add(node, ahead, start, stop)
            if part is None:
                self._request(node, ahead, piece)
            else:
                piece.given = True
                lacking = partial(self._request, node, ahead, piece)
                wanted.append((node, part, self._finder(node, ahead, piece, part, lacking)))
            start = stop
        if self.buffered > MAX_BUFFERED:
            self._make_room(node)
        if wanted:
            self._library.find(wanted)

    def _add(self, node: Node, ahead: ReadAhead, start: int, end: int) -> Piece:
        piece = Piece(start, end)
        ahead.pieces.append(piece)
        ahead.pieces.sort(key=lambda piece: piece.start)
        self._users[node] = None
        self.buffered += end - start
        if self._timer is None:
            self._timer = self._loop.call_later(IDLE_SECONDS, self._age)
        return piece

    def _request(self, node: Node, ahead: ReadAhead, piece: Piece) -> None:
        piece.stale = piece.given = False
        body = self._uplink.traffic.body()
        self.asked(node, piece.start, min(piece.end, node.attr.size))

        def done(reply: Message) -> None:
            if type(reply) is Data:
                self._uplink.traffic.came(body, len(reply.data))
                self._sent(node, ahead, piece, reply.data)
            else:
                code = reply.errno if type(reply) is Error and reply.errno > 0 else errno.EIO
                if code == errno.ESTALE:
                    self._uplink.lost(node)
                self._refused(node, ahead, piece, code)

        self._uplink.ask(Read(node.id, piece.start, piece.end - piece.start), done)

    def _finder(
        self, node: Node, ahead: ReadAhead, piece: Piece, part: Part, lacking: Callable[[], None]
    ) -> Callable[[bytes | None], None]:
        """Return who takes from the shelf what `piece` is to have of `part`."""
        shelved = ahead.shelved

        def found(data: bytes | None) -> None:
            if data is None:
                shelved.remove(part)
                lacking()
            else:
                start = part[0]
                self._arrived(node, ahead, piece, data[piece.start - start : piece.end - start])

        return found

    # what home sends unasked

    def expect(self, node: Node, start: int, end: int) -> Piece | None:
        """Note that [start, end) of a file is about to come; returns None if it is not wanted.

        Not while a change of ours is under way, before which it may have been read. One that
        begins after this makes what comes stale (`discard`).
        """
        if node.pending or node.local:
            return None
        ahead = self._ahead(node)
        overlapping = any(p.start < end and start < p.end for p in ahead.pieces)
        if start >= end or overlapping or self.buffered + end - start > MAX_GIVEN:
            return None
        piece = self._add(node, ahead, start, end)
        piece.given = ahead.given = True
        return piece

    def offer(self, node: Node, part: Part, lacking: Callable[[], None]) -> Sought | None:
        """Take in the hash of a part; return what to look for if it is wanted now, too.

        `lacking` is called if the shelf has it not: then home is to send it.
        """
        ahead = self._ahead(node)
        if not node.pending and _keepable(node):
            ahead.shelved.add(part)
        piece = self.expect(node, part[0], part[1])
        if piece is None:
            return None
        return node, part, self._finder(node, ahead, piece, part, lacking)

    def give(self, node: Node, start: int, data: bytes, code: int) -> None:
        """Take what has come, unless it was not expected, or no more is."""
        ahead = self._ahead(node)
        for piece in ahead.pieces:
            if piece.start == start and piece.given and piece.data is None:
                break
        else:
            return
        if not code:
            self._sent(node, ahead, piece, data)
        elif piece.waiting:
            self._request(node, ahead, piece)
        else:
            self._drop(node, ahead, piece)

    def _ahead(self, node: Node) -> ReadAhead:
        state = node.opened()
        if state.ahead is None:
            state.ahead = ReadAhead()
        return state.ahead

    # what came

    def _sent(self, node: Node, ahead: ReadAhead, piece: Piece, data: bytes) -> None:
        """Take what home has sent, and have it kept."""
        fresh = not piece.stale
        self._arrived(node, ahead, piece, data)
        if fresh and _keepable(node):
            self._library.keep(ahead.shelved, piece.start, piece.end, data, node.attr.size)

    def _arrived(self, node: Node, ahead: ReadAhead, piece: Piece, data: bytes) -> None:
        if piece.stale and piece.repeats < MAX_REPEATS:
            if piece.waiting:
                piece.repeats += 1
                self._request(node, ahead, piece)
            else:
                self._drop(node, ahead, piece)
            return
        piece.data = memoryview(data)
        if len(data) < piece.end - piece.start:
            piece.left = len(data)
        waiting, piece.waiting = piece.waiting, []
        for unique, offset, end in waiting:
            self._uplink.waited(unique)
            self._serve(node, ahead, unique, offset, end, held=True)
        if piece.left <= 0:
            self._drop(node, ahead, piece)

    def _refused(self, node: Node, ahead: ReadAhead, piece: Piece, code: int) -> None:
        self._drop(node, ahead, piece)
        waiting, piece.waiting = piece.waiting, []
        for unique, _, _ in waiting:
            self._uplink.waited(unique)
            self._device.error(unique, code)

    def _serve(
        self, node: Node, ahead: ReadAhead, unique: int, offset: int, end: int, held: bool
    ) -> None:
        """Answer a READ from the pieces, or let it wait for the first one that is missing."""
        parts: list[memoryview] = []
        used: list[tuple[Piece, int]] = []
        position = offset
        for piece in ahead.pieces:
            if not piece.start <= position < piece.end:
                continue
            if piece.data is None:
                if not (held or piece.given):
                    self._uplink.traffic.waits()
                piece.waiting.append((unique, offset, end))
                self._uplink.wait(unique, (node,))
                return
            part = piece.data[position - piece.start : end - piece.start]
            parts.append(part)
            used.append((piece, len(part)))
            position += len(part)
            if position >= end or len(piece.data) < piece.end - piece.start:
                break
        else:
            # A piece was dropped while another was waited for: ask for the rest again.
            self._fetch(node, ahead, position, end)
            self._serve(node, ahead, unique, offset, end, held)
            return
        self._device.reply_parts(unique, parts, position - offset)
        for piece, length in used:
            piece.left -= length
            if piece.left <= 0:
                self._drop(node, ahead, piece)

    # letting go

    def _drop(self, node: Node, ahead: ReadAhead, piece: Piece) -> None:
        if piece in ahead.pieces:
            ahead.pieces.remove(piece)
            self.buffered -= piece.end - piece.start
            if not ahead.pieces:
                self._users.pop(node, None)

    def _make_room(self, keep: Node) -> None:
        """Drop pieces of the files that were read longest ago."""
        for node in list(self._users):
            if self.buffered <= MAX_BUFFERED:
                return
            if node is not keep and node.file is not None and node.file.ahead is not None:
                for piece in list(node.file.ahead.pieces):
                    if piece.data is not None:
                        self._drop(node, node.file.ahead, piece)

    def _age(self) -> None:
        """Drop what has been here since the last time."""
        self._timer = None
        for node in list(self._users):
            ahead = node.opened().ahead
            assert ahead is not None
            for piece in list(ahead.pieces):
                if piece.aged >= (PATIENCE if piece.given else 1) and piece.data is not None:
                    self._drop(node, ahead, piece)
                piece.aged += 1
        if self._users:
            self._timer = self._loop.call_later(IDLE_SECONDS, self._age)
        else:
            malloc_trim()

    def discard(self, node: Node) -> None:
        """Forget what was fetched of a file: its contents change."""
        if node.file is None or node.file.ahead is None:
            return
        ahead = node.file.ahead
        ahead.shelved = Shelved()
        ahead.asked = 0
        for piece in list(ahead.pieces):
            if piece.data is None:
                piece.stale = True
            else:
                self._drop(node, ahead, piece)


def _keepable(node: Node) -> bool:
    """Tell whether contents of a file are worth keeping, and we hear of it when they change."""
    return not node.volatile and not node.local and node.attr.size <= LARGEST_KEPT
