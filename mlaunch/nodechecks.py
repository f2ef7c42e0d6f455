"""What a node's kernel and system let us do, tried out there: sent as source by mlaunch.doctor.

Runs alone on the node's python3 (3.9 or newer, standard library only) and prints one JSON object:
for each check [state, what was found, remedy], and the time by the node's clock. Nothing stays:
the namespaces end with the child.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    Finding = list[Any]

# mlaunch.findings
GOOD, NOTE, BAD = "ok", "note", "FAILS"

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_REC_PRIVATE = 0x4000 | 0x40000
MNT_DETACH = 2
NR_USERFAULTFD = 323
NR_CLONE3 = 435
SIGCHLD = 17

# userfaultfd(2), ioctl_userfaultfd(2); PAGEMAP_SCAN: Documentation/admin-guide/mm/pagemap.rst.
UFFD_USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F
UFFD_FEATURE_WP_ASYNC = 1 << 15
PAGEMAP_SCAN = 0xC0606610

# clone3 with set_tid in a user namespace (CAP_CHECKPOINT_RESTORE), close_range: include/uapi.
OLDEST_KERNEL = (5, 9)

CLONE_STEP = "clone3 with set_tid"

# A compiler takes as much.
LEAST_MEMORY = 256 << 20

# Agent and file contents, and their limits: stubs.node.view.shelf.
CACHE = "~/.cache/mlaunch"
MOST_CONTENT = 4 << 30
SHARE = 10
LEAST_CONTENT = 64 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def check_python() -> Finding:
    """Tell the version; that it is new enough has been seen to by whoever sent this."""
    return [GOOD, platform.python_version(), ""]


def check_kernel() -> Finding:
    """See whether the kernel is new enough and of the right architecture."""
    release, machine = platform.release(), platform.machine()
    if machine != "x86_64":
        return [BAD, f"Linux {release} on {machine}", "only x86_64 can run bodies"]
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_KERNEL:
        return [BAD, "Linux " + release, "Linux {}.{} or newer is needed".format(*OLDEST_KERNEL)]
    return [GOOD, f"Linux {release}, {len(os.sched_getaffinity(0))} CPUs", ""]


def check_namespaces() -> Finding:
    """Enter the namespaces of a capsule, and mount something there."""
    code, step = _in_child(_enter)
    if code == 0:
        return [GOOD, "a user namespace of our own may mount", ""]
    text = f"no user namespaces: {step}: {os.strerror(code)}"
    return [BAD, text, _namespace_remedy()]


def check_fuse() -> Finding:
    """Open /dev/fuse, and mount a file system of ours in a namespace."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = (
                "load the module as root: modprobe fuse; in a container pass --device /dev/fuse"
            )
        else:
            remedy = "as root: chmod 666 /dev/fuse (an udev rule makes it last)"
        return [BAD, "/dev/fuse: " + os.strerror(error.errno or 0), remedy]
    code, step = _in_child(_mount_fuse)
    if code == 0:
        return [GOOD, "/dev/fuse can be mounted", ""]
    return [BAD, f"{step}: {os.strerror(code)}", _namespace_remedy()]


def check_pids() -> Finding:
    """See whether a body can have the pid of its deputy, and its children pids of their own."""
    code, step = _in_child(_choose_pid)
    if code and step != CLONE_STEP:
        return [NOTE, "not tried, for want of namespaces", ""]
    if code:
        text = f"bodies have other pids than at home: {step}: {os.strerror(code)}"
        return [NOTE, text, "let the seccomp filter around it allow clone3(2)"]
    if not os.path.exists("/proc/sys/kernel/ns_last_pid"):
        text = "children of bodies may have pids that are taken at home: no ns_last_pid"
        return [NOTE, text, "a kernel with CONFIG_CHECKPOINT_RESTORE has it"]
    return [GOOD, "a body can have the pid that it has at home", ""]


def check_migration() -> Finding:
    """See whether the kernel can tell which pages a program writes while it moves."""
    missing = [name for name, there in _page_tracking() if not there]
    if missing:
        text = "what moves away stands still until all of it is sent: no " + ", ".join(missing)
        return [NOTE, text, "Linux 6.7 or newer has them"]
    return [GOOD, "userfaultfd WP_ASYNC and PAGEMAP_SCAN: bodies stand still for a moment only", ""]


def check_memory() -> Finding:
    """Look at what is free."""
    kib = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            kib[name] = int(value.split()[0])
    total, available = kib["MemTotal"] << 10, kib.get("MemAvailable", kib["MemFree"]) << 10
    text = f"{_size(available)} of {_size(total)} available"
    if available < LEAST_MEMORY:
        return [NOTE, text, "what runs there uses it up; bodies may be killed for want of memory"]
    return [GOOD, text, ""]


