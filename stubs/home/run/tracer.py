"""The traced program: seized before its exec, stopped at its first instruction.

Plain ptrace with PTRACE_O_TRACEEXEC and no seccomp: at PTRACE_EVENT_EXEC the new image is mapped
and has run nothing; argv, environment and executable are final, `#!` is resolved, close-on-exec
descriptors are gone, and an exec that failed was never seen. One thread: ptrace requests must come
from the thread that seized. A tracee can be killed at any moment; every request then fails with
ProcessLookupError, and the next `wait` tells its status.
"""

from __future__ import annotations

import os
import signal
import stat

from stubs.abi import ptrace
from stubs.abi.x86_64 import USER32_CS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Stop(NamedTuple):
        """A ptrace stop: `signo` of a signal about to be delivered (event 0), or an event."""

        event: int
        signo: int
else:
    from collections import namedtuple

    Stop = namedtuple("Stop", "event signo")

# waitpid(2): children of any kind (include/uapi/linux/wait.h).
_WALL = 0x40000000

ALL_SIGNALS = (1 << 64) - 1


class Tracee:
    """A process that we trace and that is our child."""

    def __init__(self, pid: int) -> None:
        """Seize a running process; PermissionError where that is forbidden."""
        self.pid = pid
        self.status: int | None = None  # as wait4(2) has it, once it is dead
        ptrace.seize(pid, ptrace.PTRACE_O_TRACEEXEC | ptrace.PTRACE_O_EXITKILL)

    def wait(self, block: bool = True) -> Stop | None:
        """Return the next stop; None when it is dead (see `status`), or has not stopped."""
        if self.status is not None:
            return None
        pid, status = os.waitpid(self.pid, _WALL | (0 if block else os.WNOHANG))
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            return Stop(status >> 16, os.WSTOPSIG(status))
        self.status = status
        return None

    def wait_exec(self) -> bool:
        """Wait until it has exec'ed and stands before its first instruction; False when it died."""
        while True:
            stop = self.wait()
            if stop is None:
                return False
            if stop.event == ptrace.PTRACE_EVENT_EXEC:
                return True
            # Only SIGSTOP can show here, all else is blocked: let it be as without us.
            ptrace.cont(self.pid, stop.signo if stop.event == 0 else 0)

    def is_32bit(self) -> bool:
        """Tell whether the new image is not an x86-64 one."""
        return ptrace.getregs(self.pid)["cs"] == USER32_CS

    def gains_privileges(self) -> bool:
        """Tell whether exec, untraced, would change its user, its group or its capabilities."""
        exe = f"/proc/{self.pid}/exe"
        if os.statvfs(exe).f_flag & os.ST_NOSUID:
            return False
        image = os.stat(exe)
        if image.st_mode & stat.S_ISUID and image.st_uid != os.geteuid():
            return True
        if image.st_mode & stat.S_ISGID and image.st_gid != os.getegid():
            return True
        try:
            return bool(os.getxattr(exe, "security.capability"))
        except OSError:
            return False  # none there, or a file system that has none

    def is_dying(self) -> bool:
        """Tell whether somebody has killed it."""
        self.wait(block=False)
        return self.status is not None

    def kill(self) -> None:
        """Kill it and wait for its end."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        while self.status is None:
            self.wait()
