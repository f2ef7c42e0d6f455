"""What home sends ahead of being asked, and the noting of what is touched, by which home learns.

Names and contents arrive here unasked, before the body starts that is expected to want them. The
names of a directory become its snapshot, as if it had been fetched; contents wait in the read-ahead
of their file until the kernel reads them. What was announced (Coming) and has not arrived is
waited for, and not asked for a second time. What home offers by its hash is looked for on the
node; what is not there home is told at once (Lacking), and sends it.

Nothing here is needed for the right result: what does not fit what is known is dropped, and the
node asks as it would have.
"""

from __future__ import annotations

from functools import partial

from stubs.node.view.responder import Responder
from stubs.node.view.shelf import HASH_BYTES
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import Coming, Contents, Lacking, Listing, Names, Offered, Trace, Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from stubs.node.view.inodes import Node
    from stubs.node.view.library import Library, Sought
    from stubs.node.view.reading import Reading
    from stubs.node.view.responder import Core
    from stubs.node.view.snapshots import Snapshots
    from stubs.wire.codec import Message

# Reads are noted in units of this size: the kernel's own largest one.
UNIT = 128 << 10

# What is noted of one body; beyond, it is no start of a program any more.
MAX_DIRS = 4096
MAX_FILES = 4096
MAX_UNITS = 1024

# Bodies of which it is noted what they asked home for.
MAX_ASKING = 1024


