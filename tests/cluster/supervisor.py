"""The one process of a cluster that all others depend on.

It is the switch (its network namespace holds the bridge), holds the hosts' disks (a tmpfs in its
mount namespace), starts every pid 1, writes their /proc files once a second, and breaks things
when asked. Kill it and the kernel takes all the rest away, but for control groups and the state
directory, which `Cluster.down` then removes.

Started as `python3 -m tests.cluster.supervisor STATE`, with the plan in STATE/spec.json. Says
"ready" on stdout when all hosts are up. With `--lifeline` it ends when its stdin does, that is
with the process that holds the other end, however that ends.

Orders come over STATE/control.sock (SEQPACKET, JSON): {"order", "host", …} -> {} | {"error"}.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any

from tests.cluster import init, kernel
from tests.cluster.cgroup import Cgroup
from tests.cluster.network import Cable, create_switch
from tests.cluster.proc_files import ProcFiles
from tests.cluster.spec import ClusterSpec, HostSpec
from tests.cluster.state import remove_state

START_TIMEOUT = 60.0  # seconds; a boot takes a tenth of one on an idle machine
MAX_PACKET = 1 << 16


class Machine:
    """One host as the supervisor sees it: control group, cable, pid 1."""

    def __init__(self, spec: ClusterSpec, host: HostSpec) -> None:
        self.host = host
        self.cgroup = Cgroup(spec.cgroup, host.name)
        self.cable = Cable(host)
        self.share = host.share
        self.userns = True  # whether ordinary users may have user namespaces
        self.pid = 0  # of its pid 1; 0 while it is off
        self.proc: ProcFiles | None = None
        self.go = -1
        self.ready = -1

    def wait_ready(self, letter: bytes) -> None:
        """Wait until pid 1 has got as far as `letter` says (`init.main`)."""
        deadline = time.monotonic() + START_TIMEOUT
        with selectors.DefaultSelector() as selector:
            selector.register(self.ready, selectors.EVENT_READ)
            while selector.select(deadline - time.monotonic()):
                said = os.read(self.ready, 1)
                if said == letter:
                    return
                if not said:
                    raise RuntimeError(f"{self.host.name} did not boot")
        raise TimeoutError(f"{self.host.name} does not boot")

    def wait_sshd(self) -> None:
        """Wait until something listens on port 22."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with open(f"/proc/{self.pid}/net/tcp") as table:
                if any(line.split()[1].endswith(":0016") for line in table):
                    return
            time.sleep(0.005)
        raise TimeoutError(f"sshd of {self.host.name} does not start")


