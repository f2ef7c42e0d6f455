"""Telling a node what changed at home, and what of that it did itself.

Every directory of which a node was told a name is watched by inotify from before it was told.
Events are queued at the time of the change, so draining the queue (`barrier`) finds whatever
happened before it. An operation done for the node is enclosed by `before` and `after`: what is
queued in between and names the same object is our own echo and is dropped; all else is somebody
else's, another link process included.

What inotify does not tell (stores through mmap before the last close, other names of a file in
directories that are not watched) is looked at by stat(2) at barriers: a bounded number of files.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict

from stubs.abi import inotify
from stubs.abi.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
)
from stubs.home.files.inodes import Directory
from stubs.home.files.mounts import Mounts
from stubs.home.files.resolve import proc_path
from stubs.link.loop import READ
from stubs.wire.codec import Change
from stubs.wire.messages import Invalidate, InvalidateAll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Attr, Message

CONTENT = IN_MODIFY | IN_CLOSE_WRITE
NAMES = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
DIRECTORY_EVENTS = CONTENT | IN_ATTRIB | NAMES | IN_ONLYDIR
FILE_EVENTS = CONTENT | IN_ATTRIB

# Without a barrier changes are looked at and told this late, and the later the longer they keep
# coming: each link hears of each write of a build, and to wake up and to tell costs more than what
# is told. But the kernel queues no more than 16 384 events.
PUBLISH_SECONDS = 0.005
LATEST_SECONDS = 0.2
# Later still, as long as to tell takes more than this part of the time: a slow home with many nodes
# does little else otherwise. (A client of NFS sees changes after 3 s.)
SHARE = 0.001
LATEST_WHEN_SLOW_SECONDS = 1.0
MANY_EVENTS = 1024

# More than this at once, and the node does better to forget everything.
MAX_CHANGES = 8192

# Names in one message: each takes up to NAME_MAX and PATH_MAX bytes.
PART_CHANGES = 1024

# Watches on files themselves (those with several names), and files looked at by every barrier.
MAX_FILE_WATCHES = 4096
MAX_CHECKED = 128

# (watch, name): what an event says of where it happened.
Echo = tuple[int, bytes]


class Coherence:
    """The watches of one link, and what they have told."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        post: Callable[[Message], None],
        written: Callable[[Inode], None] | None = None,
    ) -> None:
        """Watch nothing yet; `post` sends to the node; `written` hears of foreign writes."""
        self._written = written
        self._loop = loop
        self._tree = tree
        self._post = post
        self._fd = _inotify()
        self._watches: dict[int, Inode] = {}
        self._file_watches = 0
        self._names: dict[tuple[Directory, bytes], None] = {}
        self._data: dict[Inode, None] = {}
        self._attrs: dict[Inode, None] = {}
        self._dirs: dict[int, None] = {}
        self._lost_count = False
        # Files moved away from a watched directory: moved to another one, or out of sight?
        self._leaving: list[Inode] = []
        self._checked: OrderedDict[Inode, None] = OrderedDict()
        # Closed after writing, and no write was heard: its time of change as last told.
        self._closed: dict[Inode, int] = {}
        self._publishing = False
        self._timer: Timer | None = None
        self._delay = PUBLISH_SECONDS
        self._told_at = 0.0  # when (monotonic) changes were last told without a barrier
        self._listening = False
        self._mounts = Mounts()
        self._listen()
        tree.refresh = self.refresh

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._mounts.close()
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)

    # watching

    def watch(self, directory: Directory) -> None:
        """Watch `directory` if it can be: else what is in it is volatile."""
        if directory.wd >= 0 or directory.unwatchable:
            return
        if self._tree.view(directory).empty:
            return
        wd = self._add(directory, DIRECTORY_EVENTS)
        if wd < 0:
            directory.unwatchable = True

    def watch_file(self, inode: Inode) -> None:
        """Watch `inode` itself: it has other names, or none."""
        if inode.wd >= 0 or inode.kind != stat.S_IFREG:
            return
        wd = -1
        if self._file_watches < MAX_FILE_WATCHES:
            wd = self._add(inode, FILE_EVENTS)
        if wd >= 0:
            self._file_watches += 1
        else:
            self._check(inode)

    def _add(self, inode: Inode, events: int) -> int:
        path = proc_path(self._tree.path_fd(inode))
        if self._fd < 0:
            return -1
        try:
            wd = inotify.inotify_add_watch(self._fd, path, events)
        except OSError as error:
            # No watch left, or the user may not read it: the node asks again instead.
            if error.errno not in (errno.ENOSPC, errno.EACCES, errno.ENOMEM, errno.EPERM):
                raise
            return -1
        inode.wd = wd
        self._watches[wd] = inode
        return wd

    def forget(self, inode: Inode) -> None:
        """Watch `inode` no longer: the node has dropped it."""
        self._checked.pop(inode, None)
        if inode.wd < 0:
            return
        wd, inode.wd = inode.wd, -1
        if self._watches.pop(wd, None) is None:
            return
        if not isinstance(inode, Directory):
            self._file_watches -= 1
        try:
            inotify.inotify_rm_watch(self._fd, wd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it went by itself, with its directory
                raise

    def _check(self, inode: Inode) -> None:
        self._checked[inode] = None
        while len(self._checked) > MAX_CHECKED:
            self._checked.popitem(last=False)

    # own operations

    def echo_of(self, inode: Inode) -> tuple[Echo, ...]:
        """Return the places where a change of `inode` is heard."""
        if inode.parent is None:
            return ((inode.wd, b""),)
        return (inode.parent.wd, inode.name), (inode.wd, b"")

    def before(self) -> None:
        """Take in what is queued: it is not our doing."""
        self._drain(())
        self._schedule_if_pending()

    def after(self, *echoes: Echo) -> None:
        """Drop what our operation has caused; anything else in the queue is not our doing."""
        self._drain(echoes)
        self._schedule_if_pending()

    def changed(self, inode: Inode) -> None:
        """Tell the node that the contents of `inode` are not what it takes them for."""
        self._data[inode] = None
        self._schedule()

    # draining

    def _listen(self) -> None:
        """Hear of the next event; while events keep coming, they are looked for in time."""
        if self._fd >= 0 and not self._listening:
            self._listening = True
            self._loop.watch(self._fd, READ, self._readable)

    def _readable(self, _: int) -> None:
        self._listening = False
        self._loop.forget(self._fd)
        if time.monotonic() - self._told_at > max(LATEST_SECONDS, self._delay):
            self._delay = PUBLISH_SECONDS
        self._schedule()

    def _drain(self, echoes: Collection[Echo]) -> int:
        """Take in all events but `echoes`; return how many there were."""
        if self._fd < 0:
            return 0
        count = 0
        for wd, mask, _, name in inotify.read_events(self._fd):
            count += 1
            if mask & IN_Q_OVERFLOW:
                self._overflow()
                continue
            inode = self._watches.get(wd)
            if inode is None:
                continue
            if mask & (IN_IGNORED | IN_UNMOUNT):
                self._unwatched(inode, mask)
            elif (wd, name) not in echoes:
                self._foreign(inode, mask, name)
        return count

    def _schedule_if_pending(self) -> None:
        if self._timer is None and self._pending():
            self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self._publish_later)

    def _pending(self) -> bool:
        return bool(self._names or self._data or self._attrs or self._dirs or self._lost_count)

    def _overflow(self) -> None:
        self._lost_count = True
        self._tree.moved()

    def _unwatched(self, inode: Inode, mask: int) -> None:
        self._watches.pop(inode.wd, None)
        inode.wd = -1
        if not isinstance(inode, Directory):
            self._file_watches -= 1
        elif mask & IN_UNMOUNT:
            self._tree.paths.drop(inode.id)
            self._dirs[inode.id] = None

    def _foreign(self, inode: Inode, mask: int, name: bytes) -> None:
        if not isinstance(inode, Directory):
            self._file_changed(inode, mask)
        elif not name:
            self._attrs[inode] = None
        elif mask & NAMES:
            self._name_changed(inode, mask, name)
        elif (child := inode.children.get(name)) is not None:
            self._file_changed(child, mask)
        if len(self._names) + len(self._data) + len(self._attrs) > MAX_CHANGES:
            self._overflow()

    def _file_changed(self, inode: Inode, mask: int) -> None:
        if mask & IN_CLOSE_WRITE and inode not in self._data:
            self._closed[inode] = inode.mtime_ns
        (self._data if mask & CONTENT else self._attrs)[inode] = None
        if self._written is not None:
            self._written(inode)

    def _name_changed(self, directory: Directory, mask: int, name: bytes) -> None:
        self._names[directory, name] = None
        self._attrs[directory] = None
        if mask & IN_ISDIR and mask & (IN_MOVED_FROM | IN_MOVED_TO):
            self._tree.moved()
        if mask & (IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO) and not self._has(directory, name):
            former = self._tree.table.displace(directory, name)
            if former is not None and former.parent is not None:
                self._attrs[former] = None  # it has other names, but one less
            elif former is not None:
                self._nameless(former, moved=bool(mask & IN_MOVED_FROM))

    def _has(self, directory: Directory, name: bytes) -> bool:
        """Tell whether what is known by that name has it now: the event is older than that."""
        known = directory.children.get(name)
        if known is None:
            return False
        try:
            fd = self._tree.path_fd(directory)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (known.dev, known.ino)

    def _nameless(self, inode: Inode, moved: bool) -> None:
        """See what is to become of an inode whose name is gone."""
        if inode.held:
            self._attrs[inode] = None
            try:
                self.watch_file(inode)
            except OSError:
                pass  # lost: we keep as many as we may, and this one was not among them
        elif moved:
            self._leaving.append(inode)
        elif inode.nlink <= 1 or isinstance(inode, Directory):
            self.forget(inode)
            self._tree.drop(inode)

    # telling

    def barrier(self) -> None:
        """Tell the node everything that happened until now."""
        self._drain(())
        self._look_at_mounts()
        self._look_at_checked()
        self.publish()

    def refresh(self) -> None:
        """Take in what happened, and tell it: a name was not what was remembered."""
        if self._publishing:
            return
        self._drain(())
        self.publish()

    def _publish_later(self) -> None:
        self._timer = None
        began = time.thread_time()
        count = self._drain(())
        if self._pending():
            self.publish()
            self._told_at = time.monotonic()
            latest = min((time.thread_time() - began) / SHARE, LATEST_WHEN_SLOW_SECONDS)
            self._delay *= 2 if count < MANY_EVENTS else 0.5
            self._delay = max(PUBLISH_SECONDS, min(self._delay, max(latest, LATEST_SECONDS)))
            self._schedule()
        else:
            self._listen()

    def _look_at_mounts(self) -> None:
        for path in self._mounts.changed():
            self._tree.moved()
            place = self._tree.known(path)
            if place is not None:
                self._names[place] = None
                self._look_below(place[0].children[place[1]])

    def _look_below(self, inode: Inode) -> None:
        """Tell of all directories below a mount point: what may be done in them may be less now."""
        found = [inode]
        while found:
            directory = found.pop()
            if isinstance(directory, Directory):
                found += directory.children.values()
                if directory.wd >= 0:
                    self._attrs[directory] = None

    def _look_at_checked(self) -> None:
        for inode in list(self._checked):
            size, mtime = inode.size, inode.mtime_ns
            try:
                status = self._tree.status(inode)
            except OSError:
                self._checked.pop(inode, None)  # gone, which its directory tells of
                continue
            if (status.st_size, status.st_mtime_ns) != (size, mtime):
                self._data[inode] = None

    def publish(self) -> None:
        """Send what was taken in."""
        if not self._pending() or self._publishing:
            return
        self._publishing = True
        try:
            messages = self._collect()
        finally:
            self._publishing = False
        for message in messages:
            self._post(message)

    def _collect(self) -> list[Message]:
        names, self._names = self._names, {}
        data, self._data = self._data, {}
        attrs, self._attrs = self._attrs, {}
        closed, self._closed = self._closed, {}
        # Names first: they tell where a file that was moved is now.
        changes = [change for place in names if (change := self._change(*place)) is not None]
        self._let_go()
        changed = self._attributes(data, changes)
        touched = self._attributes([inode for inode in attrs if inode not in data], changes)
        for inode, mtime in closed.items():
            if inode.mtime_ns != mtime:
                self._check(inode)  # changed without a write: through mmap
        dirs, self._dirs = self._dirs, {}
        if self._lost_count:
            self._lost_count = False
            return [InvalidateAll()]
        # In parts that fit a frame, with the longest names and targets.
        parts: list[Message] = []
        while changed or touched or changes or dirs:
            parts.append(Invalidate(changed, touched, changes[:PART_CHANGES], list(dirs)))
            changed, touched, changes, dirs = [], [], changes[PART_CHANGES:], {}
        return parts

    def _let_go(self) -> None:
        """Take back the ids of files that went out of sight."""
        leaving, self._leaving = self._leaving, []
        for inode in leaving:
            if inode.parent is None and not inode.held:
                self.forget(inode)
                self._tree.drop(inode)

    def _change(self, directory: Directory, name: bytes) -> Change | None:
        if not self._tree.table.is_known(directory):
            return None
        try:
            if name in self._tree.view(directory).hidden:
                return None
            entry = self._tree.entry(directory, name)
        except (FileNotFoundError, NotADirectoryError):
            return Change(directory.id, name, None, b"")
        except OSError:
            # Moved away, or no longer ours to look at: the node will be told when it asks.
            self._dirs[directory.id] = None
            return None
        return Change(directory.id, name, entry.attr, entry.target)

    def _attributes(self, inodes: Iterable[Inode], changes: list[Change]) -> list[Attr]:
        """Return the attributes of `inodes`; what cannot be told so is told by its name."""
        found = []
        for inode in inodes:
            if not self._tree.table.is_known(inode):
                continue
            try:
                found.append(self._tree.attributes(inode))
            except OSError:
                # Another file is there by now, or overlayfs has given it another number. Without
                # a name it is lost, which the node finds out when it uses the id.
                if inode.parent is not None:
                    change = self._change(inode.parent, inode.name)
                    changes += [change] if change is not None else []
        return found


def _inotify() -> int:
    """Return an inotify descriptor; -1 when the user has no more: then everything is volatile."""
    try:
        return inotify.init()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOSYS):
            raise
        return -1
