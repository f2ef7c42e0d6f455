"""The traced program: seized before its exec, stopped at its first instruction.

Plain ptrace with PTRACE_O_TRACEEXEC and no seccomp: at PTRACE_EVENT_EXEC the new image is mapped
and has run nothing; argv, environment and executable are final, `#!` is resolved, close-on-exec
descriptors are gone, and an exec that failed was never seen. What a tracee starts is traced from
its birth (stubs.home.run.tree). One thread: ptrace requests must come from the thread that seized.
A tracee can be killed at any moment; every request then fails with ProcessLookupError, and the
next `wait` tells its status.
"""

from __future__ import annotations

import os
import signal
import stat

from stubs.abi import ptrace
from stubs.abi.auxv import AT_EXECFN, read_auxv
from stubs.abi.x86_64 import USER32_CS, NR_execve

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
WALL = 0x40000000

ALL_SIGNALS = (1 << 64) - 1

_OPTIONS = (
    ptrace.PTRACE_O_TRACEEXEC
    | ptrace.PTRACE_O_TRACEFORK
    | ptrace.PTRACE_O_TRACEVFORK
    | ptrace.PTRACE_O_TRACECLONE
    | ptrace.PTRACE_O_EXITKILL
)

# mov eax, 59; syscall
_EXECVE = b"\xb8" + NR_execve.to_bytes(4, "little") + b"\x0f\x05"
_WORD = 8


class Tracee:
    """A process, or a thread of one, that we trace."""

    def __init__(self, pid: int, born: bool = False) -> None:
        """Seize a running process unless it was `born` of a tracee, and hence one.

        PermissionError where tracing is forbidden.
        """
        self.pid = pid
        self.status: int | None = None  # as wait4(2) has it, once it is dead
        if not born:
            ptrace.seize(pid, _OPTIONS)

    def wait(self, block: bool = True) -> Stop | None:
        """Return the next stop; None when it is dead (see `status`), or has not stopped."""
        if self.status is not None:
            return None
        pid, status = os.waitpid(self.pid, WALL | (0 if block else os.WNOHANG))
        return self.take(status) if pid else None

    def take(self, status: int) -> Stop | None:
        """Return the stop that waitpid(2) has told of; None when it told of the end."""
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
        image = os.stat(exe)
        user = image.st_mode & stat.S_ISUID and image.st_uid != os.geteuid()
        group = image.st_mode & stat.S_ISGID and image.st_gid != os.getegid()
        if not (user or group or _has_capabilities(exe)):
            return False
        return not os.statvfs(exe).f_flag & os.ST_NOSUID

    def exec_untraced(self) -> None:
        """Have it, in its exec stop, exec the same once more, traced no longer.

        The kernel has ignored that the program gains privileges, since it was traced
        (ptrace(2)); now it does not. Strings and vectors are where execve has put them.
        """
        regs = ptrace.getregs(self.pid)
        (argc,) = _words(self.pid, regs["rsp"], 1)
        ptrace.poke(self.pid, regs["rip"], _EXECVE)
        regs["rdi"] = read_auxv(self.pid)[AT_EXECFN]
        regs["rsi"] = regs["rsp"] + _WORD
        regs["rdx"] = regs["rsi"] + _WORD * (argc + 1)
        ptrace.setregs(self.pid, regs)
        ptrace.detach(self.pid)

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


def _has_capabilities(exe: str) -> bool:
    try:
        return bool(os.getxattr(exe, "security.capability"))
    except OSError:
        return False  # none there, or a file system that has none


def _words(pid: int, address: int, count: int) -> list[int]:
    """Read 64-bit words of a tracee's memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        data = os.pread(memory.fileno(), _WORD * count, address)
    return [int.from_bytes(data[at : at + _WORD], "little") for at in range(0, len(data), _WORD)]
