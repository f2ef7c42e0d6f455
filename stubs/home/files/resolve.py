"""From an inode id to the file: descriptors, status and attributes, checked for identity.

Names are looked up one at a time relative to an O_PATH descriptor of their directory, never
following a symbolic link, so no name that a node sends leads out of the export. What was
found is compared with the device and inode number that the id stands for: a name that means
another file by now is ESTALE, never other bytes.

What lies where is told by the kernel (/proc/self/fd), not by what we remember, and asked again
whenever a directory may have moved (`generation`).
"""

from __future__ import annotations

import errno
import os
import stat

from stubs.home.files.descriptors import FdCache
from stubs.home.files.filesystem import Credentials, W, X, filesystem_of
from stubs.home.files.inodes import Directory, InodeTable, stale
from stubs.home.files.policy import View
from stubs.wire.codec import Attr, Entry
from stubs.wire.messages import ATTR_OPEN, ATTR_PLAIN, ATTR_VOLATILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.filesystem import Filesystem
    from stubs.home.files.inodes import Inode
    from stubs.home.files.policy import ExportPolicy

# So many directories can be opened in a row to get at the last: the cache holds them all at once.
MIN_DEPTH = 128

# Bits of a mode that a program may choose.
PERMISSIONS = 0o7777

_EMPTY = View(readonly=True, empty=True)


