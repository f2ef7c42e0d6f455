"""How a program ends, how mrun ends, and how signals get from the one to the other."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.programs.binaries import BIN
from tests.programs.nodes import on

# Runs at home: starts each command line of a list, three at a time, and prints the wait statuses.
STATUSES = r"""
import collections, json, os, resource, signal, sys
commands, cores = json.loads(sys.argv[1]), json.loads(sys.argv[2])
default = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard if cores else 0, hard))
base = os.getcwd()
null = os.open("/dev/null", os.O_RDWR)
waiting, running = collections.deque(enumerate(commands)), {}
found = [None] * len(commands)
while waiting or running:
    while waiting and len(running) < 3:
        number, argv = waiting.popleft()
        # A directory for each: cores of the same name would get in each other's way.
        os.makedirs(f"{base}/{number}", exist_ok=True)
        os.chdir(f"{base}/{number}")
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsigdef=default)
        running[pid] = number
    pid, status = os.wait()
    found[running.pop(pid)] = status
print(json.dumps(found))
"""

# What may be sent to a program and does not end it by default.
HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}
FATAL = [number for number in sorted(signal.valid_signals()) if number not in HARMLESS]

# Tells each signal that it gets, until SIGUSR2.
LISTENER = r"""
import os, signal, sys
for number in map(int, sys.argv[1:]):
    signal.signal(number, lambda number, frame: print(signal.Signals(number).name, flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""


def statuses(home: Host, work: str, commands: list[list[str]], *, cores: bool) -> list[int]:
    argv = ("/usr/bin/python3", "-c", STATUSES, json.dumps(commands), json.dumps(cores))
    found: list[int] = json.loads(home.run(argv, cwd=work, check=True, timeout=300).stdout)
    return found


def readline(process: Process) -> bytes:
    """Read one line of a process that was started with its output in a pipe."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def listener(ready_home: Host) -> Iterator[Process]:
    numbers = [
        "SIGTERM",
        "SIGINT",
        "SIGHUP",
        "SIGUSR1",
        "SIGQUIT",
        "SIGWINCH",
        "SIGALRM",
        "SIGCONT",
    ]
    given = [str(int(signal.Signals[name])) for name in numbers]
    with ready_home.popen((*on("n1"), "python3", "-c", LISTENER, *given)) as process:
        assert readline(process) == b"ready\n"
        yield process


def state(host: Host, pid: int) -> str:
    """Return the letter that the kernel shows for the state of a process."""
    return host.read(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()[0]


def running(host: Host, words: str) -> list[tuple[int, str]]:
    return [found for found in host.processes() if words in found[1]]


def test_every_exit_status_arrives(ready_home: Host, work: str) -> None:
    commands = [[*on("n1"), "sh", "-c", f"exit {code}"] for code in range(256)]
    found = statuses(ready_home, work, commands, cores=False)
    assert [os.waitstatus_to_exitcode(status) for status in found] == list(range(256))


@pytest.mark.parametrize("cores", [False, True], ids=["without-core", "with-core"])
def test_mrun_dies_by_the_signal_that_killed_the_program(
    ready_home: Host, work: str, cores: bool
) -> None:
    commands = [[f"{BIN}/die", str(int(number))] for number in FATAL]
    native = statuses(ready_home, work, commands, cores=cores)
    assert [os.WTERMSIG(status) for status in native] == FATAL
    remote = [[*on("n1"), *command] for command in commands]
    assert statuses(ready_home, work, remote, cores=cores) == native


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT", "WINCH", "ALRM", "CONT"])
def test_a_signal_sent_to_mrun_reaches_the_program(listener: Process, name: str) -> None:
    listener.send_signal(signal.Signals[f"SIG{name}"])
    assert readline(listener) == f"SIG{name}\n".encode()
    assert listener.poll() is None


def test_signals_sent_to_mrun_keep_their_number(listener: Process) -> None:
    for _ in range(5):
        listener.send_signal(signal.SIGUSR1)
        assert readline(listener) == b"SIGUSR1\n"
        listener.send_signal(signal.SIGTERM)
        assert readline(listener) == b"SIGTERM\n"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT", "ALRM", "SEGV", "RTMIN"])
def test_a_fatal_signal_sent_to_mrun_ends_both(ready_home: Host, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    with ready_home.popen((*on("n1"), "sh", "-c", "ulimit -c 0; echo ready; exec sleep 9876")) as p:
        assert readline(p) == b"ready\n"
        p.send_signal(number)
        assert p.wait(20) == -number


def test_a_program_stops_and_goes_on_with_mrun(cluster: Cluster, ready_home: Host) -> None:
    node = cluster.node("n1")
    # A group without a parent in its session does not heed SIGTSTP: mrun is a job of this shell.
    shell = ("bash", "-c", 'set -m; "$@" & echo $!; read line', "bash")
    sleep = (*on("n1"), "sleep", "8765")
    with ready_home.popen((*shell, *sleep), stdin=subprocess.PIPE) as process:
        mrun = int(readline(process))
        wait_until(lambda: running(node, "sleep 8765"), 20)
        (body,) = [pid for pid, words in node.processes() if words == "sleep 8765"]
        ready_home.run(("kill", "-TSTP", str(mrun)), check=True)
        wait_until(lambda: state(node, body) == "T", 20, "the body stops")
        wait_until(lambda: state(ready_home, mrun) == "T", 20, "mrun stops")
        ready_home.run(("kill", "-CONT", str(mrun)), check=True)
        wait_until(lambda: state(node, body) == "S", 20, "the body goes on")
        wait_until(lambda: state(ready_home, mrun) == "S", 20, "mrun goes on")
        ready_home.run(("kill", str(mrun)), check=True)
        wait_until(lambda: not running(node, "sleep 8765"), 20, "the node is empty")


def test_a_program_that_stops_itself_stops_mrun(ready_home: Host) -> None:
    script = "echo ready; kill -STOP $$; echo again; exit 6"
    with ready_home.popen((*on("n1"), "sh", "-c", script)) as process:
        assert readline(process) == b"ready\n"
        wait_until(lambda: state(ready_home, process.pid) == "T", 20, "mrun stops")
        process.send_signal(signal.SIGCONT)
        assert readline(process) == b"again\n"
        assert process.wait(20) == 6


def test_nothing_of_a_program_is_left_when_mrun_is_killed(
    cluster: Cluster, ready_home: Host
) -> None:
    script = """
        trap '' TERM HUP INT
        sleep 7654 & (setsid sleep 7654 &) & sh -c 'trap "" TERM; sleep 7654; echo 7654' &
        echo ready; wait; sleep 7654"""
    node = cluster.node("n1")
    with ready_home.popen((*on("n1"), "bash", "-c", script)) as process:
        assert readline(process) == b"ready\n"
        wait_until(lambda: len(running(node, "7654")) >= 4, 20, "all of it runs")
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not running(node, "7654"), 20, "the node is empty")
        wait_until(lambda: not running(ready_home, "7654"), 20, "home is empty")


def test_nothing_of_a_program_is_left_when_the_process_group_is_killed(
    cluster: Cluster, ready_home: Host
) -> None:
    node = cluster.node("n1")
    with ready_home.popen((*on("n1"), "sh", "-c", "echo ready; sleep 6543; true")) as process:
        assert readline(process) == b"ready\n"
        process.send_signal(signal.SIGKILL, group=True)
        assert process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not running(node, "6543"), 20, "the node is empty")
        wait_until(lambda: not running(ready_home, "6543"), 20, "home is empty")


def test_killing_the_deputy_kills_the_program(cluster: Cluster, ready_home: Host) -> None:
    with ready_home.popen((*on("n1"), "sh", "-c", "echo $$; exec sleep 5432")) as process:
        deputy = readline(process).decode().strip()
        wait_until(lambda: running(cluster.node("n1"), "sleep 5432"), 20)
        ready_home.run(("kill", "-9", deputy), check=True)
        assert process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not running(cluster.node("n1"), "sleep 5432"), 20, "the node is empty")


def test_a_stopped_mrun_can_be_killed(cluster: Cluster, ready_home: Host) -> None:
    with ready_home.popen((*on("n1"), "sh", "-c", "echo ready; exec sleep 4321")) as process:
        assert readline(process) == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(ready_home, process.pid) == "T", 20, "mrun stops")
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not running(cluster.node("n1"), "4321"), 20, "the node is empty")


def test_home_shows_the_program_under_its_own_name(ready_home: Host) -> None:
    script = "echo $$ $PPID; ps -o pid=,pgid=,sid=,args= -p $$; exec sleep 3210"
    with ready_home.popen((*on("n1"), "sh", "-c", script), stderr=subprocess.STDOUT) as process:
        pid, parent = readline(process).split()
        there = readline(process).split(None, 3)
        shown = ready_home.run(("ps", "-o", "pid=,pgid=,sid=,args=", "-p", pid)).stdout
        ppid = ready_home.run(("ps", "-o", "ppid=", "-p", pid)).stdout.strip()
        assert there == shown.split(None, 3)
        assert parent == ppid == str(process.pid).encode()
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
