"""The file service: answers what a node asks of home's files, with the user's own rights.

One per link, in the link process, single-threaded. Nothing a node sends is trusted: ids are looked
up, names checked, sizes capped; whatever is wrong is an Error with an errno for the body.
The process's umask is set to 0: modes come from the body, its umask applied already.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from stubs.abi.fcntl import OFFSET_MAX
from stubs.home.files.adoption import Adoption
from stubs.home.files.changes import Changes
from stubs.home.files.coherence import Coherence
from stubs.home.files.contents import Contents
from stubs.home.files.effects import CHANGES, Effects
from stubs.home.files.hashes import Hashes
from stubs.home.files.inodes import Directory
from stubs.home.files.listing import Listings
from stubs.home.files.locks import Locks
from stubs.home.files.naming import Naming
from stubs.home.files.prefetch import Prefetch
from stubs.home.files.resolve import Tree, check_name, proc_path
from stubs.home.files.syncing import Syncing
from stubs.home.files.traces import Traces
from stubs.wire.messages import (
    Acknowledge,
    Attrs,
    Cancel,
    Create,
    Data,
    Done,
    Error,
    Failed,
    Fallocate,
    Family,
    Filesystem,
    Forget,
    Found,
    Fsync,
    Getattr,
    Getxattr,
    Hold,
    Lacking,
    Link,
    Listxattr,
    Lock,
    Lookup,
    Mkdir,
    Mknod,
    Offset,
    Read,
    Readlink,
    Removexattr,
    Rename,
    Rmdir,
    Seek,
    Setattr,
    Setxattr,
    Snapshot,
    Statfs,
    Symlink,
    Traced,
    Unhold,
    Unlink,
    Write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stubs.home.files.inodes import Inode
    from stubs.home.files.policy import ExportPolicy
    from stubs.link.endpoint import Handler
    from stubs.link.endpoint import Link as NodeLink
    from stubs.link.loop import Loop
    from stubs.wire.codec import Attr, Message
    from stubs.wire.messages import Spawn

# FUSE asks for at most 256 pages at a time.
MAX_READ = 1 << 20

# Posted writes are acknowledged when so much has been done, and at the end of a turn.
ACKNOWLEDGE_BYTES = 256 << 10

# Answered as if the file had none: nobody needs them, and they are asked for all the time.
_QUIET_XATTRS = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")


class FileService:
    """Home's files for one node."""

    def __init__(
        self,
        loop: Loop,
        policy: ExportPolicy,
        root: bytes = b"/",
        learned: tuple[str, str] | None = None,
    ) -> None:
        """Serve what lies below `root` as far as `policy` shows it; sets the umask to 0.

        What programs touch is remembered and sent ahead the next time; `learned` are directories
        for that and for hashes. Without them nothing is sent that was not asked for.
        """
        os.umask(0)
        budget = _descriptor_budget()
        self.requests = 0
        self._loop = loop
        self._link: NodeLink | None = None
        self._tree = Tree(root, policy, budget // 8)
        self._coherence = Coherence(loop, self._tree, self._post, self._written_elsewhere)
        self._contents = Contents(loop, self._tree, self._coherence, self._write_failed, budget)
        self._changes = Changes(self._tree, self._contents, self._coherence)
        self._naming = Naming(self._tree, self._contents, self._coherence)
        self.effects = Effects(self._tree, self._naming)
        self._listings = Listings(self._tree, self._coherence)
        self._locks = Locks(loop, self._tree, self._coherence, self._reply_locked, budget // 8)
        self._syncing = Syncing(loop)
        self._adoption = Adoption(self._tree, self._contents, self._coherence)
        self._prefetch: Prefetch | None = None
        if learned is not None:
            self._prefetch = Prefetch(
                loop,
                self._tree,
                self._contents,
                self._listings,
                Traces(learned[0]),
                Hashes(loop, learned[1]),
                self._coherence.watch_file,
            )
        self._unacknowledged = 0
        self._last_read: Read | None = None

    # for the link process

    def root_attr(self) -> Attr:
        """Return the attributes of the exported root."""
        self._coherence.watch(self._tree.root)
        return self._tree.attributes(self._tree.root)

    def attach(self, link: NodeLink) -> None:
        """Answer on `link`."""
        self._link = link
        if self._prefetch is not None:
            self._prefetch.attach(link)

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what to do with each message of a node that concerns files."""
        changes, naming = self._changes, self._naming
        answers: dict[type[Message], Callable[[Any], Message]] = {
            Lookup: self._lookup,
            Snapshot: self._listings.snapshot,
            Getattr: self._getattr,
            Setattr: changes.setattr,
            Read: self._read,
            Create: naming.create,
            Mknod: naming.mknod,
            Mkdir: naming.mkdir,
            Symlink: naming.symlink,
            Link: naming.link,
            Unlink: naming.unlink,
            Rmdir: naming.rmdir,
            Rename: naming.rename,
            Readlink: self._readlink,
            Fallocate: changes.fallocate,
            Seek: self._seek,
            Statfs: self._statfs,
            Getxattr: self._getxattr,
            Setxattr: changes.setxattr,
            Listxattr: self._listxattr,
            Removexattr: changes.removexattr,
        }
        for kind in CHANGES:
            if kind in answers:
                answers[kind] = self._noting(answers[kind])
        handlers = {kind: self._answering(answer) for kind, answer in answers.items()}
        handlers[Write] = self._write
        handlers[Fsync] = self._fsync
        handlers[Lock] = self._lock
        handlers[Cancel] = self._cancel
        handlers[Hold] = self._hold
        handlers[Unhold] = self._unhold
        handlers[Forget] = self._forget
        handlers[Family] = lambda message, tag, fds: self.effects.meet(message.pid, message.body)
        handlers[Traced] = self._traced
        handlers[Lacking] = self._lacking
        return handlers

    def resolve(self, path: bytes) -> Attr:
        """Return what the absolute `path` leads to, symlinks followed; OSError as stat(2).

        ENOENT for what is hidden. The place is watched from now on.
        """
        return self._adoption.resolve(path)

    def adopt(self, fd: int) -> Attr:
        """Make the file open as `fd` an inode, reachable as long as it is adopted; a copy is kept.

        Regular files and directories only (EINVAL), also ones that have no name any more; EACCES
        when it is hidden.
        """
        return self._adoption.adopt(fd)

    def lend(self, number: int) -> int:
        """Return an O_PATH descriptor of the inode with that id, the caller's; OSError ESTALE."""
        return os.dup(self._tree.path_fd(self._tree.table.get(number)))

    def lend_locks(self, body: int) -> list[tuple[int, int, int]]:
        """Return what a body has locked, see Locks.lend."""
        return self._locks.lend(lambda pid: self.effects.body_of(pid) == body)

    def take_lock(self, body: int, flock: int, pid: int, fd: int) -> int:
        """Take over a lock that a body brings; returns the inode, adopted. OSError as `adopt`."""
        number = self.adopt(fd).id
        self._locks.arrive(body, number, bool(flock), pid, fd)
        return number

    def disown(self, number: int) -> None:
        """Let go of what `adopt` has kept for inode id `number`; once for each adoption."""
        self._adoption.disown(number)

    def prefetch(self, spawn: Spawn) -> None:
        """Send what this program is expected to want; to be called before Spawn is sent."""
        if self._prefetch is not None:
            self._prefetch.begin(spawn)

    def begin_body(self, body: int, exe: bytes) -> None:
        """Take note that a body of that program starts; its changes are watched: `is_unseen`."""
        self.effects.begin(body, exe)

    def end_body(self, body: int) -> None:
        """Take note that nothing of a body is left."""
        self.effects.end(body)
        self._locks.end_body(body)
        if self._prefetch is not None:
            self._prefetch.ended(body)

    def is_unseen(self, body: int) -> bool:
        """Tell whether a body that is lost changed no file but those that it made itself.

        Then what it left is out of the way of one that is started again.
        """
        if not self.effects.is_unseen(body):
            return False
        self.effects.undo(body)
        return True

    def is_without_effect(self, body: int) -> bool:
        """Tell whether a body, which may live on, has left nothing that could be noticed."""
        return self.effects.has_none(body)

    def note_checkpoint(self, body: int) -> None:
        """Take note that a body can be had again as it is now: see `since_checkpoint`."""
        self.effects.mark(body)

    def since_checkpoint(self, body: int) -> list[tuple[int, int]] | None:
        """Return device and inode of what a body that is lost has written to since then.

        None: it did something else, or there is no checkpoint.
        """
        inodes = self.effects.since(body)
        return None if inodes is None else [(inode.dev, inode.ino) for inode in inodes]

    def reading(self) -> tuple[bytes, int, int] | None:
        """Return the file that the node read last: its name, up to where, its size."""
        last = self._last_read
        inode = None if last is None else self._tree.table.find(last.id)
        if last is None or inode is None:
            return None
        return inode.name, last.offset + last.size, inode.size

    def barrier(self) -> None:
        """Tell the node all that has changed until now; to be called before what makes it act."""
        self._coherence.barrier()

    def settle(self) -> None:
        """Close what is open for writing: to be called before home hears of what a body did."""
        self._contents.settle()

    def close(self) -> None:
        """Close every descriptor; locks are gone with them."""
        if self._prefetch is not None:
            self._prefetch.close()
        self._syncing.close()
        self._locks.close()
        self._contents.close()
        self._coherence.close()
        self._tree.close()

    # dispatch

    def _post(self, message: Message) -> None:
        if self._link is not None:
            self._link.post(message)

    def _reply(self, tag: int, message: Message) -> None:
        if tag and self._link is not None:
            self._link.reply(tag, message)

    def _answering(self, answer: Callable[[Any], Message]) -> Handler:
        """Return a handler that replies with what `answer` returns, or the error it raises."""

        def handle(message: Any, tag: int, _: list[int]) -> None:
            self.requests += 1
            self._contents.start_idling()
            try:
                reply = answer(message)
            except OSError as error:
                reply = _error(error)
            self._asked_about(getattr(message, "id", 0))
            self._reply(tag, reply)

        return handle

    def _noting(self, answer: Callable[[Any], Message]) -> Callable[[Any], Message]:
        """Return what answers as `answer` does, and has the change noted if it was made."""

        def change(message: Any) -> Message:
            victim = self.effects.before(message)
            reply = answer(message)
            self.effects.after(message, victim)
            return reply

        return change

    def _asked_about(self, number: int) -> None:
        """Take posted writes of this inode again: the node has asked about it since one failed."""
        inode = self._tree.table.find(number)
        if inode is not None:
            inode.failed = 0

    def _written_elsewhere(self, inode: Inode) -> None:
        self._contents.written_elsewhere(inode)

    # looking

    def _lookup(self, message: Lookup) -> Message:
        directory = self._tree.table.directory(message.dir)
        check_name(message.name)
        self._coherence.watch(directory)
        entry = self._tree.entry(directory, message.name)
        return Found(entry, self._tree.attributes(directory))

    def _getattr(self, message: Getattr) -> Message:
        inode = self._tree.table.get(message.id)
        if isinstance(inode, Directory):
            self._coherence.watch(inode)
        return Attrs([self._tree.attributes(inode)])

    def _read(self, message: Read) -> Message:
        if message.size > MAX_READ or message.offset > OFFSET_MAX - MAX_READ:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        inode = self._tree.table.get(message.id)
        self._last_read = message
        return Data(os.pread(self._contents.reader(inode), message.size, message.offset))

    def _readlink(self, message: Readlink) -> Message:
        inode = self._tree.table.get(message.id)
        if inode.kind != stat.S_IFLNK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        # The empty path: the link that the O_PATH descriptor itself is, readlinkat(2).
        return Data(os.readlink(b"", dir_fd=self._tree.path_fd(inode)))

    def _seek(self, message: Seek) -> Message:
        if message.whence not in (os.SEEK_DATA, os.SEEK_HOLE) or message.offset > OFFSET_MAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        inode = self._tree.table.get(message.id)
        return Offset(os.lseek(self._contents.reader(inode), message.offset, message.whence))

    def _statfs(self, message: Statfs) -> Message:
        inode = self._tree.table.get(message.id)
        found = os.statvfs(self._tree.path_fd(inode))
        return Filesystem(
            found.f_bsize,
            found.f_frsize,
            found.f_namemax,
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
        )

    def _getxattr(self, message: Getxattr) -> Message:
        inode = self._tree.table.get(message.id)
        if message.name in _QUIET_XATTRS:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        if not message.name.startswith(b"user.") or b"\0" in message.name:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return Data(os.getxattr(proc_path(self._tree.path_fd(inode)), message.name))

    def _listxattr(self, message: Listxattr) -> Message:
        inode = self._tree.table.get(message.id)
        names = map(os.fsencode, os.listxattr(proc_path(self._tree.path_fd(inode))))
        return Data(b"".join(name + b"\0" for name in names if name.startswith(b"user.")))

    # writing

    def _write(self, message: Write, tag: int, _: list[int]) -> None:
        self.requests += 1
        if tag:
            self._answering(self._write_asked)(message, tag, [])
            return
        self._unacknowledged += len(message.data)
        inode = self._tree.table.find(message.id)
        if inode is None:
            self._post(Failed(message.id, errno.ESTALE, b""))
        elif not inode.failed:
            try:
                self._changes.write(message)
                self.effects.after(message, None)
            except OSError as error:
                self._write_failed(inode, error)
        if self._unacknowledged >= ACKNOWLEDGE_BYTES:
            self._acknowledge()
        else:
            self._loop.at_turn_end(self._acknowledge)

    def _write_failed(self, inode: Inode, error: OSError) -> None:
        inode.failed = error.errno or errno.EIO
        self._post(Failed(inode.id, inode.failed, self._path(inode)))

    def _write_asked(self, message: Write) -> Message:
        self._changes.write(message)
        self.effects.after(message, None)
        return Attrs([self._tree.attributes(self._tree.table.get(message.id))])

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            count, self._unacknowledged = self._unacknowledged, 0
            self._post(Acknowledge(count))

    def _path(self, inode: Inode) -> bytes:
        """Return where `inode` is, for people; its name alone when that cannot be found out."""
        try:
            return os.readlink(proc_path(self._tree.path_fd(inode)))
        except OSError:
            return inode.name

    def _fsync(self, message: Fsync, tag: int, _: list[int]) -> None:
        self.requests += 1
        self._asked_about(message.id)
        try:
            inode = self._tree.table.get(message.id)
            fd = self._open_to_sync(inode)
        except OSError as error:
            self._reply(tag, _error(error))
            return
        self._contents.settle_file(inode)
        self._syncing.sync(fd, bool(message.datasync), lambda error: self._synced(tag, error))

    def _open_to_sync(self, inode: Inode) -> int:
        try:
            return self._tree.open_again(inode, os.O_RDONLY)
        except PermissionError:
            return os.dup(self._contents.writer(inode))

    def _synced(self, tag: int, error: OSError | None) -> None:
        self._reply(tag, Done() if error is None else _error(error))

    # locks

    def _lock(self, message: Lock, tag: int, _: list[int]) -> None:
        self.requests += 1
        self._asked_about(message.id)
        try:
            self._locks.handle(message, tag)
        except OSError as error:
            self._reply(tag, _error(error))

    def _reply_locked(self, tag: int, message: Message) -> None:
        # Who has got a lock must see what the one before has done under it.
        self.barrier()
        self._reply(tag, message)

    def _cancel(self, message: Cancel, tag: int, _: list[int]) -> None:
        self._locks.cancel(message.request)

    # what bodies have open, and what the node has dropped

    def _hold(self, message: Hold, tag: int, _: list[int]) -> None:
        for number in message.ids:
            inode = self._tree.table.find(number)
            if inode is not None:
                try:
                    self._contents.hold(inode)
                except OSError:
                    continue  # lost already: its next use is answered ESTALE

    def _unhold(self, message: Unhold, tag: int, _: list[int]) -> None:
        for number in message.ids:
            inode = self._tree.table.find(number)
            if inode is not None and not self._adoption.holds(number):
                self._contents.unhold(inode)

    def _traced(self, message: Traced, tag: int, _: list[int]) -> None:
        if self._prefetch is not None:
            self._prefetch.traced(message)

    def _lacking(self, message: Lacking, tag: int, _: list[int]) -> None:
        if self._prefetch is not None:
            self._prefetch.lacking(message)

    def _forget(self, message: Forget, tag: int, _: list[int]) -> None:
        if self._prefetch is not None:
            self._prefetch.forgotten(message)
        for number in message.ids:
            inode = self._tree.table.find(number)
            if inode is None or inode is self._tree.root:
                continue
            if not self._adoption.holds(number):
                self._contents.unhold(inode)
                self._forget_inode(inode)

    def _forget_inode(self, inode: Inode) -> None:
        self._contents.forget(inode)
        self._locks.forget(inode)
        if not isinstance(inode, Directory):
            return  # the node may still find it in the listing of its directory
        # No name in it is known to the kernel of the node any more, or it could not let go of it.
        for child in list(inode.children.values()):
            if not child.held and not isinstance(child, Directory):
                self._contents.forget(child)
                self._tree.drop(child)
        if not inode.children:
            self._tree.drop(inode)


def _error(error: OSError) -> Error:
    return Error(error.errno or errno.EIO, str(error).encode(errors="surrogateescape"))


def _descriptor_budget() -> int:
    """Return how many descriptors we may use; the link process has raised the soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 65536 if soft == resource.RLIM_INFINITY else min(soft, 65536)
