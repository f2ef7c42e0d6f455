"""What a program has been given at home: everything that its body must find on the node.

Taken while the program stands before its first instruction. Nothing here changes it, so whoever
cannot be moved goes on at home as if nobody had looked.
"""

from __future__ import annotations

import os
import resource
import select

from stubs.abi.auxv import AT_EXECFN, read_auxv
from stubs.abi.termbits import get_foreground, get_winsize, tcgets2, tcsetsw2
from stubs.home.run.holders import read_by_others
from stubs.home.run.inherited import ImmovableError, Inherited
from stubs.home.run.proc import read_stat, read_status, read_strings
from stubs.wire.messages import FD_STREAM_BOTH, FD_STREAM_IN, Spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.living import Living

_LIMITS = 16  # RLIM_NLIMITS, include/uapi/asm-generic/resource.h
_PATH_MAX = 4096


class Program:
    """What there is to know about a program before it is decided where it runs."""

    def __init__(self, pid: int) -> None:
        """Read it from /proc; OSError when the process has been killed."""
        self.pid = pid
        self.argv = read_strings(pid, "cmdline")
        self.cwd = os.readlink(f"/proc/{pid}/cwd".encode())
        self.exe = _executable(pid, self.cwd)

    @property
    def name(self) -> str:
        """What messages call it."""
        return os.fsdecode(os.path.basename(self.exe))


class Capture:
    """A program ready to be sent: the message, and our copies of its descriptors."""

    def __init__(
        self,
        program: Program,
        mask: int | None,
        terminal: Terminal | None,
        living: Living | None = None,
    ) -> None:
        """Take everything. `mask` is what the program is to find blocked; None: what it has now.

        `living`: the descriptors of one that has run for a while, which are taken over.
        Raises ImmovableError, and OSError when the process has been killed meanwhile.
        """
        pid = program.pid
        if os.stat(f"/proc/{pid}/exe").st_nlink == 0:
            raise ImmovableError("its executable has been removed")
        stat = read_stat(pid)
        status = read_status(pid)
        inherited = living or Inherited(pid, stat.tty)
        self.fds = inherited.fds
        self.terminal = terminal
        self.spawn = Spawn(
            body=pid,
            ppid=stat.ppid,
            pgrp=stat.pgrp,
            sid=stat.session,
            umask=int(status["Umask"], 8),
            nice=stat.nice,
            blocked=int(status["SigBlk"], 16) if mask is None else mask,
            ignored=int(status["SigIgn"], 16),
            cwd_id=0,
            rows=terminal.rows if terminal else 0,
            columns=terminal.columns if terminal else 0,
            terminal=0,
            foreground=max(stat.tpgid, 0),
            exe=program.exe,
            cwd=program.cwd,
            termios=terminal.termios if terminal else b"",
            argv=program.argv,
            env=read_strings(pid, "environ"),
            limits=_limits(pid),
            exclusive=_exclusive(pid, inherited),
            descriptors=inherited.records,
        )

    def close(self) -> None:
        """Close our copies; not to be done once they have been handed to an endpoint."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


class Terminal:
    """The controlling terminal of this process, which is the program's, too."""

    def __init__(self) -> None:
        """Open it; OSError when there is none."""
        self.fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self.termios = tcgets2(self.fd)
        self.rows, self.columns = get_winsize(self.fd)

    @classmethod
    def controlling(cls) -> Terminal | None:
        """Return it, or None when there is none."""
        try:
            return cls()
        except OSError:
            return None

    def restore(self) -> None:
        """Put back the modes that were found, which the link process did not live to do."""
        try:
            if get_foreground(self.fd) == os.getpgrp():
                tcsetsw2(self.fd, self.termios)
        except OSError:
            pass  # hung up

    def update_size(self) -> None:
        """Look again; OSError when the terminal has been hung up."""
        self.rows, self.columns = get_winsize(self.fd)


def _executable(pid: int, cwd: bytes) -> bytes:
    """Return the path by which the image was started, else the one that the kernel has for it.

    A program may look at the former (busybox, multi-call binaries), so it is kept when it names
    the image; for a script it names the script, and the image is the interpreter.
    """
    link = f"/proc/{pid}/exe".encode()
    image = os.stat(link)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        data = os.pread(memory.fileno(), _PATH_MAX, read_auxv(pid)[AT_EXECFN])
    path = data.partition(b"\0")[0]
    try:
        named = os.stat(os.path.join(cwd, path))
    except OSError:
        return os.readlink(link)
    same = (named.st_dev, named.st_ino) == (image.st_dev, image.st_ino)
    return path if same else os.readlink(link)


def _limits(pid: int) -> list[int]:
    """Return soft and hard limits in the order of RLIMIT_*; RLIM_INFINITY is all ones."""
    pairs = [resource.prlimit(pid, number) for number in range(_LIMITS)]
    return [limit & 0xFFFFFFFFFFFFFFFF for pair in pairs for limit in pair]


def _exclusive(pid: int, inherited: Inherited | Living) -> list[int]:
    """Return the descriptors whose bytes nobody but the program can read."""
    inputs = [
        (item, fd)
        for item, fd in zip(inherited.records, inherited.fds)
        # What has a name (a FIFO, another terminal) can be opened by anybody at any time.
        if item.kind in (FD_STREAM_IN, FD_STREAM_BOTH)
        and item.path.startswith((b"pipe:[", b"socket:["))
    ]
    # Parallel jobs of make have an empty pipe without a writer for their input.
    ended = [item.fd for item, fd in inputs if _is_at_end(fd)]
    unnamed = {item.path for item, _ in inputs if item.fd not in ended}
    shared = read_by_others(unnamed, {os.getpid(), pid}) if unnamed else set()
    return ended + [item.fd for item, _ in inputs if item.path in unnamed - shared]


def _is_at_end(fd: int) -> bool:
    """Tell whether `fd` is of a pipe that is empty and has no writer: nobody gets a byte of it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return [event for _, event in poll.poll(0)] == [select.POLLHUP]
