"""What a link of /proc/PID/fd, or a path of /proc/PID/maps, says about what it leads to.

The tables are those of proc(5) and of the kernel's anon_inode_getfile() callers.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# Devices that every node has, by number; /dev/tty is whatever terminal the process has.
DEVICES = {
    os.makedev(1, 3): b"/dev/null",
    os.makedev(1, 5): b"/dev/zero",
    os.makedev(1, 7): b"/dev/full",
    os.makedev(1, 8): b"/dev/random",
    os.makedev(1, 9): b"/dev/urandom",
}
TTY = os.makedev(5, 0)
PTMX = os.makedev(5, 2)
PTS_MAJORS = range(136, 144)

DELETED = b" (deleted)"
SHM = b"/dev/shm/"
MEMFD = b"/memfd:"
ANONYMOUS = b"/dev/zero" + DELETED  # shared anonymous memory
PIDFD = (b"anon_inode:[pidfd]", b"pidfd:[")

# What can be made again.
MOVABLE = (
    b"anon_inode:[eventfd]",
    b"anon_inode:[eventpoll]",
    b"anon_inode:[timerfd]",
    b"anon_inode:[signalfd]",
    b"anon_inode:inotify",
    *PIDFD,
)

_REFUSED = (
    (b"anon_inode:[io_uring]", "io_uring", "has an io_uring"),
    (b"anon_inode:[perf_event]", "perf_event", "has performance counters open"),
    (b"anon_inode:[userfaultfd]", "userfaultfd", "handles its own page faults"),
    (b"/anon_hugepage", "hugetlb", "has pages of hugetlbfs"),
    (b"/secretmem", "secretmem", "has memory that nobody else may read"),
    (b"/SYSV", "sysv_ipc", "has System V shared memory"),
    (b"/[aio]", "aio", "has asynchronous I/O of the kernel"),
)

# Areas that the kernel gives each process, and that look like a device's.
OWN_AREAS = (b"[vvar]", b"[vvar_vclock]", b"[vdso]", b"[vsyscall]")


def refused(text: bytes) -> tuple[str, str] | None:
    """Return the name of a reason and what to say, if what `text` leads to cannot be moved.

    Sockets, pipes and plain paths are not refused here.
    """
    for start, name, what in _REFUSED:
        if text.startswith(start):
            return name, what
    if text.startswith((b"/", b"socket:[", b"pipe:[", b"[")) or text.startswith(MOVABLE):
        return None
    return "kernel_object", f"has {os.fsdecode(text)} open"


def refused_device(device: int, text: bytes) -> tuple[str, str] | None:
    """Return the same for a character device, that is not outside."""
    if device in DEVICES or device == TTY:
        return None
    if device == PTMX:
        return "pty_master", "holds the master of a terminal"
    if os.major(device) in PTS_MAJORS:
        return "terminal", f"has the terminal {os.fsdecode(text)} open"
    return "device", f"has the device {os.fsdecode(text)} open"


def refused_area(path: bytes, flags: Collection[str]) -> tuple[str, str] | None:
    """Return the same for a mapping; `flags` are VmFlags of smaps, none where not known."""
    if path in OWN_AREAS:
        return None
    if "sl" in flags:
        return "sealed", "has memory that is sealed"
    if "lo" in flags and "ex" in flags:
        return "mlocked", "has locked all of its memory"
    if "ht" in flags:
        return "hugetlb", "has pages of hugetlbfs"
    found = refused(path) if path.startswith((b"/", b"anon_inode:")) else None
    if found is None and ("io" in flags or "pf" in flags or path.startswith((b"/dev/", b"/sys/"))):
        if path.startswith(SHM) or path in (ANONYMOUS, b"/dev/zero"):
            return None
        return "device_mapped", f"has {os.fsdecode(path) or 'a device'} mapped"
    return found
