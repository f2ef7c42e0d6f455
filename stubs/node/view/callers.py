"""Who asks: what program a process is, and what it asks the kernel for while the kernel asks us.

FUSE_GETATTR does not say why. stat(2) shows a process everything; but the kernel also asks before
it lets a process through a directory, when what it knew became old because a name in it was made
or removed, and then uses mode and owner only. While home's answer about times is under way, the
first has to wait for it and the second need not. The caller sleeps in its system call until we
answer, so what /proc/PID/syscall shows is true; where it shows nothing the caller is taken to want
everything.
"""

from __future__ import annotations

import os
import time

from stubs.abi import x86_64 as nr
from stubs.wire.compilers import is_compiler

# Calls that show nothing of an inode they pass but its size.
_MODEST = {
    nr.NR_read,
    nr.NR_write,
    nr.NR_open,
    nr.NR_lseek,
    nr.NR_pread64,
    nr.NR_readv,
    nr.NR_access,
    nr.NR_truncate,
    nr.NR_chmod,
    nr.NR_fchmodat,
    nr.NR_utimensat,
    nr.NR_execve,
    nr.NR_chdir,
    nr.NR_rename,
    nr.NR_mkdir,
    nr.NR_rmdir,
    nr.NR_creat,
    nr.NR_link,
    nr.NR_unlink,
    nr.NR_symlink,
    nr.NR_readlink,
    nr.NR_openat,
    nr.NR_mkdirat,
    nr.NR_unlinkat,
    nr.NR_renameat,
    nr.NR_linkat,
    nr.NR_symlinkat,
    nr.NR_readlinkat,
    nr.NR_faccessat,
    nr.NR_renameat2,
    nr.NR_execveat,
    nr.NR_openat2,
    nr.NR_faccessat2,
}

# A 32-bit program has its stack below 4 GiB, and other numbers.
_HIGHEST_I386 = 0xFFFFFFFF

# The caller may have queued its request and not gone to sleep yet: on another CPU, or because it
# had to make room for us on this one. A nap of ours is shorter than a round trip.
_ATTEMPTS = 12
_AWAKE = 4
_NAP_SECONDS = 0.0001

# Processes whose program is remembered; beyond, all are looked at anew.
_MOST = 1 << 12


class Callers:
    """The processes of the capsule, by the /proc in which they have the pids that FUSE tells."""

    def __init__(self, proc: int = -1) -> None:
        """Look in the directory open as `proc`, which stays the caller's; -1: nothing is known."""
        self._proc = proc
        self._compilers: dict[int, bool] = {}

    def execs(self, pid: int) -> None:
        """Take note that a process opens a file to execute it: it may be another program soon."""
        self._compilers.pop(pid, None)

    def forget(self) -> None:
        """Remember nothing of who runs what."""
        self._compilers.clear()

    def is_compiler(self, pid: int) -> bool:
        """Tell whether the caller runs a compiler, assembler or linker."""
        known = self._compilers.get(pid)
        if known is None:
            if len(self._compilers) >= _MOST:
                self._compilers.clear()
            known = self._compilers[pid] = self._runs_compiler(pid)
        return known

    def _runs_compiler(self, pid: int) -> bool:
        if self._proc < 0 or pid <= 0:
            return False
        try:
            return is_compiler(os.readlink(b"%d/exe" % pid, dir_fd=self._proc))
        except OSError:
            return False

    def takes_mode_and_size_only(self, pid: int) -> bool:
        """Tell whether this caller, waiting for attributes, will see no times or inode number."""
        if self._proc < 0 or pid <= 0:
            return False
        for attempt in range(_ATTEMPTS):
            if attempt >= _AWAKE:
                time.sleep(_NAP_SECONDS)
            try:
                fd = os.open(f"{pid}/syscall", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            except OSError:
                return False
            try:
                words = os.read(fd, 256).split()
            except OSError:
                return False
            finally:
                os.close(fd)
            if words != [b"running"]:
                return _is_modest(words)
        return False


def _is_modest(words: list[bytes]) -> bool:
    # Number, six arguments, stack and instruction pointer; less for who is in no call.
    if len(words) < 9 or int(words[7], 16) <= _HIGHEST_I386:
        return False
    return int(words[0]) in _MODEST
