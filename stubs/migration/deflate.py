"""Deflating: a process at home whose program lives elsewhere by now, made an empty shell.

What it was is taken from it by calls of its own: threads, timers, memory. It keeps what others
see of it: its pid and parent, its groups, its command line (proc(5)), and its descriptors, which
whoever goes on with it may close.
"""

from __future__ import annotations

import os

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from stubs.migration.areas import find_code, hole
from stubs.migration.executor import SCRATCH_BYTES, SYSCALL, Table
from stubs.migration.proc import read_file, read_vmas
from stubs.migration.tracee import WALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.freeze import Stopped
    from stubs.migration.tracee import Tracee

# include/uapi/linux/rseq.h
RSEQ_FLAG_UNREGISTER = 1

# Of the kernel, or with the arguments that the command line is read from.
_KEPT = (b"[stack]", b"[vvar]", b"[vvar_vclock]", b"[vdso]", b"[vsyscall]")


def deflate(process: Stopped) -> int:
    """Empty a stopped process; return the address of the page that is left to execute.

    Raises OSError, TraceeGoneError: it was killed meanwhile.
    """
    pid, leader = process.pid, process.leader
    vmas = read_vmas(pid, "maps")
    code = find_code(pid, vmas, SYSCALL)
    for thread in process.threads[1:]:
        _end(thread, code)
    leader.begin()
    scratch = hole([[(vma.start, vma.end) for vma in vmas]], SCRATCH_BYTES)
    protection = PROT_READ | PROT_WRITE | PROT_EXEC
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    leader.step_call(code, nr.NR_mmap, scratch, SCRATCH_BYTES, protection, flags, -1, 0)
    leader.install(scratch)
    table = Table()
    _forget_rseq(table, leader)
    table.call(nr.NR_set_tid_address, 0)
    for which in range(3):
        table.call(nr.NR_setitimer, which, bytes(32), 0)
    for number in _timers(pid):
        table.call(nr.NR_timer_delete, number, optional=True)
    for vma in vmas:
        if vma.path not in _KEPT:
            table.call(nr.NR_munmap, vma.start, vma.end - vma.start, optional=True)
    leader.run(table)
    leader.put_back()
    return scratch


def _end(thread: Tracee, code: int) -> None:
    """Have a thread end, and wait for that."""
    thread.begin()
    thread.enter_call(code, nr.NR_exit, 0)
    while True:
        try:
            _, status = os.waitpid(thread.tid, WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            return
        thread.cont()


def _forget_rseq(table: Table, leader: Tracee) -> None:
    """Have the kernel write to the area of rseq(2) no more: it will not be there."""
    try:
        pointer, size, signature = ptrace.get_rseq_configuration(leader.tid)
    except OSError:
        return  # a kernel that cannot tell; Linux 5.13
    if pointer:
        table.call(nr.NR_rseq, pointer, size, RSEQ_FLAG_UNREGISTER, signature)


def _timers(pid: int) -> list[int]:
    lines = read_file(f"/proc/{pid}/timers").split(b"\n")
    return [int(line.split()[1]) for line in lines if line.startswith(b"ID:")]
