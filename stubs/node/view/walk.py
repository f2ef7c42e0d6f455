"""Listing ahead of somebody who walks through a tree, as ls -R, find, tar and git do.

Two directories listed in one directory are taken for a walk; its other directories are then
fetched before they are asked for, and so are those in every directory that the walk comes to.
"""

from __future__ import annotations

import stat
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.inodes import Node
    from stubs.node.view.snapshots import Snapshots

# So many directories listed in one make a walk; so many are fetched at once, so many remembered.
WALK = 2
MAX_AHEAD = 16
MAX_TO_LIST = 256


class Walk:
    """The directories that are likely to be listed next."""

    def __init__(self, snapshots: Snapshots) -> None:
        """Nobody walks yet."""
        self._snapshots = snapshots
        self._next: deque[Node] = deque(maxlen=MAX_TO_LIST)
        self._under_way = 0
        snapshots.completed = self.consider

    def listed(self, node: Node) -> None:
        """Note that somebody begins to list a directory."""
        parent = node.parent
        if parent is None or parent.dir is None:
            return
        if parent.dir.walked < WALK:
            parent.dir.walked += 1
        if parent.dir.walked >= WALK:
            directory = node.directory()
            directory.walked = max(directory.walked, WALK)
            self.consider(parent)
            self.consider(node)

    def consider(self, node: Node) -> None:
        """Remember the directories in one that is walked through; those that came last go first."""
        directory = node.dir
        if directory is None or directory.walked != WALK or not directory.complete:
            return
        directory.walked += 1
        for _, child in sorted(directory.names.items(), key=lambda item: item[0], reverse=True):
            if stat.S_ISDIR(child.attr.mode) and child.id and child.dir is None:
                self._next.append(child)
        self._fetch()

    def _fetch(self) -> None:
        while self._next and self._under_way < MAX_AHEAD:
            child = self._next.pop()
            if child.dir is None and child.links:
                self._under_way += 1
                child.directory().ready.append(self._fetched)
                self._snapshots.load(child)

    def _fetched(self, _: int) -> None:
        self._under_way -= 1
        self._fetch()
