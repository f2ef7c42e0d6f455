"""The destination of a migration: a tree brought to life from a stream, held, and then let go.

Runs in a process that has the capsule's pids before it. While the tree is held this process is
its tracer; should it end, the tree ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.fcntl import F_SEAL_WRITE
from stubs.abi.mman import MADV_DONTNEED, MAP_ANONYMOUS, MAP_SHARED
from stubs.migration import stream
from stubs.migration.areas import hole, is_free
from stubs.migration.clocks import read_clocks
from stubs.migration.complete import (
    hand_over,
    make_threads,
    own_capabilities,
    place_descriptors,
    queue_signals,
    raise_limit,
    set_identity,
    set_limits,
    set_thread,
    start_timers,
)
from stubs.migration.cpu import check_flags
from stubs.migration.errors import RestoreError
from stubs.migration.executor import Table
from stubs.migration.family import Family
from stubs.migration.files import Opened
from stubs.migration.image import FORMAT, Area, Image, Process, Shared, Thread
from stubs.migration.pages import Unpacker, write_pages
from stubs.migration.proc import read_vmas
from stubs.migration.rebuild import HOLE_BYTES, OPTIONS, Stub, of_shared
from stubs.migration.tracee import CallFailedError, Tracee, TraceeGoneError, wait_end
from stubs.wire.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.migration.stream import Head, Read
    from stubs.wire.codec import Message

# What a machine that lacks something, and an image that is broken, show themselves as.
_REFUSALS = (OSError, CallFailedError, TraceeGoneError)
_BREAKS = (ProtocolError, LookupError, ValueError, OverflowError, MemoryError, struct.error)


# How long, in ns, the head of a stream may have been on its way: its clocks were read before.
_MOST_LAG = 2_000_000_000


def receive_head(read: Read) -> Head:
    """Return the first record of a stream: whom the stub is to stand for. RestoreError."""
    head = stream.receive(read)
    if not isinstance(head, stream.Head):
        raise RestoreError("the image does not begin as one")
    if head.format != FORMAT:
        raise RestoreError(f"an image of format {head.format}; known here is {FORMAT}")
    return head


class Restored:
    """A tree that is being restored; raises RestoreError, and nothing is left of it then.

    `stub_pid` waits on a socket, of which `control` is our end, for the path of what it is to
    execute. `outside` is called when the image has come: it returns
    descriptors of ours by key, and paths of files without names.
    """

    def __init__(
        self,
        head: Head,
        read: Read,
        stub_pid: int,
        control: socket.socket,
        executable: bytes,
        outside: Callable[[], tuple[dict[int, int], list[bytes]]],
    ) -> None:
        """Have the stub execute its program."""
        self._stub_pid = stub_pid
        self._read = read
        self._control, self._number = control, head.control
        self._executable = executable
        self._outside = outside
        self._unpacker = Unpacker()
        self._files: Opened | None = None
        self._stubs: dict[int, Stub] = {}
        self._processes: list[Process] = []
        self._guarded(lambda: self._begin(stub_pid))

    def _begin(self, pid: int) -> None:
        # All that the tree has open is ours first.
        raise_limit(os.getpid())
        leader = Tracee(pid, pid)
        leader.seize(OPTIONS)
        self._control.sendall(self._executable)
        leader.await_event(ptrace.PTRACE_EVENT_EXEC)
        self._first = self._stubs[pid] = Stub(leader, 0)
        self._first.reach_start()

    def finish(self) -> None:
        """Read the stream to its end; the tree is whole then, and stands still."""
        self._guarded(self._finish)

    def _finish(self) -> None:
        handlers = {
            Image: self._take_image,
            stream.Layout: self._take_layout,
            stream.Drop: self._take_drop,
            stream.Pages: self._take_pages,
            stream.SharedPages: self._take_shared,
        }
        while True:
            message = stream.receive(self._read)
            if isinstance(message, stream.End):
                break
            handlers[type(message)](message)
        self._complete()
        self._await_clocks()

    def _await_clocks(self) -> None:
        """Wait until its clocks are not behind what the program has seen: none goes back."""
        missing = max(
            wanted - now for wanted, now in zip(self._image.clocks, read_clocks(self._first.pid))
        )
        # Without a time namespace they are those of another machine, and nothing helps.
        if 0 < missing < _MOST_LAG:
            time.sleep(missing / 1e9)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RestoreError:
            self.kill()
            raise
        except _REFUSALS as error:
            self.kill()
            raise RestoreError(str(error) or type(error).__name__) from error
        except _BREAKS as error:
            self.kill()
            raise RestoreError(f"the image is broken: {error!r}") from error

    def _take_image(self, image: Message) -> None:
        assert isinstance(image, Image)
        if image.format != FORMAT or self._processes:
            raise RestoreError("an image within an image")
        check_flags(image.cpu_flags)
        self._image = image
        self._processes = [Process.decode(data) for data in image.processes]
        self._areas = [[Area.decode(data) for data in process.areas] for process in self._processes]
        self._files = Opened(image, *self._outside())
        self._start(self._layouts())
        raise_limit(self._first.pid)
        self._family = Family(self._processes, self._first, self._execute)
        self._stubs = self._family.stubs
        self._family.make()
        for process, areas in zip(self._processes, self._areas):
            if process.zombie:
                self._family.end(process)
            else:
                self._lay_out(self._stubs[process.pid], process, areas)

    def _take_layout(self, message: Message) -> None:
        assert isinstance(message, stream.Layout)
        areas = [Area.decode(data) for data in message.areas]
        if self._processes or any(not area.flags & MAP_ANONYMOUS for area in areas):
            raise RestoreError("a layout where there should be none")
        self._start([[(area.start, area.end) for area in areas]])
        self._first.clear()
        self._first.map_areas(areas)

    def _take_drop(self, message: Message) -> None:
        assert isinstance(message, stream.Drop)
        table = Table()
        for start, end in zip(message.ranges[::2], message.ranges[1::2]):
            table.call(nr.NR_madvise, start, end - start, MADV_DONTNEED)
        self._first.leader.run(table)

    @property
    def _opened(self) -> Opened:
        if self._files is None:
            raise RestoreError("what belongs to an image came without it")
        return self._files

    def _layouts(self) -> list[list[tuple[int, int]]]:
        found = []
        for process, areas in zip(self._processes, self._areas):
            sizes = self._image.vdso_parts
            found.append([(at, at + size) for at, size in zip(process.vdso, sizes)])
            found.append([(area.start, area.end) for area in areas])
        return found

    def _start(self, layouts: list[list[tuple[int, int]]]) -> None:
        """Bring the executor to where no process has anything, nor the stub now."""
        stub = self._first
        here = [(vma.start, vma.end) for vma in read_vmas(stub.pid, "maps")]
        if not stub.cleared:
            stub.scratch = hole([*layouts, here], HOLE_BYTES)
            stub.start()
        elif not is_free(layouts, stub.scratch, HOLE_BYTES):
            stub.relocate(hole([*layouts, here], HOLE_BYTES))

    def _execute(self, stub: Stub, process: Process, parent: Process) -> None:
        if process.exe == parent.exe and not self._first.cleared:
            return
        stub.receive(self._control, self._number, {process.exe: self._opened.fd(process.exe)})
        stub.execute(b"/proc/self/fd/%d" % stub.fds.pop(process.exe))

    def _lay_out(self, stub: Stub, process: Process, areas: list[Area]) -> None:
        if not stub.cleared:
            stub.clear()
        wanted = {area.open for area in areas if area.open >= 0} | {process.cwd}
        wanted |= set(process.descriptors[1::3])
        fds = {index: self._opened.fd(index) for index in wanted}
        for index in {area.shared for area in areas if area.shared >= 0}:
            fds[of_shared(index)] = self._opened.shared_fd(index)
        stub.receive(self._control, self._number, fds)
        stub.map_areas([area for area in areas if not self._is_late(area)])
        stub.put_vdso(self._image, process)

    def _is_late(self, area: Area) -> bool:
        """Tell whether it is to be mapped when memory has its content and seals.

        A mapping that could ever be written to keeps memory from being sealed.
        """
        if area.shared < 0 or not area.flags & MAP_SHARED:
            return False
        return bool(Shared.decode(self._image.shared[area.shared]).seals & F_SEAL_WRITE)

    def _take_pages(self, message: Message) -> None:
        assert isinstance(message, stream.Pages)
        data = self._unpacker.unpack(message.encoding, message.size, message.data)
        write_pages(self._stubs[self._pid_of(message.process)].pid, message, data)

    def _pid_of(self, index: int) -> int:
        # Before the image there is only one.
        if not self._processes and index == 0:
            return self._first.pid
        return self._processes[index].pid

    def _take_shared(self, message: Message) -> None:
        assert isinstance(message, stream.SharedPages)
        data = self._unpacker.unpack(message.encoding, message.size, message.data)
        if message.offset + len(data) > Shared.decode(self._image.shared[message.shared]).bytes:
            raise RestoreError("a block is for shared memory that is not there")
        os.pwrite(self._opened.shared_fd(message.shared), data, message.offset)

    def _complete(self) -> None:
        if not self._processes:
            raise RestoreError("the image is not in its stream")
        self._opened.seal()
        for process, areas in zip(self._processes, self._areas):
            late = [area for area in areas if self._is_late(area)]
            if late:
                self._stubs[process.pid].map_late(late)
        for process, areas in zip(self._processes, self._areas):
            if not process.zombie:
                self._complete_one(self._stubs[process.pid], process, areas)

    def _complete_one(self, stub: Stub, process: Process, areas: list[Area]) -> None:
        threads = [Thread.decode(data) for data in process.threads]
        table = Table()
        stub.protect(table, areas)
        stub.lock(table, areas)
        place_descriptors(table, stub, process, self._number)
        for number, *arguments in self._opened.calls_after(process):
            assert isinstance(number, int)
            table.call(number, *arguments)
        set_identity(table, process)
        stub.leader.run(table)
        make_threads(stub, threads)
        table = Table()
        start_timers(table, process)
        queue_signals(table, process)
        stub.leader.run(table)
        capabilities = own_capabilities(stub.pid, process)
        for tracee, thread in zip(stub.threads, threads):
            set_thread(tracee, thread, capabilities)
        set_limits(stub.pid, process)
        stub.unmap_executor()
        for tracee, thread in zip(stub.threads, threads):
            hand_over(tracee, thread)

    @property
    def pids(self) -> list[int]:
        """The processes of the tree, the first one first."""
        return list(self._stubs)

    def go(self) -> None:
        """Let the tree run."""
        self._opened.close()
        for process in self._processes:
            if process.zombie:
                continue
            if process.stopped:
                os.kill(process.pid, signal.SIGSTOP)
            for thread in self._stubs[process.pid].threads:
                thread.detach()

    def kill(self) -> None:
        """Remove all of it."""
        if self._files is not None:
            self._files.undo()
            self._files = None
        for pid in [self._stub_pid, *self._stubs]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
        for stub in reversed(list(self._stubs.values())):
            for thread in reversed(stub.threads):
                wait_end(thread.tid)
