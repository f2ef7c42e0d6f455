"""Small files that bodies on this node are writing: known here in full, so read without home.

A file that was empty when we began to write it contains what we have written and zeros between. The
kernel asks for parts of it all the same, for it keeps no page of which it was given only a part. A
draft ends when the file grows large, when home changes it, and when others need the room.
"""

from __future__ import annotations

from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.inodes import Node

MAX_BYTES = 128 << 10
MAX_TOTAL = 2 << 20


class Drafts:
    """All drafts, the one begun first at the front."""

    def __init__(self) -> None:
        """Begin with none."""
        self._drafts: OrderedDict[Node, bytearray] = OrderedDict()
        self._total = 0

    def begin(self, node: Node) -> None:
        """Take the file as empty: it was just made, or cut to nothing."""
        self.end(node)
        self._drafts[node] = bytearray()

    def end(self, node: Node) -> None:
        """Forget what the file contains."""
        draft = self._drafts.pop(node, None)
        if draft is not None:
            self._total -= len(draft)

    def write(self, node: Node, offset: int, data: bytes) -> None:
        """Take in a write."""
        draft = self._drafts.get(node)
        if draft is None:
            return
        end = offset + len(data)
        if end > MAX_BYTES:
            self.end(node)
            return
        if end > len(draft):
            self._resize(draft, end)
        draft[offset:end] = data

    def truncate(self, node: Node, size: int) -> None:
        """Take in a change of size."""
        draft = self._drafts.get(node)
        if draft is not None and size <= MAX_BYTES:
            self._resize(draft, size)
        elif size == 0:
            self.begin(node)
        else:
            self.end(node)

    def _resize(self, draft: bytearray, size: int) -> None:
        self._total += size - len(draft)
        if size > len(draft):
            draft += bytes(size - len(draft))
        else:
            del draft[size:]
        while self._total > MAX_TOTAL:
            self.end(next(iter(self._drafts)))

    def read(self, node: Node, offset: int, end: int) -> bytes | None:
        """Return what is there (short at the end of the file); None if it is not known."""
        draft = self._drafts.get(node)
        return None if draft is None else bytes(draft[offset:end])
