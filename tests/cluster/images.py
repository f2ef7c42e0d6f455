"""What is built once and kept: the root file system of a node, and home's Python packages.

Both lie under /var/cache/mlaunch-tests, named after what went into them, readable by everyone
(home's ordinary users run the packages) and never changed once they bear their name.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence

CACHE = "/var/cache/mlaunch-tests"
NODE_PACKAGES = ("python3", "openssh-server", "iproute2", "procps")
# Home's programs are run by ordinary users: an interpreter in root's home directory is no use.
PYTHON = "/usr/bin/python3"
VENV_AT_HOME = "/opt/mlaunch-venv"
SOURCE_AT_HOME = "/opt/mlaunch"
BUILD_VERSION = 1  # add one when what is built changes and its list of packages does not


def _run(argv: Sequence[str]) -> None:
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        sys.stderr.buffer.write(result.stdout[-4000:])
        raise RuntimeError(f"{argv[0]} failed with status {result.returncode}: {' '.join(argv)}")


def built(name: str, inputs: Sequence[str], build: Callable[[str], None]) -> str:
    """Return the directory made by `build` from `inputs`; build it if it is not there yet.

    `name` may have a directory before it; `build` is called with an empty one to fill.
    """
    digest = hashlib.sha256("\0".join([str(BUILD_VERSION), *inputs]).encode()).hexdigest()[:12]
    path = f"{CACHE}/{name}-{digest}"
    if os.path.isdir(path):
        return path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{CACHE}/{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(path):
            print(f"building {path} (once)", file=sys.stderr, flush=True)
            work = tempfile.mkdtemp(prefix=f"{name}.", dir=CACHE)
            try:
                os.chmod(work, 0o755)
                build(work)
                os.rename(work, path)
            except BaseException:
                # Nothing of it may be mounted here: rmtree would follow into the mount.
                with open("/proc/self/mounts") as table:
                    mounted = any(line.split()[1].startswith(work) for line in table)
                if not mounted:
                    shutil.rmtree(work)
                raise
    return path


def suite() -> str:
    """Return the code name of the Debian that this machine runs."""
    with open("/etc/os-release") as file:
        pairs = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    return pairs["VERSION_CODENAME"].strip('"')


def mirror(suite: str) -> str:
    """Return where this machine installs the packages of a suite from."""
    listing = subprocess.run(
        ("apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    for line in listing.splitlines():
        codename, component, address = line.split(maxsplit=2)
        if (codename, component) == (suite, "main"):
            return address
    raise RuntimeError(f"apt has no source for {suite} main; run apt-get update first")


def node_root() -> str:
    """Return the root file system of a node: a minimal Debian, python3 and sshd."""
    name = suite()

    def build(path: str) -> None:
        include = f"--include={','.join(NODE_PACKAGES)}"
        command = ("debootstrap", "--variant=minbase", include, name, path, mirror(name))
        # In a mount namespace of its own, so that what debootstrap mounts goes when it goes.
        _run(("unshare", "--mount", *command))
        for file in os.listdir(f"{path}/etc/ssh"):
            if file.startswith("ssh_host_"):
                os.unlink(f"{path}/etc/ssh/{file}")  # each node gets a key of its own
        shutil.rmtree(f"{path}/var/cache/apt/archives")

    return built("node", (name, *NODE_PACKAGES), build)


def _console_script(module: str, function: str) -> str:
    return (
        f"#!{VENV_AT_HOME}/bin/python3\n"
        "import sys\n"
        f"from {module} import {function}\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit({function}())\n"
    )


def home_venv(checkout: str) -> str:
    """Return a venv like the one of `pip install mlaunch`, but that runs the checkout."""
    with open(f"{checkout}/pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    requirements: list[str] = project["dependencies"]
    scripts: dict[str, str] = project["scripts"]
    version = subprocess.run((PYTHON, "-V"), stdout=subprocess.PIPE, check=True, text=True).stdout

    def build(path: str) -> None:
        _run((PYTHON, "-m", "venv", path))
        _run((f"{path}/bin/python3", "-m", "pip", "install", "-q", *requirements))
        (site,) = (f"{path}/lib/{name}/site-packages" for name in os.listdir(f"{path}/lib"))
        with open(f"{site}/mlaunch.pth", "w") as pth:
            pth.write(f"{SOURCE_AT_HOME}\n")
        for name, entry in scripts.items():
            module, function = entry.split(":")
            with open(f"{path}/bin/{name}", "w") as script:
                script.write(_console_script(module, function))
            os.chmod(f"{path}/bin/{name}", 0o755)

    return built("venv", (version, *requirements, *scripts, *scripts.values()), build)


def compile_source(checkout: str) -> None:
    """Write the byte code of mlaunch and stubs, which the users at home could not write.

    Without it each `mrun` would compile every module that it imports, on every start.
    """
    for package in ("mlaunch", "stubs"):
        # A file with a syntax error is not ours to report: who runs it will be told.
        subprocess.run(
            (PYTHON, "-m", "compileall", "-q", f"{checkout}/{package}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
