"""A node, or a process of ours, is lost while a program runs there."""

import signal
import subprocess
import time
from collections.abc import Callable

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes, on

# What a lost node may cost at most, until mrun has ended; seconds.
NOTICE = 10.0

COUNT = (
    "python3",
    "-uc",
    "import itertools, time\nfor n in itertools.count(): print(n); time.sleep(0.02)",
)
# Writes to a file of its own as well, so that something is under way to home at any time.
WRITE = (
    "sh",
    "-c",
    "i=0; while :; do echo $i; head -c 100000 /dev/zero >> written; i=$((i + 1)); done",
)


def start(cluster: Cluster, program: tuple[str, ...], node: str = "n1") -> Process:
    process = cluster.home.popen((*on(node), *program))
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"
    assert process.stdout.readline() == b"1\n"
    return process


def assert_told(process: Process, node: str = "n1", timeout: float = NOTICE) -> None:
    """Fail unless mrun ends with 125 and one line that names the node."""
    _, said = process.communicate(timeout=timeout)
    assert process.returncode == 125
    assert said.startswith(b"mrun: ")
    assert node.encode() in said
    assert said.count(b"\n") == 1


def assert_works_again(cluster: Cluster, node: str = "n1") -> None:
    home = cluster.home

    def runs() -> bool:
        return home.run((*on(node), "true")).returncode == 0

    wait_until(runs, 60, f"{node} is used again")


def pids(host: Host, words: str) -> list[int]:
    return [pid for pid, line in host.processes("alice") if words in line]


def test_mrun_ends_and_says_so_when_its_node_is_lost(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=4, cpu=0.6)  # most of them only wait
    faults = {"n1": "kill", "n2": "crash", "n3": "cut", "n4": "freeze"}
    add_nodes(cluster.home, *faults)
    traces = Traces(cluster)
    # A program that waits for our file system cannot be frozen: that is a state of the kernel's.
    programs = [(name, COUNT) for name in faults] + [(name, WRITE) for name in ("n1", "n2", "n3")]
    running = [(name, start(cluster, program, name)) for name, program in programs]
    for name, fault in faults.items():
        getattr(cluster.node(name), fault)()
    deadline = time.monotonic() + NOTICE
    for name, process in running:
        assert_told(process, name, deadline - time.monotonic())
        process.close()
    cluster.repair()
    for name in faults:
        assert_works_again(cluster, name)
    traces.assert_gone()


def test_a_short_break_of_the_link_harms_nobody(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        assert process.stdout is not None
        pair.node("n1").cut()
        pair.node("n1").heal()
        for number in range(2, 100):
            assert process.stdout.readline() == b"%d\n" % number
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def test_mrun_can_be_killed_while_its_node_is_silent(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        pair.node("n1").cut()
        process.kill()
        assert process.wait(5) == -signal.SIGKILL


def test_other_nodes_are_not_disturbed(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=2)
    add_nodes(cluster.home, "n1", "n2")
    count = cluster.home.popen((*on("n2"), *COUNT))
    with count, start(cluster, COUNT) as process:
        assert count.stdout is not None
        cluster.node("n1").kill()
        assert_told(process)
        seen = [count.stdout.readline() for _ in range(100)]
        assert seen == [b"%d\n" % number for number in range(100)]
        assert count.poll() is None
        count.terminate()
        assert count.wait(20) == -signal.SIGTERM


def test_a_lost_link_process_ends_mrun_and_the_next_one_works(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        (link,) = pids(pair.home, "mlaunch: link n1")
        pair.home.run(("kill", "-9", str(link)), check=True)
        assert_told(process)
    assert_works_again(pair)


def test_a_lost_agent_ends_mrun_and_the_next_one_works(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        # Whatever of ours runs there but the program itself and what sshd started for us.
        ours = [
            pid
            for pid, line in pair.node("n1").processes("alice")
            if "sshd" not in line and "itertools" not in line
        ]
        assert ours
        # Not checked: one of them may just have ended, that which measures the speed of the CPU.
        pair.node("n1").run(("kill", "-9", *map(str, ours)), user="root")
        assert_told(process)
    assert_works_again(pair)


def test_an_agent_killed_amid_changes_leaves_nobody_waiting(pair: Cluster) -> None:
    # From both sides in one directory: the agent is telling its kernel of home's changes, which
    # takes the locks of those who wait for its answers.
    home, node = pair.home, pair.node("n1")
    home.run(("mkdir", "-p", "busy"), check=True)
    change = "cd busy; while :; do for i in 1 2 3 4; do echo > {0}$i; rm -f {1}$i; done; done"
    for _ in range(4):
        with (
            start(pair, ("sh", "-c", "echo 0; echo 1; " + change.format("a", "b"))) as here,
            home.popen(("sh", "-c", change.format("b", "a"))) as there,
        ):
            wait_until(lambda: home.run(("sh", "-c", "ls busy/a*")).returncode == 0, 20)
            # The eldest of that name; the others are pid 1 of its capsule and ghosts.
            node.run(("pkill", "-9", "-o", "-x", "mlaunch: agent"), user="root", check=True)
            assert_told(here)
            there.kill()
        wait_until(lambda: not node.processes("alice"), 40, "nobody waits on the node")


def test_a_lost_daemon_costs_no_running_program(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        (daemon,) = pids(pair.home, "mlaunch: daemon")
        pair.home.run(("kill", "-9", str(daemon)), check=True)
        wait_until(lambda: daemon not in pids(pair.home, "mlaunch"), 20)
        assert_works_again(pair)
        # Either it goes on or it says why it does not; it neither hangs nor vanishes.
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert process.returncode in (-signal.SIGTERM, 125)
        assert bool(said) == (process.returncode == 125)


def test_a_stopped_daemon_lets_a_running_program_end(pair: Cluster) -> None:
    with start(pair, COUNT) as process:
        pair.home.run(("mlaunch", "daemon", "stop"), check=True, timeout=20)
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def test_a_node_lost_between_two_programs_is_used_again(pair: Cluster) -> None:
    assert_works_again(pair)
    pair.node("n1").reboot()
    assert_works_again(pair)


def test_many_programs_are_told_of_one_lost_node(pair: Cluster) -> None:
    running = [start(pair, COUNT) for _ in range(4)]
    pair.node("n1").kill()
    for process in running:
        assert_told(process)
        process.close()


def test_what_a_program_said_before_its_node_was_lost_has_arrived(pair: Cluster) -> None:
    program = ("sh", "-c", "echo 0; echo 1; echo data > file; echo written; exec sleep 1000")
    with start(pair, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        pair.node("n1").kill()
        assert_told(process)
        assert pair.home.read("/home/alice/file") == b"data\n"


def test_a_pipeline_ends_when_the_node_of_its_middle_is_lost(pair: Cluster) -> None:
    words = " ".join(on("n1"))
    script = f"yes | {words} sh -c 'echo 0; echo 1; exec cat > /dev/null' | cat; echo $PIPESTATUS"
    with pair.home.popen(
        ("bash", "-c", script.replace("$PIPESTATUS", "${PIPESTATUS[1]}")), stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        pair.node("n1").kill()
        rest, _ = process.communicate(timeout=NOTICE)
        assert rest.endswith(b"125\n")