class Supervisor:
    """Owner of the machines; one thread, one event loop."""

    def __init__(self, spec: ClusterSpec) -> None:
        self._spec = spec
        self._machines = {host.name: Machine(spec, host) for host in spec.hosts}
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._disk = f"{spec.state}/disk"
        self._done = False

    def start(self) -> None:
        """Make switch, disks and keys, and boot every host."""
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", self._disk, "tmpfs", 0, "mode=755,size=90%,nr_inodes=0")
        create_switch()
        self._make_keys()
        for machine in self._machines.values():
            machine.cgroup.create(machine.host.cpu, machine.share)
        self._boot([*self._machines.values()])

    def _make_keys(self) -> None:
        """Make key pairs: of the users, who have the same one everywhere, and of each sshd."""
        os.mkdir(f"{self._disk}/keys", 0o700)
        names = ["root", *self._spec.hosts[0].users, *(h.name for h in self._spec.hosts[1:])]
        commands = [
            ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", n, "-f", f"{self._disk}/keys/{n}")
            for n in names
        ]
        running = [subprocess.Popen(command) for command in commands]
        if any([process.wait(START_TIMEOUT) for process in running]):
            raise RuntimeError("ssh-keygen failed")

    def _boot(self, machines: list[Machine]) -> None:
        for machine in machines:
            self._start_init(machine)
        for machine in machines:
            machine.wait_ready(b"n")
            machine.cable.plug(machine.pid)
            machine.cable.apply(machine.pid, self._let_go)
            os.write(machine.go, b"g")
        for machine in machines:
            machine.wait_ready(b"r")
            os.close(machine.go)
            os.close(machine.ready)
            if not machine.host.is_home:
                machine.wait_sshd()

    def _start_init(self, machine: Machine) -> None:
        name = machine.host.name
        machine.proc = ProcFiles(
            f"{self._disk}/proc/{name}",
            machine.cgroup,
            machine.host.cpu,
            machine.share,
            time.monotonic(),
        )
        os.makedirs(f"{self._disk}/{name}", exist_ok=True)
        path = f"{self._spec.state}/{name}.sock"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(128)
        go, machine.go = os.pipe()
        machine.ready, ready = os.pipe()
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            try:
                self._let_go({listener.fileno(), go, ready})
                init.main(
                    self._spec, machine.host, listener, machine.cgroup, go, ready, machine.userns
                )
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        # The next process that we fork is ours again, and the next unshare may succeed.
        kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
        machine.pid = pid
        listener.close()
        os.close(go)
        os.close(ready)

    @staticmethod
    def _let_go(kept: set[int] | None = None) -> None:
        """In a forked child: close what belongs to the supervisor, all but its log."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if fd > 2 and fd not in (kept or ()):
                # The one that listed them is closed already.
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _halt(self, machine: Machine) -> None:
        """Switch a host off: no process of it is left, its disk stays."""
        if machine.pid:
            machine.cgroup.freeze(False)
            os.kill(machine.pid, signal.SIGKILL)
            os.waitpid(machine.pid, 0)
            machine.pid = 0
            machine.cgroup.kill()
        if machine.proc:
            machine.proc.close()
            machine.proc = None
        machine.cable.unplug()

    def serve(self, lifeline: int | None) -> None:
        """Obey until told to stop, by order, by signal, or by the end of the lifeline."""
        path = f"{self._spec.state}/control.sock"
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
            selectors.DefaultSelector() as selector,
        ):
            listener.bind(path)
            listener.listen(16)
            selector.register(listener, selectors.EVENT_READ)
            if lifeline is not None:
                selector.register(lifeline, selectors.EVENT_READ)
            print("ready", flush=True)
            # Whoever waits for that word may wait for the end of the file.
            os.dup2(2, 1)
            tick = time.monotonic()
            while not self._done:
                for key, _ in selector.select(max(0.0, tick - time.monotonic())):
                    if key.fileobj is listener:
                        self._accept(listener)
                    elif not os.read(key.fd, 4096):
                        self._done = True
                if time.monotonic() >= tick:
                    tick = time.monotonic() + 1
                    self._every_second()

    def _every_second(self) -> None:
        for machine in self._machines.values():
            if machine.pid and os.waitpid(machine.pid, os.WNOHANG)[0]:
                print(f"pid 1 of {machine.host.name} has died", file=sys.stderr, flush=True)
                machine.pid = 0
            if machine.proc:
                machine.proc.update(time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            reply: dict[str, Any] = {}
            try:
                request = json.loads(connection.recv(MAX_PACKET))
                self._obey(request.pop("order"), **request)
            except Exception as error:
                # The one who asked is told; the log has the rest.
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(ConnectionError):
                connection.send(json.dumps(reply).encode())

    def _obey(self, order: str, host: str = "", **values: Any) -> None:
        if order == "down":
            self._done = True
            return
        machine = self._machines[host]
        if order == "reboot":
            self._reboot(machine, **values)
        elif not machine.pid:
            raise RuntimeError(f"{host} is off")
        elif order == "crash":
            machine.cable.connect(False)
            self._halt(machine)
        elif order in ("cut", "heal"):
            machine.cable.connect(order == "heal")
        elif order in ("freeze", "thaw"):
            machine.cgroup.freeze(order == "freeze")
        elif order == "cpu":
            self._set_share(machine, **values)
        elif order == "memory":
            machine.cgroup.set_memory(values["limit"])
        elif order == "link":
            machine.cable.rtt_ms = values["rtt_ms"]
            machine.cable.mbit = values["mbit"]
            machine.cable.apply(machine.pid, self._let_go)
        else:
            raise ValueError(f"no such order: {order}")

    def _reboot(self, machine: Machine, wipe: bool, userns: bool) -> None:
        self._halt(machine)
        machine.userns = userns
        machine.cable.connected = True
        if wipe:
            # Only directories of this tmpfs, in which nothing is mounted any more.
            subprocess.run(
                ("rm", "-rf", "--one-file-system", f"{self._disk}/{machine.host.name}"), check=True
            )
        self._boot([machine])

    @staticmethod
    def _set_share(machine: Machine, share: float) -> None:
        machine.cgroup.set_share(share)
        machine.share = share
        if machine.proc:
            machine.proc.share = share

    def stop(self) -> None:
        """Switch everything off and remove what would outlive us."""
        for machine in self._machines.values():
            self._halt(machine)
            machine.cgroup.kill()
            machine.cgroup.remove()


def _terminate(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Run one cluster, from the first host's boot to the last cgroup's removal."""
    state, *options = sys.argv[1:]
    with open(f"{state}/spec.json") as file:
        spec = ClusterSpec.load(file.read())
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    supervisor = Supervisor(spec)
    # What fails up to here is for `Cluster.up` to report and to clear away.
    supervisor.start()
    try:
        supervisor.serve(0 if "--lifeline" in options else None)
    finally:
        supervisor.stop()
        kernel.umount_detached(f"{state}/disk")
        remove_state(state)


if __name__ == "__main__":
    main()
