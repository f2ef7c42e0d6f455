"""One process at the destination: a stub that becomes what its record says.

In this order, for each step takes what the former ones have left: `start` once it stands at the
first instruction of its program; `clear` its memory; `receive` descriptors; `map_areas`; then its
pages are written from outside; `complete` it; `hand_over` its threads, which run when detached.

Everything is done by the executor at `scratch`, where neither the stub nor the process to be has
anything; the kernel's vDSO is put behind it meanwhile.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import time

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MLOCK_ONFAULT,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from stubs.migration import vdso
from stubs.migration.areas import find_code
from stubs.migration.errors import RestoreError
from stubs.migration.executor import ROWS_AT, SCRATCH_BYTES, SYSCALL, Room, Table
from stubs.migration.image import Area
from stubs.migration.intervals import without
from stubs.migration.proc import read_vmas
from stubs.migration.tracee import CallFailedError, Tracee, write_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.executor import Argument
    from stubs.migration.image import Image, Process

# The executor, and the vDSO behind it.
HOLE_BYTES = SCRATCH_BYTES + vdso.MOST_BYTES

OPTIONS = (
    ptrace.PTRACE_O_TRACEFORK
    | ptrace.PTRACE_O_TRACECLONE
    | ptrace.PTRACE_O_TRACEEXEC
    | ptrace.PTRACE_O_EXITKILL
)

_MSG_CMSG_CLOEXEC = 0x40000000
_CMSG_HEADER = struct.Struct("=QII")
# Of SCM_MAX_FD, which is 253.
_MOST_FDS = 200

_CLONE_ARGS_BYTES = 88
# So long a number may be another's that has ended.
_NUMBER_SECONDS = 0.5

_WRITABLE = PROT_READ | PROT_WRITE


class Stub:
    """A process that is being rebuilt, by its first thread, which is stopped."""

    def __init__(self, leader: Tracee, scratch: int) -> None:
        """Take a tracee that has just executed its program."""
        self.leader = leader
        self.scratch = scratch
        self.threads: list[Tracee] = [leader]
        self.anonymous: list[tuple[int, int]] = []  # private anonymous memory, (start, end)
        # Numbers in the stub by index of Image.opens, or by of_shared.
        self.fds: dict[int, int] = {}
        self.cleared = False
        self._vdso: list[tuple[int, int]] = []
        self.own_vdso = b""

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.leader.pid

    def start(self) -> None:
        """Map the executor."""
        vmas = read_vmas(self.pid, "maps")
        protection = _WRITABLE | PROT_EXEC
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        at = find_code(self.pid, vmas, SYSCALL)
        values = (self.scratch, SCRATCH_BYTES, protection, flags, -1, 0)
        found = self.leader.step_call(at, nr.NR_mmap, *values)
        if found != self.scratch:
            raise RestoreError(f"no room for the executor: {os.strerror(-found)}")
        self.leader.install(self.scratch)

    def clear(self) -> None:
        """Unmap all but the executor and the vDSO, which comes to lie behind that."""
        vmas = read_vmas(self.pid, "maps")
        parts = vdso.parts_of(vmas)
        self.own_vdso = vdso.read_vdso(self.pid, parts)
        table = Table()
        for vma in vmas:
            if vma.path not in (*vdso.PARTS, b"[vsyscall]") and vma.start != self.scratch:
                table.call(nr.NR_munmap, vma.start, vma.end - vma.start)
        first = min((start for start, size in parts if size), default=0)
        behind = self.scratch + SCRATCH_BYTES
        to = [behind + start - first if size else 0 for start, size in parts]
        if max(at + size for at, (_, size) in zip(to, parts)) > behind + vdso.MOST_BYTES:
            raise RestoreError("the vDSO of this kernel is larger than any known")
        self._vdso = vdso.move(table, parts, to)
        self.leader.run(table)
        self.cleared = True

    def execute(self, path: bytes) -> None:
        """Have it execute a program; the executor is there again afterwards."""
        at = self.scratch + ROWS_AT
        write_memory(self.pid, at, path + b"\0")
        self.leader.leave(nr.NR_execve, at, 0, 0)
        self.leader.await_event(ptrace.PTRACE_EVENT_EXEC)
        self.reach_start()
        self.start()

    def reach_start(self) -> None:
        """Go on from the stop for an exec to where calls can be injected."""
        # In that stop the call has not returned yet.
        self.leader.interrupt()
        self.leader.cont()
        self.leader.await_event(ptrace.PTRACE_EVENT_STOP)
        self.leader.begin()

    def relocate(self, scratch: int) -> None:
        """Move the executor, and the vDSO with it, to another hole."""
        old, self.scratch = self.scratch, scratch
        table = Table()
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        table.call(nr.NR_mmap, scratch, SCRATCH_BYTES, _WRITABLE | PROT_EXEC, flags, -1, 0)
        to = [at - old + scratch if size else 0 for at, size in self._vdso]
        self._vdso = vdso.move(table, self._vdso, to)
        self.leader.run(table)
        self.leader.install(scratch)
        self.leader.scratch_call(nr.NR_munmap, old, SCRATCH_BYTES)

    def clone(self, flags: int, signo: int, number: int) -> int:
        """Make a thread or process, by clone3(2), that asks for a number; return what it got.

        What has just ended may keep its number for a moment: since Linux 6.15 release_task()
        (kernel/exit.c) gives it back when whoever waited has been told already.
        """
        deadline = time.monotonic() + _NUMBER_SECONDS
        while True:
            table = Table()
            args: list[Argument] = [flags, 0, 0, 0, signo, 0, 0, 0, [number], 1, 0]
            table.call(nr.NR_clone3, args, _CLONE_ARGS_BYTES)
            try:
                self.leader.run(table)
            except CallFailedError as error:
                if error.errno != errno.EEXIST or time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
            else:
                return self.leader.born

    def receive(self, control: socket.socket, number: int, fds: dict[int, int]) -> None:
        """Give it descriptors of ours, by index; they get any free numbers."""
        wanted = list(fds.items())
        for first in range(0, len(wanted), _MOST_FDS):
            piece = wanted[first : first + _MOST_FDS]
            socket.send_fds(control, [b"!"], [fd for _, fd in piece])
            byte, space = Room(8), Room(_CMSG_HEADER.size + 4 * len(piece) + 8)
            table = Table()
            message: list[Argument] = [0, 0, [byte, 1], 1, space, len(space.data), 0]
            table.call(nr.NR_recvmsg, number, message, _MSG_CMSG_CLOEXEC)
            self.leader.run(table)
            size, _, _ = _CMSG_HEADER.unpack_from(space.data)
            got = struct.unpack_from(f"={(size - _CMSG_HEADER.size) // 4}i", space.data, 16)
            if len(got) != len(piece):
                raise RestoreError("too many open files for this machine's limit")
            self.fds.update(zip([index for index, _ in piece], got))

    def map_areas(self, areas: list[Area]) -> None:
        """Map what is not there yet; unmap what is not wanted of what is."""
        wanted = [
            (area.start, area.end)
            for area in areas
            if area.open < 0 and area.shared < 0 and not area.flags & MAP_GROWSDOWN
        ]
        table = Table()
        for start, end in without(self.anonymous, wanted):
            table.call(nr.NR_munmap, start, end - start)
        for area in areas:
            if (area.start, area.end) in wanted:
                # Some of it may be there, with pages that were sent before.
                missing = without([(area.start, area.end)], self.anonymous)
            else:
                missing = [(area.start, area.end)]
            for start, end in missing:
                self._map(table, area, start, end)
        self.leader.run(table)
        self.anonymous = wanted

    def map_late(self, areas: list[Area]) -> None:
        """Map what can be mapped only now."""
        table = Table()
        for area in areas:
            self._map(table, area, area.start, area.end)
        self.leader.run(table)

    def _map(self, table: Table, area: Area, start: int, end: int) -> None:
        fd, protection = -1, area.protection
        flags = area.flags & (MAP_SHARED | MAP_PRIVATE | MAP_GROWSDOWN | MAP_NORESERVE)
        if area.shared >= 0:
            fd = self.fds[of_shared(area.shared)]
        elif area.open >= 0:
            fd = self.fds[area.open]
        else:
            flags |= MAP_ANONYMOUS
        if flags & MAP_PRIVATE and protection != PROT_NONE:
            # Until its pages are there.
            protection = _WRITABLE
        flags |= MAP_FIXED_NOREPLACE
        table.call(nr.NR_mmap, start, end - start, protection, flags, fd, area.offset)
        for advice in area.advice:
            table.call(nr.NR_madvise, start, end - start, advice, optional=True)

    def protect(self, table: Table, areas: list[Area]) -> None:
        """Add the calls that give areas their protection, now that they are filled."""
        for area in areas:
            if area.flags & MAP_PRIVATE:
                size = area.end - area.start
                table.call(nr.NR_mprotect, area.start, size, area.protection)
                for advice in area.advice:
                    table.call(nr.NR_madvise, area.start, size, advice, optional=True)

    def lock(self, table: Table, areas: list[Area]) -> None:
        """Add the calls that lock areas; RestoreError when this machine does not allow so much."""
        wanted = sum(area.end - area.start for area in areas if area.locked)
        if not wanted:
            return
        _, limit = resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)
        if resource.RLIM_INFINITY != limit < wanted:
            have = f"{limit >> 10} KiB are allowed here (ulimit -l)"
            raise RestoreError(f"it has locked {wanted >> 10} KiB of memory, {have}")
        resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK, (limit, limit))
        for area in areas:
            if area.locked:
                # What cannot be read cannot be brought in.
                later = area.locked == 2 or not area.protection
                how = MLOCK_ONFAULT if later else 0
                table.call(nr.NR_mlock2, area.start, area.end - area.start, how)

    def put_vdso(self, image: Image, process: Process) -> None:
        """Give it the vDSO that it had, or what stands for that; see stubs.migration.vdso."""
        at, sizes = process.vdso, [size for _, size in self._vdso]
        table = Table()
        if at[-1] and self.own_vdso == image.vdso and sizes == image.vdso_parts:
            vdso.move(table, self._vdso, at)
            self.leader.run(table)
            return
        for start, size in self._vdso:
            if size:
                table.call(nr.NR_munmap, start, size)
        if at[-1]:
            code = vdso.proxy(image.vdso)
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            values = (at[-1], len(code), _WRITABLE, flags, -1, 0)
            self.leader.call(nr.NR_mmap, *values)
            write_memory(self.pid, at[-1], code)
            table.call(nr.NR_mprotect, at[-1], len(code), PROT_READ | PROT_EXEC)
        self.leader.run(table)

    def unmap_executor(self) -> None:
        """Take the executor away; nothing can be injected afterwards."""
        self.leader.scratch_call(nr.NR_munmap, self.scratch, SCRATCH_BYTES)


def of_shared(index: int) -> int:
    """Return the key that stands for Image.shared[`index`] among those of Image.opens."""
    return -1 - index
