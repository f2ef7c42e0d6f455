"""Honest /proc/loadavg, /proc/stat and /proc/meminfo for one host.

The kernel's are those of the whole machine. These are written once a second from the host's
control group and bind-mounted over them. In /proc/stat a host that uses all of its CPU share is
100 % busy, as if it were a machine of its own with a slower CPU.
"""

import math
import os

from tests.cluster.cgroup import Cgroup

TICKS = 100  # USER_HZ, the unit of /proc/stat
PERIODS = (60.0, 300.0, 900.0)  # seconds, of the three load averages


class ProcFiles:
    """Writes the three files; `directory` is on a tmpfs, the same files from boot to boot."""

    def __init__(self, directory: str, cgroup: Cgroup, cpu: int, share: float, now: float) -> None:
        os.makedirs(directory, exist_ok=True)
        self._files = {
            name: os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            for name in ("loadavg", "stat", "meminfo")
        }
        self._cgroup = cgroup
        self._cpu = cpu
        self.share = share
        self._now = now
        self._used = cgroup.cpu_ns()
        self._ticks = [0.0, 0.0, 0.0]  # user, system, idle
        self._averages = [0.0, 0.0, 0.0]
        self.update(now)

    def close(self) -> None:
        """Stop writing."""
        for fd in self._files.values():
            os.close(fd)

    def update(self, now: float) -> None:
        """Write what is so at `now`, in seconds of time.monotonic()."""
        elapsed, self._now = now - self._now, now
        running, blocked, total = self._count_threads()
        self._write_loadavg(elapsed, running, blocked, total)
        self._write_stat(elapsed, running, blocked)
        self._write_meminfo()

    def _count_threads(self) -> tuple[int, int, int]:
        running = blocked = 0
        threads = self._cgroup.threads()
        for tid in threads:
            try:
                with open(f"/proc/{tid}/stat", "rb") as file:
                    state = file.read().rpartition(b") ")[2][:1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            running += state == b"R"
            blocked += state == b"D"
        return running, blocked, len(threads)

    def _write(self, name: str, text: str) -> None:
        # All texts of one file are equally long (numbers are padded), so that a reader can never
        # meet the end of an older one.
        os.pwrite(self._files[name], text.encode(), 0)

    def _write_loadavg(self, elapsed: float, running: int, blocked: int, total: int) -> None:
        for number, period in enumerate(PERIODS):
            keep = math.exp(-elapsed / period)
            self._averages[number] = self._averages[number] * keep + (running + blocked) * (
                1 - keep
            )
        one, five, fifteen = self._averages
        # The last field, the newest pid, takes up the slack.
        head = f"{one:.2f} {five:.2f} {fifteen:.2f} {running}/{total}"
        self._write("loadavg", f"{head}{total:>{60 - len(head)}}\n")

    def _write_stat(self, elapsed: float, running: int, blocked: int) -> None:
        used = self._cgroup.cpu_ns()
        scale = TICKS / 1e9 / min(self.share, 1.0)
        user, system = ((new - old) * scale for new, old in zip(used, self._used, strict=True))
        self._used = used
        self._ticks[0] += user
        self._ticks[1] += system
        self._ticks[2] += max(0.0, elapsed * TICKS - user - system)
        busy_user, busy_system, idle = (int(ticks) for ticks in self._ticks)
        times = f"{busy_user:>10} 0 {busy_system:>10} {idle:>10} 0 0 0 0 0 0\n"
        with open("/proc/stat") as file:
            boot = next(line for line in file if line.startswith("btime"))
        self._write(
            "stat",
            f"cpu  {times}cpu{self._cpu} {times}intr 0\nctxt 0\n{boot}processes 0\n"
            f"procs_running {running:>6}\nprocs_blocked {blocked:>6}\n",
        )

    def _write_meminfo(self) -> None:
        memory = self._cgroup.memory()
        with open("/proc/meminfo") as file:
            machine = {line.split(":")[0]: int(line.split()[1]) for line in file}
        total = min(memory.limit // 1024, machine["MemTotal"])
        free = min(total - memory.used // 1024, machine["MemFree"])
        own = {
            "MemTotal": total,
            "MemFree": max(0, free),
            "MemAvailable": max(0, free + memory.reclaimable // 1024),
            "Buffers": 0,
            "Cached": memory.page_cache // 1024,
            "SwapCached": 0,
            "SwapTotal": 0,
            "SwapFree": 0,
        }
        self._write("meminfo", "".join(f"{k + ':':<16}{v:>8} kB\n" for k, v in own.items()))
