"""One machine of the cluster, from the outside: run commands on it, look at it, break it.

Commands are started by the host's pid 1 (`init`), inside all its namespaces and its control
group, as the user asked for, in a session of their own. Starting one takes a few milliseconds.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.cluster.cgroup import Cgroup
from tests.cluster.process import ANSWER_TIMEOUT, MAX_PACKET, HostError, Process, Stream
from tests.cluster.spec import ClusterSpec, HostSpec


class Seen(NamedTuple):
    """A process of a host, as the machine sees it: its pid in the host, and on the machine."""

    pid: int
    outer: int
    words: str
    state: str  # the letter of proc(5)
    tracer: int  # on the machine; 0: not traced


class Host:
    """Home or a node. Methods that break it return when it is broken."""

    def __init__(self, cluster: ClusterSpec, spec: HostSpec, ask: Callable[..., None]) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self._ask = ask
        # What `repair` has to undo.
        self._altered: set[str] = set()
        self._socket = f"{cluster.state}/{spec.name}.sock"
        self._cgroup = Cgroup(cluster.cgroup, spec.name)

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    def popen(
        self,
        argv: Sequence[str | bytes],
        *,
        user: str = "alice",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
        stdin: Stream = None,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> Process:
        """Start a command; `env` is added to a login's HOME, USER, PATH, LANG=C.UTF-8.

        With `tty` it gets a terminal of 24 by 80 as its three streams and as its controlling
        terminal; `stdin` and `stdout` of the process are then the terminal's other end. Raises
        OSError if the command cannot be started, HostError if the host is not there to do it.
        """
        request = {
            "argv": [os.fsdecode(word) for word in argv],
            "user": user,
            "cwd": cwd,
            "env": dict(env or {}),
            "tty": tty,
        }
        if tty:
            stdin = stdout = stderr = None
        return Process(request, self._socket, stdin, stdout, stderr)

    def run(
        self,
        argv: Sequence[str | bytes],
        *,
        user: str = "alice",
        input: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = False,
        tty: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, as subprocess.run does.

        Raises what `popen` raises, subprocess.TimeoutExpired, and CalledProcessError if `check`.
        """
        stdin = None if input is None else subprocess.PIPE
        with self.popen(argv, user=user, cwd=cwd, env=env, tty=tty, stdin=stdin) as process:
            output, errors = process.communicate(input, timeout)
            code = process.wait()
        if check and code:
            # What it said is the first thing that one wants to know when a test fails.
            failure = subprocess.CalledProcessError(code, argv, output, errors)
            failure.add_note(f"on {self.name}: {errors.decode(errors='replace')[-2000:]}")
            raise failure
        return subprocess.CompletedProcess(argv, code, output, errors)

    def read(self, path: str, *, user: str = "root") -> bytes:
        """Return a file's content; raise CalledProcessError if it cannot be read."""
        return self.run(("cat", "--", path), user=user, cwd="/", check=True).stdout

    def write(self, path: str, data: bytes, *, user: str = "alice") -> None:
        """Write a file as `user` would; raise CalledProcessError if he may not."""
        self.run(("sh", "-c", 'cat > "$1"', "sh", path), user=user, input=data, check=True)

    def repair(self) -> None:
        """Undo every fault and setting; a host that was off is rebooted with its disk."""
        altered, self._altered = self._altered, set()
        if "off" in altered:
            self.reboot()
        else:
            if "frozen" in altered:
                self.thaw()
            if "cut" in altered:
                self.heal()
        if "cpu" in altered:
            self.set_cpu(self.spec.share)
        if "cpus" in altered:
            self._cgroup.set_cpus((self.spec.cpu,))
        if "memory" in altered:
            self.set_memory(None)
        if "link" in altered:
            self.set_link()
        self._altered.clear()

    def cpu_seconds(self) -> float:
        """Return seconds of CPU used on the host since it was made, over all processes."""
        return self._cgroup.used_ns() / 1e9

    def processes(self, user: str | None = None) -> list[tuple[int, str]]:
        """Return (pid in the host, command line) of all processes, or of one user's.

        Pid 1 is left out: it is the test cluster's. Also works while the host is frozen.
        """
        return sorted((each.pid, each.words) for each in self.look(user))

    def look(self, user: str | None = None) -> list[Seen]:
        """Return what can be seen of `processes` from outside, at the cost of nothing inside."""
        uid = None if user is None else {"root": 0, **self.spec.users}[user]
        found = []
        for pid in self._cgroup.processes():
            try:
                with open(f"/proc/{pid}/status") as file:
                    status = dict(
                        line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line
                    )
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().rstrip(b"\0").replace(b"\0", b" ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            inside = int(status["NSpid"].split()[1])
            if inside != 1 and uid in (None, int(status["Uid"].split()[0])):
                text = os.fsdecode(words) or f"[{status['Name']}]"
                tracer = int(status["TracerPid"])
                found.append(Seen(inside, pid, text, status["State"][0], tracer))
        return found

    def mounts(self) -> list[tuple[str, str]]:
        """Return (file system type, mount point) of all mounts that everyone on the host sees."""
        lines = self.read("/proc/1/mounts").decode().splitlines()
        return [(line.split()[2], line.split()[1]) for line in lines]

    def kill(self) -> None:
        """Kill every process, sshd too: peers see connections reset, and then refused."""
        self._altered.add("off")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(self._socket)
            connection.send(b'{"kill_all": true}')
            if not connection.recv(MAX_PACKET):
                raise HostError(f"{self.name} went down")

    def crash(self) -> None:
        """Switch the host off: peers hear nothing, not even an error. `reboot` brings it back."""
        self._altered.add("off")
        self._ask("crash", host=self.name)

    def cut(self) -> None:
        """Drop every frame to and from the host, until `heal`."""
        self._altered.add("cut")
        self._ask("cut", host=self.name)

    def heal(self) -> None:
        """Undo `cut`."""
        self._ask("heal", host=self.name)
        self._altered.discard("cut")

    def freeze(self) -> None:
        """Stop every process where it stands, until `thaw`; the kernel still acknowledges TCP."""
        self._altered.add("frozen")
        self._ask("freeze", host=self.name)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._ask("thaw", host=self.name)
        self._altered.discard("frozen")

    def reboot(self, *, wipe: bool = False, userns: bool = True) -> None:
        """Switch off and on again; the disk is as it was, or as new with `wipe`.

        Without `userns` the kernel then refuses user namespaces, until the next reboot.
        """
        self._ask("reboot", host=self.name, wipe=wipe, userns=userns)
        self._altered -= {"off", "frozen", "cut"}
        if not userns:
            self._altered.add("off")

    def set_cpu(self, share: float) -> None:
        """Let the host use that share of its CPU (1.0: all of it) from now on."""
        self._altered.add("cpu")
        self._ask("cpu", host=self.name, share=share)

    def set_cpus(self, cpus: Iterable[int]) -> None:
        """Let the host use just these CPUs, a share of each; its /proc still shows one."""
        self._altered.add("cpus")
        self._cgroup.set_cpus(cpus)

    def set_memory(self, limit: int | None) -> None:
        """Limit memory, page cache and files in tmpfs included, to so many bytes."""
        self._altered.add("memory")
        self._ask("memory", host=self.name, limit=limit)

    def set_link(self, *, rtt_ms: float = 0, mbit: float = 0) -> None:
        """Give its cable a round-trip time and a bandwidth in each direction; 0: none added.

        Connections survive; frames under way are lost.
        """
        self._altered.add("link")
        self._ask("link", host=self.name, rtt_ms=rtt_ms, mbit=mbit)
