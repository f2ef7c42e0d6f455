"""Temporary files of compilers: kept on the node, and with some luck never sent home.

A compiler driver makes /tmp/ccXXXXXX.s, one of its children writes it, another reads it, and the
driver removes it. Home is told of such a file when something has to be done with it that only home
can do, when its body ends, or after a while; if it is removed before, home never hears of it.

Meanwhile other changes go home ahead of it, the object file above all. Nobody can tell: to see that
an effect came before its cause one has to look for the cause, and nobody at home can look for a
name that was chosen at random a moment ago and that its makers tell nobody but the children whom
they start (libiberty's make_temp_file; LLVM's createTemporaryFile). This is true of compilers, by
their names (`is_private`), not of temporary files in general: a script may well tell another
what mktemp(1) gave it, or find it with a pattern. Those go the ordinary way. So do all that are
not in a sticky directory.

For the same reason such a name need not be fought for at home: O_EXCL does not wait. That it is
free there depends on what its maker depends on, too: 36 random bits. If it is not, the file is
refused when home is told of it, and that is told as any refusal.

Times of such a file are the node's until home is told of it; its inode number is its id for as long
as the node knows it. The times of the directory do not tell of it.
"""

from __future__ import annotations

import os
import re
import stat
import time

from stubs.node.view.inodes import FOREVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop, Timer
    from stubs.node.view.inodes import Inodes, Node

# gcc, collect2, lto-wrapper: cc and six letters or digits; clang: a name and six hex digits.
_PRIVATE = re.compile(
    rb"cc[A-Za-z0-9]{6}(\.[A-Za-z0-9._-]{1,32})?|[\w.+-]{1,200}-[0-9a-f]{6,8}\.(s|o|bc|i|ii)"
)

# The largest compilations make assembler of a few MB; all together take this much at most.
MAX_HELD = 8 << 20

# How long a file is kept: longer than most compilations take, and so that a driver that was killed
# leaves its file where it would leave it at home.
HELD_SECONDS = 30.0

# Bytes in one Write when home is told.
PART = 256 << 10


def is_private(name: bytes) -> bool:
    """Tell whether a compiler makes names like this for itself and its children."""
    return _PRIVATE.fullmatch(name) is not None


class Temporary:
    """One file that home does not know."""

    __slots__ = ("content", "due", "flags", "mode", "name", "parent", "pid")

    def __init__(
        self, parent: Node, name: bytes, mode: int, flags: int, pid: int, due: float
    ) -> None:
        """Begin empty."""
        self.parent = parent
        self.name = name
        self.mode = mode
        self.flags = flags
        self.pid = pid
        self.due = due
        self.content = bytearray()


class Temporaries:
    """All files that home does not know, the oldest first."""

    def __init__(self, loop: Loop, inodes: Inodes, clock: Callable[[], float]) -> None:
        """Begin with none."""
        # Set by the view: tell home that there is such a file, with its content.
        self.tell: Callable[[Node, Temporary], None] = lambda node, temporary: None
        self._loop = loop
        self._inodes = inodes
        self._clock = clock
        self._held: dict[Node, Temporary] = {}
        self._total = 0
        self._timer: Timer | None = None

    def begin(self, parent: Node, name: bytes, mode: int, flags: int, pid: int) -> Node:
        """Make a file in `parent`."""
        node = self._inodes.make(parent, mode)
        node.local = True
        node.ino = node.id
        due = self._clock() + HELD_SECONDS
        self._held[node] = Temporary(parent, name, mode, flags, pid, due)
        # Neither may be dropped before home knows of the file.
        node.links += 1
        parent.links += 1
        self._inodes.add_name(parent, name, node)
        self._touch(node)
        if self._timer is None:
            self._timer = self._loop.call_later(HELD_SECONDS, self._overdue)
        return node

    def _touch(self, node: Node, size: int = 0) -> None:
        now = time.time_ns()
        self._inodes.change(
            node,
            size=size,
            blocks=(size + 511) // 512,
            atime_ns=node.attr.atime_ns or now,
            mtime_ns=now,
            ctime_ns=now,
        )

    # contents

    def read(self, node: Node, offset: int, end: int) -> bytes:
        """Return what is there."""
        held = self._held.get(node)
        return b"" if held is None else bytes(held.content[offset:end])

    def write(self, node: Node, offset: int, data: bytes, append: bool) -> bool:
        """Take in a write; False when home was told of the file instead, for want of room."""
        held = self._held[node]
        size = len(held.content)
        start = size if append else offset
        end = start + len(data)
        if self._total + max(0, end - size) > MAX_HELD:
            self.announce(node)
            return False
        if end > size:
            self._resize(held, end)
        held.content[start:end] = data
        self._touch(node, len(held.content))
        return True

    def truncate(self, node: Node, size: int) -> bool:
        """Take in a change of size; False when home was told of the file instead."""
        held = self._held[node]
        if self._total + max(0, size - len(held.content)) > MAX_HELD:
            self.announce(node)
            return False
        self._resize(held, size)
        self._touch(node, size)
        return True

    def _resize(self, held: Temporary, size: int) -> None:
        self._total += size - len(held.content)
        if size > len(held.content):
            held.content += bytes(size - len(held.content))
        else:
            del held.content[size:]

    # ends

    def remove(self, node: Node) -> bool:
        """Take its name away, if nobody has it open: then home need not hear of it at all."""
        held = self._held[node]
        if node.opened().opens:
            self.announce(node)
            return False
        self._inodes.change(node, nlink=0)
        self._inodes.remove_name(held.parent, held.name)
        self._let_go(node)
        return True

    def announce(self, node: Node) -> None:
        """Tell home of the file."""
        held = self._held[node]
        node.local = False
        self.tell(node, held)
        self._let_go(node)

    def _let_go(self, node: Node) -> None:
        held = self._held.pop(node)
        self._total -= len(held.content)
        parent = held.parent
        node.links -= 1
        parent.links -= 1
        self._inodes.release(node)
        self._inodes.release(parent)

    def announce_of(self, pid: int) -> None:
        """Tell home of all files that this process has made; 0: of all that there are."""
        for node, held in list(self._held.items()):
            if pid in (0, held.pid):
                self.announce(node)

    def _overdue(self) -> None:
        self._timer = None
        now = self._clock()
        for node, held in list(self._held.items()):
            if held.due > now:
                self._timer = self._loop.call_later(held.due - now, self._overdue)
                return
            self.announce(node)


def suits(parent: Node, name: bytes, flags: int, mode: int) -> bool:
    """Tell whether a file that is made so is one to be kept here."""
    return (
        bool(flags & os.O_EXCL)
        and bool(parent.attr.mode & stat.S_ISVTX)
        and parent.until == FOREVER
        and not mode & ~0o777
        and is_private(name)
    )
