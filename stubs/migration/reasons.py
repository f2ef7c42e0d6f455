"""Why a program cannot be moved: a name for programs and a sentence for people.

The names are a fixed set, NAMES; what each means stands beside it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Reason(NamedTuple):
        """`name` is one of NAMES; `sentence` names the process and the thing."""

        name: str
        sentence: str
else:
    from collections import namedtuple

    Reason = namedtuple("Reason", "name sentence")

NAMES = {
    "aio": "asynchronous I/O of the kernel, io_setup(2)",
    "bits32": "a 32-bit program",
    "device": "a device that not every node has is open",
    "device_mapped": "a device is mapped",
    "epoll_stale": "an epoll watches a file under a number that is another's by now",
    "fifo": "a named pipe is open",
    "foreign_shared_memory": "memory is shared with a process that would stay behind",
    "hugetlb": "pages of hugetlbfs are mapped",
    "inotify_path": "inotify watches a file whose path cannot be found",
    "io_uring": "an io_uring is open or mapped",
    "kernel_object": "a kernel object without a way to make it again is open",
    "lease": "a lease on a file is held, F_SETLEASE",
    "mlocked": "all memory is locked, with what is yet to come, mlockall(2)",
    "mqueue": "a POSIX message queue is open",
    "namespace": "it is in a namespace or under a root of its own",
    "other_user": "it runs as another user or may not be traced",
    "packet_pipe": "a pipe keeps packets apart, O_DIRECT",
    "perf_event": "performance counters are open",
    "pidfd": "a pidfd stands for a process that would stay behind",
    "pipe_outside": "a pipe leads to a process that would stay behind",
    "ptraced": "it is traced already",
    "pty_master": "it holds the master of a terminal",
    "sealed": "memory is sealed, mseal(2)",
    "secretmem": "memory is secret, memfd_secret(2)",
    "seccomp": "it filters its system calls, seccomp(2)",
    "shadow_stack": "it has a shadow stack",
    "shared_tables": "two processes share one table of descriptors, or a thread has its own",
    "signal_io": "an open file sends signals, O_ASYNC",
    "socket": "a socket is open that is not half of a pair within the tree",
    "sysv_ipc": "shared memory of System V is attached",
    "terminal": "a terminal is open that is not the user's",
    "unnamed_file": "a file without a name is open or mapped, and cannot be named otherwise",
    "userfaultfd": "page faults are handled by the program, userfaultfd(2)",
    "vfork": "its parent waits in vfork(2) until it calls execve(2)",
    "changing": "it makes threads or processes faster than they can be stopped",
    "dead_leader": "its first thread has ended before the others",
    "ended": "it has ended",
    "no_executable_memory": "it may not make memory executable",
    "not_stopping": "it waits in the kernel and cannot be stopped now",
    "session": "a process is in a session or group whose leader is gone",
    "shared_address_space": "two processes share their memory, as after vfork(2)",
    "unknown_call": "a system call that was interrupted cannot be told",
    "wake_alarm": "a timer wakes the machine, CLOCK_*_ALARM",
}


class Unmovable(Exception):  # noqa: N818  # a finding, not an error
    """A process that is stopped turns out to be one that cannot be moved; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        """Say `reason`."""
        super().__init__(reason.sentence)
        self.reason = reason


def reason(name: str, pid: int, what: str, proc: str = "/proc") -> Reason:
    """Return a reason whose sentence is "COMM (PID) WHAT"."""
    if name not in NAMES:
        raise ValueError(f"no such reason: {name}")
    try:
        with open(f"{proc}/{pid}/comm") as file:
            comm = file.read().strip()
    except OSError:
        comm = "a process"  # it has just ended
    return Reason(name, f"{comm} ({pid}) {what}")
