"""How a host's root comes about, from inside its new namespaces, before pivot_root(2).

Called by pid 1 of the host alone; everything here is seen by that host only. The paths under
`disk` are on a tmpfs of the supervisor and survive a reboot of the host.
"""

import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterable

from tests.cluster import kernel
from tests.cluster.cgroup import Cgroup
from tests.cluster.images import SOURCE_AT_HOME, VENV_AT_HOME
from tests.cluster.spec import ClusterSpec, HostSpec

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "fuse": (10, 229),
}
PROC_FILES = ("loadavg", "stat", "meminfo")
PRESSURE = ("cpu", "memory", "io")
TTY_GROUP = 5  # Debian's "tty"


def _write(path: str, text: str, *, mode: int = 0o644, owner: int = 0) -> None:
    """Replace a file, whatever was there: a symlink must not lead the write elsewhere."""
    if os.path.lexists(path):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "w") as file:
        file.write(text)
        os.fchmod(fd, mode)
        os.fchown(fd, owner, owner)


def _mount_root(lower: str, disk: str) -> str:
    root = f"{disk}/root"
    for name in ("upper", "work", "root"):
        os.makedirs(f"{disk}/{name}", exist_ok=True)
    os.chmod(f"{disk}/upper", 0o755)
    # xino: one st_dev for all files and inode numbers that stay when a file is copied up, as on an
    # ordinary disk.
    options = f"lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work,xino=on"
    kernel.mount("overlay", root, "overlay", 0, options)
    return root


