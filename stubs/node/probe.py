"""What a node says of itself: its load every second, and how fast it is.

Everything is read from /proc and /sys; what a system does not have (PSI, cgroups) is left out
rather than guessed. CPUs are those that this process may use, by affinity and by the quotas of its
cgroups: in a container the others are somebody else's.
"""

from __future__ import annotations

import os
import time
import zlib

from stubs.wire.messages import Load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stubs.node.capsule.processes import Process

NOBODY = 0xFFFFFFFF  # Load.owner_idle_s

# A run of the benchmark (a quarter of a millisecond) fits between two time slices, and the best of
# many is the one that nothing disturbed; a neighbour on the same core disturbs for longer, so
# that they are spread over a third of a second.
_BURSTS = 8
_PAUSE = 0.04
_RUNS = 12
_BLOCK = 48 << 10

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def usable_cpus() -> float:
    """Return how many CPUs we may use at once, by affinity and cgroup quotas; at least 0.01."""
    cpus = float(len(os.sched_getaffinity(0)))
    for quota in _quotas():
        cpus = min(cpus, quota)
    return max(cpus, 0.01)


def _quotas() -> Iterator[float]:
    """Yield the CPU quota of each cgroup that we are in, and of those above it."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                for directory in _upwards(root, path):
                    yield from _quota_v2(_read(directory + "/cpu.max"))
        elif "cpu" in controllers.split(","):
            for root in ("/sys/fs/cgroup/" + controllers, "/sys/fs/cgroup/cpu"):
                for directory in _upwards(root, path):
                    quota = _read(directory + "/cpu.cfs_quota_us")
                    yield from _quota_v2(f"{quota} {_read(directory + '/cpu.cfs_period_us')}")


def _upwards(root: str, path: str) -> Iterator[str]:
    """Yield the directories of a cgroup and its ancestors. In a container its root is ours."""
    while True:
        yield root + path.rstrip("/")
        if path in ("", "/"):
            return
        path = os.path.dirname(path)


def _quota_v2(text: str) -> Iterator[float]:
    """Yield what "quota period" allows, in CPUs; nothing for "max", -1 or no file."""
    words = text.split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        yield int(words[0]) / int(words[1])


# Logging in twice, starting the agent, making the capsule and measuring the speed are our own
# doing, and over by then: a small node must not seem busy because it was just connected.
START_SECONDS = 2.5


class Probe:
    """Samples of the load, each over the time since the one before."""

    def __init__(self) -> None:
        """Take the first sample's beginning."""
        self.speed = 0
        self._stat = _cpu_times()
        # Part of the ticks of all CPUs; as long as none has passed, what the load average suggests.
        load1 = float(_read("/proc/loadavg").split()[0])
        self._idle = max(0.0, 1.0 - load1 / usable_cpus())
        self._guest_ticks = 0
        self._began = self._when = time.monotonic()

    def load(self, guests: int, processes: Iterable[Process] = ()) -> Load:
        """Return the load now; `processes` are those of the capsule."""
        now = time.monotonic()
        stat = _cpu_times()
        elapsed, self._when = max(now - self._when, 1e-3), now
        spent = sum(stat) - sum(self._stat)
        # A part of all ticks, not of the time: a container's /proc/stat may be a second behind.
        if spent > 0 and now - self._began < START_SECONDS:
            self._stat = stat
        elif spent > 0:
            self._idle = max(0.0, (stat[3] + stat[4] - self._stat[3] - self._stat[4]) / spent)
            self._stat = stat
        ticks = sum(process.ticks for process in processes)
        used = max(0, ticks - self._guest_ticks) / _TICKS / elapsed
        self._guest_ticks = ticks
        cpus = usable_cpus()
        memory = _meminfo()
        load1, _, _, running = _read("/proc/loadavg").split()[:4]
        return Load(
            cpus_milli=int(cpus * 1000),
            idle_milli=int(min(self._idle, 1.0) * cpus * 1000),
            running=int(running.split("/")[0]),
            load1_milli=int(float(load1) * 1000),
            memory_total=memory.get("MemTotal", 0),
            memory_available=memory.get("MemAvailable", memory.get("MemFree", 0)),
            psi_cpu_milli=_pressure("cpu"),
            psi_memory_milli=_pressure("memory"),
            speed=self.speed,
            guests=guests,
            guests_cpu_milli=int(used * 1000),
            owner_idle_s=_owner_idle(),
            agent_rss=int(_read("/proc/self/statm").split()[1]) * _PAGE,
        )


def _cpu_times() -> list[int]:
    """Return user nice system idle iowait irq softirq steal of all CPUs, in ticks."""
    return [int(word) for word in _read("/proc/stat").split("\n", 1)[0].split()[1:9]]


def _meminfo() -> dict[str, int]:
    """Return the lines of /proc/meminfo that are sizes, in bytes."""
    found = {}
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value[:-3]) << 10
    return found


def _pressure(what: str) -> int:
    """Return avg10 of "some" in thousandths of the time; 0 where the kernel keeps no PSI."""
    for word in _read(f"/proc/pressure/{what}").split("\n", 1)[0].split():
        if word.startswith("avg10="):
            return int(float(word[len("avg10=") :]) * 10)
    return 0


def _owner_idle() -> int:
    """Return the seconds since somebody typed at a terminal here: reading updates its atime."""
    last = 0.0
    for directory, prefix in (("/dev/pts", ""), ("/dev", "tty")):
        for name in _listdir(directory):
            if name.startswith(prefix) and name[len(prefix) :].isdigit():
                try:
                    last = max(last, os.stat(f"{directory}/{name}").st_atime)
                except OSError:
                    continue  # closed by now
    return min(max(0, int(time.time() - last)), NOBODY - 1) if last else NOBODY


def measure_speed() -> int:
    """Return how fast one CPU is: KiB per CPU second that zlib deflates, best of several runs.

    Compiled code, so that nodes with different versions of Python compare; 30 ms of work in a
    third of a second.
    """
    block = bytes((value * value >> 7) & 0x7F for value in range(_BLOCK))
    best = 1.0
    for _ in range(_BURSTS):
        for _ in range(_RUNS):
            start = time.process_time()
            zlib.compress(block, 6)
            best = min(best, max(time.process_time() - start, 1e-6))
        time.sleep(_PAUSE)
    return int((_BLOCK >> 10) / best)


def cached_speed(cache: str) -> int:
    """Return the speed as measured since this node was booted, 0 if it has not been."""
    text = _read(_speed_path(cache))
    boot, _, speed = text.strip().partition(" ")
    return int(speed) if boot == _boot_id() and speed.isdigit() else 0


def keep_speed(cache: str, speed: int) -> None:
    """Remember it until the next boot, if the directory can be written."""
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        temporary = f"{_speed_path(cache)}.{os.getpid()}"
        with open(temporary, "w") as file:
            file.write(f"{_boot_id()} {speed}\n")
        os.replace(temporary, _speed_path(cache))
    except OSError:
        pass  # it is measured again next time


def _speed_path(cache: str) -> str:
    return cache + "/speed"


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _read(path: str) -> str:
    """Return the text of a file, empty if there is none (PSI may also refuse to be read)."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
