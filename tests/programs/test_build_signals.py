"""Builds that are interrupted, stopped, timed out, killed, or that fail, as native ones are."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.projects import builds, oracle
from tests.projects.catalog import SMALL

MAKE = ("make", "-j4", "check")


@pytest.fixture
def laid(one_node: Cluster) -> Iterator[Cluster]:
    """Return the cluster with the small project, not built yet; nothing of it must run on."""
    builds.lay(one_node.home, SMALL)
    yield one_node
    await_quiet(one_node)


def compilers(host: Host) -> list[int]:
    """Return the compilers proper that run on a host; not the deputies at home."""
    listed = host.run(("ps", "-C", "cc1", "-o", "pid=,time="), user="root").stdout
    return [int(line.split()[0]) for line in listed.splitlines()]


def await_compiling(cluster: Cluster) -> None:
    """Wait until the build is under way, on a node if it is to spread."""
    hosts = [cluster.home] if builds.natively() else cluster.nodes
    wait_until(lambda: any(compilers(host) for host in hosts), 60, "compilers run")


def await_quiet(cluster: Cluster) -> None:
    """Wait until no program of a build is left anywhere."""
    names = ("make", "cc1", "gcc", "as", "mrun")

    def quiet() -> bool:
        for host in (cluster.home, *cluster.nodes):
            words = {line.split()[0].rpartition("/")[2] for _, line in host.processes("alice")}
            if words & set(names):
                return False
        return True

    wait_until(quiet, 30, "the build is gone")


def assert_finishes_natively(home: Host) -> None:
    """Fail unless a native build, from where the other ended, comes to the same end."""
    home.run(MAKE, cwd=SMALL.directory, check=True, timeout=300)
    assert builds.differences(oracle.native(SMALL).tree, builds.snapshot(home, SMALL)) == []


def read_until(process: Process, word: bytes) -> None:
    """Read from a terminal until a word has come."""
    assert process.stdout is not None
    said = b""
    while word not in said:
        data = process.stdout.read(4096)
        assert data, said
        said += data


def test_ctrl_c_ends_a_build_that_can_be_finished(laid: Cluster) -> None:
    with laid.home.popen((*builds.mrun(), *MAKE), cwd=SMALL.directory, tty=True) as process:
        await_compiling(laid)
        assert process.stdin is not None
        process.stdin.write(b"\x03")
        assert process.wait(30) == -signal.SIGINT
    await_quiet(laid)
    assert_finishes_natively(laid.home)


def test_a_build_that_takes_too_long_is_ended_by_timeout(laid: Cluster) -> None:
    words = ("timeout", "--foreground", "1", *builds.mrun(), *MAKE)
    done = laid.home.run(words, cwd=SMALL.directory, timeout=60)
    assert done.returncode == 124
    await_quiet(laid)
    assert_finishes_natively(laid.home)


def test_sigterm_ends_a_build_that_can_be_finished(laid: Cluster) -> None:
    with laid.home.popen((*builds.mrun(), *MAKE), cwd=SMALL.directory) as process:
        await_compiling(laid)
        process.terminate()
        process.communicate(timeout=30)
        # make has SIGTERM end its children, takes their targets away, and dies of it.
        assert process.returncode == -signal.SIGTERM
    await_quiet(laid)
    assert_finishes_natively(laid.home)


def test_nothing_of_a_build_outlives_mrun(laid: Cluster) -> None:
    if builds.natively():
        return  # make's children do outlive make
    with laid.home.popen((*builds.mrun(), *MAKE), cwd=SMALL.directory) as process:
        await_compiling(laid)
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
    await_quiet(laid)


@pytest.mark.parametrize("options", [("-k", "-j4"), ("-j1",)], ids=["keep-going", "first-error"])
def test_a_build_that_fails_fails_as_it_does_natively(
    laid: Cluster, options: tuple[str, ...]
) -> None:
    home = laid.home
    results = []
    for prefix in ((), builds.mrun()):
        builds.lay(home, SMALL)
        home.write(f"{SMALL.directory}/lib/part07.c", b"#error this part is broken\n")
        words = (*prefix, "make", *options)
        done: subprocess.CompletedProcess[bytes] = home.run(words, cwd=SMALL.directory, timeout=120)
        # With -j4 lines come as the commands happen to end.
        said = sorted(done.stdout.splitlines()), sorted(done.stderr.splitlines())
        results.append((done.returncode, said, builds.snapshot(home, SMALL)))
    assert results[0][0] == 2
    assert results[1] == results[0]
