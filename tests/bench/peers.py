"""distcc, its pump mode and icecream on the nodes of a test cluster, to be compared with.

Their programs and the compiler are copied from this machine into the nodes' throw-away disks, and
their servers are processes of the cluster: nothing of them is left when it goes down.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.cluster import Cluster, Host, Process, wait_until

PACKAGES = ("distcc", "distcc-pump", "icecc")
NETWORK = "10.77.0.0/24"
ROOT = "/opt/peers"
MAKE_ROOT = """
mkdir -p $1; cd $1; mkdir -p etc dev tmp run proc home/alice var/tmp
mkdir -p usr/bin usr/sbin usr/lib usr/lib64
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
ln -s ../run var/run; mount -t proc proc proc
chmod 1777 tmp var/tmp; chown alice home/alice
cp /etc/passwd /etc/group /etc/hosts /etc/nsswitch.conf etc/
mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/urandom c 1 9
# The compilers that distccd may run; distcc spells gcc out.
mkdir usr/lib/distcc; cd usr/lib/distcc
for name in gcc x86_64-linux-gnu-gcc; do ln -s ../../bin/distcc $name; done
install -d -o alice $1/run/icecc
"""
PORT = 3632  # of distccd; the next one for the pump
HOME_ICECC = "/home/alice/icecc"
INCLUDE_SERVER = "/usr/lib/python3/dist-packages/include_server"
PUMP_MODULE = "distcc_pump_c_extensions"
MENDED = Path(__file__).with_name("pump_mended.py").read_text()
SCHEDULER_LOG = f"{HOME_ICECC}/scheduler.log"


@dataclass(frozen=True)
class Way:
    """A way to build: words before make, words after it, environment."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    environment: dict[str, str] | None = None


def missing() -> list[str]:
    """Return the packages that this machine lacks."""
    query = ("dpkg-query", "-W", "-f", "${Package} ${Status}\n", *PACKAGES)
    told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    there = {line.split()[0] for line in told.splitlines() if line.endswith("ok installed")}
    return sorted(set(PACKAGES) - there)


def _files(*packages: str) -> str:
    """Return the paths of all that packages and what they depend on have installed."""
    options = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    apt = ("apt-cache", "depends", "--recurse", "--installed", *(f"--no-{o}" for o in options))
    told = subprocess.run((*apt, *packages), stdout=subprocess.PIPE, check=True, text=True).stdout
    names = sorted({line for line in told.splitlines() if line and line[0].isalnum()})
    query = ("dpkg-query", "-L", *names)
    listed = subprocess.run(query, capture_output=True, check=False, text=True).stdout
    unwanted = ("/usr/share/doc/", "/usr/share/man/", "/etc/")
    return "\n".join(sorted({p for p in listed.splitlines() if not p.startswith(unwanted)}))


def _copy_tools(node: Host) -> None:
    """Make a root with compiler and peers on a node's disk.

    Apart from the node's own: mrun is not to find home's compiler there.
    """
    if node.run(("test", "-e", f"{ROOT}/usr/bin/gcc")).returncode == 0:
        return
    script = (
        'while read -r path; do [ -d "$path" ] && [ ! -L "$path" ] || echo "$path"; done '
        "| tar -C / -cf - --ignore-failed-read --files-from=- 2>/dev/null"
    )
    listing = _files("gcc", "g++", "libc-bin", "distcc", "icecc").encode()
    packed = subprocess.run(
        ("sh", "-c", script), input=listing, stdout=subprocess.PIPE, check=True
    ).stdout
    node.run(("sh", "-ec", MAKE_ROOT, "sh", ROOT), user="root", check=True)
    unpack = ("tar", "-C", ROOT, "-xf", "-", "--keep-directory-symlink")
    node.run(unpack, user="root", input=packed, timeout=120, check=True)
    node.run(("chroot", ROOT, "/sbin/ldconfig"), user="root", check=True)


def _listens(host: Host, port: int) -> bool:
    return f":{port:04X} ".encode() in host.read("/proc/net/tcp")


def _serve(host: Host, words: tuple[str, ...]) -> Process:
    quiet = subprocess.DEVNULL
    return host.popen(words, user="root", stdout=quiet, stderr=quiet)


