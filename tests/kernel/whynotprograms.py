"""Processes of all sorts that cannot be moved: `python -m tests.kernel.whynotprograms`.

Each is set up in a child of a process of an ordinary user, which asks why not and prints names and
sentences of the reasons, a line each.
"""

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

from stubs.abi.calls import Calls, map_code
from stubs.abi.pidfd import pidfd_open
from stubs.abi.prctl import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl
from stubs.abi.ptrace import seize
from stubs.abi.x86_64 import NR_close, NR_pause
from stubs.migration.proc import read_vmas
from stubs.migration.whynot import why_not

NR_IO_SETUP, NR_PERF_EVENT_OPEN, NR_USERFAULTFD, NR_IO_URING_SETUP = 206, 298, 323, 425
NR_EXIT, NR_SECCOMP, NR_LANDLOCK_CREATE_RULESET, NR_MEMFD_SECRET = 60, 317, 444, 447
CLONE_FILES, CLONE_NEWUSER, CLONE_NEWUTS = 0x400, 0x10000000, 0x04000000

_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[object] = []

SORTS: dict[str, Callable[[], None]] = {}


def sort(name: str) -> Callable[[Callable[[], None]], None]:
    def add(make: Callable[[], None]) -> None:
        SORTS[name] = make

    return add


def call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@sort("")
def ordinary() -> None:
    for _ in range(3):
        threading.Thread(target=signal.pause, daemon=True).start()
    _kept.append(bytearray(10 << 20))
    _kept.append(mmap.mmap(-1, 1 << 20))
    os.open(__file__, os.O_RDONLY)
    _kept.append(socket.socketpair())
    os.pipe()
    os.memfd_create("x")


@sort("aio")
def aio() -> None:
    call(NR_IO_SETUP, 8, ctypes.byref(ctypes.c_ulong()))


@sort("device")
def device() -> None:
    os.open("/dev/autofs", os.O_RDWR)


@sort("io_uring")
def io_uring() -> None:
    call(NR_IO_URING_SETUP, 4, ctypes.create_string_buffer(120))


@sort("perf_event")
def perf_event() -> None:
    # struct perf_event_attr: PERF_TYPE_SOFTWARE, size, PERF_COUNT_SW_TASK_CLOCK; exclude_kernel
    attr = struct.pack("=IIQQQQQ", 1, 64, 1, 0, 0, 0, 1 << 5).ljust(64, b"\0")
    call(NR_PERF_EVENT_OPEN, attr, 0, -1, -1, 0)


@sort("userfaultfd")
def userfaultfd() -> None:
    call(NR_USERFAULTFD, 1)  # UFFD_USER_MODE_ONLY


@sort("seccomp")
def seccomp() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # return SECCOMP_RET_ALLOW
    code = ctypes.create_string_buffer(allow)
    call(NR_SECCOMP, 1, 0, struct.pack("=H6xQ", 1, ctypes.addressof(code)))


@sort("mlocked")
def mlocked() -> None:
    # More than an ordinary user may lock would be all of it.
    code = next(vma for vma in read_vmas(os.getpid()) if "ex" in vma.flags)
    assert _libc.mlock(ctypes.c_void_p(code.start), ctypes.c_size_t(4096)) == 0


@sort("secretmem")
def secretmem() -> None:
    fd = call(NR_MEMFD_SECRET, 0)
    os.ftruncate(fd, 4096)
    _kept.append(mmap.mmap(fd, 4096))
    os.close(fd)


@sort("sysv_ipc")
def sysv_ipc() -> None:
    number = _libc.shmget(0, 4096, 0o600 | 0o1000)
    _libc.shmat.restype = ctypes.c_void_p
    assert _libc.shmat(number, None, 0) != ctypes.c_void_p(-1).value
    assert _libc.shmctl(number, 0, None) == 0  # IPC_RMID: it goes with us


@sort("socket")
def network_socket() -> None:
    _kept.append(socket.socket())


@sort("pty_master")
def pty_master() -> None:
    os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)


@sort("namespace")
def namespace() -> None:
    assert _libc.unshare(CLONE_NEWUSER | CLONE_NEWUTS) == 0


@sort("shared_tables")
def shared_tables() -> None:
    ready = threading.Event()

    def leave() -> None:
        assert _libc.unshare(CLONE_FILES) == 0
        os.close(1)
        ready.set()
        signal.pause()

    threading.Thread(target=leave, daemon=True).start()
    ready.wait()


@sort("lease")
def lease() -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)


@sort("unnamed_file")
def unnamed_file() -> None:
    os.open(".", os.O_TMPFILE | os.O_RDWR)


@sort("signal_io")
def signal_io() -> None:
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETFL, os.O_ASYNC)


@sort("packet_pipe")
def packet_pipe() -> None:
    os.pipe2(os.O_DIRECT)


