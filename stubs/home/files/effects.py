"""What bodies have changed at home: whether anybody could tell by now that one has run.

A body that only read, or wrote only files that it made itself, can be started again when its node
is lost, as if it had never been; so can a compiler that replaced an older object file. Its
processes are told apart by their pids on the node, which the node tells to be of one body (Family);
what comes from a process of none is taken for everybody's. A node that lies here does no more harm
than one that writes nonsense into the files.
"""

from __future__ import annotations

import os

from stubs.abi.fuse import FATTR_SIZE
from stubs.wire.compilers import is_compiler
from stubs.wire.messages import (
    Create,
    Fallocate,
    Link,
    Mkdir,
    Mknod,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Symlink,
    Unlink,
    Write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.files.inodes import Directory, Inode
    from stubs.home.files.naming import Naming
    from stubs.home.files.resolve import Tree
    from stubs.wire.codec import Message

# Of one inode: harmless to a file that the body made.
_OF_INODES = (Write, Setattr, Fallocate, Setxattr, Removexattr)
_OF_NAMES = (Link, Mkdir, Mknod, Rmdir, Symlink)
CHANGES = (*_OF_INODES, *_OF_NAMES, Create, Unlink, Rename)

# What a node may make us remember.
_MOST_PROCESSES = 1 << 14
_MOST_FILES = 1 << 14


class Traces:
    """What one body has left."""

    def __init__(self, rewrites: bool) -> None:
        """Begin with nothing; `rewrites` of a program that makes again what it takes away."""
        self.rewrites = rewrites
        self.made: dict[int, tuple[Directory, bytes] | None] = {}  # by id: where, if O_EXCL
        self.seen = False  # something that was there before is another now
        self.grown: set[int] = set()  # ids of others that it has written to, since a checkpoint


class Effects:
    """The traces of all bodies on a node."""

    def __init__(self, tree: Tree, naming: Naming) -> None:
        """Look names up in `tree`."""
        self._tree = tree
        self._naming = naming
        self._bodies: dict[int, Traces] = {}
        self._since: dict[int, Traces] = {}  # what bodies have left since their checkpoint
        self._families: dict[int, int] = {}

    def begin(self, body: int, exe: bytes) -> None:
        """Watch a body that starts, of the program at that path."""
        # What it really is: a cache or a distributor of compiles goes by a compiler's name.
        self._bodies[body] = Traces(is_compiler(os.path.realpath(exe)))
        self._families.pop(body, None)

    def end(self, body: int) -> None:
        """Watch it no longer."""
        self._bodies.pop(body, None)
        self._since.pop(body, None)

    def mark(self, body: int) -> None:
        """Take note that a body can be had again as it is now: see `since`."""
        self._since[body] = Traces(rewrites=False)

    def since(self, body: int) -> list[Inode] | None:
        """Return the files that a body has written to since `mark`, if it left nothing else.

        Then what is in its way is removed, as by `undo`. None: it did leave something.
        """
        traces = self._since.get(body)
        if traces is None or traces.seen:
            return None
        found = [self._tree.table.find(number) for number in traces.grown]
        inodes = [inode for inode in found if inode is not None]
        if len(inodes) < len(found):
            return None
        self._undo(traces)
        return inodes

    def meet(self, pid: int, body: int) -> None:
        """Take note that a process on the node belongs to that body; 0: to none that is known."""
        if len(self._families) >= _MOST_PROCESSES:
            del self._families[next(iter(self._families))]
        self._families[pid] = body

    def body_of(self, pid: int) -> int:
        """Return the body that a process on the node belongs to; 0: to none that is known."""
        return pid if pid in self._bodies else self._families.get(pid, 0)

    def is_unseen(self, body: int) -> bool:
        """Tell whether nobody could have noticed what a body did."""
        traces = self._bodies.get(body)
        return traces is not None and not traces.seen

    def has_none(self, body: int) -> bool:
        """Tell whether a body has neither changed nor made anything."""
        traces = self._bodies.get(body)
        return traces is not None and not traces.seen and not traces.made

    def undo(self, body: int) -> None:
        """Remove what would be in the way of the body when it is started again.

        Files that it made where none was allowed to be; of others it makes the same once more.
        """
        traces = self._bodies.get(body)
        if traces is not None:
            self._undo(traces)

    def _undo(self, traces: Traces) -> None:
        for number, place in traces.made.items():
            inode = self._tree.table.find(number)
            if place is not None and inode is not None:
                self._remove(inode, *place)

    def _remove(self, inode: Inode, directory: Directory, name: bytes) -> None:
        try:
            parent = self._tree.path_fd(directory)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == (inode.dev, inode.ino):
                os.unlink(name, dir_fd=parent)
        except OSError:
            return  # somebody has removed it

    # changes

    def before(self, message: Message) -> Inode | None:
        """Return the file at the name that a change is about to take away, if it is known."""
        if isinstance(message, (Unlink, Rename)):
            return self._at(message.dir, message.name)
        return None

    def after(self, message: Message, victim: Inode | None) -> None:
        """Take note of a change that has been made; `victim` as `before` returned it."""
        pid: int = message.pid  # type: ignore[attr-defined]  # all CHANGES have it
        body = self.body_of(pid)
        traces = self._bodies.get(body)
        if traces is None:
            for each in self._bodies.values():
                each.seen = True
        elif not traces.seen:
            traces.seen = not self._is_own(traces, message, victim)
        for number, since in self._since.items():
            if not since.seen and (traces is None or number == body):
                own = self._is_own(since, message, victim)
                since.seen = not (own or _grows(since, message))

    def _is_own(self, traces: Traces, message: Message, victim: Inode | None) -> bool:
        """Tell whether a change concerns only what the body made; note what it makes."""
        if isinstance(message, _OF_INODES):
            if traces.rewrites and isinstance(message, Setattr) and _empties(message):
                traces.made.setdefault(message.id, None)
            return message.id in traces.made
        if isinstance(message, Create):
            return self._made(traces, message)
        if isinstance(message, Unlink):
            if victim is not None and victim.id in traces.made:
                traces.made[victim.id] = None
                return True
            return traces.rewrites
        return False

    def _made(self, traces: Traces, message: Create) -> bool:
        inode = self._naming.made
        if inode is None:
            # It was there: opening it is no change, but for O_TRUNC.
            return not message.flags & os.O_TRUNC
        if len(traces.made) >= _MOST_FILES:
            return False
        place = None
        if message.flags & os.O_EXCL:
            place = (self._tree.table.directory(message.dir), message.name)
        traces.made[inode.id] = place
        return True

    def _at(self, number: int, name: bytes) -> Inode | None:
        inode = self._tree.table.find(number)
        children: dict[bytes, Inode] = getattr(inode, "children", {})
        return children.get(name)


def _grows(since: Traces, message: Message) -> bool:
    """Tell whether all that a change can have done is to write to a file, or set its times."""
    if isinstance(message, Write):
        if len(since.grown) < _MOST_FILES:
            since.grown.add(message.id)
        return message.id in since.grown
    return isinstance(message, Setattr) and not message.valid & FATTR_SIZE


def _empties(message: Setattr) -> bool:
    """Tell whether that is what open(2) does with O_TRUNC."""
    return bool(message.valid & FATTR_SIZE) and message.size == 0
