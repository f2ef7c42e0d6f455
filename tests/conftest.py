"""Fixtures: the cluster that most tests share, clusters of one's own, and the search for leaks.

pytest runs on the machine as root; what is tested runs inside the cluster, by `Host.run`. With
MLAUNCH_TEST_STRICT=1 a skipped test is a failed one: where the tests are meant to count, nothing
that they need may be missing.
"""

import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.cgroup import clusters_with_groups
from tests.cluster.spec import STATE_ROOT

SESSION = f"t{os.getpid()}"
MARK = "MLAUNCH_TEST_SESSION"

# Seconds; the longest takes a quarter of this on two idle cores.
LONGEST_TEST = 600

Report = pytest.TestReport | pytest.CollectReport


def _fail_if_skipped(report: Report) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("MLAUNCH_TEST_STRICT"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which MLAUNCH_TEST_STRICT forbids: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def pytest_configure() -> None:
    """Ignore no signal that a shell, or nohup, has those ignore whom it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"a test took more than {LONGEST_TEST} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Let no test wait for ever: what it waits for has died, say."""
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LONGEST_TEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """Undo what a file service in the test's own process needs: a umask of 0."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _marked_processes() -> list[str]:
    """Return what this session has started, directly or not, and what still runs."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended, or is another user's in a sandbox of its own
        if f"{MARK}={SESSION}".encode() in environment:
            found.append(f"{entry.name} {words}")
    return found


def _mounts() -> set[str]:
    """Return those of this machine's mounts that could be of our making."""
    with open("/proc/self/mounts") as table:
        rows = [line.split() for line in table]
    kinds = ("fuse", "overlay", "nsfs")
    return {f"{row[2]} on {row[1]}" for row in rows if row[2].startswith(kinds)}


@pytest.fixture(scope="session", autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail the session if a process, mount, cgroup or state directory is left when it ends."""
    os.environ[MARK] = SESSION
    before = _mounts()
    yield
    states = os.listdir(STATE_ROOT) if os.path.isdir(STATE_ROOT) else []
    left = {
        "processes": _marked_processes(),
        "mounts": sorted(_mounts() - before),
        "cgroups": [n for n in clusters_with_groups() if n.startswith(f"mlaunch-{SESSION}")],
        "state": [n for n in states if n.startswith(SESSION)],
    }
    assert not any(left.values()), f"left behind: {left}"


def _need_root() -> None:
    if os.geteuid():
        pytest.skip("a test cluster needs root")


@pytest.fixture(scope="session")
def _shared_cluster(_no_leaks: None) -> Iterator[Cluster]:
    _need_root()
    # More than their fair shares: nearly all these tests do one thing at a time.
    with Cluster(SESSION, nodes=2, cpu=0.9) as cluster:
        yield cluster


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """Return a cluster with two nodes, shared by all tests; faults and settings are undone."""
    yield _shared_cluster
    _shared_cluster.repair()


@pytest.fixture
def home(cluster: Cluster) -> Host:
    """Return the shared cluster's home."""
    return cluster.home


_numbers = itertools.count(1)


@pytest.fixture
def make_cluster(_no_leaks: None) -> Iterator[Callable[..., Cluster]]:
    """Return `make(nodes=…, cpu=…)`, which brings up a cluster for one test alone."""
    _need_root()
    made: list[Cluster] = []

    def make(nodes: int = 1, cpu: dict[str, float] | float | None = None) -> Cluster:
        cluster = Cluster(f"{SESSION}-{next(_numbers)}", nodes, cpu)
        made.append(cluster)
        cluster.up()
        return cluster

    yield make
    for cluster in made:
        cluster.down()


@pytest.fixture
def work(home: Host) -> Iterator[str]:
    """Return a directory of alice's at home, for one test alone."""
    path = f"/home/alice/work-{next(_numbers)}"
    home.run(("mkdir", path), check=True)
    yield path
    home.run(("rm", "-rf", path), user="root", check=True)