def check_name(name: bytes) -> None:
    """Raise OSError unless `name` can be a name in a directory."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    if len(name) > 255:  # NAME_MAX
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def proc_path(fd: int) -> bytes:
    """Return the path by which `fd` can be opened anew, or named in a call that takes paths."""
    return b"/proc/self/fd/%d" % fd


class Tree:
    """The exported tree: inodes, their descriptors and attributes."""

    def __init__(self, root: bytes, policy: ExportPolicy, descriptors: int) -> None:
        """Export what is below `root`; use at most `descriptors` at a time for paths."""
        self.policy = policy
        self.credentials = Credentials()
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.table = InodeTable(os.fstat(fd))
        limit = max(2 * MIN_DEPTH, descriptors)
        self.paths = FdCache(limit)
        self._depth = limit // 2
        self.paths.keep(self.root.id, fd)
        self._root_path = os.readlink(proc_path(fd)).rstrip(b"/")
        self.generation = 0
        # Called when a name is not what was remembered: looks for changes not yet taken in.
        self.refresh: Callable[[], None] = lambda: None

    @property
    def root(self) -> Directory:
        """The directory that the node sees as `/`."""
        return self.table.root

    def close(self) -> None:
        """Close all descriptors."""
        self.paths.close()

    # descriptors

    def path_fd(self, inode: Inode) -> int:
        """Return an O_PATH descriptor of `inode`, borrowed; OSError ESTALE when it is lost."""
        fd = self.paths.get(inode.id)
        if fd is not None:
            return fd
        try:
            return self._open_path(inode)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        self.refresh()
        return self._open_path(inode)

    def _open_path(self, inode: Inode) -> int:
        chain = [inode]
        above = inode.parent
        while above is not None and self.paths.get(above.id) is None:
            chain.append(above)
            above = above.parent
            if len(chain) > self._depth:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        for link in reversed(chain):
            if link.parent is None:
                raise stale(f"inode {link.id} has no name")
            directory = self.paths.get(link.parent.id)
            if directory is None:
                raise stale(f"inode {link.parent.id}")
            self.paths.put(link.id, self._open_name(directory, link))
        fd = self.paths.get(inode.id)
        assert fd is not None
        return fd

    def _open_name(self, directory: int, inode: Inode) -> int:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        if isinstance(inode, Directory):
            flags |= os.O_DIRECTORY
        try:
            fd = os.open(inode.name, flags, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise stale(os.fsdecode(inode.name)) from error
        status = os.fstat(fd)
        if status.st_ino != inode.ino or status.st_dev != inode.dev:
            os.close(fd)
            raise stale(os.fsdecode(inode.name))
        return fd

    def open_again(self, inode: Inode, flags: int) -> int:
        """Open a regular file or directory with `flags` of open(2); the caller's to close.

        Never anything else: opening a device or a FIFO has effects. EINVAL for those.
        """
        if inode.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.open(
            proc_path(self.path_fd(inode)), flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        )

    def drop(self, inode: Inode) -> None:
        """Forget an id for good."""
        self.paths.drop(inode.id)
        self.table.retire(inode)

    # policy

    def view(self, directory: Directory) -> View:
        """Return how the names in `directory` are to be treated; ESTALE when it is hidden."""
        if directory.generation != self.generation or directory.view is None:
            self._look(directory)
        view = directory.view
        assert view is not None
        if view.hides_all:
            raise stale("not exported")
        return view

    def filesystem(self, directory: Directory) -> Filesystem:
        """Return what `directory` is on."""
        if directory.generation != self.generation or directory.fs is None:
            self._look(directory)
        assert directory.fs is not None
        return directory.fs

    def _look(self, directory: Directory) -> None:
        fd = self.path_fd(directory)
        directory.fs = filesystem_of(fd)
        path = self.path_of(fd)
        directory.view = _EMPTY if directory.fs.kernel else self.policy.view(path)
        directory.generation = self.generation

    def path_of(self, fd: int) -> bytes:
        """Return where the kernel says `fd` is; ESTALE when that is not below the root."""
        path = os.readlink(proc_path(fd))
        if path != self._root_path and not path.startswith(self._root_path + b"/"):
            raise stale("outside the export")
        return path

    def known(self, path: bytes) -> tuple[Directory, bytes] | None:
        """Return directory and name of what is at a canonical path, if the node was told of it."""
        if not path.startswith(self._root_path + b"/"):
            return None
        *above, name = path[len(self._root_path) + 1 :].split(b"/")
        directory = self.root
        for part in above:
            child = directory.children.get(part)
            if not isinstance(child, Directory):
                return None
            directory = child
        return (directory, name) if name in directory.children else None

    def exported(self, path: bytes) -> bytes:
        """Return a canonical path of home as a path of the export."""
        return path[len(self._root_path) :] or b"/"

    def moved(self) -> None:
        """Note that a directory may be elsewhere now: what was known of paths is doubtful."""
        self.generation += 1

    def readonly(self, inode: Inode) -> bool:
        """Tell whether the policy keeps the node from changing `inode`."""
        if inode.parent is not None:
            return self.view(inode.parent).readonly_name(inode.name)
        return self.policy.is_readonly(self.path_of(self.path_fd(inode)))

    def writable_directory(self, directory: Directory, name: bytes, mkdir: bool = False) -> int:
        """Return a descriptor of `directory`, in which `name` may be made or removed.

        EACCES where the name is hidden; also where it leads to something with a rule of its own,
        which would escape it by moving (but to make such a directory with `mkdir` is harmless);
        EROFS where the policy says so.
        """
        check_name(name)
        view = self.view(directory)
        if name in view.hidden or (name in view.guarded and not mkdir):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        if view.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)
        return self.path_fd(directory)

    # status and attributes

    def status(self, inode: Inode) -> os.stat_result:
        """Return stat(2) of `inode`, by descriptor or by name; ESTALE when it is lost."""
        fd = self.paths.get(inode.id)
        if fd is not None:
            status = os.fstat(fd)
            if status.st_ino != inode.ino or status.st_dev != inode.dev:
                self.table.rekey(inode, status)  # overlayfs has copied it up
            if not status.st_nlink and inode.parent is not None and not inode.held:
                self.refresh()  # its last name went a moment ago
                raise stale(os.fsdecode(inode.name))
            return status
        try:
            return self._status_by_name(inode)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        self.refresh()
        return self._status_by_name(inode)

    def _status_by_name(self, inode: Inode) -> os.stat_result:
        if inode.parent is None or isinstance(inode, Directory):
            return os.fstat(self.path_fd(inode))
        try:
            status = os.stat(inode.name, dir_fd=self.path_fd(inode.parent), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise stale(os.fsdecode(inode.name)) from error
        if status.st_ino != inode.ino or status.st_dev != inode.dev:
            raise stale(os.fsdecode(inode.name))
        return status

    def attributes(self, inode: Inode) -> Attr:
        """Return the attributes of `inode` as they are now."""
        parent = inode.parent
        if parent is None:
            return self._lone_attributes(inode)
        status = self.status(inode)
        view, fs = self.view(parent), self.filesystem(parent)
        return self.describe(parent, self.path_fd(parent), view, fs, inode.name, inode, status)

    def _lone_attributes(self, inode: Inode) -> Attr:
        """Attributes of the root, or of a file that has no name any more."""
        fd = self.path_fd(inode)
        status = os.fstat(fd)
        # The magic link is followed: it is the file itself that is asked about.
        rights = 0
        for right in (4, 2, 1):
            if os.access(proc_path(fd), right, effective_ids=True):
                rights |= right
        return self._attr(inode, status, rights, self._volatile(inode))

    def describe(
        self,
        parent: Directory,
        directory: int,
        view: View,
        fs: Filesystem,
        name: bytes,
        inode: Inode,
        status: os.stat_result,
    ) -> Attr:
        """Return the attributes of `inode`, found at `name` with `status`.

        `directory`, `view` and `fs` are those of `parent`: who describes all names in it gets
        them once.
        """
        rights = self.credentials.rights(status, directory, name)
        if rights & W and (fs.readonly or view.readonly_name(name)):
            rights &= ~W
        if fs.noexec and rights & X and inode.kind == stat.S_IFREG:
            rights &= ~X
        volatile = parent.unwatchable or fs.network or self._volatile(inode)
        return self._attr(inode, status, rights, volatile)

    def _volatile(self, inode: Inode) -> bool:
        # The times of a directory change with what happens in it: a watch on its parent alone
        # does not tell.
        return (
            isinstance(inode, Directory)
            and inode.wd < 0
            and (inode.view is None or not inode.view.empty)
        )

    def _freedom(self, inode: Directory) -> int:
        """Return ATTR_PLAIN and ATTR_OPEN as far as they are true of a directory."""
        if inode.wd < 0:
            return 0
        try:
            view, fs = self.view(inode), self.filesystem(inode)
            fd = self.path_fd(inode)
        except OSError:
            return 0
        if view.readonly or view.empty or fs.readonly or fs.network or fs.kernel:
            return 0
        # Mode and owner do not tell of everything: a mount that is read-only, chattr +i.
        if not os.access(proc_path(fd), os.W_OK | os.X_OK, effective_ids=True):
            return 0
        ruled = view.hidden | view.guarded | view.modes.keys()
        if not ruled:
            return ATTR_PLAIN | ATTR_OPEN
        return ATTR_PLAIN if all(name.startswith(b".") for name in ruled) else 0

    def _attr(self, inode: Inode, status: os.stat_result, rights: int, volatile: bool) -> Attr:
        inode.size = status.st_size
        inode.mtime_ns = status.st_mtime_ns
        inode.nlink = status.st_nlink
        ino = status.st_ino
        flags = ATTR_VOLATILE if volatile else 0
        if isinstance(inode, Directory):
            flags |= self._freedom(inode)
        if (
            isinstance(inode, Directory)
            and inode.parent is not None
            and inode.parent.dev != status.st_dev
        ):
            # The node sees one device. A mount point with the inode number of the directory
            # above it (ext4's roots are all 2) would look like a loop to find(1) and rm(1).
            ino |= (status.st_dev & 0xFFFF | 0x10000) << 40
        return Attr(
            inode.id,
            ino,
            status.st_size,
            status.st_blocks,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_mode,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_blksize,
            rights | inode.granted,
            flags,
        )

    # names

    def find(self, directory: Directory, name: bytes) -> tuple[Inode, os.stat_result]:
        """Return what is at `name`; FileNotFoundError if nothing, or nothing to be shown."""
        check_name(name)
        view = self.view(directory)
        if view.empty or name in view.hidden:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        status = os.stat(name, dir_fd=self.path_fd(directory), follow_symlinks=False)
        if self.policy.is_secret(status.st_dev, status.st_ino):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self.table.place(directory, name, status), status

    def entry(self, directory: Directory, name: bytes) -> Entry:
        """Return the entry for `name`; FileNotFoundError as `find`."""
        check_name(name)
        view = self.view(directory)
        if view.empty or name in view.hidden:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        fs = self.filesystem(directory)
        return self.entry_at(directory, self.path_fd(directory), view, fs, name)

    def entry_at(
        self, parent: Directory, directory: int, view: View, fs: Filesystem, name: bytes
    ) -> Entry:
        """Return the entry for a name that may be shown, as `entry`."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if self.policy.is_secret(status.st_dev, status.st_ino):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        inode = self.table.place(parent, name, status)
        attr = self.describe(parent, directory, view, fs, name, inode, status)
        target = b""
        if inode.kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=directory)
        return Entry(name, attr, target)
