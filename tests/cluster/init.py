"""Pid 1 of a host: builds the host, starts its sshd, reaps, and runs what the tests ask for.

Requests come over a SEQPACKET socket, one connection per command, one JSON object per packet:

    -> {"argv", "user", "cwd", "env", "tty"} with stdin, stdout, stderr as SCM_RIGHTS
    <- {"pid"}                    in the host's pid namespace; with "tty", the pty's master
     | {"errno", "what"}          exec or chdir failed
    -> {"signal", "group"}        any number of times
    <- {"status"}                 as waitpid(2) gives it; the connection ends

or  -> {"kill_all": true}   <- {}   every process of the host but this one is gone.

A client that goes away takes its command's process group with it. After pivot_root nothing more
is imported: the interpreter's own files may not be there any more.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import termios
import time
import traceback
from typing import Any, NoReturn

from tests.cluster import boot, kernel
from tests.cluster.cgroup import Cgroup
from tests.cluster.spec import ClusterSpec, HostSpec

PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_PACKET = 1 << 17
TTY_SIZE = (24, 80)
CLIENT_TIMEOUT = 10.0  # seconds; a client that connects has something to say


class Init:
    """The event loop of pid 1; single-threaded, and so is every process that it forks."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> NoReturn:
        """Serve until the supervisor or the machine ends."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake_read, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self._reap()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    self._control(key.fileobj, key.data)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(CLIENT_TIMEOUT)
        packet, fds, _, _ = socket.recv_fds(connection, MAX_PACKET, 3)
        for fd in fds:
            # recv_fds ignores MSG_CMSG_CLOEXEC, and a pipe's end that another command has inherited
            # keeps its reader waiting for ever.
            os.set_inheritable(fd, False)
        try:
            if packet:
                self._serve(connection, json.loads(packet), fds)
        except OSError as error:
            # Most likely the client is gone already; a test must not be able to end pid 1.
            traceback.print_exception(error)
            connection.close()
        finally:
            for fd in fds:
                os.close(fd)

    def _serve(self, connection: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
        if request.get("kill_all"):
            self._kill_all()
            connection.send(b"{}")
            connection.close()
            return
        try:
            pid, master = spawn(request, fds)
        except OSError as error:
            connection.send(json.dumps({"errno": error.errno, "what": error.filename}).encode())
            connection.close()
            return
        self._children[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)
        reply = json.dumps({"pid": pid}).encode()
        if master is None:
            connection.send(reply)
        else:
            socket.send_fds(connection, [reply], [master])
            os.close(master)

    def _kill_all(self) -> None:
        """Kill and reap until pid 1 is alone."""
        while any(name.isdigit() and name != "1" for name in os.listdir("/proc")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            self._reap()
            time.sleep(0.001)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection = self._children.pop(pid, None)
            if connection is not None:
                self._selector.unregister(connection)
                with contextlib.suppress(ConnectionError):
                    connection.send(json.dumps({"status": status}).encode())
                connection.close()

    def _control(self, connection: socket.socket, pid: int) -> None:
        try:
            packet = connection.recv(MAX_PACKET)
        except ConnectionError:
            packet = b""
        with contextlib.suppress(ProcessLookupError):
            if packet:
                order = json.loads(packet)
                os.kill(-pid if order["group"] else pid, order["signal"])
                return
            os.killpg(pid, signal.SIGKILL)
        if not packet:
            self._selector.unregister(connection)
            self._children.pop(pid, None)
            connection.close()


def _lookup(user: str) -> tuple[int, int, list[int], str]:
    """Return uid, gid, all groups and home directory.

    Read by hand: the C library would load its name service modules from a root that is not the one
    that it was linked for.
    """
    with open("/etc/passwd") as file:
        for line in file:
            name, _, uid, gid, _, home, _ = line.rstrip("\n").split(":")
            if name == user:
                break
        else:
            raise FileNotFoundError(2, "no such user", user)
    groups = [int(gid)]
    with open("/etc/group") as file:
        for line in file:
            _, _, number, members = line.rstrip("\n").split(":")
            if user in members.split(","):
                groups.append(int(number))
    return int(uid), int(gid), groups, home


def _become(request: dict[str, Any], fds: list[int], slave: int | None) -> None:
    """In the child: take on session, descriptors, user and environment, and exec."""
    uid, gid, groups, home = _lookup(request["user"])
    os.setsid()
    if slave is not None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        os.fchown(slave, uid, boot.TTY_GROUP)
        fds = [slave] * 3
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    os.chdir(request["cwd"] or home)
    environment = {
        "HOME": home,
        "USER": request["user"],
        "LOGNAME": request["user"],
        "SHELL": "/bin/bash",
        "PATH": PATH if uid else ROOT_PATH,
        "LANG": "C.UTF-8",
    }
    if slave is not None:
        environment["TERM"] = "xterm-256color"
    environment |= request["env"] or {}
    # Python ignores these two, and what is ignored stays so across exec.
    # SIGINT and SIGQUIT are ignored where the tests were started in the background.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    argv = request["argv"]
    os.execvpe(argv[0], argv, environment)


def spawn(request: dict[str, Any], fds: list[int]) -> tuple[int, int | None]:
    """Start a command; return its pid and, if it was to have a terminal, the pty's master.

    Raises OSError as the child met it.
    """
    master, slave = os.openpty() if request["tty"] else (None, None)
    if slave is not None:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *TTY_SIZE, 0, 0))
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            # The descriptors that came with the request may lie at 0, 1 or 2: pid 1 has those open
            # on its log, so they do not.
            _become(request, fds, slave)
        except OSError as error:
            what = os.fsdecode(error.filename or request["argv"][0])
            os.write(error_write, json.dumps([error.errno, what]).encode())
        except BaseException:
            traceback.print_exc()
            os.write(error_write, json.dumps([22, "init: see the cluster's log"]).encode())
        finally:
            os._exit(127)
    os.close(error_write)
    if slave is not None:
        os.close(slave)
    with open(error_read, "rb") as pipe:
        failure = pipe.read()
    if failure:
        os.waitpid(pid, 0)
        if master is not None:
            os.close(master)
        number, what = json.loads(failure)
        raise OSError(number, os.strerror(number), what)
    return pid, master


def _start_sshd() -> None:
    request = {
        "argv": ["/usr/sbin/sshd", "-D", "-E", "/var/log/sshd.log"],
        "user": "root",
        "cwd": "/",
        "env": None,
        "tty": False,
    }
    with open("/dev/null", "r+b") as null:
        spawn(request, [null.fileno()] * 3)


def main(
    spec: ClusterSpec,
    host: HostSpec,
    listener: socket.socket,
    cgroup: Cgroup,
    go: int,
    ready: int,
    userns: bool,
) -> NoReturn:
    """Be pid 1 of `host`, whose new pid namespace the caller has forked us into.

    Says on `ready` "n" when the network namespace is there, waits on `go` until eth0 is in it, and
    says "r" when sshd is up to be connected to.
    """
    kernel.set_parent_death_signal(signal.SIGKILL)
    cgroup.join()
    kernel.unshare(
        kernel.CLONE_NEWNS
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWUTS
        | kernel.CLONE_NEWIPC
        | kernel.CLONE_NEWCGROUP
    )
    os.write(ready, b"n")
    socket.sethostname(host.name)
    disk = f"{spec.state}/disk/{host.name}"
    root = boot.build_root(spec, host, disk, f"{spec.state}/disk/proc/{host.name}", cgroup)
    if os.read(go, 1) != b"g":
        raise ConnectionError("the supervisor gave up")
    boot.configure_network(spec, host)
    kernel.pivot_root(root)
    boot.drop_power(cgroup)
    if not userns:
        kernel.forbid_user_namespaces()
    if not host.is_home:
        _start_sshd()
    os.write(ready, b"r")
    os.close(ready)
    os.close(go)
    Init(listener).run()
