"""Locks of bodies on home's files: they exclude home's processes and other nodes' bodies.

fcntl(2) locks of one owner on one inode are open file description locks on an open file of their
own; flock(2) locks likewise on another one. (Locks of the classic kind would belong to this
process, and vanish with the first descriptor of the file that it closes.) Closing the open file
lets go of all its locks, so nothing outlives the link.

Who waits for a lock is answered later: it is tried again when a lock of this link is let go, and
by a timer for those of others. (The kernel finds no deadlock among such locks, nor do we.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from stubs.abi.fcntl import F_RDLCK, F_UNLCK, F_WRLCK, OFFSET_MAX, get_lock, set_lock
from stubs.wire.messages import Error, Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.coherence import Coherence
    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message
    from stubs.wire.messages import Lock

GETLK, SETLK, SETLKW = 0, 1, 2

# Between two tries of a lock that somebody else holds: short at first, then longer.
FIRST_RETRY_SECONDS = 0.001
LONGEST_RETRY_SECONDS = 0.02

MAX_WAITING = 4096

# (inode id, owner, whether it is for flock)
Key = tuple[int, int, bool]


class Arrived:
    """A lock that a body had when it came."""

    def __init__(self, body: int, number: int, flock: bool, pid: int, fd: int) -> None:
        """Arguments as of Locks.arrive."""
        self.body = body
        self.number = number
        self.flock = flock
        self.pid = pid
        self.fd = fd


_FLOCK = {F_RDLCK: fcntl.LOCK_SH, F_WRLCK: fcntl.LOCK_EX, F_UNLCK: fcntl.LOCK_UN}


class Locks:
    """The locks of the bodies of one node."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        coherence: Coherence,
        reply: Callable[[int, Message], None],
        limit: int,
    ) -> None:
        """Open at most `limit` files; `reply(tag, message)` answers a request."""
        self._loop = loop
        self._tree = tree
        self._coherence = coherence
        self._reply = reply
        self._limit = limit
        self._files: dict[Key, int] = {}
        self._pids: dict[Key, int] = {}
        self._arrived: list[Arrived] = []  # with bodies that hold them, and not used since
        self._waiting: dict[int, Lock] = {}  # by tag, in order of arrival
        self._pause = FIRST_RETRY_SECONDS
        self._timer: Timer | None = None

    def close(self) -> None:
        """Let go of every lock."""
        if self._timer is not None:
            self._timer.cancel()
        for key in list(self._files):
            self._close(key)
        for each in self._arrived:
            os.close(each.fd)
        self._arrived.clear()

    def handle(self, message: Lock, tag: int) -> None:
        """Answer `message` now, or later if it has to wait; OSError as fcntl(2) and flock(2)."""
        _check(message)
        self._claim(message)
        if message.op == GETLK:
            self._reply(tag, self._test(message))
        elif message.type == F_UNLCK:
            self._unlock(message)
            self._reply(tag, _locked(message))
            self._try_waiting()
        elif self._lock(message):
            self._reply(tag, _locked(message))
        elif message.op == SETLK or not tag:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        elif len(self._waiting) >= MAX_WAITING:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        else:
            self._waiting[tag] = message
            self._pause = FIRST_RETRY_SECONDS
            self._set_timer()

    def cancel(self, tag: int) -> None:
        """Answer a waiting request EINTR; one that does not wait any more has its answer."""
        if self._waiting.pop(tag, None) is not None:
            self._reply(tag, Error(errno.EINTR, b"interrupted"))

    def lend(self, is_of: Callable[[int], bool]) -> list[tuple[int, int, int]]:
        """Return what a body that leaves has locked: flock, pid, and a descriptor with the lock.

        `is_of` tells of a pid whether it is one of the body's. The descriptors are the caller's: a
        lock is there as long as any of them.
        """
        held = [(key[2], self._pids.get(key, 0), fd) for key, fd in self._files.items()]
        held += [(each.flock, each.pid, each.fd) for each in self._arrived]
        return [
            (int(flock), pid, os.dup(fd))
            for flock, pid, fd in held
            if is_of(pid) and _is_locked(fd)
        ]

    def arrive(self, body: int, number: int, flock: bool, pid: int, fd: int) -> None:
        """Take over a lock that process `pid` of a body holds on an inode; `fd` has it."""
        self._arrived.append(Arrived(body, number, flock, pid, fd))

    def end_body(self, body: int) -> None:
        """Let go of what arrived with a body of which nothing is left."""
        for each in [each for each in self._arrived if each.body == body]:
            self._arrived.remove(each)
            os.close(each.fd)

    def _claim(self, message: Lock) -> None:
        """Have who has arrived with a lock go on with it: its number as an owner is new here."""
        key = _key(message)
        if key in self._files or not self._arrived:
            return
        for each in self._arrived:
            if (each.number, each.flock, each.pid) == (
                message.id,
                bool(message.flock),
                message.pid,
            ):
                self._arrived.remove(each)
                self._files[key], self._pids[key] = each.fd, each.pid
                return

    def forget(self, inode: Inode) -> None:
        """Let go of all locks on `inode`: the node has dropped it."""
        if not self._files:
            return
        for key in [key for key in self._files if key[0] == inode.id]:
            self._close(key)

    def _test(self, message: Lock) -> Message:
        if message.flock:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fd = self._file(message)
        kind, start, end, pid = get_lock(fd, message.type, message.start, message.end)
        self._close_unlocked(message)
        if kind == F_UNLCK:
            return Locked(F_UNLCK, 0, 0, 0)
        return Locked(kind, start, end, pid if pid > 0 else self._holder(message))

    def _holder(self, message: Lock) -> int:
        """Return the pid of a body with a lock on the same inode; 0: unknown, another node's."""
        for (number, owner, flock), pid in self._pids.items():
            if number == message.id and owner != message.owner and not flock:
                return pid
        return 0

    def _lock(self, message: Lock) -> bool:
        fd = self._file(message)
        try:
            if message.flock:
                fcntl.flock(fd, _FLOCK[message.type] | fcntl.LOCK_NB)
            else:
                set_lock(fd, message.type, message.start, message.end)
        except BlockingIOError:
            self._close_unlocked(message)
            return False
        self._pids[_key(message)] = message.pid
        return True

    def _unlock(self, message: Lock) -> None:
        key = _key(message)
        if message.flock or (message.start == 0 and message.end == OFFSET_MAX):
            self._close(key)
        elif key in self._files:
            set_lock(self._files[key], F_UNLCK, message.start, message.end)

    def _file(self, message: Lock) -> int:
        """Return the open file that carries this owner's locks on this inode."""
        key = _key(message)
        fd = self._files.get(key)
        if fd is None:
            if len(self._files) >= self._limit:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            fd = self._files[key] = self._open(message)
        return fd

    def _open(self, message: Lock) -> int:
        inode = self._tree.table.get(message.id)
        if inode.kind != stat.S_IFREG or message.flock:
            return self._tree.open_again(inode, os.O_RDONLY)
        # A write lock needs a file open for writing; and a read lock can become one only on the
        # same open file, or it would be in its own way.
        if self._tree.readonly(inode):
            return self._tree.open_again(inode, os.O_RDONLY)
        try:
            return self._tree.open_again(inode, os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.ETXTBSY, errno.EPERM):
                raise
        try:
            return self._tree.open_again(inode, os.O_RDONLY)
        except PermissionError:
            return self._tree.open_again(inode, os.O_WRONLY)

    def _close_unlocked(self, message: Lock) -> None:
        """Close the open file of an owner that has never got a lock with it."""
        if _key(message) not in self._pids:
            self._close(_key(message))

    def _close(self, key: Key) -> None:
        self._pids.pop(key, None)
        fd = self._files.pop(key, None)
        if fd is None:
            return
        # To whoever listens it looks like the end of a change.
        inode = self._tree.table.find(key[0])
        self._coherence.before()
        os.close(fd)
        self._coherence.after(*(self._coherence.echo_of(inode) if inode is not None else ()))

    # waiting

    def _set_timer(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_later(self._pause, self._retry)
            self._pause = min(2 * self._pause, LONGEST_RETRY_SECONDS)

    def _retry(self) -> None:
        self._timer = None
        self._try_waiting()
        self._set_timer()

    def _try_waiting(self) -> None:
        for tag, message in list(self._waiting.items()):
            try:
                if not self._lock(message):
                    continue
                reply: Message = _locked(message)
            except OSError as error:
                reply = Error(error.errno or errno.EIO, str(error).encode(errors="replace"))
            del self._waiting[tag]
            self._reply(tag, reply)


def _key(message: Lock) -> Key:
    return message.id, message.owner, bool(message.flock)


def _locked(message: Lock) -> Locked:
    return Locked(message.type, message.start, message.end, message.pid)


def _check(message: Lock) -> None:
    """Raise OSError EINVAL for a request that makes no sense."""
    if (
        message.op not in (GETLK, SETLK, SETLKW)
        or message.type not in _FLOCK
        or not message.start <= message.end <= OFFSET_MAX
    ):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _is_locked(fd: int) -> bool:
    """Tell whether the open file has a lock: proc(5) shows those of ours."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return b"\nlock:" in file.read()