class Notes:
    """What was touched by a body, and by others that do the same at the same time."""

    def __init__(self, body: int) -> None:
        """Nothing was."""
        self.body = body
        self.dirs: dict[int, None] = {}
        self.files: dict[int, dict[int, None]] = {}  # units, in the order of their first use
        self.units = 0

    def looked_into(self, id_: int) -> None:
        """Note that names were looked for in a directory."""
        if len(self.dirs) < MAX_DIRS:
            self.dirs[id_] = None

    def read(self, id_: int, offset: int, end: int) -> None:
        """Note that [offset, end) was read; nothing: that the file was opened."""
        units = self.files.get(id_)
        if units is None:
            if len(self.files) >= MAX_FILES:
                return
            units = self.files[id_] = {}
        for unit in range(offset // UNIT, -(-end // UNIT)):
            if unit not in units and self.units < MAX_UNITS:
                self.units += 1
                units[unit] = None

    def ranges(self) -> list[int]:
        """Return the files as Traced has them: neighbouring units together."""
        found: list[int] = []
        for id_, units in self.files.items():
            start = end = -1
            for unit in units:
                if unit != end:
                    if end >= 0:
                        found += (id_, start * UNIT, (end - start) * UNIT)
                    start = unit
                end = unit + 1
            found += (id_, max(start, 0) * UNIT, (end - start) * UNIT if end >= 0 else 0)
        return found


class Ahead(Responder):
    """Takes in what home sends unasked."""

    def __init__(
        self, core: Core, snapshots: Snapshots, reading: Reading, library: Library
    ) -> None:
        """Begin with nothing expected and nothing noted."""
        super().__init__(core)
        self._library = library
        self._lacking: list[int] = []  # to be told as ids, offsets and lengths
        self._snapshots = snapshots
        self._reading = reading
        self._notes: dict[int, Notes] = {}  # by body, of which home wants to know all
        self._asked: dict[int, Notes] = {}  # by body: what others had to ask home for
        snapshots.asked = self._asked_for_names
        reading.asked = self._asked_for
        # (id, offset) -> so many Contents are on their way that were announced and refused. They
        # may come behind the announcement of newer ones: theirs is a connection of its own.
        self._refused: dict[tuple[int, int], int] = {}

    def handlers(self) -> dict[type[Message], Callable[[Any, int, list[int]], None]]:
        """Return who takes which message of home's."""
        return {
            Names: self._names,
            Coming: self._coming,
            Contents: self._contents,
            Offered: self._offered,
            Trace: self._trace,
        }

    # what comes

    def _names(self, message: Names, _: int, __: list[int]) -> None:
        part = Listing(message.dir, 0 if message.last else 1, message.entries)
        self._snapshots.give(part, bool(message.first))

    def _coming(self, message: Coming, _: int, __: list[int]) -> None:
        if len(message.ranges) % 3:
            raise RemoteProtocolError("a range has an id, an offset and a length")
        numbers = iter(message.ranges)
        for id_, offset, length in zip(numbers, numbers, numbers):
            node = self._inodes.get(id_)
            if node is None or self._reading.expect(node, offset, offset + length) is None:
                self._refused[id_, offset] = self._refused.get((id_, offset), 0) + 1

    def _offered(self, message: Offered, _: int, __: list[int]) -> None:
        count = len(message.ranges) // 3
        if len(message.ranges) % 3 or len(message.hashes) != count * HASH_BYTES:
            raise RemoteProtocolError("an offer has an id, an offset, a length and a hash")
        wanted: list[Sought] = []
        for index in range(count):
            id_, offset, length = message.ranges[3 * index : 3 * index + 3]
            node = self._inodes.get(id_)
            if node is None:
                continue
            digest = message.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            lacking = partial(self._lack, id_, offset, length)
            sought = self._reading.offer(node, (offset, offset + length, digest), lacking)
            if sought is not None:
                wanted.append(sought)
        if wanted:
            self._library.find(wanted)

    def _lack(self, *place: int) -> None:
        if not self._lacking:
            self._loop.at_turn_end(self._tell_lacking)
        self._lacking += place

    def _tell_lacking(self) -> None:
        lacking, self._lacking = self._lacking, []
        self._uplink.post(Lacking(lacking))

    def _contents(self, message: Contents, _: int, __: list[int]) -> None:
        self._uplink.traffic.came(message.body, len(message.data))
        refused = self._refused.pop((message.id, message.offset), 0)
        if refused:
            if refused > 1:
                self._refused[message.id, message.offset] = refused - 1
            return
        node = self._inodes.get(message.id)
        if node is not None:
            self._reading.give(node, message.offset, message.data, message.errno)

    # what is touched

    def _trace(self, message: Trace, _: int, __: list[int]) -> None:
        notes = self._notes.get(message.like)
        self._notes[message.body] = notes or Notes(message.body)
        self._reading.note = self._read
        self._snapshots.note = self._looked_into
        self._hand_out_opens(True)

    def tell(self, body: int) -> None:
        """Tell home what was noted of a body that has ended, if it wants to know."""
        asked = self._asked.pop(body, None)
        if body in self._notes:
            notes = self._notes.pop(body)
            if notes.body == body:
                self._tell(notes)
        elif asked is not None:
            self._tell(asked)
        if not self._notes:
            self._reading.note = self._snapshots.note = None
            self._hand_out_opens(False)

    def _tell(self, notes: Notes) -> None:
        self._uplink.post(Traced(notes.body, list(notes.dirs), notes.ranges()))

    def _hand_out_opens(self, all_of_them: bool) -> None:
        if self._device.opens is not None:
            self._device.opens.pause(all_of_them)

    def _of_caller(self) -> Iterable[Notes]:
        """Return the notes that are for the body of the process that asks just now."""
        body = self._uplink.traffic.body()
        if not body:
            return set(self._notes.values())
        notes = self._notes.get(body)
        return (notes,) if notes is not None else ()

    def _looked_into(self, node: Node) -> None:
        for notes in self._of_caller():
            notes.looked_into(node.id)

    def _read(self, node: Node, offset: int, end: int) -> None:
        for notes in self._of_caller():
            notes.read(node.id, offset, end)

    # what is asked for

    def _asking(self) -> Notes | None:
        """Return the notes for the body that asks just now, None if all that it does is noted."""
        body = self._uplink.traffic.body()
        if not body or body in self._notes:
            return None
        notes = self._asked.get(body)
        if notes is None:
            if len(self._asked) >= MAX_ASKING:
                del self._asked[next(iter(self._asked))]
            notes = self._asked[body] = Notes(body)
        return notes

    def _asked_for_names(self, node: Node) -> None:
        notes = self._asking()
        if notes is not None:
            notes.looked_into(node.id)

    def _asked_for(self, node: Node, offset: int, end: int) -> None:
        notes = self._asking()
        if notes is not None:
            notes.read(node.id, offset, end)