def _stop(servers: list[Process]) -> None:
    for server in servers:
        server.send_signal(9, group=True)
        server.close()


@contextmanager
def _distccd(cluster: Cluster, slots: int, port: int) -> Iterator[None]:
    servers = []
    for node in cluster.nodes:
        _copy_tools(node)
        serve = ("distccd", "--no-detach", "--user", "alice", "--allow", NETWORK)
        words = ("chroot", ROOT, *serve, "--jobs", str(slots), "--port", str(port), "--log-stderr")
        servers.append(_serve(node, words))
    for node in cluster.nodes:
        wait_until(partial(_listens, node, port), 30, "distccd listens")
    try:
        yield
    finally:
        _stop(servers)


@contextmanager
def distcc(cluster: Cluster, slots: int) -> Iterator[Way]:
    """Offer distcc: home preprocesses everything, and compiles in one slot of its own."""
    hosts = " ".join(["localhost/1", *(f"{node.address}/{slots}" for node in cluster.nodes)])
    with _distccd(cluster, slots, PORT):
        yield Way((), ("CC=distcc gcc",), {"DISTCC_HOSTS": hosts})


def _mend_pump(home: Host) -> None:
    """Replace what fails of the include server, see pump_mended.py; on home's throw-away disk."""
    module = f"{INCLUDE_SERVER}/{PUMP_MODULE}"
    if home.run(("test", "-e", f"{module}.py")).returncode:
        script = f"mkdir {INCLUDE_SERVER}/native; mv {module}.*.so {INCLUDE_SERVER}/native"
        home.run(("sh", "-ec", script), user="root", check=True)
        home.write(f"{module}.py", MENDED.encode(), user="root")


@contextmanager
def pump(cluster: Cluster, slots: int) -> Iterator[Way]:
    """Offer distcc's pump mode: nodes preprocess, too."""
    _mend_pump(cluster.home)
    far = [f"{node.address}:{PORT + 1}/{slots},cpp,lzo" for node in cluster.nodes]
    hosts = " ".join([*far, "localhost/1"])
    with _distccd(cluster, slots, PORT + 1):
        yield Way(("distcc-pump",), ("CC=distcc gcc",), {"DISTCC_HOSTS": hosts})


@contextmanager
def icecream(cluster: Cluster, slots: int) -> Iterator[Way]:
    """Offer icecream: a scheduler at home, daemons everywhere, the compiler sent as an archive."""
    home = cluster.home
    home.run(("mkdir", "-p", HOME_ICECC), check=True)
    made = home.run(("icecc", "--build-native"), cwd=HOME_ICECC, timeout=120, check=True).stdout
    (archive,) = (w for w in made.decode().split() if w.endswith(".tar.gz") and "/" not in w)
    schedule = ("icecc-scheduler", "-n", "bench", "-u", "alice", "-l", SCHEDULER_LOG, "-vvv")
    servers = [_serve(home, schedule)]
    for host in (home, *cluster.nodes):
        if host is not home:
            _copy_tools(host)
        # Debian's start script makes it; the socket of the daemon is in there.
        host.run(("install", "-d", "-o", "alice", "/run/icecc"), user="root", check=True)
        number = 1 if host is home else slots
        inside = () if host is home else ("chroot", ROOT)
        words = (
            *inside,
            "iceccd",
            "-n",
            "bench",
            "-s",
            home.address,
            "-m",
            str(number),
            "-u",
            "alice",
        )
        place = ("-b", "/var/tmp/icecc", "-N", host.name, "-l", f"/tmp/iceccd-{host.name}.log")
        servers.append(_serve(host, (*words, *place)))
    log_in = len(cluster.nodes) + 1

    def complete() -> bool:
        return home.read(SCHEDULER_LOG).count(b"login ") >= log_in

    try:
        wait_until(complete, 60, "the daemons have logged in")
        yield Way((), ("CC=icecc gcc",), {"ICECC_VERSION": f"{HOME_ICECC}/{archive}"})
    finally:
        _stop(servers)


PEERS: dict[str, Callable[[Cluster, int], AbstractContextManager[Way]]] = {
    "distcc": distcc,
    "distcc pump": pump,
    "icecream": icecream,
}
