"""Open files: OPEN, RELEASE, FLUSH, FSYNC; and locks, which live at home.

Open and close are answered here. Home has to be asked only where opening cuts a file short, and is
told which files are in use, so that it keeps them reachable whatever becomes of their names. What
close(2) must do at home (drop the locks of the closer) is sent without waiting.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict

from stubs.abi import fuse
from stubs.abi.fuseopens import FILE_HANDLE
from stubs.node.view.callers import Callers
from stubs.node.view.fuse import BODY
from stubs.node.view.inodes import FOREVER, READABLE, WRITABLE
from stubs.node.view.responder import Responder
from stubs.wire.messages import (
    Attrs,
    Cancel,
    Done,
    Fsync,
    Getattr,
    Hold,
    Lock,
    Locked,
    Setattr,
    Unhold,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.inodes import Node
    from stubs.node.view.reading import Reading
    from stubs.node.view.responder import Core
    from stubs.node.view.writing import Writing

F_GETLK, F_SETLK, F_SETLKW = 0, 1, 2  # Lock.op
F_UNLCK = 2
END_OF_FILE = (1 << 63) - 1

# Files that nobody has open any more and that home keeps reachable all the same: more than a large
# build reads again and again. Home gives each a descriptor as long as it has any.
MAX_CLOSED = 8192

_RIGHTS = {os.O_RDONLY: READABLE, os.O_WRONLY: WRITABLE, os.O_RDWR: READABLE | WRITABLE}
OPENED = fuse.fuse_open_out.pack(0, fuse.FOPEN_KEEP_CACHE, 0)
# A close of it tells nothing: no write, no lock. Before Linux 5.16 the kernel tells all the same.
OPENED_QUIETLY = fuse.fuse_open_out.pack(0, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH, 0)
_FMODE_EXEC = 0x20  # in the flags of an open by execve(2); include/linux/fs.h


def setattr_size(node: Node, size: int, pid: int) -> Setattr:
    """Return the message that cuts or extends a file."""
    return Setattr(node.id, fuse.FATTR_SIZE, 0, 0, 0, size, 0, 0, pid)


class Opening(Responder):
    """Answers what is about open files."""

    def __init__(self, core: Core, reading: Reading, writing: Writing) -> None:
        """Take over the opcodes of open files and locks."""
        super().__init__(core)
        self._reading = reading
        self._writing = writing
        self.callers = Callers()
        self._to_hold: list[int] = []
        self._to_release: list[int] = []
        self._closed: OrderedDict[Node, None] = OrderedDict()  # held though nobody has it open
        self._lock_waits: dict[int, int] = {}  # unique of a SETLKW -> tag of its request
        self._device.handlers.update(
            {
                fuse.FUSE_OPEN: self._open,
                fuse.FUSE_RELEASE: self._release,
                fuse.FUSE_FLUSH: self._flush,
                fuse.FUSE_FSYNC: self._fsync,
                fuse.FUSE_FSYNCDIR: self._fsync,
                fuse.FUSE_GETLK: self._getlk,
                fuse.FUSE_SETLK: self._setlk,
                fuse.FUSE_SETLKW: self._setlkw,
                fuse.FUSE_INTERRUPT: self._interrupt,
            }
        )

    # OPEN

    def _open(self, unique: int, nodeid: int, _: int) -> None:
        flags, _ = fuse.fuse_open_in.unpack_from(self._device.buffer, BODY)
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            self._device.error(unique, errno.ESTALE)
            return
        if flags & _FMODE_EXEC:
            self.callers.execs(self._device.pid)
            if self._device.opens is not None:
                self._device.opens.remove_pid(self._device.pid)
        wanted = _RIGHTS.get(flags & os.O_ACCMODE, READABLE | WRITABLE)
        if flags & os.O_TRUNC:
            wanted |= WRITABLE
        if wanted & ~node.attr.rights:
            self._device.error(unique, self._refusal(node, wanted & ~node.attr.rights))
            return
        pid = self._device.pid
        if flags & os.O_TRUNC:
            self._open_empty(unique, node, flags, pid)
        elif node.local or self._inodes.fresh(node):
            self._open_unmixed(unique, node, flags, pid)
        else:
            self._check(unique, node, flags, pid)

    def _open_empty(self, unique: int, node: Node, flags: int, pid: int) -> None:
        """Open a file and cut it short."""
        cut = setattr_size(node, 0, pid)
        if node.local:
            self._temporaries.truncate(node, 0)
            self._opened(unique, node, flags, pid)
        elif node.attr.size == 0 and node.until == FOREVER and not node.pending:
            # Nothing is cut off: only the times change, which need not be waited for.
            self._writing.post_change(node, cut)
            self._reading.discard(node)
            self._reading.drafts.begin(node)
            self._opened(unique, node, flags, pid)
        else:

            def truncated(reply: Attrs) -> None:
                for attr in reply.attrs:
                    self._inodes.own(attr)
                self._reading.discard(node)
                self._reading.drafts.begin(node)
                self._opened(unique, node, flags, pid)

            self._uplink.request(unique, cut, Attrs, truncated, (node,))

    def _check(self, unique: int, node: Node, flags: int, pid: int) -> None:
        """Open a file that home cannot watch: first see whether it is what the kernel cached."""

        def got(reply: Attrs) -> None:
            for attr in reply.attrs:
                self._inodes.observe(attr)
            self._open_unmixed(unique, node, flags, pid)

        self._uplink.request(unique, Getattr(node.id), Attrs, got)

    def _open_unmixed(self, unique: int, node: Node, flags: int, pid: int) -> None:
        """Open a file that has the contents, in the kernel's cache, that go with its attributes."""
        self._notifier.contents_dropped(node, lambda: self._opened(unique, node, flags, pid))

    def _refusal(self, node: Node, lacking: int) -> int:
        """Return the errno of open(2) for rights that the user does not have."""
        if not lacking & WRITABLE or not self._inodes.owners.is_users(node.attr):
            return errno.EACCES
        # When the mode of the user's own file allows it, it is the file system that does not.
        return errno.EROFS if node.attr.mode & stat.S_IWUSR else errno.EACCES

    def _opened(self, unique: int, node: Node, flags: int, pid: int) -> None:
        self.count_open(node, flags)
        reading = not flags & (os.O_ACCMODE | _FMODE_EXEC)
        quiet = reading and self.callers.is_compiler(pid)
        if not self._device.reply(unique, OPENED_QUIETLY if quiet else OPENED):
            self.count_close(node, flags)
        elif quiet:
            self._keep_open(node, pid)

    # what a compiler has opened, others will open, too (stubs.abi.fuseopens)

    def _keep_open(self, node: Node, pid: int) -> None:
        """Have the next to read a file open it without us: it counts as open until `hand_out`."""
        opens = self._device.opens
        state = node.opened()
        if opens is None or node.local or node.until != FOREVER or state.writers or state.written:
            return
        opens.add_pid(pid)
        displaced = opens.add_node(node.id)
        if displaced == node.id:
            return
        self.count_open(node, os.O_RDONLY)
        former = self._inodes.nodes.get(displaced)
        if former is not None:
            self.count_close(former, os.O_RDONLY)

    def forget_callers(self) -> None:
        """Look anew at what programs run: a body has ended, and its pids may be another's soon."""
        self.callers.forget()
        if self._device.opens is not None:
            self._device.opens.remove_pids()

    def hand_out(self, node: Node) -> None:
        """Be asked again whenever a file is opened."""
        opens = self._device.opens
        if opens is not None and opens.remove_node(node.id):
            self.count_close(node, os.O_RDONLY)

    def count_open(self, node: Node, flags: int) -> None:
        """Note that a file is open once more, and let home know the first time."""
        if self._reading.note is not None and flags & os.O_ACCMODE == os.O_RDONLY:
            self._reading.note(node, 0, 0)
        state = node.opened()
        state.opens += 1
        if flags & os.O_ACCMODE:
            state.writers += 1
            self.hand_out(node)
        self._closed.pop(node, None)
        self.hold(node)

    def hold(self, node: Node) -> None:
        """Have home keep a file that is in use, as soon as it knows it."""
        if node.held or node.local:
            return
        node.held = True
        if node.id in self._to_release:
            self._to_release.remove(node.id)
        else:
            self._to_hold.append(node.id)
            self._loop.at_turn_end(self.tell_held)

    def tell_held(self) -> None:
        """Tell home what is in use now and what no more; due before any other request."""
        if self._to_hold:
            hold, self._to_hold = self._to_hold, []
            self._link.post(Hold(hold))
        if self._to_release:
            release, self._to_release = self._to_release, []
            self._link.post(Unhold(release))

    def name_goes(self, node: Node | None) -> None:
        """Have home keep a file that is about to lose a name.

        Until home has answered the kernel still has the name, and somebody may open it.
        """
        if node is not None and not node.held and stat.S_ISREG(node.attr.mode):
            self.hold(node)
            self._closed[node] = None

    def count_close(self, node: Node, flags: int) -> None:
        """Note that a file is open once less."""
        state = node.opened()
        state.opens -= 1
        if flags & os.O_ACCMODE:
            state.writers -= 1
            state.written = True
        if state.opens or not node.held:
            return
        # What was read is likely to be read again; what was written is about to be executed,
        # which home cannot do while it keeps it open for writing.
        if state.written:
            state.written = False
            self._unhold(node)
            return
        self._closed[node] = None
        if len(self._closed) > MAX_CLOSED:
            self._unhold(self._closed.popitem(last=False)[0])

    def _unhold(self, node: Node) -> None:
        node.held = False
        self._to_release.append(node.id)
        self._loop.at_turn_end(self.tell_held)

    def dropped(self, node: Node) -> None:
        """Note that the node is known no longer; Forget tells home so."""
        self._closed.pop(node, None)
        if self._device.opens is not None:
            self._device.opens.remove_node(node.id)

    # closing

    def _release(self, unique: int, nodeid: int, _: int) -> None:
        fh, flags, release_flags, owner = fuse.fuse_release_in.unpack_from(
            self._device.buffer, BODY
        )
        node = self._inodes.nodes.get(nodeid)
        if node is not None:
            if fh != FILE_HANDLE:
                self.count_close(node, flags)
            if release_flags & fuse.FUSE_RELEASE_FLOCK_UNLOCK:
                self._unlock(node, owner, flock=1)
        self._device.error(unique, 0)

    def _flush(self, unique: int, nodeid: int, _: int) -> None:
        _, _, _, owner = fuse.fuse_flush_in.unpack_from(self._device.buffer, BODY)
        node = self._inodes.nodes.get(nodeid)
        if node is None or node.file is None:
            self._device.error(unique, 0)
            return
        if node.file.pending:
            self._writing.flush()
        if owner in node.file.lock_owners:
            node.file.lock_owners.discard(owner)
            self._unlock(node, owner, flock=0)
        self._device.error(unique, self._writing.told(node) if node.file.error else 0)

    def _unlock(self, node: Node, owner: int, flock: int) -> None:
        lock = Lock(node.id, owner, F_SETLK, flock, F_UNLCK, 0, END_OF_FILE, 0)
        self._uplink.ask(lock, lambda reply: None)

    def _fsync(self, unique: int, nodeid: int, _: int) -> None:
        _, flags, _ = fuse.fuse_fsync_in.unpack_from(self._device.buffer, BODY)
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            self._device.error(unique, errno.ESTALE)
            return
        file = node

        def synced(_: Done) -> None:
            self._device.error(unique, self._writing.told(file))

        def refused(code: int) -> None:
            self._device.error(unique, self._writing.told(file) or code)

        datasync = flags & fuse.FUSE_FSYNC_FDATASYNC
        self._uplink.request(unique, Fsync(nodeid, datasync), Done, synced, refused=refused)

    # locks

    def _getlk(self, unique: int, nodeid: int, _: int) -> None:
        def got(reply: Locked) -> None:
            self._device.reply(
                unique, fuse.fuse_lk_out.pack(reply.start, reply.end, reply.type, reply.pid)
            )

        self._uplink.request(unique, self._lock(nodeid, F_GETLK), Locked, got)

    def _setlk(self, unique: int, nodeid: int, _: int) -> None:
        self._set_lock(unique, nodeid, F_SETLK)

    def _setlkw(self, unique: int, nodeid: int, _: int) -> None:
        self._lock_waits[unique] = self._set_lock(unique, nodeid, F_SETLKW)

    def _lock(self, nodeid: int, op: int) -> Lock:
        _, owner, start, end, kind, pid, flags, _ = fuse.fuse_lk_in.unpack_from(
            self._device.buffer, BODY
        )
        flock = 1 if flags & fuse.FUSE_LK_FLOCK else 0
        return Lock(nodeid, owner, op, flock, kind, start, end, pid)

    def _set_lock(self, unique: int, nodeid: int, op: int) -> int:
        lock = self._lock(nodeid, op)
        node = self._inodes.nodes.get(nodeid)
        if node is not None and not lock.flock and lock.type != F_UNLCK:
            node.opened().lock_owners.add(lock.owner)

        def locked(_: Locked) -> None:
            # What others wrote under the lock was pushed ahead of this reply: the kernel must
            # have dropped its older pages before the process goes on.
            self._lock_waits.pop(unique, None)
            self._notifier.settled(lambda: self._succeed(unique))

        def refused(code: int) -> None:
            self._lock_waits.pop(unique, None)
            self._device.error(unique, code if code > 0 else errno.EIO)

        return self._uplink.request(unique, lock, Locked, locked, refused=refused)

    def _succeed(self, unique: int) -> None:
        self._device.error(unique, 0)

    def _interrupt(self, _: int, __: int, ___: int) -> None:
        # Only a wait for a lock can be long; all else is answered as if nothing had happened.
        (unique,) = fuse.fuse_interrupt_in.unpack_from(self._device.buffer, BODY)
        tag = self._lock_waits.get(unique)
        if tag is not None:
            self._uplink.post(Cancel(tag))
