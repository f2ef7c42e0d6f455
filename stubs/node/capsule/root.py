"""The root file system of a capsule, as a plan: steps that can be shown before they are done.

The home view is mounted first, over some directory of the node (in a mount namespace of our own,
so nobody sees it and no directory has to be made); the plan then puts the capsule's own /proc,
/sys and /dev into it and makes it the root.
"""

from __future__ import annotations

import os

from stubs.abi.mount import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    make_readonly,
    mount,
    pivot_root,
    umount2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Step(Protocol):
        """One thing to do."""

        def describe(self) -> str:
            """Say what will be done, as the shell command that would do it."""

        def execute(self) -> None:
            """Do it; OSError."""


# Where the view may be mounted: whatever of these the node has.
MOUNT_POINTS = (b"/tmp", b"/var/tmp", b"/mnt", b"/opt", b"/run")

# What every node has and no home needs to lend; their numbers are in stubs.node.capsule.body too.
_DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")

_LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"pts/ptmx", b"ptmx"),
)


class Mount:
    """mount(2)."""

    def __init__(
        self, source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b""
    ) -> None:
        """Arguments are those of the call."""
        self.source, self.target, self.kind = source, target, kind
        self.flags, self.data = flags, data

    def describe(self) -> str:
        """Say it as mount(8) would have it."""
        kind = "--rbind" if self.flags & MS_BIND else f"-t {os.fsdecode(self.kind)}"
        options = f" -o {os.fsdecode(self.data)}" if self.data else ""
        return f"mount {kind}{options} {os.fsdecode(self.source)} {os.fsdecode(self.target)}"

    def execute(self) -> None:
        """Mount."""
        mount(self.source, self.target, self.kind, self.flags, self.data)


class ReadOnly:
    """Make a mount and what is below it read-only, or on an old kernel at least itself."""

    def __init__(self, target: bytes) -> None:
        """Take the mount at `target`."""
        self.target = target

    def describe(self) -> str:
        """Say it as mount(8) would have it."""
        return f"mount -o remount,ro {os.fsdecode(self.target)}"

    def execute(self) -> None:
        """Set the attribute; flags that the node locked must be kept in a remount."""
        try:
            make_readonly(self.target)
        except OSError:
            kept = os.statvfs(self.target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | kept
            mount(b"none", self.target, b"none", flags)


class Device:
    """A device of the node, bound to a file of the same name: nobody may make one in a capsule."""

    def __init__(self, name: bytes, directory: bytes) -> None:
        """/dev/`name`, to be seen in `directory`."""
        self.source, self.target = b"/dev/" + name, directory + b"/" + name

    def describe(self) -> str:
        """Say it as mount(8) would have it."""
        return f"mount --bind {os.fsdecode(self.source)} {os.fsdecode(self.target)}"

    def execute(self) -> None:
        """Make the file, and bind."""
        os.close(os.open(self.target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        mount(self.source, self.target, b"none", MS_BIND)


class FirstPid:
    """Let processes born here take pids that no process of home has, where there are such."""

    def __init__(self, proc: bytes, home_pid_max: int) -> None:
        """Set it by that /proc; home's pids are below `home_pid_max`."""
        with open("/proc/sys/kernel/pid_max") as file:
            own = int(file.read())
        self.path = proc + b"/sys/kernel/ns_last_pid"
        first = home_pid_max if home_pid_max < own - 1000 else own // 4 * 3
        # Not the same on every node: a process keeps its pid when it moves to another.
        self.pid = first + int.from_bytes(os.urandom(4), "big") % max(1, own - 1000 - first)

    def describe(self) -> str:
        """Say it as the shell."""
        return f"echo {self.pid} >{os.fsdecode(self.path)}"

    def execute(self) -> None:
        """Write it, if this kernel has it (checkpoint/restore): else pids may collide."""
        try:
            with open(self.path, "w") as file:
                file.write(str(self.pid))
        except OSError:
            pass  # a body may then get another pid than at home, which Spawned says


class Directory:
    """An empty directory."""

    def __init__(self, path: bytes) -> None:
        """To be at `path`."""
        self.path = path

    def describe(self) -> str:
        """Say it as mkdir(1)."""
        return f"mkdir {os.fsdecode(self.path)}"

    def execute(self) -> None:
        """Make it."""
        os.mkdir(self.path)


class Symlink:
    """A symbolic link."""

    def __init__(self, text: bytes, path: bytes) -> None:
        """`path` to `text`."""
        self.text, self.path = text, path

    def describe(self) -> str:
        """Say it as ln(1)."""
        return f"ln -s {os.fsdecode(self.text)} {os.fsdecode(self.path)}"

    def execute(self) -> None:
        """Make it."""
        os.symlink(self.text, self.path)


class Pivot:
    """Make the view the root, and let go of the node's."""

    def __init__(self, root: bytes) -> None:
        """Take the view at `root`."""
        self.root = root

    def describe(self) -> str:
        """Say it as pivot_root(8)."""
        return f"pivot_root {os.fsdecode(self.root)}"

    def execute(self) -> None:
        """Put the old root on top of the new one, and unmount it (pivot_root(2), NOTES)."""
        os.chdir(self.root)
        pivot_root(b".", b".")
        umount2(b".", MNT_DETACH)
        os.chdir(b"/")


def _protected(proc: bytes, name: bytes) -> list[Step]:
    """Return what makes a part of /proc read-only, if this kernel has it."""
    if not os.path.exists(b"/proc" + name):
        return []
    return [Mount(proc + name, proc + name, b"none", MS_BIND), ReadOnly(proc + name)]


def plan(root: bytes, home_pid_max: int, full_map: bool) -> list[Step]:
    """Return what turns the view mounted at `root` into the root of a capsule."""
    dev, proc = root + b"/dev", root + b"/proc"
    private = MS_NOSUID | MS_NOEXEC
    # Group 5 owns terminals on Debian and most others; where it is not mapped it cannot be named.
    pts = b"newinstance,ptmxmode=0666,mode=0620" + (b",gid=5" if full_map else b"")
    steps: list[Step] = [
        Mount(b"proc", proc, b"proc", private | MS_NODEV),
        FirstPid(proc, home_pid_max),
        # The node's settings are not home's to change, not even by mistake: its root could.
        *_protected(proc, b"/sys"),
        *_protected(proc, b"/sysrq-trigger"),
        Mount(b"/sys", root + b"/sys", b"none", MS_BIND | MS_REC),
        ReadOnly(root + b"/sys"),
        Mount(b"tmpfs", dev, b"tmpfs", private, b"mode=0755,size=64k"),
        *[Device(name, dev) for name in _DEVICES],
        *[Symlink(text, dev + b"/" + name) for text, name in _LINKS],
        Directory(dev + b"/pts"),
        Mount(b"devpts", dev + b"/pts", b"devpts", private, pts),
        Directory(dev + b"/shm"),
        Mount(b"tmpfs", dev + b"/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777"),
        Pivot(root),
    ]
    return steps
