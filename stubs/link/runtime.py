"""The home daemon's door: where its socket is, how it is started, how to get in.

One daemon per user, mount namespace, root directory, configuration file and protocol version: all
of them are in the socket's name. The directory is private (0700, owner checked), because whoever
can connect can run programs as the user. Used by mrun and by the mlaunch command; this is on the
path of every mrun, so it imports nothing that is not loaded anyway.
"""

from __future__ import annotations

import binascii
import errno
import os
import socket
import stat
import sys
import time

from stubs.wire.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# sizeof(sun_path) is 108, unix(7); what is left after the directory must hold our name.
_LONGEST_DIRECTORY = 70

# Where `mlaunch` and `stubs` are: the daemon is to be of the same make as we are.
PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_DAEMON = "import sys; sys.path.insert(0, {!r}); from mlaunch.daemon import main; main()"

# How long a refused connection is tried again while somebody else's daemon comes up.
_RETRY_SECONDS = 0.01

# The descriptor on which a daemon tells who started it that it listens.
READY_FD = 3


def config_path() -> str:
    """Return the path of the configuration file, which need not exist."""
    given = os.environ.get("MLAUNCH_CONFIG")
    if given:
        return os.path.abspath(given)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(os.path.abspath(base), "mlaunch", "config.toml")


def state_dir() -> str:
    """Return the directory of what is learned from run to run, which need not exist."""
    return _xdg("XDG_STATE_HOME", "~/.local/state")


def cache_dir() -> str:
    """Return the directory of what can be had again, which need not exist."""
    return _xdg("XDG_CACHE_HOME", "~/.cache")


def _xdg(variable: str, otherwise: str) -> str:
    base = os.environ.get(variable, "")
    return os.path.join(base if base.startswith("/") else os.path.expanduser(otherwise), "mlaunch")


def runtime_dir() -> str:
    """Return the private directory of the daemon, made if need be; OSError if it cannot be had."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and len(os.fsencode(base)) <= _LONGEST_DIRECTORY:
        try:
            return _private(os.path.join(base, "mlaunch"))
        except OSError:
            pass  # another user's after su, or gone after logout: the temporary directory then
    base = os.environ.get("TMPDIR", "")
    if not base.startswith("/") or len(os.fsencode(base)) > _LONGEST_DIRECTORY:
        base = "/tmp"
    return _private(os.path.join(base, f"mlaunch-{os.getuid()}"))


def _private(path: str) -> str:
    """Make sure that `path` is a directory of ours which nobody else can enter."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "another user's; remove it, or set TMPDIR", path)
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(path, 0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written", path)
    return path


def identity() -> str:
    """Return what tells this mount namespace, root and configuration from others, in hex."""
    space = os.stat("/proc/self/ns/mnt").st_ino
    root = os.stat("/")
    text = f"{space} {root.st_dev} {root.st_ino} {config_path()}"
    return f"{binascii.crc32(os.fsencode(text)):08x}"


def socket_path() -> str:
    """Return the path of the daemon's socket."""
    return os.path.join(runtime_dir(), f"daemon-{identity()}.v{VERSION}.sock")


def lock_path(version: int = VERSION) -> str:
    """Return the path of the file that the daemon of this protocol version holds locked."""
    return os.path.join(runtime_dir(), f"daemon-{identity()}.v{version}.lock")


def log_path() -> str:
    """Return the path of the file that takes what daemon and link processes have to report."""
    return socket_path()[: -len("sock")] + "log"


def start_daemon() -> bool:
    """Start a daemon; wait until it listens or has found another one at work. False: it failed.

    It is nobody's child and has no descriptor, directory or terminal of ours: a pipe reader must
    see the end of our output when we end.
    """
    log = log_path()
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become_daemon(log, tell)
        finally:
            os._exit(127)
    os.close(tell)
    os.waitpid(child, 0)
    told = os.read(ready, 1)
    os.close(ready)
    return bool(told)


def _become_daemon(log: str, tell: int) -> None:
    """In the child: leave session and terminal, and become the daemon."""
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    if tell != READY_FD:
        os.dup2(tell, READY_FD)
    os.set_inheritable(READY_FD, True)
    nothing = os.open("/dev/null", os.O_RDWR)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, fd in ((nothing, 0), (nothing, 1), (output, 2)):
        os.dup2(source, fd)
    os.closerange(READY_FD + 1, os.sysconf("SC_OPEN_MAX"))
    exec_daemon([])


def exec_daemon(arguments: list[str]) -> NoReturn:
    """Become the daemon in this process; `arguments` are its own business."""
    python = sys.executable or "/usr/bin/python3"
    os.execv(python, [python, "-c", _DAEMON.format(PACKAGES), *arguments])


def try_connect() -> socket.socket | None:
    """Return a connection to a daemon that is there, or None."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(socket_path())
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    return connection


def connect(timeout: float) -> socket.socket:
    """Return a blocking connection to the daemon, started if need be.

    Raises TimeoutError when none answers within `timeout` seconds, OSError as connect(2), mkdir(2)
    and ChildProcessError when it cannot be started.
    """
    deadline = time.monotonic() + timeout
    connection = try_connect()
    if connection is not None:
        return connection
    if not start_daemon():
        raise ChildProcessError(f"the home daemon does not start; see {log_path()}")
    while True:
        connection = try_connect()
        if connection is not None:
            return connection
        if time.monotonic() > deadline:
            raise TimeoutError(f"the home daemon does not start; see {log_path()}")
        time.sleep(_RETRY_SECONDS)
