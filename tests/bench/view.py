"""The home view by itself: what a request costs, bulk rates, round trips; beside a plain directory.

    python3 -m tests.bench.view [NAME…]        as root; all of them without a NAME

Home and the view are two processes on this machine with a socketpair between them: no network,
no SSH. The exported root is a throw-away overlay of /. CPU figures are the processes' own
(user + system) and bear comparison; wall times depend on what else the machine does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from stubs.abi import fuse
from stubs.abi.mount import MNT_DETACH, MS_BIND, MS_PRIVATE, MS_REC, mount, umount2
from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from tests.cluster.kernel import CLONE_NEWNS, unshare
from tests.kernel.viewbed import Bed

MB = 1_000_000
SIZE = 256 << 20

OPCODES = {
    fuse.FUSE_LOOKUP: "LOOKUP",
    fuse.FUSE_FORGET: "FORGET",
    fuse.FUSE_BATCH_FORGET: "BATCH_FORGET",
    fuse.FUSE_GETATTR: "GETATTR",
    fuse.FUSE_SETATTR: "SETATTR",
    fuse.FUSE_READLINK: "READLINK",
    fuse.FUSE_CREATE: "CREATE",
    fuse.FUSE_MKDIR: "MKDIR",
    fuse.FUSE_UNLINK: "UNLINK",
    fuse.FUSE_RENAME2: "RENAME2",
    fuse.FUSE_OPEN: "OPEN",
    fuse.FUSE_READ: "READ",
    fuse.FUSE_WRITE: "WRITE",
    fuse.FUSE_FLUSH: "FLUSH",
    fuse.FUSE_RELEASE: "RELEASE",
    fuse.FUSE_STATFS: "STATFS",
    fuse.FUSE_GETXATTR: "GETXATTR",
    fuse.FUSE_READDIR: "READDIR",
    fuse.FUSE_READDIRPLUS: "READDIRPLUS",
}


class Meter:
    """Wall time, CPU of agent and home, requests and round trips between two points."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._view = bed.stats()
        self._home = bed.home_stats()
        self._start = time.monotonic()

    def stop(self) -> None:
        """Take the second reading."""
        self.wall = time.monotonic() - self._start
        view, home = self._bed.stats(), self._bed.home_stats()
        self.agent = view["cpu"] - self._view["cpu"]
        self.home = home["cpu"] - self._home["cpu"]
        self.trips = view["round_trips"] - self._view["round_trips"]
        self.rss = view["rss"]
        pairs = zip(view["counts"], self._view["counts"], strict=True)
        self.counts = [new - old for new, old in pairs]
        self.requests = sum(self.counts)

    def by_opcode(self) -> str:
        """Return the requests by opcode, most frequent first."""
        order = sorted(enumerate(self.counts), key=lambda item: -item[1])
        return " ".join(
            f"{OPCODES.get(number, number)}:{count}" for number, count in order if count
        )


def measure(bed: Bed, call: Callable[..., None], *arguments: object) -> Meter:
    """Run `call` where the mount is."""
    meter = Meter(bed)
    bed.run(call, *arguments)
    meter.stop()
    return meter


def timed(call: Callable[[], object]) -> float:
    """Return wall seconds."""
    start = time.monotonic()
    call()
    return time.monotonic() - start


def show(what: str, text: str) -> None:
    """Print one line."""
    print(f"  {what:<34} {text}", flush=True)


# requests


def _stat_again(path: str, count: int) -> None:
    libc_statx = __import__("ctypes").CDLL(None).statx
    buffer = bytearray(256)
    area = (__import__("ctypes").c_char * 256).from_buffer(buffer)
    encoded = os.fsencode(path)
    for _ in range(count):
        libc_statx(-100, encoded, 0x2000, 0x7FF, area)  # AT_STATX_FORCE_SYNC


def _miss(directory: str, count: int) -> None:
    for number in range(count):
        os.access(f"{directory}/no-{number}", os.F_OK)


def _open_close(path: str, count: int) -> None:
    for _ in range(count):
        os.close(os.open(path, os.O_RDONLY))


def bench_requests(bed: Bed) -> None:
    """Show the cost of requests that are answered on the node."""
    top = f"{bed.mount}/bench"
    bed.run(_stat_again, f"{top}/file", 1)
    for name, call, path, count in (
        ("GETATTR", _stat_again, f"{top}/file", 20_000),
        ("LOOKUP, no such name", _miss, top, 8_000),
        ("OPEN, FLUSH, RELEASE", _open_close, f"{top}/file", 5_000),
    ):
        meter = measure(bed, call, path, count)
        show(
            name,
            f"{meter.agent / meter.requests * 1e6:6.1f} us of agent CPU per request, "
            f"{meter.requests / meter.wall:7.0f}/s, {meter.requests} requests, "
            f"{meter.trips} round trips",
        )


# bulk


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(1 << 20)
    while os.readv(fd, [buffer]):
        pass


