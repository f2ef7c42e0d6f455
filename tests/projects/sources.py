"""Sources of real projects, as Debian's archive has them, unpacked once and kept.

The machine's own package lists stay as they are: apt is given lists and a cache of its own.
"""

import glob
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence

from tests.cluster import images

KERNEL_ARCHIVE = "/usr/src/linux-source-6.1.tar.xz"

# What no configuration of these tests compiles: two thirds of the kernel's million lines. The
# files that describe a build stay everywhere, and so does what drivers/ has for every machine.
UNUSED = ("Documentation", "samples", "rust", "sound", "net", "tools/testing", "tools/perf")
UNUSED_DRIVERS = (
    "clk",
    "gpu",
    "hid",
    "hwmon",
    "iio",
    "infiniband",
    "input",
    "isdn",
    "md",
    "media",
    "misc",
    "mtd",
    "net",
    "nvme",
    "pinctrl",
    "scsi",
    "soc",
    "staging",
    "usb",
    "video",
)
DESCRIBES_A_BUILD = ("Kconfig*", "Makefile*", "Kbuild*")


def _run(argv: Sequence[str], cwd: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def _unpack(archive: str, path: str) -> None:
    _run(("tar", "-xf", archive, "-C", path, "--strip-components=1", "--no-same-owner"), "/")


def _download(package: str, into: str) -> str:
    """Download a source package's upstream archive; return its path."""
    suite = images.suite()
    with open(f"{into}/sources.list", "w") as file:
        file.write(f"deb-src {images.mirror(suite)} {suite} main\n")
    for name in ("lists/partial", "cache/archives/partial"):
        os.makedirs(f"{into}/{name}")
    settings = {
        "Dir::Etc::sourcelist": f"{into}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": f"{into}/lists",
        "Dir::Cache": f"{into}/cache",
        "APT::Sandbox::User": "root",  # the directory is nobody else's
    }
    apt = [
        "apt-get",
        "-q",
        *(word for key in settings for word in ("-o", f"{key}={settings[key]}")),
    ]
    _run((*apt, "update"), into)
    _run((*apt, "source", "--download-only", package), into)
    (archive,) = glob.glob(f"{glob.escape(into)}/*.orig.tar.?z")
    return archive


def debian_source(package: str) -> str:
    """Return the directory with a package's upstream source, without Debian's changes."""

    def build(path: str) -> None:
        with tempfile.TemporaryDirectory(prefix="mlaunch-source-") as folder:
            _unpack(_download(package, folder), path)

    return images.built(f"projects/{package}", (package, images.suite()), build)


def _prune(path: str) -> None:
    """Delete what is not compiled: a test copies the tree, and the copy is in memory."""
    folders = [*UNUSED, *(f"drivers/{name}" for name in UNUSED_DRIVERS)]
    architectures = sorted(os.listdir(f"{path}/arch"))
    folders += [f"arch/{name}" for name in architectures if name not in ("x86", "Kconfig")]
    kept = [word for name in DESCRIBES_A_BUILD for word in ("!", "-name", name)]
    _run(("find", *folders, "-type", "f", *kept, "-delete"), path)
    _run(("find", ".", "-type", "d", "-empty", "-delete"), path)


def kernel_source() -> str:
    """Return the directory of a Linux kernel with the configuration "tinyconfig"."""
    with open("/var/lib/dpkg/info/linux-source-6.1.md5sums") as file:
        version = file.read()

    def build(path: str) -> None:
        _unpack(KERNEL_ARCHIVE, path)
        _prune(path)
        with tempfile.TemporaryDirectory(prefix="mlaunch-config-") as folder:
            _run(("make", "-s", f"O={folder}", "tinyconfig"), path)
            with open(f"{folder}/.config") as file, open(f"{path}/.config", "w") as copy:
                copy.write(file.read())

    return images.built("projects/linux", (version, *UNUSED, *UNUSED_DRIVERS), build)


def python_with(*packages: str) -> str:
    """Return a venv of the system's python3 with packages of the Python index."""

    def build(path: str) -> None:
        _run((images.PYTHON, "-m", "venv", path), "/")
        _run((f"{path}/bin/python3", "-m", "pip", "install", "-q", *packages), "/")

    return images.built("projects/python", packages, build)


def written(name: str, inputs: Sequence[str], write: Callable[[str], None]) -> str:
    """Return the directory that `write` fills with a project of our own."""
    return images.built(f"projects/{name}", inputs, write)