def check_cache() -> Finding:
    """Look at what is kept on the node's disk, and what may be."""
    top = os.path.expanduser(CACHE)
    content = sum(_sizes(top + "/content"))
    place = top
    while not os.path.exists(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    most = min(MOST_CONTENT, (free + content) // SHARE)
    text = f"contents {_size(content)} of at most {_size(most)}, agent {_size(_agents(top))}"
    if not os.access(place, os.W_OK | os.X_OK):
        text = f"{place} cannot be written: all is sent anew over each link"
        return [NOTE, text, "let its owner be the user of the node"]
    if most < LEAST_CONTENT:
        text += f"; the disk has {_size(free)} left"
        return [NOTE, text, "make room: else most is sent anew over each link"]
    return [GOOD, f"{text}, in {CACHE}", ""]


def _sizes(directory: str) -> Iterator[int]:
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                yield os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # an agent has just removed it


def _agents(directory: str) -> int:
    try:
        with os.scandir(directory) as entries:
            return sum(item.stat().st_size for item in entries if item.name.startswith("agent-"))
    except OSError:
        return 0  # none has been there


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _page_tracking() -> Iterator[tuple[str, bool]]:
    """Yield what pre-copying needs, and whether it is there."""
    fd = _libc.syscall(NR_USERFAULTFD, os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
    features = 0
    if fd >= 0:
        try:
            answer = fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", UFFD_API, 0, 0))
            features = struct.unpack("=QQQ", answer)[1]
        except OSError:
            features = 0  # an API of another version
        os.close(fd)
    yield "userfaultfd", fd >= 0
    yield "WP_ASYNC", bool(features & UFFD_FEATURE_WP_ASYNC)
    with open("/proc/self/pagemap", "rb") as file:
        try:
            fcntl.ioctl(file, PAGEMAP_SCAN, bytes(96))
        except OSError as error:
            yield "PAGEMAP_SCAN", error.errno != errno.ENOTTY
        else:
            yield "PAGEMAP_SCAN", True


def _choose_pid() -> None:
    """Start a process with a pid of our choice, in a pid namespace of our own."""
    _enter()
    first = os.fork()
    if first == 0:
        _be_first()
    code = os.WEXITSTATUS(os.waitpid(first, 0)[1])
    if code:
        raise OSError(code, CLONE_STEP)


def _be_first() -> NoReturn:
    """As pid 1: start pid 4711, and end with the errno of that."""
    wanted = ctypes.c_int(4711)
    arguments = struct.pack("=11Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    # The interpreter's lock is kept over the call: the child could not take it again.
    pid = ctypes.PyDLL(None, use_errno=True).syscall(NR_CLONE3, arguments, len(arguments))
    if pid > 0:
        os.waitpid(pid, 0)
    os._exit(0 if pid >= 0 else ctypes.get_errno())


def _enter() -> None:
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    _call("unshare", _libc.unshare, flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    _call("mount", _libc.mount, b"none", b"/", None, MS_REC_PRIVATE, None)


def _mount_fuse() -> None:
    uid, gid = os.getuid(), os.getgid()
    _enter()
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={uid},group_id={gid}"
    _call("mount of fuse", _libc.mount, b"mlaunch", b"/proc", b"fuse", 0, options.encode())
    _libc.umount2(b"/proc", MNT_DETACH)


def _call(step: str, function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), step)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, path) from None


def _in_child(function: Callable[[], None]) -> tuple[int, str]:
    """Return with which errno `function` fails in a child (0: not at all), and in which step."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        result: list[object] = [0, ""]
        try:
            function()
        except OSError as error:
            result = [error.errno, error.strerror]
        os.write(tell, json.dumps(result).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(ready, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    code, step = json.loads(answer.decode() or '[5, "the attempt"]')
    return code, step


def _namespace_remedy() -> str:
    for path, bad, remedy in (
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            with open(path) as file:
                if file.read().strip() == bad:
                    return "as root: " + remedy
        except OSError:
            continue
    return "let the container or seccomp filter around it allow unshare(2) and mount(2)"


if __name__ == "__main__":
    checks = {
        "python": check_python,
        "kernel": check_kernel,
        "namespaces": check_namespaces,
        "/dev/fuse": check_fuse,
        "pids": check_pids,
        "migration": check_migration,
        "memory": check_memory,
        "cache": check_cache,
    }
    found = {name: check() for name, check in checks.items()}
    print(json.dumps({"found": found, "clock": time.time()}))
