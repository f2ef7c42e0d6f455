"""The destination of a migration: a tree brought to life from a stream, held, and then let go.

Runs in a process that has the capsule's pids before it. While the tree is held this process is
its tracer; should it end, the tree ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct

from stubs.abi import ptrace
from stubs.migration import stream
from stubs.migration.areas import hole
from stubs.migration.complete import (
    hand_over,
    make_threads,
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
from stubs.migration.files import Opened
from stubs.migration.image import FORMAT, Area, Image, Process, Thread
from stubs.migration.pages import Unpacker, write_pages
from stubs.migration.proc import read_vmas
from stubs.migration.rebuild import HOLE_BYTES, OPTIONS, Stub
from stubs.migration.tracee import WALL, CallFailedError, Tracee, TraceeGoneError
from stubs.wire.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.migration.stream import Head, Read
    from stubs.wire.codec import Message

# What an image that is broken, or a machine that lacks something, shows itself as.
_FAILURES = (
    OSError,
    CallFailedError,
    TraceeGoneError,
    ProtocolError,
    LookupError,
    ValueError,
    OverflowError,
    struct.error,
)


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
        self.pids = [stub_pid]
        self._read = read
        self._control, self._number = control, head.control
        self._executable = executable
        self._outside = outside
        self._unpacker = Unpacker()
        self._stubs: list[Stub] = []
        self._processes: list[Process] = []
        self._guarded(lambda: self._begin(stub_pid))

    def _begin(self, pid: int) -> None:
        leader = Tracee(pid, pid)
        leader.seize(OPTIONS)
        self._control.sendall(self._executable)
        leader.await_event(ptrace.PTRACE_EVENT_EXEC)
        self._stubs.append(_stub_after_exec(leader))

    def finish(self) -> None:
        """Read the stream to its end; the tree is whole then, and stands still."""
        self._guarded(self._finish)

    def _finish(self) -> None:
        handlers = {
            Image: self._take_image,
            stream.Pages: self._take_pages,
        }
        while True:
            message = stream.receive(self._read)
            if isinstance(message, stream.End):
                break
            handlers[type(message)](message)
        self._complete()

    def _guarded(self, step: object) -> None:
        try:
            step()  # type: ignore[operator]
        except RestoreError:
            self.kill()
            raise
        except _FAILURES as error:
            self.kill()
            raise RestoreError(str(error) or type(error).__name__) from error

    def _take_image(self, image: Message) -> None:
        assert isinstance(image, Image)
        if image.format != FORMAT or self._processes:
            raise RestoreError("an image within an image")
        check_flags(image.cpu_flags)
        self._image = image
        self._processes = [Process.decode(data) for data in image.processes]
        self._areas = [[Area.decode(data) for data in process.areas] for process in self._processes]
        self._opened = Opened(image, *self._outside())
        for process, areas, stub in zip(self._processes, self._areas, self._stubs):
            self._lay_out(stub, process, areas)

    def _lay_out(self, stub: Stub, process: Process, areas: list[Area]) -> None:
        vdsos = [(at, at + size) for at, size in zip(process.vdso, self._image.vdso_parts) if size]
        layouts = [[(area.start, area.end) for area in areas], vdsos]
        layouts.append([(vma.start, vma.end) for vma in read_vmas(stub.pid, "maps")])
        stub.scratch = hole([sorted(each) for each in layouts], HOLE_BYTES)
        stub.start()
        raise_limit(stub.pid)
        stub.clear()
        wanted = {area.open for area in areas if area.open >= 0} | {process.cwd}
        wanted |= set(process.descriptors[1::3])
        stub.receive(
            self._control, self._number, {index: self._opened.fd(index) for index in wanted}
        )
        stub.map_areas(areas, {})
        stub.put_vdso(self._image, process)

    def _take_pages(self, message: Message) -> None:
        assert isinstance(message, stream.Pages)
        data = self._unpacker.unpack(message.encoding, message.size, message.data)
        write_pages(self._stubs[message.process].pid, message, data)

    def _complete(self) -> None:
        if not self._processes:
            raise RestoreError("the image is not in its stream")
        for process, areas, stub in zip(self._processes, self._areas, self._stubs):
            threads = [Thread.decode(data) for data in process.threads]
            table = Table()
            stub.protect(table, areas)
            place_descriptors(table, stub, process, self._number)
            for number, *arguments in self._opened.calls_after(process):
                table.call(number, *arguments)
            set_identity(table, process)
            stub.leader.run(table)
            make_threads(stub, threads)
            for tracee, thread in zip(stub.threads, threads):
                set_thread(tracee, thread)
            table = Table()
            start_timers(table, process)
            queue_signals(table, process)
            stub.leader.run(table)
            set_limits(stub.pid, process)
            stub.unmap_executor()
            for tracee, thread in zip(stub.threads, threads):
                hand_over(tracee, thread)
        self._opened.close()

    def go(self) -> None:
        """Let the tree run."""
        for stub, process in zip(self._stubs, self._processes):
            if process.stopped:
                os.kill(stub.pid, signal.SIGSTOP)
            for thread in stub.threads:
                thread.detach()

    def kill(self) -> None:
        """Remove all of it."""
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
        for stub in self._stubs:
            for thread in reversed(stub.threads):
                _wait_end(thread.tid)


def _stub_after_exec(leader: Tracee) -> Stub:
    """Return a stub that has just executed its program, and stands before its first instruction."""
    # In the stop for the exec itself nothing can be injected: the call has not returned yet.
    leader.interrupt()
    leader.cont()
    leader.await_event(ptrace.PTRACE_EVENT_STOP)
    leader.begin()
    return Stub(leader, 0)


def _wait_end(tid: int) -> None:
    while True:
        try:
            _, status = os.waitpid(tid, WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            return
