"""The home view: home's files as a FUSE file system on the node, served from the agent's loop.

The kernel's requests come from the device, are answered from what is known here or by asking home
over the link, and may be answered in any order: nobody waits for another's round trip. What home
changes is pushed (Invalidate) and taken out of the kernel's caches by the notifier; `settled` is
how the agent makes sure of that before it lets a body act on something that happened later.

Everything here runs in the loop's thread, except the notifier's own (stubs.node.view.invalidation).
"""

from __future__ import annotations

import errno
import os
import stat
import time

from stubs.abi import fuse
from stubs.node.view.ahead import Ahead
from stubs.node.view.callers import Callers
from stubs.node.view.changing import Changing
from stubs.node.view.directories import Directories
from stubs.node.view.families import Families
from stubs.node.view.fuse import Device
from stubs.node.view.inodes import DAY, Inodes, Node, Owners
from stubs.node.view.invalidation import Notifier
from stubs.node.view.library import Library
from stubs.node.view.opening import Opening
from stubs.node.view.posting import Posting
from stubs.node.view.reading import Reading
from stubs.node.view.responder import Core
from stubs.node.view.snapshots import Snapshots
from stubs.node.view.temporaries import Temporaries
from stubs.node.view.uplink import Uplink
from stubs.node.view.writing import Writing
from stubs.wire.messages import Attrs, Getattr, Invalidate, InvalidateAll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop
    from stubs.node.view.traffic import Traffic
    from stubs.wire.codec import Attr, Message

# A hidden directory in the root of the view, in which a file is found by its inode id.
BY_ID = b".mlaunch-view"
BY_ID_NODE = (1 << 64) - 2

# Ids that the node has dropped are told together.
FORGET_SECONDS = 0.05
FORGET_MANY = 256


