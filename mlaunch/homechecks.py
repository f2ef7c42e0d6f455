"""What is examined at home: versions, kernel, daemon, limits, export policy, what is kept.

Nothing is started or changed. `examine` forks, so it has to be called before there is a thread.
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import time
from collections.abc import Iterable, Iterator

from mlaunch import __version__, client, exporting
from mlaunch.config import Config
from mlaunch.errors import LaunchError
from mlaunch.findings import BAD, GOOD, NOTE, Finding, size
from mlaunch.placement import HOME
from stubs.abi import ptrace
from stubs.link import runtime
from stubs.wire.version import VERSION

# pidfd_getfd(2) and openat2(2).
OLDEST_KERNEL = (5, 6)

# A build looks into some thousand directories, and each node in use watches its own.
LEAST_WATCHES = 65536
GOOD_WATCHES = 524288
# A link process has one; desktops use some dozens.
SPARE_INSTANCES = 64
GOOD_INSTANCES = 1024
# Of a link process: it keeps files open that bodies use.
LEAST_FILES = 4096


def examine(config: Config) -> list[Finding]:
    """Look at home, as configured."""
    findings = [_versions(), *_packages(), _kernel(), _tracing(), _daemon()]
    findings += [watching(_most("watches"), _most("instances"), len(config.nodes)), _files()]
    return [*findings, *_export(config), *_kept()]


def _finding(check: str, state: str, text: str, remedy: str = "") -> Finding:
    return Finding(HOME, check, state, text, remedy)


def _versions() -> Finding:
    return _finding("mlaunch", GOOD, f"{__version__}, protocol {VERSION}, from {runtime.PACKAGES}")


def _packages() -> Iterator[Finding]:
    """Tell the versions of python and of what we need beside it."""
    from importlib import metadata

    found, missing = [platform.python_version()], []
    for name in ("paramiko", "click", "rich", "psutil"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield _finding("python", GOOD, ", ".join(found))
    for name in missing:
        yield _finding("python", BAD, f"no package {name}", f"python3 -m pip install {name}")


def _kernel() -> Finding:
    release, machine = platform.release(), platform.machine()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    text = f"Linux {release} on {machine}, {len(os.sched_getaffinity(0))} CPUs"
    if machine != "x86_64":
        return _finding("kernel", BAD, text, "only programs for x86_64 can run elsewhere")
    if numbers < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        return _finding("kernel", BAD, text, f"Linux {oldest} or newer is needed")
    return _finding("kernel", GOOD, text)


def _tracing() -> Finding:
    """Trace a child, as mrun does with its program."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
    try:
        ptrace.seize(child, 0)
    except OSError as error:
        text = f"mrun cannot trace programs, so all run at home: {error.strerror}"
        remedy = "as root: sysctl kernel.yama.ptrace_scope=1; in a container allow ptrace(2)"
        return _finding("ptrace", BAD, text, remedy)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(go)
    return _finding("ptrace", GOOD, "programs can be traced")


def _daemon() -> Finding:
    try:
        answer = client.ask_if_running({"do": "status"})
    except LaunchError as error:
        return _finding("daemon", BAD, error.text, error.hint)
    if answer is None:
        return _finding("daemon", GOOD, "does not run; the next mrun starts it")
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(answer["started"]))
    text = f"mlaunch {answer['version']}, protocol {answer['protocol']}, since {since}"
    text += f", {answer['guests']} guests"
    if answer["older"]:
        text += "; older than the sources in place"
        return _finding("daemon", NOTE, text, "it begins anew once nobody needs it")
    return _finding("daemon", GOOD, text)


def watching(watches: int, instances: int, nodes: int) -> Finding:
    """Tell whether the user may watch enough of home: what is not watched is asked for again."""
    text = f"{watches} directories can be watched, by {instances} processes"
    remedies = []
    if watches < LEAST_WATCHES:
        remedies.append(f"fs.inotify.max_user_watches={GOOD_WATCHES}")
    if instances < nodes + SPARE_INSTANCES:
        remedies.append(f"fs.inotify.max_user_instances={GOOD_INSTANCES}")
    if not remedies:
        return _finding("inotify", GOOD, text)
    text += ": few; nodes ask again for what is not watched"
    return _finding("inotify", NOTE, text, "as root: sysctl " + " ".join(remedies))


def _most(what: str) -> int:
    """Return how many inotify watches or instances the user may have, in this user namespace."""
    found = []
    for path in (f"fs/inotify/max_user_{what}", f"user/max_inotify_{what}"):
        with open(f"/proc/sys/{path}") as file:
            found.append(int(file.read()))
    return min(found)


def _files() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return _finding("open files", GOOD, "any number")
    text = f"{hard} for each node's link"
    if hard >= LEAST_FILES:
        return _finding("open files", GOOD, text)
    remedy = "raise the hard limit nofile in /etc/security/limits.conf"
    return _finding("open files", NOTE, f"{text}: files are closed and opened again", remedy)


def _export(config: Config) -> Iterator[Finding]:
    for how, paths in exporting.in_words(config.export):
        yield _finding("export", GOOD, f"{how}: {paths}")
    for mistake in exporting.mistakes(config.export):
        yield _finding("export", NOTE, mistake, f"see [export] in {config.path}")


def _kept() -> Iterator[Finding]:
    """Tell the sizes of what is learned and of what can be had again."""
    for check, directory in (("profiles", runtime.state_dir()), ("cache", runtime.cache_dir())):
        sizes = _sizes(directory)
        text = ", ".join(f"{name} {size(count)}" for name, count in sorted(sizes.items()))
        yield _finding(check, GOOD, f"{text or 'nothing yet'}, in {directory}")
        damaged = [name for name in sizes if ".corrupt-" in name]
        if damaged:
            yield _finding(
                check, NOTE, "a damaged one was set aside", f"rm {_paths(directory, damaged)}"
            )


def _paths(directory: str, names: Iterable[str]) -> str:
    return " ".join(os.path.join(directory, name) for name in names)


def _sizes(directory: str) -> dict[str, int]:
    """Return the sizes of databases in it; a journal counts for its database."""
    sizes: dict[str, int] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if ".sqlite" in entry.name:
                    name = entry.name.removesuffix("-wal").removesuffix("-shm")
                    name = name.removesuffix("-journal").removesuffix(".sqlite")
                    sizes[name] = sizes.get(name, 0) + entry.stat().st_size
    except OSError:
        return {}  # nothing has been kept so far
    return sizes
