"""distcc, its pump mode and icecream on the nodes of a test cluster, to be compared with.

Their programs and the compiler are copied from this machine into the nodes' throw-away disks, and
their servers are processes of the cluster: nothing of them is left when it goes down.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import Cluster, Host, Process, wait_until

PACKAGES = ("distcc", "distcc-pump", "icecc")
NETWORK = "10.77.0.0/24"
DISTCC_PORT = ":0E30"  # 3632, as /proc/net/tcp has it
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
    """Put compiler and peers on a node's disk; what is there stays as it is."""
    script = (
        'while read -r path; do [ -d "$path" ] && [ ! -L "$path" ] || echo "$path"; done '
        "| tar -C / -cf - --ignore-failed-read --files-from=- 2>/dev/null"
    )
    listing = _files("gcc", "g++", *PACKAGES[::2]).encode()
    packed = subprocess.run(
        ("sh", "-c", script), input=listing, stdout=subprocess.PIPE, check=True
    ).stdout
    node.run(
        ("tar", "-C", "/", "-xf", "-", "--skip-old-files"),
        user="root",
        input=packed,
        timeout=120,
        check=True,
    )
    node.run(("ldconfig",), user="root", check=True)


def _listens(host: Host, port: str) -> bool:
    return f"{port} ".encode() in host.read("/proc/net/tcp")


def _stop(servers: list[Process]) -> None:
    for server in servers:
        server.send_signal(9, group=True)
        server.close()


@contextmanager
def _distccd(cluster: Cluster, slots: int) -> Iterator[None]:
    servers = []
    for node in cluster.nodes:
        _copy_tools(node)
        node.run(
            # The compilers that distccd may run; distcc spells gcc out.
            (
                "sh",
                "-ec",
                "cd /usr/lib; mkdir -p distcc; cd distcc; for name; do "
                "ln -sf ../../bin/distcc $name; done",
                "sh",
                "gcc",
                "x86_64-linux-gnu-gcc",
            ),
            user="root",
            check=True,
        )
        words = ("distccd", "--no-detach", "--allow", NETWORK, "--jobs", str(slots))
        quiet = subprocess.DEVNULL
        servers.append(node.popen((*words, "--log-stderr"), stdout=quiet, stderr=quiet))
    for node in cluster.nodes:
        wait_until(lambda node=node: _listens(node, DISTCC_PORT), 30, "distccd listens")
    try:
        yield
    finally:
        _stop(servers)


@contextmanager
def distcc(cluster: Cluster, slots: int) -> Iterator[Way]:
    """Offer distcc: home preprocesses everything, and compiles in one slot of its own."""
    hosts = " ".join(["localhost/1", *(f"{node.address}/{slots}" for node in cluster.nodes)])
    with _distccd(cluster, slots):
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
    far = [f"{node.address}/{slots},cpp,lzo" for node in cluster.nodes]
    hosts = " ".join([*far, "localhost/1"])
    with _distccd(cluster, slots):
        yield Way(("distcc-pump",), ("CC=distcc gcc",), {"DISTCC_HOSTS": hosts})


@contextmanager
def icecream(cluster: Cluster, slots: int) -> Iterator[Way]:
    """Offer icecream: a scheduler at home, daemons everywhere, the compiler sent as an archive."""
    home = cluster.home
    home.run(("mkdir", "-p", HOME_ICECC), check=True)
    made = home.run(("icecc", "--build-native"), cwd=HOME_ICECC, timeout=120, check=True).stdout
    (archive,) = (w for w in made.decode().split() if w.endswith(".tar.gz") and "/" not in w)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": "root"}
    servers = [
        home.popen(
            ("icecc-scheduler", "-n", "bench", "-u", "alice", "-l", SCHEDULER_LOG, "-vvv"), **quiet
        )
    ]
    for host in (home, *cluster.nodes):
        if host is not home:
            _copy_tools(host)
        # Debian's start script makes it; the socket of the daemon is in there.
        host.run(("install", "-d", "-o", "alice", "/run/icecc"), user="root", check=True)
        number = 1 if host is home else slots
        words = ("iceccd", "-n", "bench", "-s", home.address, "-m", str(number), "-u", "alice")
        place = ("-b", "/var/tmp/icecc", "-N", host.name, "-l", f"/tmp/iceccd-{host.name}.log")
        servers.append(host.popen((*words, *place), **quiet))
    log_in = len(cluster.nodes) + 1

    def complete() -> bool:
        return home.read(SCHEDULER_LOG).count(b"login ") >= log_in

    try:
        wait_until(complete, 60, "the daemons have logged in")
        yield Way((), ("CC=icecc gcc",), {"ICECC_VERSION": f"{HOME_ICECC}/{archive}"})
    finally:
        _stop(servers)


Peer = Callable[[Cluster, int], "object"]
PEERS = {"distcc": distcc, "distcc pump": pump, "icecream": icecream}
