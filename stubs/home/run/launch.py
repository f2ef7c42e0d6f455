"""Starting the program at home, as the shell would have: path search, permissions, `#!`, errors.

The child gets what mrun was given, not what Python made of it: the environment as exec'ed
(PEP 538 may have added LC_CTYPE, dictionaries drop what is odd), signal dispositions,
no descriptor of ours. It inherits a mask that blocks everything: a signal that came between fork
and exec would be lost in Python's handlers, so it stays pending until the program runs (the tracer
then sets the mask; an untraced child does it itself).
"""

from __future__ import annotations

import errno
import os
import signal

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.unistd import Strings, execve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# confstr(3) _CS_PATH of glibc, where execvp(3) looks without PATH.
DEFAULT_PATH = b"/bin:/usr/bin"

NOT_EXECUTABLE = 126
NOT_FOUND = 127

# CPython ignores these two from its start (PyOS_setsig in pylifecycle.c), so what mrun was
# given is not to be known any more: the default is right unless somebody wrote `trap '' PIPE`.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)

# execvp(3) goes on to the next directory after these.
_TRY_NEXT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)

_GO_TRACED = b"t"
_GO_UNTRACED = b"u"


class ExecError(Exception):
    """The program cannot be run: `status` as the shell's, and a line that says why."""

    def __init__(self, status: int, text: bytes) -> None:
        """126 or 127; `text` names the program."""
        super().__init__(status, text)
        self.status = status
        self.text = text


class Given:
    """What mrun was started with and had to change for itself; the program gets it as it was."""

    def __init__(self) -> None:
        """Take it, and change it: all signals blocked, children to be waited for, 0 to 2 open."""
        _fill_standard_descriptors()
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._ignored = [
            signo for signo in (signal.SIGCHLD,) if signal.getsignal(signo) is signal.SIG_IGN
        ]
        for signo in self._ignored:
            signal.signal(signo, signal.SIG_DFL)
        try:
            with open("/proc/self/environ", "rb") as file:
                self.environment = file.read().split(b"\0")[:-1]
        except OSError:
            # No /proc here, as in a bare chroot.
            self.environment = [name + b"=" + value for name, value in os.environb.items()]

    def restore_dispositions(self) -> None:
        """Have signals do what they would have done in the program."""
        for signo in (*_PYTHONS_OWN, signal.SIGINT):
            if signo in _PYTHONS_OWN or signal.getsignal(signo) is not signal.SIG_IGN:
                signal.signal(signo, signal.SIG_DFL)
        for signo in self._ignored:
            signal.signal(signo, signal.SIG_IGN)

    def restore_mask(self) -> None:
        """Block what was blocked; what is pending comes now."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def is_ignored(self, signo: int) -> bool:
        """Tell whether the program will ignore that signal when it starts."""
        if signo in self._ignored:
            return True
        return signal.getsignal(signo) is signal.SIG_IGN and signo not in _PYTHONS_OWN


def _fill_standard_descriptors() -> None:
    """Open /dev/null where 0, 1 or 2 is closed, so that no descriptor of ours gets that number.

    It is close-on-exec: the program finds closed what was closed.
    """
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)


def let_go_of(fds: list[int]) -> None:
    """Put /dev/null in the place of descriptors, so that their numbers are not used again."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def let_go_of_streams() -> None:
    """Give up what the program was to inherit, but standard error: that may have to tell something.

    Readers of a pipe must see its end when the program closes it, or ends, not when mrun does.
    """
    let_go_of([0, 1])
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            continue  # the listing's own


