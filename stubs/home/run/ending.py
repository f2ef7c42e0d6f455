"""How mrun stops and ends: as the program did.

The shell looks at mrun, not at the program: it must see the stop, the exit status and the fatal
signal that it would see of the program.
"""

from __future__ import annotations

import os
import resource
import signal

from stubs.abi.mount import MS_PRIVATE, MS_REC, mount
from stubs.abi.prctl import PR_SET_DUMPABLE, prctl
from stubs.abi.sched import CLONE_NEWNS, CLONE_NEWUSER, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Of our own core; the kernel dumps none into less than a page (elf_format.min_coredump).
_CORE_BYTES = 1 << 14

STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def stop_self(signo: int) -> bool:
    """Stop as by `signo`; return, when continued, True, or at once False if that does not stop us.

    A terminal's stop signals stop nobody in an orphaned process group (setpgid(2)).
    Preconditions: all signals are blocked.
    """
    if signo not in STOP_SIGNALS or signal.getsignal(signo) is not signal.SIG_DFL:
        signo = signal.SIGSTOP
    if signo != signal.SIGSTOP:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signo])
    os.kill(os.getpid(), signo)
    if signo != signal.SIGSTOP:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signo])
    # What continued us is pending, since it is blocked.
    return signal.SIGCONT in signal.sigpending()


def end_as(status: int) -> NoReturn:
    """End as a process did whose wait4(2) status this is; no core file of ours is left."""
    if os.WIFSIGNALED(status):
        signo = os.WTERMSIG(status)
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        dumps = os.WCOREDUMP(status) and _enter_vanishing_directory()
        resource.setrlimit(resource.RLIMIT_CORE, (_CORE_BYTES if dumps else 0, hard))
        prctl(PR_SET_DUMPABLE, int(dumps))
        if signo != signal.SIGKILL:
            signal.signal(signo, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signo])
        os.kill(os.getpid(), signo)
        # Only a signal that does not kill by default gets here.
        os._exit(128 + signo)
    os._exit(os.WEXITSTATUS(status))


def _enter_vanishing_directory() -> bool:
    """Go where a core file that we leave is gone with us; return whether that could be done.

    "Core dumped" is for the kernel to say, who says it of those whose core it has begun to write.
    The program's own core lies where the program was, and must not be overwritten.
    """
    try:
        with open("/proc/sys/kernel/core_pattern") as file:
            if "/" in file.read():
                return False  # one place for all, or a program that collects them
        uid, gid = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        # Who is not mapped can make no file.
        with open("/proc/self/uid_map", "w") as file:
            file.write(f"{uid} {uid} 1")
        with open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        with open("/proc/self/gid_map", "w") as file:
            file.write(f"{gid} {gid} 1")
        mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
        mount(b"none", b"/tmp", b"tmpfs", 0, b"size=1m")
        os.chdir("/tmp")
    except OSError:
        return False  # no user namespaces here, for one
    return True


def exit_status(code: int) -> int:
    """Return the wait4(2) status of a process that exits with `code`."""
    return (code & 0xFF) << 8