@sort("fifo")
def fifo() -> None:
    os.mkfifo("fifo")
    os.open("fifo", os.O_RDWR)


@sort("terminal")
def terminal() -> None:
    master, _ = os.openpty()
    os.close(master)


@sort("kernel_object")
def kernel_object() -> None:
    call(NR_LANDLOCK_CREATE_RULESET, struct.pack("=Q", 1), 8, 0)


@sort("mqueue")
def mqueue() -> None:
    name = f"/mlaunch-{os.getpid()}".encode()
    assert _libc.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None) >= 0
    assert _libc.mq_unlink(name) == 0


@sort("pidfd")
def pidfd() -> None:
    pidfd_open(os.getppid())


@sort("hugetlb")
def hugetlb() -> None:
    map_hugetlb, map_noreserve = 0x40000, 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_hugetlb | map_noreserve
    _kept.append(mmap.mmap(-1, 2 << 20, flags))


@sort("epoll_stale")
def epoll_stale() -> None:
    reading, _ = os.pipe()
    epoll = select.epoll()
    epoll.register(reading)
    _kept.append(epoll)
    os.dup(reading)
    os.close(reading)


@sort("dead_leader")
def dead_leader() -> None:
    threading.Thread(target=signal.pause).start()


@sort("ptraced")
def ptraced() -> None:
    """Be traced: see OUTSIDE."""


@sort("pipe_outside")
def pipe_outside() -> None:
    """Have what was made before: see OUTSIDE."""


@sort("foreign_shared_memory")
def foreign_shared_memory() -> None:
    """Have what was made before: see OUTSIDE."""


@sort("other_user")
def other_user() -> None:
    reading, _ = os.pipe()
    os.dup2(reading, 0)  # where it waits for a password
    os.execv("/usr/bin/su", ["su"])


@sort("bits32")
def bits32() -> None:
    program = os.path.abspath("pause")  # exit_group is not there yet: int 0x80 has pause(2) as 29
    source = ".globl _start\n_start: movl $29, %eax\nint $0x80\njmp _start\n"
    command = ["gcc", "-m32", "-nostdlib", "-static", "-x", "assembler", "-o", program, "-"]
    subprocess.run(command, input=source, text=True, check=True)
    os.execv(program, [program])


@sort("device_mapped")
def device_mapped() -> None:
    """Map a disk, which only root may, and which everybody has; it is not touched."""
    disk = os.open("/dev/" + sorted(os.listdir("/sys/block"))[0], os.O_RDONLY)
    _kept.append(mmap.mmap(disk, 4096, mmap.MAP_SHARED, mmap.PROT_READ))


@sort("shared_address_space")
def shared_address_space() -> None:
    calls = Calls()
    calls.add(NR_close, 1)
    calls.add(NR_pause)
    _kept.append(calls)
    child = calls.start(map_code())
    os.write(1, b"%d\n" % child)


# What is made before the program is, and what a process outside its tree does that has it too.
OUTSIDE: dict[str, tuple[Callable[[], object], Callable[[int], None]]] = {
    "pipe_outside": (os.pipe, lambda pid: None),
    "foreign_shared_memory": (lambda: mmap.mmap(-1, 4096), lambda pid: None),
    "ptraced": (lambda: None, lambda pid: seize(pid, 0)),
}


def start(name: str) -> list[int]:
    """Return the processes of a tree of this sort."""
    if name in OUTSIDE:
        prepare, accompany = OUTSIDE[name]
        _kept.append(prepare())
        pids = fork(SORTS[name])
        fork(lambda: accompany(pids[0]))
        return pids
    return fork(SORTS[name], name == "dead_leader")


def fork(make: Callable[[], None], leave: bool = False) -> list[int]:
    """Return a child that has done `make` and waits, and those whose pids it has written.

    Its first thread ends to `leave`.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(reading)
        os.dup2(writing, 1)
        os.close(writing)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.set_inheritable(1, False)
        try:
            make()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os.dup2(null, 2)
        os.dup2(null, 1)
        if leave:
            call(NR_EXIT, 0)
        signal.pause()
    os.close(writing)
    with open(reading) as file:
        return [pid, *map(int, file.read().split())]


def main() -> None:
    """Print what keeps a process of the sort that is named from being moved, in a directory."""
    name, directory = sys.argv[1:]
    os.chdir(directory)
    pids = start(name)
    try:
        answer(name, pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def answer(name: str, pids: list[int]) -> None:
    found = why_not(pids, {})
    deadline = time.monotonic() + 10
    # Who executes a program is one thing after another.
    while name not in [reason.name for reason in found] and time.monotonic() < deadline and name:
        found = why_not(pids, {})
    for reason in found:
        print(reason.name, reason.sentence, sep="\t")


if __name__ == "__main__":
    main()
