"""The source of a migration: a tree that is frozen, sent, and then killed or let go on.

Runs in a process that has the capsule's pids before it and may trace what is there.
"""

from __future__ import annotations

import os
import platform
import threading
import time

from stubs.migration import stream
from stubs.migration.areas import SPECIAL, is_anonymous, is_shared
from stubs.migration.capture import capture, record_zombie
from stubs.migration.clocks import read_clocks
from stubs.migration.cpu import cpu_flags
from stubs.migration.deflate import deflate
from stubs.migration.files import Opens
from stubs.migration.freeze import Frozen
from stubs.migration.image import FORMAT, Area, Image, Process
from stubs.migration.injection import settle
from stubs.migration.pages import MemoryReader, OwnPages, Packer, blocks
from stubs.migration.precopy import LEAST_BYTES, Precopy, to_send
from stubs.migration.proc import read_vmas, resident_bytes
from stubs.migration.reasons import Unmovable, reason
from stubs.migration.shared import Content
from stubs.migration.vdso import parts_of, read_vdso

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.precopy import Round
    from stubs.migration.proc import Vma
    from stubs.migration.shared import View
    from stubs.migration.stream import Write

# The number of the control socket, or the next below it that the tree does not use.
_CONTROL = 1000


class Source:
    """A tree of processes: `pids` (the body first), which is to leave."""

    def __init__(
        self,
        pids: list[int],
        outside: dict[bytes, int],
        inherited: list[tuple[int, int, int]] | None = None,
        zstd: bool = False,
        kept: bool = False,
    ) -> None:
        """Note whom; `outside` and `inherited` are what stubs.migration.files.Opens takes.

        `zstd`: the destination can decompress it (stubs.migration.zstd.load). `kept`: this process
        traces them, and goes on to do so.
        """
        self.pids = pids
        self.orphans: list[int] = []
        self.cpu_us = 0
        self.bytes = 0  # of memory that was sent, as it is in the processes
        self._outside, self._inherited = outside, inherited
        self._kept = kept
        self._packer = Packer(zstd)
        self._frozen: Frozen | None = None
        self._vmas: dict[int, list[Vma]] = {}
        self._precopy: Precopy | None = None
        self._write: Write = lambda data: None
        self._sending: threading.Thread | None = None
        self._failure: Exception | None = None  # of that
        self._begun = False
        self._stopping_ns = 0

    def precopy(self, write: Write, patience: float = 0.0) -> list[Round]:
        """Send what can be sent while the tree runs; returns the rounds, none where it cannot.

        `patience` as in Precopy.run. It is given up for good when `write` raises.
        """
        pid = self.pids[0]
        try:
            path = os.fsencode(os.readlink(f"/proc/{pid}/exe"))
            if not os.path.exists(path) or resident_bytes(pid) < LEAST_BYTES:
                return []
            self._precopy = Precopy(pid)
        except (OSError, TimeoutError):
            return []  # the kernel is too old, or it is about to end: `freeze` will tell
        self._head(write, pid, path, -1, _CONTROL)
        self._begun = True
        self._write = write
        reader = MemoryReader(pid)
        try:
            return self._precopy.run(
                write, lambda ranges: self._send(write, 0, reader, ranges), patience
            )
        finally:
            reader.close()

    def freeze(self) -> None:
        """Stop the tree and find out what it is.

        Raises Unmovable; the tree then goes on as before.
        """
        self._stopping_ns = time.monotonic_ns()
        try:
            self._frozen = Frozen(self.pids, self._kept)
            if self._precopy is not None:
                self._sending = threading.Thread(target=self._send_rest, daemon=True)
                self._sending.start()
            self._collect(self._frozen)
        except BaseException as error:
            self.thaw()
            if isinstance(error, (FileNotFoundError, ProcessLookupError)):
                text = f"has been killed: {error}"
                raise Unmovable(reason("ended", self.pids[0], text)) from error
            raise
        self.pids = self._frozen.pids

    def _send_rest(self) -> None:
        """Send what the pre-copy has left, beside the tree's being looked into; in a thread."""
        assert self._precopy is not None
        try:
            reader = MemoryReader(self.pids[0])
            try:
                self._precopy.send_rest(lambda ranges: self._send(self._write, 0, reader, ranges))
            finally:
                reader.close()
        except Exception as error:
            self._failure = error  # `send` will tell

    def _collect(self, frozen: Frozen) -> None:
        living = list(frozen.processes)
        for pid, process in frozen.processes.items():
            self._vmas[pid] = read_vmas(pid)
            settle(process, self._vmas[pid])
        opens = self._opens = Opens(living, self._outside, self._inherited)
        processes: list[Process] = []
        views: list[View] = []
        for pid in frozen.pids:
            stat = frozen.stats[pid]
            ppid = stat.ppid if stat.ppid in frozen.processes else 0
            if pid in frozen.processes:
                vmas = self._vmas[pid]
                record, seen = capture(frozen.processes[pid], stat, ppid, vmas, opens)
                processes.append(record)
                views += seen
            else:
                processes.append(record_zombie(stat, ppid))
            self.cpu_us += stat.own_us + stat.children_us
        self.orphans = opens.orphans
        frozen.put_back()
        self._processes = processes
        self._unnamed = [_without_file(process) for process in processes]
        self._content = Content(processes, opens.opens, views)
        self.image = self._image(processes, frozen.pids[0])

    def _image(self, processes: list[Process], pid: int) -> Image:
        parts = parts_of(self._vmas[pid])
        return Image(
            format=FORMAT,
            release=platform.release().encode(),
            cpu_flags=cpu_flags(),
            vdso=read_vdso(pid, parts),
            vdso_parts=[size for _, size in parts],
            processes=[process.encode() for process in processes],
            opens=[each.encode() for each in self._opens.opens],
            shared=[each.encode() for each in self._opens.shared],
            clocks=read_clocks(pid),
        )

    def send(self, write: Write) -> None:
        """Write everything that is still missing; the tree must be frozen."""
        if self._sending is not None and self._precopy is not None:
            self._sending.join()
            if self._failure is not None:
                raise self._failure
            self._precopy.finish()
        if not self._begun:
            self._send_head(write)
        stream.send(write, self.image)
        for index, process in enumerate(self._processes):
            if not process.zombie:
                self._send_pages(write, index, process.pid)
        for index in range(len(self._opens.shared)):
            self._send_shared(write, index)
        stream.send(write, stream.End(len(self._processes)))

    def _send_head(self, write: Write) -> None:
        first = self._processes[0]
        executable = self._opens.opens[first.exe]
        used = {fd for process in self._processes for fd in process.descriptors[::3]}
        control = next(fd for fd in range(_CONTROL, 0, -1) if fd not in used)
        self._head(write, first.pid, executable.path, executable.handle, control)

    def _head(self, write: Write, pid: int, path: bytes, handle: int, control: int) -> None:
        stream.send(write, stream.Head(FORMAT, pid, path, handle, control))

    def _send_pages(self, write: Write, index: int, pid: int) -> None:
        own, reader = OwnPages(pid), MemoryReader(pid)
        try:
            vmas = self._vmas[pid]
            unnamed = self._unnamed[index]
            found: list[tuple[int, int]] = []
            for vma in vmas:
                if vma.inode and vma.start in unnamed:
                    # Its file has no name any more: what is in it goes as memory.
                    found.append((vma.start, vma.end))
                elif vma.path not in SPECIAL and not is_shared(vma):
                    found += own.find(vma.start, vma.end, is_anonymous(vma))
            if index == 0 and self._precopy is not None:
                found, drop = to_send(self._precopy, vmas, found)
                stream.send(write, stream.Drop([number for each in drop for number in each]))
            ranges = [(start, end - start) for start, end in found]
            self._send(write, index, reader, ranges)
        finally:
            own.close()
            reader.close()

    def _send(
        self, write: Write, index: int, reader: MemoryReader, ranges: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Send (start, bytes) ranges; returns those that were there."""
        sent = []
        for block in blocks(ranges):
            there, data = reader.read(block)
            if data:
                encoding, packed = self._packer.pack(data)
                numbers = [number for each in there for number in each]
                begun = time.monotonic()
                stream.send(write, stream.Pages(index, encoding, len(data), numbers, packed))
                self._packer.note(len(packed), time.monotonic() - begun)
                self.bytes += len(data)
                sent += there
        return sent

    def _send_shared(self, write: Write, index: int) -> None:
        for offset, data in self._content.read(index):
            encoding, packed = self._packer.pack(data)
            stream.send(write, stream.SharedPages(index, encoding, len(data), offset, packed))
            self.bytes += len(data)

    def _end_precopy(self) -> None:
        if self._precopy is not None:
            self._precopy.close()

    def deflate(self) -> int:
        """Take from the only process all that it was; return where a page of code is left to it.

        It is stopped still, and traced by us.
        """
        assert self._frozen is not None
        process, self._frozen = self._frozen.processes[self.pids[0]], None
        return deflate(process)

    @property
    def frozen_us(self) -> int:
        """How long ago the tree began to be stopped, in us."""
        return (time.monotonic_ns() - self._stopping_ns) // 1000

    def thaw(self) -> None:
        """Let the tree go on here, as if nothing had been."""
        if self._frozen is not None:
            self._frozen.thaw()
            self._frozen = None
        self._end_precopy()

    def kill(self) -> None:
        """Remove the tree: it lives elsewhere, with its files of /dev/shm."""
        if self._frozen is None:
            return
        self._frozen.kill()
        self._end_precopy()
        for shared in self._opens.shared:
            if shared.path:
                try:
                    os.unlink(shared.path)
                except FileNotFoundError:
                    pass  # the program has removed its name, but not the memory


def _without_file(process: Process) -> set[int]:
    """Return where the mappings of a process begin that will be anonymous memory."""
    areas = [Area.decode(data) for data in process.areas]
    return {area.start for area in areas if area.open < 0 and area.shared < 0}
