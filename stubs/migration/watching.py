"""inotify: what it watches, and how it is made again with the same watch descriptors.

fdinfo shows inodes, not paths. A path is looked for among the ancestors of what the tree has open
and what is in those directories; a file of the home view is else known by its node id, for which
the destination has a path. Events that were not read yet are lost, as are those that come
while the tree stands still.
"""

from __future__ import annotations

import os

from stubs.abi.exportfs import FILEID_INO64_GEN, fuse_node
from stubs.abi.inotify import (
    IN_ALL_EVENTS,
    IN_EXCL_UNLINK,
    IN_ONESHOT,
    init,
    inotify_add_watch,
    inotify_rm_watch,
    read_events,
)
from stubs.migration.image import OPEN_INOTIFY, OpenFile, Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stubs.migration.fdinfo import Descriptor

_MASK = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT
_MINOR_BITS = 20  # of a device number inside the kernel, MKDEV of include/linux/kdev_t.h

# The kernel gives out watch descriptors in order; more than so many are not gone through.
_MOST_WATCHES = 100_000


class Paths:
    """Finds paths by device and inode, among the directories that it is told of."""

    def __init__(self, directories: Iterable[bytes]) -> None:
        """Look in `directories` and all above them, when first asked."""
        self._directories = set(directories)
        self._known: dict[tuple[int, int], bytes] = {}
        self._searched = False

    def find(self, device: int, inode: int) -> bytes:
        """Return a path of this inode (`device` as the kernel has it inside), or nothing."""
        if not self._searched:
            self._search()
        return self._known.get((device, inode), b"")

    def _search(self) -> None:
        self._searched = True
        directories = set()
        for path in self._directories:
            while path.startswith(b"/"):
                directories.add(path)
                path = path.rpartition(b"/")[0]
        directories.add(b"/")
        for path in sorted(directories):
            self._note(path)
            try:
                names = os.listdir(path)
            except OSError:
                continue  # it is gone, or may not be read: nothing is found in it
            for name in names:
                self._note(os.path.join(path, name))

    def _note(self, path: bytes) -> None:
        try:
            found = os.lstat(path)
        except OSError:
            return  # gone meanwhile
        self._known.setdefault((_device(found), found.st_ino), path)


def _device(found: os.stat_result) -> int:
    return os.major(found.st_dev) << _MINOR_BITS | os.minor(found.st_dev)


def describe_inotify(found: Descriptor, paths: Paths, handle: Callable[[int], int]) -> OpenFile:
    """Return the record of an inotify; Unmovable when the path of a watch cannot be found.

    `handle` turns a node id of the home view into the index of a handle.
    """
    watched = []
    for line in found.lines:
        if not line.startswith("inotify "):
            continue
        # "inotify wd:1 ino:5 sdev:1c mask:fce ignored_mask:0 fhandle-bytes:8 … f_handle:05…", hex
        fields = dict(word.split(":", 1) for word in line.split()[1:])
        path = paths.find(int(fields["sdev"], 16), int(fields["ino"], 16))
        index = -1
        if not path:
            # The home view is what the root directory is on; others have handles of this type too.
            in_view = int(fields["sdev"], 16) == _device(os.stat("/"))
            if not in_view or int(fields.get("fhandle-type", "0"), 16) != FILEID_INO64_GEN:
                raise found.refuse("inotify_path", "watches a file that it does not have open")
            index = handle(fuse_node(FILEID_INO64_GEN, bytes.fromhex(fields["f_handle"])))
        entry = Watched(
            fd=int(fields["wd"], 16),
            events=int(fields["mask"], 16) & _MASK,
            data=index + 1,
            path=path,
        )
        watched.append(entry)
    watched.sort(key=lambda entry: entry.fd)
    return found.record(OPEN_INOTIFY, watched=[entry.encode() for entry in watched])


def reopen_inotify(file: OpenFile, handles: list[bytes]) -> int:
    """Return a descriptor of a new one with the same watches; OSError that names a path."""
    fd = init()
    try:
        for entry in map(Watched.decode, file.watched):
            path = entry.path or handles[entry.data - 1]
            _watch(fd, path, entry.events, entry.fd)
    except OSError:
        os.close(fd)
        raise
    for _ in read_events(fd):
        pass  # IN_IGNORED of those that were taken away again
    os.set_blocking(fd, not file.flags & os.O_NONBLOCK)
    return fd


def _watch(fd: int, path: bytes, mask: int, wanted: int) -> None:
    for _ in range(_MOST_WATCHES):
        try:
            number = inotify_add_watch(fd, path, mask)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        if number == wanted:
            return
        inotify_rm_watch(fd, number)
    raise OverflowError(f"inotify has no watch number {wanted}")
