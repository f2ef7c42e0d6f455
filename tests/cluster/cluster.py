"""Bring a cluster up, find its hosts, take it down."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tests.cluster import images
from tests.cluster.cgroup import Cgroup, groups_of
from tests.cluster.host import Host
from tests.cluster.spec import STATE_ROOT, ClusterSpec, check_name, plan_hosts
from tests.cluster.state import remove_state, start_time

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ORDER_TIMEOUT = 90.0  # a reboot of a starved host is the slowest
STOP_TIMEOUT = 30.0


class ClusterError(Exception):
    """The cluster could not be brought up, found, or made to do something."""


class Cluster:
    """A home and `nodes` nodes, n1, n2, …; use it in a `with`, or call `up` and `down`.

    Several may be up at once under different names. `cpu` gives shares of a CPU by host, one for
    all hosts as a number; those not named get a fair share (`spec.plan_hosts`).
    """

    def __init__(
        self, name: str, nodes: int = 2, cpu: Mapping[str, float] | float | None = None
    ) -> None:
        self.name = check_name(name)
        self._nodes = nodes
        names = ["home", *(f"n{index}" for index in range(1, nodes + 1))]
        if isinstance(cpu, Mapping):
            if unknown := set(cpu) - set(names):
                raise ValueError(f"no such host: {', '.join(sorted(unknown))}")
            self._shares = dict(cpu)
        else:
            self._shares = {} if cpu is None else dict.fromkeys(names, cpu)
        self._state = f"{STATE_ROOT}/{name}"
        self._hosts: dict[str, Host] = {}
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def attach(cls, name: str) -> "Cluster":
        """Return the cluster of that name that is up already."""
        cluster = cls(name)
        try:
            with open(f"{cluster._state}/spec.json") as file:
                cluster._adopt(ClusterSpec.load(file.read()))
        except FileNotFoundError:
            raise ClusterError(f"no cluster {name} is up") from None
        return cluster

    def _adopt(self, spec: ClusterSpec) -> None:
        self._hosts = {host.name: Host(spec, host, self._ask) for host in spec.hosts}

    @property
    def home(self) -> Host:
        """The machine at which the user sits."""
        return self.node("home")

    @property
    def nodes(self) -> list[Host]:
        """All hosts but home."""
        return [host for host in self._hosts.values() if not host.spec.is_home]

    def node(self, name: str) -> Host:
        """Return the host of that name; raise ClusterError if there is none or nothing is up."""
        try:
            return self._hosts[name]
        except KeyError:
            raise ClusterError(f"cluster {self.name} has no host {name}") from None

    def repair(self) -> None:
        """Undo every fault and setting on every host."""
        for host in self._hosts.values():
            host.repair()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.down()

    def up(self, *, persist: bool = False) -> None:
        """Bring it up; unless `persist`, it ends with this process, however that ends."""
        if os.geteuid():
            raise ClusterError("a test cluster needs root")
        spec = ClusterSpec(
            name=self.name,
            hosts=plan_hosts(self._nodes, self._shares),
            node_root=images.node_root(),
            venv=images.home_venv(CHECKOUT),
            checkout=CHECKOUT,
        )
        images.compile_source(CHECKOUT)
        os.makedirs(STATE_ROOT, mode=0o755, exist_ok=True)
        with open(f"{STATE_ROOT}/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._pid():
                raise ClusterError(f"cluster {self.name} is up already")
            self._purge()
            os.mkdir(self._state, 0o700)
        os.mkdir(f"{self._state}/disk")
        with open(f"{self._state}/spec.json", "w") as file:
            file.write(spec.dump())
        try:
            self._start_supervisor(persist)
        except BaseException:
            self.down()
            raise
        self._adopt(spec)

    def _start_supervisor(self, persist: bool) -> None:
        command = [sys.executable, "-m", "tests.cluster.supervisor", self._state]
        with open(f"{self._state}/log", "wb") as log:
            self._supervisor = supervisor = subprocess.Popen(
                command if persist else [*command, "--lifeline"],
                stdin=subprocess.DEVNULL if persist else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=CHECKOUT,
                start_new_session=True,
            )
        with open(f"{self._state}/pid", "w") as file:
            file.write(f"{supervisor.pid} {start_time(supervisor.pid)}")
        assert supervisor.stdout is not None
        with supervisor.stdout as pipe:
            said = pipe.readline()
        if said != b"ready\n":
            with open(f"{self._state}/log", errors="replace") as file:
                raise ClusterError(f"cluster {self.name} does not come up:\n{file.read()[-4000:]}")

    def _pid(self) -> int | None:
        """Return the pid of the living supervisor."""
        try:
            with open(f"{self._state}/pid") as file:
                pid, started = file.read().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if start_time(int(pid)) == started else None

    def _ask(self, order: str, **values: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ORDER_TIMEOUT)
            try:
                connection.connect(f"{self._state}/control.sock")
                connection.send(json.dumps({"order": order, **values}).encode())
                packet = connection.recv(1 << 16)
            except OSError as error:
                raise ClusterError(f"cluster {self.name} does not answer: {error}") from error
        answer = json.loads(packet or b'{"error": "it went down"}')
        if "error" in answer:
            raise ClusterError(f"{order}: {answer['error']}")

    def down(self) -> None:
        """Take it down, whatever state it is in, and remove every trace of it."""
        if pid := self._pid():
            try:
                self._ask("down")
                self._await_end(pid)
            except (ClusterError, TimeoutError):
                # Its hosts die with it; what remains is for _purge.
                os.kill(pid, signal.SIGKILL)
                self._await_end(pid)
        if self._supervisor is not None:
            if self._supervisor.stdin is not None:
                self._supervisor.stdin.close()
            self._supervisor.wait()
            self._supervisor = None
        self._purge()
        self._hosts = {}

    def _await_end(self, pid: int) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        started = start_time(pid)
        while started and start_time(pid) == started:
            if time.monotonic() > deadline:
                raise TimeoutError(f"supervisor {pid} does not end")
            time.sleep(0.005)

    def _purge(self) -> None:
        """Remove what a supervisor that was killed has left."""
        parent = f"mlaunch-{self.name}"
        for name in groups_of(parent):
            group = Cgroup(parent, name)
            group.kill()
            group.remove()
        if os.path.isdir(self._state):
            remove_state(self._state)
