"""One control group per host: CPU share, CPU accounting, freezing, and finding every process.

Controllers may be mounted the old way (one hierarchy each, v1), the new way (v2), or mixed; the
kernel's cgroup-v1/ and cgroup-v2.rst say what the files mean. Pressure (PSI) is a v2 matter in
either case.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "freezer", "devices", "pids")
# What a host may open: null zero full random urandom tty console ptmx pts and fuse. A node made
# with mknod(2) is allowed, its use is not: root at "home" must not reach this machine's disks.
DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rw",
    "c 1:5 rw",
    "c 1:7 rw",
    "c 1:8 rw",
    "c 1:9 rw",
    "c 5:0 rw",
    "c 5:1 rw",
    "c 5:2 rw",
    "c 136:* rw",
    "c 10:229 rw",
)
MAX_TASKS = 6000  # a fork bomb in a test ends here


@dataclass(frozen=True)
class Memory:
    """Bytes, as the memory controller counts them."""

    used: int
    page_cache: int
    reclaimable: int
    limit: int  # a huge number where there is none


def _hierarchies() -> tuple[dict[str, str], str | None]:
    """Return where each v1 controller is mounted, and where v2 is."""
    v1: dict[str, str] = {}
    v2 = None
    with open("/proc/self/mounts") as table:
        for line in table:
            _, target, fstype, options, *_ = line.split()
            if fstype == "cgroup2":
                v2 = v2 or target
            elif fstype == "cgroup":
                for option in options.split(","):
                    if option in CONTROLLERS:
                        v1.setdefault(option, target)
    return v1, v2


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _fields(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {key: int(value) for key, value in pairs}


class Cgroup:
    """A group `parent/name` in every hierarchy that there is."""

    def __init__(self, parent: str, name: str) -> None:
        roots, self._v2_root = _hierarchies()
        self._parent = parent
        self._v1 = {key: f"{root}/{parent}/{name}" for key, root in roots.items()}
        self._v1_roots = roots
        self._v2 = f"{self._v2_root}/{parent}/{name}" if self._v2_root else None

    @property
    def confines_devices(self) -> bool:
        """Whether the group keeps its members from opening other devices."""
        return "devices" in self._v1

    def _directories(self) -> list[str]:
        paths = [*self._v1.values()]
        if self._v2:
            paths.append(self._v2)
        return list(dict.fromkeys(paths))

    def create(self, cpu: int, share: float) -> None:
        """Make the group: one CPU, a share of it, and few devices."""
        for path in self._directories():
            os.makedirs(path, exist_ok=True)
        if self._v2_root and "cpu" not in self._v1:
            for path in (self._v2_root, f"{self._v2_root}/{self._parent}"):
                _write(f"{path}/cgroup.subtree_control", "+cpu +cpuset +memory +pids")
        if "cpuset" in self._v1:
            root, group = self._v1_roots["cpuset"], self._v1["cpuset"]
            for path in (os.path.dirname(group), group):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    _write(f"{path}/{file}", _read(f"{root}/{file}"))
        self.set_cpus((cpu,))
        _write(f"{self._path('pids')}/pids.max", str(MAX_TASKS))
        if "devices" in self._v1:
            _write(f"{self._v1['devices']}/devices.deny", "a")
            for rule in DEVICES:
                _write(f"{self._v1['devices']}/devices.allow", rule)
        self.set_share(share)

    def _path(self, controller: str) -> str:
        path = self._v1.get(controller, self._v2)
        if path is None:
            raise OSError(f"no cgroup controller {controller} on this machine")
        return path

    def join(self) -> None:
        """Put the calling process into the group."""
        for path in self._directories():
            _write(f"{path}/cgroup.procs", "0")

    def set_cpus(self, cpus: Iterable[int]) -> None:
        """Let the group use just these CPUs."""
        _write(f"{self._path('cpuset')}/cpuset.cpus", ",".join(map(str, cpus)))

    def set_share(self, share: float) -> None:
        """Limit the group to that part of a CPU; 1 and more is no limit, it has one CPU only."""
        # Short periods: what is throttled waits milliseconds, not a tenth of a second. The kernel
        # takes no quota below 1 ms.
        period = max(10_000, round(1_000 / share))
        quota = round(share * period) if share < 1 else -1
        path = self._path("cpu")
        if "cpu" in self._v1:
            _write(f"{path}/cpu.cfs_period_us", str(period))
            _write(f"{path}/cpu.cfs_quota_us", str(quota))
        else:
            _write(f"{path}/cpu.max", f"{'max' if quota < 0 else quota} {period}")

    def set_memory(self, limit: int | None) -> None:
        """Limit memory to so many bytes, page cache and files in tmpfs included."""
        path = self._path("memory")
        if "memory" in self._v1:
            _write(f"{path}/memory.limit_in_bytes", "-1" if limit is None else str(limit))
        else:
            _write(f"{path}/memory.max", "max" if limit is None else str(limit))

    def cpu_ns(self) -> tuple[int, int]:
        """Return nanoseconds of CPU used so far, in user mode and in the kernel."""
        if "cpuacct" in self._v1:
            path = self._v1["cpuacct"]
            return int(_read(f"{path}/cpuacct.usage_user")), int(_read(f"{path}/cpuacct.usage_sys"))
        stat = _fields(f"{self._path('cpu')}/cpu.stat")
        return stat["user_usec"] * 1000, stat["system_usec"] * 1000

    def used_ns(self) -> int:
        """Return nanoseconds of CPU used so far, to the nanosecond: `cpu_ns` may count by ticks."""
        if "cpuacct" in self._v1:
            return int(_read(f"{self._v1['cpuacct']}/cpuacct.usage"))
        return sum(self.cpu_ns())

    def memory(self) -> Memory:
        """Return what the group's processes and files occupy."""
        path = self._path("memory")
        stat = _fields(f"{path}/memory.stat")
        if "memory" in self._v1:
            return Memory(
                used=int(_read(f"{path}/memory.usage_in_bytes")),
                page_cache=stat["total_cache"],
                reclaimable=stat["total_inactive_file"] + stat["total_active_file"],
                limit=int(_read(f"{path}/memory.limit_in_bytes")),
            )
        limit = _read(f"{path}/memory.max").strip()
        return Memory(
            used=int(_read(f"{path}/memory.current")),
            page_cache=stat["file"],
            reclaimable=stat["inactive_file"] + stat["active_file"],
            limit=1 << 62 if limit == "max" else int(limit),
        )

    def freeze(self, frozen: bool) -> None:
        """Stop every process of the group where it stands, or let all go on; wait until done."""
        if "freezer" in self._v1:
            state = f"{self._v1['freezer']}/freezer.state"
            wanted = "FROZEN" if frozen else "THAWED"
            deadline = time.monotonic() + 10
            while True:
                # Written again until it holds: a task that was forking may have slipped through.
                _write(state, wanted)
                if _read(state).strip() == wanted:
                    return
                # One that waits in the kernel for one that is frozen already does not get there.
                if frozen and time.monotonic() > deadline - 8 and self._all_wait():
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{state} does not become {wanted}")
                time.sleep(0.005)
        _write(f"{self._path('freezer')}/cgroup.freeze", "1" if frozen else "0")

    def _all_wait(self) -> bool:
        """Tell whether no thread can run: those that are frozen show the same state, D."""
        for task in _read(f"{self._v1['freezer']}/tasks").split():
            try:
                if _read(f"/proc/{task}/stat").rpartition(")")[2].split()[0] not in ("D", "Z"):
                    return False
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
        return True

    def processes(self) -> list[int]:
        """Return the pids of all members, as this machine counts."""
        found: dict[int, None] = {}
        for path in self._directories():
            if os.path.exists(path):
                found |= dict.fromkeys(int(pid) for pid in _read(f"{path}/cgroup.procs").split())
        return [*found]

    def threads(self) -> list[int]:
        """Return the thread ids of all members, as this machine counts."""
        file = "tasks" if "cpuacct" in self._v1 else "cgroup.threads"
        return [int(tid) for tid in _read(f"{self._path('cpuacct')}/{file}").split()]

    def pressure_file(self, resource: str) -> str | None:
        """Return the group's PSI file for cpu, memory or io; None where the kernel has none."""
        path = f"{self._v2}/{resource}.pressure"
        return path if self._v2 and os.path.exists(path) else None

    def views(self) -> list[tuple[str, str]]:
        """Return (directory, its place below /sys/fs/cgroup) for what a host may see of itself."""
        if not self._v1:
            return [(self._path("cpu"), "")]
        seen = [
            (path, os.path.basename(self._v1_roots[key]))
            for key, path in self._v1.items()
            if key != "devices"
        ]
        if self._v2 and self._v2_root:
            seen.append((self._v2, os.path.basename(self._v2_root)))
        return list(dict.fromkeys(seen))

    def kill(self) -> None:
        """Kill every member and wait until none is left."""
        if not any(os.path.exists(path) for path in self._directories()):
            return
        self.freeze(False)
        deadline = time.monotonic() + 10
        while pids := self.processes():
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes do not die: {pids}")
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.002)

    def remove(self) -> None:
        """Remove the group, which must have no member, and its parent when it was the last."""
        for path in self._directories():
            for directory in (path, os.path.dirname(path)):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError:
                    # The parent still has other hosts' groups; of our own group it is an error.
                    if directory == path:
                        raise


def groups_of(parent: str) -> list[str]:
    """Return the names of the groups below `parent` that exist in any hierarchy."""
    roots, v2 = _hierarchies()
    names: dict[str, None] = {}
    for root in {*roots.values(), *([v2] if v2 else [])}:
        directory = f"{root}/{parent}"
        if os.path.isdir(directory):
            names |= dict.fromkeys(e.name for e in os.scandir(directory) if e.is_dir())
    return [*names]


def clusters_with_groups() -> list[str]:
    """Return the parents (`mlaunch-NAME`) that exist in any hierarchy."""
    roots, v2 = _hierarchies()
    found = {
        entry.name
        for root in {*roots.values(), *([v2] if v2 else [])}
        for entry in os.scandir(root)
        if entry.is_dir() and entry.name.startswith("mlaunch-")
    }
    return sorted(found)