def in_capsule() -> bool:
    """Tell whether this is a body, on a node: the root directory is home's, as a node sees it."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.readlines()
    except OSError:
        return False  # no /proc here: a capsule has one
    for line in lines:
        left, _, right = line.partition(b" - ")
        if left.split()[4] == b"/" and right.split()[:2] == [b"fuse", b"mlaunch"]:
            return True
    return False


class Child:
    """A child that waits for `release` before it becomes the program."""

    def __init__(self, argv: list[bytes], given: Given, path: bytes = b"") -> None:
        """Fork; `path` is that of the program if not the one that `argv` says."""
        go_read, self._go = os.pipe()
        self._failure, failure_write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            # The child: nothing below may return.
            try:
                os.close(self._go)
                _become(argv, given, path, parent, go_read, failure_write)
            finally:
                os._exit(NOT_FOUND)
        os.close(go_read)
        os.close(failure_write)

    def release(self, traced: bool) -> None:
        """Let it exec; a tracer will set the mask of a traced one."""
        os.write(self._go, _GO_TRACED if traced else _GO_UNTRACED)
        os.close(self._go)

    def abandon(self) -> None:
        """Let it end instead."""
        os.close(self._go)
        os.close(self._failure)
        os.waitpid(self.pid, 0)

    def failure(self) -> ExecError | None:
        """Return why exec failed, None when it succeeded or the child died; waits for either."""
        data = os.read(self._failure, 65536)
        os.close(self._failure)
        return ExecError(data[0], data[1:]) if data else None


def _become(
    argv: list[bytes], given: Given, path: bytes, parent: int, go: int, failure: int
) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    how = os.read(go, 1)
    if not how:
        return
    given.restore_dispositions()
    if how == _GO_UNTRACED:
        given.restore_mask()
    try:
        execute(argv, given.environment, path)
    except ExecError as error:
        os.write(failure, bytes([error.status]) + error.text[:4000])


def execute(argv: list[bytes], env: list[bytes], path: bytes = b"") -> NoReturn:
    """Do execvp(3) with the environment `env`; returns only by raising ExecError.

    `path` if the program is not to be found by its name.
    """
    name = path or argv[0]
    found: ExecError | None = None
    failed: ExecError | None = None
    for path in candidates(name, env):
        number = _try(path, argv, env)
        failed = _describe(name, path, number)
        if number != errno.EACCES and number not in _TRY_NEXT:
            raise failed
        # A directory of that name on the path is not what was meant; the shell passes it over, too.
        if found is None and os.path.lexists(path) and (path == name or not os.path.isdir(path)):
            found = failed
    if found is None and b"/" in name:
        found = failed
    raise found or ExecError(NOT_FOUND, name + b": command not found")


def candidates(name: bytes, env: list[bytes]) -> list[bytes]:
    """Return the paths to be tried for `name`: itself, or one for each directory of PATH."""
    if b"/" in name:
        return [name]
    if not name:
        return []
    path = next((entry[5:] for entry in env if entry.startswith(b"PATH=")), DEFAULT_PATH)
    return [os.path.join(directory, name) for directory in path.split(b":")]


def _describe(name: bytes, path: bytes, number: int) -> ExecError:
    if number == errno.ENOENT and os.path.exists(path):
        return ExecError(NOT_FOUND, name + b": bad interpreter: No such file or directory")
    if os.path.isdir(path):
        return ExecError(NOT_EXECUTABLE, name + b": Is a directory")
    if number == errno.ENOEXEC:
        return ExecError(NOT_EXECUTABLE, name + b": cannot execute binary file: Exec format error")
    status = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
    return ExecError(status, name + b": " + os.strerror(number).encode())


def _try(path: bytes, argv: list[bytes], env: list[bytes]) -> int:
    """Return the errno of execve(2); a file of no known format is the shell's, as in execvp(3)."""
    number = _execve(path, argv, env)
    if number == errno.ENOEXEC and not _is_binary(path):
        number = _execve(b"/bin/sh", [b"/bin/sh", path, *argv[1:]], env)
    return number


def _execve(path: bytes, argv: list[bytes], env: list[bytes]) -> int:
    try:
        execve(path, Strings(argv), Strings(env))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _is_binary(path: bytes) -> bool:
    """Tell as bash does: a NUL in the first line, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            return b"\0" in file.readline(80)
    except OSError:
        return True
