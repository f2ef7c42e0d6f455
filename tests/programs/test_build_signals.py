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


def test_ctrl_z_stops_a_build_everywhere_and_fg_lets_it_go_on(laid: Cluster) -> None:
    shell = ("bash", "--norc", "--noprofile", "-i")
    command = " ".join((*builds.mrun(), *MAKE))
    with laid.home.popen(shell, cwd=SMALL.directory, tty=True) as process:
        assert process.stdin is not None
        process.stdin.write(f"{command} > log 2>&1\n".encode())
        await_compiling(laid)
        for _ in range(2):
            process.stdin.write(b"\x1a")
            read_until(process, b"Stopped")
            for host in (laid.home, *laid.nodes):
                wait_until(lambda host=host: all_stopped(host, "cc1"), 20, "all is stopped")
            process.stdin.write(b"fg\n")
            # The key is for the build once that has the terminal, and goes on.
            wait_until(lambda: not any_stopped(laid.home, "make"), 20, "make goes on")
        # Typed ahead: it is for the shell, and no compiler may take it.
        process.stdin.write(b"echo ended=$?\n")
        read_until(process, b"ended=0")
        process.stdin.write(b"rm log; exit\n")
        read_until(process, b"exit")
        process.wait(20)
    native = oracle.native(SMALL).tree
    assert builds.differences(native, builds.snapshot(laid.home, SMALL)) == []


def states(host: Host, name: str) -> list[bytes]:
    """Return the states of all processes of that name on a host, as ps(1) tells them."""
    return host.run(("ps", "-C", name, "-o", "stat="), user="root").stdout.split()


def all_stopped(host: Host, name: str) -> bool:
    """Tell whether every such process on a host is stopped."""
    return all(state.startswith((b"T", b"t", b"Z")) for state in states(host, name))


def any_stopped(host: Host, name: str) -> bool:
    """Tell whether one of them is."""
    return any(state.startswith((b"T", b"t")) for state in states(host, name))


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