def _mount_proc(root: str, own_files: str, cgroup: Cgroup) -> None:
    kernel.mount("proc", f"{root}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV)
    # A user namespace may mount proc only while a proc with nothing on top is in sight
    # (mount_too_revealing() in fs/namespace.c); what follows covers files of the one in /proc.
    os.makedirs(f"{root}/run/proc")
    kernel.mount("proc", f"{root}/run/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV)
    for name in PROC_FILES:
        kernel.bind(f"{own_files}/{name}", f"{root}/proc/{name}", read_only=True)
    for name in PRESSURE:
        source = cgroup.pressure_file(name)
        if source and os.path.exists(f"{root}/proc/pressure/{name}"):
            kernel.bind(source, f"{root}/proc/pressure/{name}", read_only=True)
    # These are the machine's, not the host's: a test that sets one would set it for everybody.
    for path in (f"{root}/proc/sys", f"{root}/proc/sysrq-trigger"):
        if os.path.exists(path):
            kernel.bind(path, path, read_only=True)


def _mount_sys(root: str, cgroup: Cgroup) -> None:
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("sysfs", f"{root}/sys", "sysfs", flags | kernel.MS_RDONLY)
    views = cgroup.views()
    if [place for _, place in views] != [""]:
        kernel.mount("tmpfs", f"{root}/sys/fs/cgroup", "tmpfs", flags, "mode=755")
    for source, place in views:
        target = f"{root}/sys/fs/cgroup/{place}".rstrip("/")
        os.makedirs(target, exist_ok=True)
        kernel.bind(source, target, read_only=True)


def _mount_dev(root: str) -> None:
    dev = f"{root}/dev"
    kernel.mount("tmpfs", dev, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(f"{dev}/{name}", 0o666)
    for name, target in {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }.items():
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    options = f"newinstance,ptmxmode=0666,mode=0620,gid={TTY_GROUP}"
    kernel.mount("devpts", f"{dev}/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
    os.mkdir(f"{dev}/shm")
    kernel.mount("tmpfs", f"{dev}/shm", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=1777")


def _mount_run(root: str) -> None:
    kernel.mount("tmpfs", f"{root}/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    for name, mode in {"lock": 0o1777, "sshd": 0o755}.items():
        os.mkdir(f"{root}/run/{name}")
        os.chmod(f"{root}/run/{name}", mode)


def _add_users(root: str, host: HostSpec) -> None:
    """Add the ordinary users to passwd, group and shadow, in place of any of the same name."""
    entries = {
        "passwd": "{name}:x:{uid}:{uid}:{name}:/home/{name}:/bin/bash",
        "group": "{name}:x:{uid}:",
        # "*": no password fits, yet the account is not locked, which sshd would refuse.
        "shadow": "{name}:*:19000:0:99999:7:::",
    }
    for file, template in entries.items():
        path = f"{root}/etc/{file}"
        with open(path) as old:
            lines = [line for line in old if line.split(":")[0] not in host.users]
        lines += [template.format(name=n, uid=u) + "\n" for n, u in host.users.items()]
        before = os.stat(path)
        _write(path, "".join(lines), mode=stat.S_IMODE(before.st_mode))
        os.chown(path, before.st_uid, before.st_gid)
    for name, uid in host.users.items():
        path = f"{root}/home/{name}"
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)
        os.chown(path, uid, uid)


def _homes(host: HostSpec) -> Iterable[tuple[str, str, int]]:
    yield "root", "/root", 0
    for name, uid in host.users.items():
        yield name, f"/home/{name}", uid


def _add_ssh(root: str, spec: ClusterSpec, host: HostSpec, keys: str) -> None:
    """Give the users at home a key that opens the nodes, and the nodes a name to be known by."""
    for user, directory, uid in _homes(host):
        ssh = f"{root}{directory}/.ssh"
        os.makedirs(ssh, exist_ok=True)
        os.chmod(ssh, 0o700)
        os.chown(ssh, uid, uid)
        with open(f"{keys}/{user}.pub") as file:
            public = file.read()
        if not host.is_home:
            _write(f"{ssh}/authorized_keys", public, mode=0o600, owner=uid)
            continue
        with open(f"{keys}/{user}") as file:
            _write(f"{ssh}/id_ed25519", file.read(), mode=0o600, owner=uid)
        _write(f"{ssh}/id_ed25519.pub", public, owner=uid)
        known = []
        for node in spec.hosts[1:]:
            with open(f"{keys}/{node.name}.pub") as file:
                known.append(f"{node.name},{node.address} {file.read()}")
        _write(f"{ssh}/known_hosts", "".join(known), mode=0o600, owner=uid)
        names = " ".join(node.name for node in spec.hosts[1:])
        config = f"Host {names}\n    IdentityFile ~/.ssh/id_ed25519\n    IdentitiesOnly yes\n"
        _write(f"{ssh}/config", config, mode=0o600, owner=uid)
    if not host.is_home:
        with open(f"{keys}/{host.name}") as file:
            _write(f"{root}/etc/ssh/ssh_host_ed25519_key", file.read(), mode=0o600)
        with open(f"{keys}/{host.name}.pub") as file:
            _write(f"{root}/etc/ssh/ssh_host_ed25519_key.pub", file.read())


def _add_program(root: str, spec: ClusterSpec) -> None:
    """Install mlaunch at home: the checkout, read-only and live, and the venv that it needs."""
    for package in ("mlaunch", "stubs"):
        os.makedirs(f"{root}{SOURCE_AT_HOME}/{package}", exist_ok=True)
        source = f"{spec.checkout}/{package}"
        kernel.bind(source, f"{root}{SOURCE_AT_HOME}/{package}", read_only=True)
    os.makedirs(f"{root}{VENV_AT_HOME}", exist_ok=True)
    kernel.bind(spec.venv, f"{root}{VENV_AT_HOME}", read_only=True)
    for name in ("mrun", "mlaunch"):
        link = f"{root}/usr/local/bin/{name}"
        if os.path.lexists(link):
            os.unlink(link)
        # Not the venv's bin on the PATH: that would also put its python3 there.
        os.symlink(f"{VENV_AT_HOME}/bin/{name}", link)


def _name_things(root: str, spec: ClusterSpec, host: HostSpec) -> None:
    lines = ["127.0.0.1 localhost"]
    lines += [f"{other.address} {other.name}" for other in spec.hosts]
    _write(f"{root}/etc/hosts", "\n".join(lines) + "\n")
    _write(f"{root}/etc/hostname", f"{host.name}\n")
    _write(f"{root}/etc/resolv.conf", "")  # there is no one to ask


def _clear_tmp(root: str) -> None:
    """Empty a node's /tmp, as every boot of Debian does; home's is this machine's and stays."""
    tmp = f"{root}/tmp"
    for entry in os.scandir(tmp):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def configure_network(spec: ClusterSpec, host: HostSpec) -> None:
    """Set up lo and eth0, which the supervisor has put into our network namespace."""
    commands = [
        "link set lo up",
        f"addr add {host.address}/24 dev eth0",
        "link set eth0 up",
    ]
    # Neighbours are told, not asked for: when a host is cut off there is silence, not a "host
    # unreachable" some seconds later, which would be a different and easier fault.
    commands += [
        f"neigh add {other.address} lladdr {other.mac} dev eth0 nud permanent"
        for other in spec.hosts
        if other is not host
    ]
    subprocess.run(
        ("ip", "-batch", "-"), input="\n".join(commands).encode(), check=True, timeout=30
    )


def build_root(spec: ClusterSpec, host: HostSpec, disk: str, own_files: str, cgroup: Cgroup) -> str:
    """Assemble the host's root and return where it is mounted; the caller pivots into it."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    root = _mount_root("/" if host.is_home else spec.node_root, disk)
    if not host.is_home:
        _clear_tmp(root)
    _mount_run(root)
    _mount_proc(root, own_files, cgroup)
    _mount_sys(root, cgroup)
    _mount_dev(root)
    _name_things(root, spec, host)
    _add_users(root, host)
    _add_ssh(root, spec, host, f"{os.path.dirname(disk)}/keys")
    if host.is_home:
        _add_program(root, spec)
    return root


def drop_power(cgroup: Cgroup) -> None:
    """Keep root inside the host from what is not namespaced: clock, modules, reboot, devices.

    Resource limits become those of a login, whatever the tests were started with.
    """
    for what, soft in ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (soft if hard < 0 else min(soft, hard), hard))
    dropped = [
        kernel.CAP_SYS_MODULE,
        kernel.CAP_SYS_RAWIO,
        kernel.CAP_SYS_BOOT,
        kernel.CAP_SYS_TIME,
    ]
    if not cgroup.confines_devices:
        dropped.append(kernel.CAP_MKNOD)
    for number in dropped:
        kernel.drop_capability(number)