def _write(path: str, size: int, block: int) -> None:
    data = os.urandom(block)
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    for _ in range(size // block):
        os.write(fd, data)
    os.close(fd)
    os.stat(path)


def _bulk(what: str, meter: Meter, size: int, native: float) -> None:
    mb = size / MB
    show(
        what,
        f"{mb / meter.wall:6.0f} MB/s (native {mb / native:5.0f}), agent "
        f"{meter.agent / mb * 1000:5.2f} ms/MB, home {meter.home / mb * 1000:5.2f} ms/MB, "
        f"{meter.requests} requests, {meter.trips} waits",
    )


def bench_read(bed: Bed) -> None:
    """Show sequential reading, cold and warm."""
    path = f"{bed.home}/bench/large"
    _write(path, SIZE, 1 << 20)
    bed.barrier()
    native = timed(lambda: _read(path))
    for what in ("read, cold", "read, warm"):
        meter = measure(bed, _read, f"{bed.mount}/bench/large")
        _bulk(what, meter, SIZE, native)
    os.unlink(path)


def bench_write(bed: Bed) -> None:
    """Show sequential writing in large and in small blocks."""
    for block, size in (
        (1 << 20, SIZE),
        (128 << 10, SIZE // 2),
        (16 << 10, 64 << 20),
        (4096, 32 << 20),
    ):
        native = timed(lambda: _write(f"{bed.home}/bench/native", size, block))  # noqa: B023
        meter = measure(bed, _write, f"{bed.mount}/bench/view", size, block)
        _bulk(f"write, blocks of {block >> 10} KiB", meter, size, native)
    for name in ("native", "view"):
        os.unlink(f"{bed.home}/bench/{name}")


# programs


def _inside(bed: Bed, *command: str) -> None:
    if not os.path.ismount(f"{bed.mount}/dev"):
        mount(b"/dev", os.fsencode(bed.mount) + b"/dev", b"none", MS_BIND | MS_REC)
    os.chroot(bed.mount)
    os.chdir("/bench")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _native(bed: Bed, *command: str) -> float:
    pid = os.fork()
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open("/dev/null", os.O_RDWR)
        os.chroot(bed.home)
        os.chdir("/bench")
        os.dup2(null, 1)
        os.execvp(command[0], command)
    start = time.monotonic()
    assert os.waitpid(pid, 0)[1] == 0
    return time.monotonic() - start


def _program(bed: Bed, name: str, turns: int, *command: str) -> None:
    for turn in range(turns):
        native = _native(bed, *command)
        meter = measure(bed, _inside, bed, *command)
        show(
            f"{name}, {'warm' if turn else 'cold'}",
            f"{meter.wall:6.3f} s (native {native:6.3f}), agent {meter.agent:5.2f} s, home "
            f"{meter.home:5.2f} s, {meter.requests} requests, {meter.trips} round trips",
        )
        print(f"      {meter.by_opcode()}")


def bench_compile(bed: Bed) -> None:
    """Show one C file compiled in the view."""
    with open(f"{bed.home}/bench/a.c", "w") as file:
        file.write(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n"
        )
        for number in range(200):
            file.write(f'int f{number}(int x) {{ return printf("%d", x * {number}); }}\n')
    _program(bed, "gcc -c a.c", 3, "gcc", "-O1", "-c", "a.c", "-o", "a.o")


def bench_spawn(bed: Bed) -> None:
    """Show a program that does nothing."""
    _program(bed, "true", 3, "/bin/true")


def bench_list(bed: Bed) -> None:
    """Show a long listing of a tree."""
    count = sum(1 for _ in os.walk(f"{bed.home}/usr/include"))
    show("directories in /usr/include", str(count))
    _program(bed, "ls -lR /usr/include", 2, "ls", "-lR", "/usr/include")
    _program(bed, "find /usr/include", 2, "find", "/usr/include", "-name", "x")


def bench_far(near: Bed) -> None:
    """Show reading, listing and compiling with a round trip of 20 ms."""
    with Bed(os.path.dirname(near.mount) + "/far", export=near.home, delay=0.01) as bed:
        path = f"{bed.home}/bench/large"
        _write(path, SIZE // 4, 1 << 20)
        bed.barrier()
        native = timed(lambda: _read(path))
        _bulk("read, cold", measure(bed, _read, f"{bed.mount}/bench/large"), SIZE // 4, native)
        bench_compile(bed)
        bench_list(bed)


def bench_memory(bed: Bed) -> None:
    """Show the size of the agent's process after all that."""
    show("agent", f"{bed.stats()['rss'] / MB:.1f} MB resident")


def _overlay(directory: str) -> str:
    """Mount a throw-away overlay of / with what a chroot needs; return where."""
    root = os.fsencode(directory) + b"/root"
    for name in (b"upper", b"work"):
        os.makedirs(os.fsencode(directory) + b"/scratch/" + name)
    os.mkdir(root)
    options = f"lowerdir=/,upperdir={directory}/scratch/upper,workdir={directory}/scratch/work"
    mount(b"none", root, b"overlay", 0, options.encode())
    os.makedirs(root + b"/bench", exist_ok=True)
    with open(root + b"/bench/file", "w") as file:
        file.write("file\n")
    return os.fsdecode(root)


BENCHES = {
    name.removeprefix("bench_"): call
    for name, call in list(globals().items())
    if name.startswith("bench_")
}


def main() -> None:
    """Run the benches that were asked for."""
    wanted = sys.argv[1:] or list(BENCHES)
    unshare(CLONE_NEWNS)
    mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
    directory = tempfile.mkdtemp(prefix="mlaunch-bench-")
    mount(b"none", os.fsencode(directory), b"tmpfs", 0)
    try:
        root = _overlay(directory)
        with Bed(directory, export=root) as bed:
            for name in wanted:
                print(name)
                BENCHES[name](bed)
    finally:
        umount2(os.fsencode(directory), MNT_DETACH)
        os.rmdir(directory)


if __name__ == "__main__":
    main()
