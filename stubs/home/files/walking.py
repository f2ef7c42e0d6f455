"""From a path of the export to its inode: name by name, under the policy, through symlinks."""

from __future__ import annotations

import errno
import os
import stat

from stubs.home.files.inodes import Directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.files.inodes import Inode
    from stubs.home.files.resolve import Tree

# MAXSYMLINKS, include/linux/namei.h
MAX_SYMLINKS = 40


def walk(
    tree: Tree, path: bytes, passed: Callable[[Directory], None] = lambda directory: None
) -> Inode:
    """Return what `path`, absolute in the export, leads to; OSError as stat(2).

    `passed` is told of each directory in which a name is about to be looked up.
    """
    if not path.startswith(b"/"):
        raise OSError(errno.EINVAL, "not an absolute path", path)
    todo = _names(path)
    links = 0
    trail: list[Directory] = [tree.root]
    inode: Inode = tree.root
    while todo:
        name = todo.pop()
        if not isinstance(inode, Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            inode = trail[-1]
            continue
        passed(trail[-1])
        inode, _ = tree.find(trail[-1], name)
        if isinstance(inode, Directory):
            trail.append(inode)
        elif inode.kind == stat.S_IFLNK:
            links += 1
            if links > MAX_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(name, dir_fd=tree.path_fd(trail[-1]))
            if target.startswith(b"/"):
                trail = [tree.root]
            inode = trail[-1]
            todo += _names(target)
    return inode


def _names(path: bytes) -> list[bytes]:
    """Return the names in `path`, the first one last."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