class View:
    """One home as one capsule sees it."""

    def __init__(
        self,
        loop: Loop,
        fuse_fd: int,
        link: Link,
        root: Attr,
        uid: int,
        gid: int,
        full_map: bool = False,
        on_end: Callable[[str], None] = lambda reason: None,
        cache: str = os.devnull,
    ) -> None:
        """Serve the mount on `fuse_fd` (which is taken over) from home over `link`.

        `uid` and `gid` are the user's as the capsule's processes see them; `full_map` when all ids
        are mapped one to one. `on_end` is called if the mount goes away by itself. Contents are
        kept in the directory `cache`, if it can be one.
        """
        clock = time.monotonic
        self._loop = loop
        self._device = Device(loop, fuse_fd, on_end)
        self._inodes = Inodes(root, Owners(uid, gid, full_map), clock)
        self._uplink = Uplink(link, self._device, self._inodes)
        self._notifier = Notifier(loop, self._device)
        self._temporaries = Temporaries(loop, self._inodes, clock)
        core = Core(
            loop,
            self._device,
            self._notifier,
            link,
            self._uplink,
            self._inodes,
            self._temporaries,
            clock,
        )
        self._library = Library(loop, cache)
        self._snapshots = Snapshots(core)
        self._directories = Directories(core, self._snapshots)
        self._reading = Reading(core, self._library)
        self._writing = Writing(core, self._reading)
        self._opening = Opening(core, self._reading, self._writing)
        self._posting = Posting(
            core,
            self._directories,
            self._snapshots,
            self._opening,
            self._reading,
            self._writing,
        )
        Changing(core, self._directories, self._opening, self._reading, self._posting)
        self._ahead = Ahead(core, self._snapshots, self._reading, self._library)
        self._link = link
        self._proc = -1  # the capsule's
        self._to_forget: list[int] = []
        self._join()

    def _join(self) -> None:
        """Have the parts that come first call those that build on them."""
        self._temporaries.tell = self._posting.tell_temporary
        self._writing.before = self._send_ahead
        self._uplink.concerns = self._concerns
        self._uplink.before = self._send_ahead
        self._uplink.lost = self._snapshots.lost
        self._uplink.no_longer_busy = self._notifier.unpark
        self._directories.when_written = self._writing.when_written
        self._directories.hidden = self._hidden
        self._inodes.contents_changed = self._contents_changed
        self._inodes.dropped = self._dropped
        self._inodes.restricted = self._opening.hand_out
        self._device.handlers[fuse.FUSE_DESTROY] = self._destroy
        self._device.handlers[fuse.FUSE_IOCTL] = self._no_ioctl

    # what the agent uses

    def handlers(self) -> dict[type[Message], Callable[[Any, int, list[int]], None]]:
        """Return who takes which message of home's."""
        return {
            Invalidate: self._invalidate,
            InvalidateAll: self._invalidate_all,
            **self._ahead.handlers(),
        }

    @property
    def traffic(self) -> Traffic:
        """What the files have cost so far."""
        return self._uplink.traffic

    @property
    def counts(self) -> list[int]:
        """Requests of the kernel by opcode."""
        return self._device.counts

    @property
    def spared(self) -> int:
        """Of the kernel's requests, those that cost no Python."""
        return self._device.spared

    def settled(self, then: Callable[[], None]) -> None:
        """Call `then` once what home has invalidated until now is out of the kernel's caches."""
        self._notifier.settled(then)

    def see_callers(self, proc: int) -> None:
        """Look at who asks in the capsule's /proc, open as `proc`, which stays the caller's."""
        self._directories.callers = self._opening.callers = Callers(proc)
        self._proc = proc

    def know_bodies(self, is_body: Callable[[int], bool]) -> None:
        """Tell home which body each process belongs to; `see_callers` must come first."""
        self._device.families = Families(self._proc, is_body, self._link.post)

    def announce_temporaries(self, pid: int = 0) -> None:
        """Tell home of the temporary files that process `pid` made; 0: of all there are.

        To be called before home hears that the process is gone, or that it goes elsewhere.
        """
        self._temporaries.announce_of(pid)

    def flush(self) -> None:
        """Send the writes that were put off."""
        self._writing.flush()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call `then` once home has answered all writes made until now: `take_failure` knows."""
        self._writing.when_all_written(then)

    def tell_touched(self, body: int) -> None:
        """Tell home what a body that has ended touched, if home wanted to know, or asked for."""
        self._ahead.tell(body)
        self._opening.forget_callers()

    def take_failure(self) -> tuple[int, bytes] | None:
        """Return errno and path of a write that home refused and nobody was told, once."""
        return self._writing.take_failure()

    def close(self) -> None:
        """Answer every request with EIO and let go of the device: the mount is dead from now on."""
        if self._device.closed:
            return
        self._library.close()
        self._fail_pending()
        self._device.hand_out()
        self._refuse_all()
        self._notifier.close(self._answer_refused)
        self._device.close()

    def _fail_pending(self) -> None:
        for unique in list(self._uplink.pending):
            self._uplink.waited(unique)
            self._device.error(unique, errno.EIO)

    def _refuse_all(self) -> None:
        silent = (fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT)

        def refuse(unique: int, _: int, __: int) -> None:
            self._device.error(unique, errno.EIO)

        for opcode in range(fuse.OPCODES):
            if opcode not in silent:
                self._device.handlers[opcode] = refuse

    def _answer_refused(self) -> None:
        self._device.read_requests(0)

    # what home tells

    def _invalidate(self, message: Invalidate, _: int, __: list[int]) -> None:
        for attr in message.data:
            self._changed_at_home(attr, contents=True)
        for attr in message.attrs:
            self._changed_at_home(attr, contents=stat.S_ISDIR(attr.mode))
        parents = set()
        for change in message.names:
            self._snapshots.apply(change)
            parents.add(change.dir)
        for parent in parents:
            node = self._inodes.get(parent)
            if node is not None:
                self._notifier.contents(node)
        for id_ in message.dirs:
            node = self._inodes.get(id_)
            if node is not None:
                self._snapshots.distrust(node)

    def _changed_at_home(self, attr: Attr, contents: bool) -> None:
        node = self._inodes.get(attr.id)
        if node is None:
            return
        self._inodes.own(attr)
        if contents:
            self._contents_changed(node)
        else:
            self._notifier.attributes(node)

    def _contents_changed(self, node: Node) -> None:
        self._reading.discard(node)
        self._reading.drafts.end(node)
        self._notifier.contents(node)

    def _invalidate_all(self, _: InvalidateAll, __: int, ___: list[int]) -> None:
        for node in list(self._inodes.nodes.values()):
            if stat.S_ISDIR(node.attr.mode):
                if node.lookups or node.dir is not None:
                    self._snapshots.distrust(node)
            elif not node.local:
                node.until = 0.0
                self._opening.hand_out(node)
                self._contents_changed(node)

    # what home is told

    def _send_ahead(self) -> None:
        self._opening.tell_held()
        self._writing.flush()

    def _concerns(self, id_: int) -> None:
        node = self._inodes.get(id_)
        if node is not None and node.local:
            self._temporaries.announce(node)

    def _dropped(self, node: Node) -> None:
        self._opening.dropped(node)
        self._reading.drafts.end(node)
        if node.local:
            return  # home has never heard of it
        if not self._to_forget:
            self._loop.call_later(FORGET_SECONDS, self._tell_forgotten)
        self._to_forget.append(node.id)
        if len(self._to_forget) >= FORGET_MANY:
            self._tell_forgotten()

    def _tell_forgotten(self) -> None:
        # An id may have come back meanwhile, with another listing.
        ids = [id_ for id_ in self._to_forget if self._inodes.get(id_) is None]
        self._to_forget.clear()
        if ids:
            self._uplink.forget(ids)

    # files by inode id

    def _hidden(self, unique: int, nodeid: int, name: bytes) -> bool:
        """Answer for the directory in which files are found by id; False: it is not about it.

        An empty name stands for its attributes, a slash for its listing.
        """
        if nodeid == self._inodes.root.id and name == BY_ID:
            self._device.reply(unique, self._by_id_entry())
        elif nodeid != BY_ID_NODE:
            return False
        elif not name:
            self._device.reply(unique, fuse.fuse_attr_out.pack(DAY, 0, 0) + self._by_id_attr())
        elif name == b"/":
            self._device.reply(unique, b"")
        elif name.isdigit() and len(name) < 20:
            self._find_by_id(unique, int(name))
        else:
            self._device.error(unique, errno.ENOENT)
        return True

    def _by_id_attr(self) -> bytes:
        attr = self._inodes.root.attr._replace(ino=BY_ID_NODE, mode=stat.S_IFDIR | 0o555, nlink=2)
        return self._inodes.owners.pack(attr, None)

    def _by_id_entry(self) -> bytes:
        return fuse.fuse_entry_out.pack(BY_ID_NODE, 0, DAY, DAY, 0, 0) + self._by_id_attr()

    def _find_by_id(self, unique: int, id_: int) -> None:
        node = self._inodes.get(id_)
        if node is not None:
            self._reply_by_id(unique, node)
            return

        def got(reply: Attrs) -> None:
            self._reply_by_id(unique, self._inodes.observe(reply.attrs[0]))

        self._uplink.request(unique, Getattr(id_), Attrs, got)

    def _reply_by_id(self, unique: int, node: Node) -> None:
        # A directory has one place in the kernel's tree; naming it here would move it.
        if stat.S_ISDIR(node.attr.mode):
            self._device.error(unique, errno.EISDIR)
            self._inodes.release(node)
        else:
            self._directories.reply_entry(unique, self._inodes.root, node)

    # the rest

    def _destroy(self, unique: int, _: int, __: int) -> None:
        self._device.error(unique, 0)

    def _no_ioctl(self, unique: int, _: int, __: int) -> None:
        self._device.error(unique, errno.ENOTTY)
