"""What a node's kernel lets us do, tried out there: sent as source by mlaunch.doctor.

Runs alone on the node's python3 (3.9 or newer, standard library only) and prints one JSON object:
for each check [good, what was found, remedy]. Nothing stays: the namespaces end with the child.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Finding = list[Any]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_REC_PRIVATE = 0x4000 | 0x40000
MNT_DETACH = 2

# clone3 with set_tid in a user namespace (CAP_CHECKPOINT_RESTORE), close_range: include/uapi.
OLDEST_KERNEL = (5, 9)

_libc = ctypes.CDLL(None, use_errno=True)


def check_python() -> Finding:
    """Tell the version; that it is new enough has been seen to by whoever sent this."""
    return [True, platform.python_version(), ""]


def check_kernel() -> Finding:
    """See whether the kernel is new enough and of the right architecture."""
    release, machine = platform.release(), platform.machine()
    if machine != "x86_64":
        return [False, f"Linux {release} on {machine}", "only x86_64 can run bodies"]
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_KERNEL:
        return [False, "Linux " + release, "Linux {}.{} or newer is needed".format(*OLDEST_KERNEL)]
    return [True, f"Linux {release}, {len(os.sched_getaffinity(0))} CPUs", ""]


def check_namespaces() -> Finding:
    """Enter the namespaces of a capsule, and mount something there."""
    code, step = _in_child(_enter)
    if code == 0:
        return [True, "a user namespace of our own may mount", ""]
    text = f"no user namespaces: {step}: {os.strerror(code)}"
    return [False, text, _namespace_remedy()]


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
        return [False, "/dev/fuse: " + os.strerror(error.errno or 0), remedy]
    code, step = _in_child(_mount_fuse)
    if code == 0:
        return [True, "/dev/fuse can be mounted", ""]
    return [False, f"{step}: {os.strerror(code)}", _namespace_remedy()]


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
    }
    print(json.dumps({name: check() for name, check in checks.items()}))
