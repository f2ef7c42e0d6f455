"""Programs that are moved while something breaks, and what can be told of them from outside."""

import contextlib
import hashlib
import itertools
import random
import signal
from collections.abc import Iterator

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on

# Writes to all of its memory all the time, so that most of it is sent while it stands still, and
# answers each line with its number and the hash of its memory. A second copy would take lines away,
# or write some of its own to the file.
SCRIPT = """
import hashlib, os, random, select, sys
heap = bytearray(random.Random(int(sys.argv[1])).randbytes(int(sys.argv[2])))
log = open("log-" + sys.argv[1], "ab", buffering=0)
print("begun", os.getpid(), flush=True)
done = 0
while True:
    while not select.select([0], [], [], 0.002)[0]:
        for page in range(0, len(heap), 4096):
            heap[page] = heap[page]
    line = os.read(0, 100)
    if not line:
        break
    done += 1
    log.write(line)
    print(done, line.decode().strip(), hashlib.sha256(heap).hexdigest(), flush=True)
"""

_numbers = itertools.count(1)
_made: list["Journey"] = []


def end_all() -> None:
    """End the programs of a test that has failed."""
    while _made:
        _made.pop().end()


class Journey:
    """One program, and its way from one node to another."""

    def __init__(self, cluster: Cluster, source: str, target: str, heap: int = 1 << 20) -> None:
        self.cluster, self.source, self.target = cluster, source, target
        self.number = next(_numbers)
        self.mark = f"{self.number} {heap}"
        self._hash = hashlib.sha256(random.Random(self.number).randbytes(heap)).hexdigest()
        self._asked: list[bytes] = []
        self._move: Process | None = None
        words = (*on(source), "--stay", "python3", "-c", SCRIPT, *self.mark.split())
        self.process = cluster.home.popen(words, stdin=-1)
        assert self.process.stdout is not None
        begun, pid = self.process.stdout.readline().split()
        _made.append(self)
        assert begun == b"begun"
        self.pid = int(pid)

    def end(self) -> None:
        """End it, and what moves it."""
        for process in (self.process, self._move):
            if process is not None:
                with process:
                    pass

    def ask(self) -> None:
        """Fail unless the program is what it should be."""
        process, word = self.process, b"line %d\n" % len(self._asked)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(word)
        self._asked.append(word)
        answer = f"{len(self._asked)} {word.decode().strip()} {self._hash}\n"
        assert process.stdout.readline().decode() == answer

    def begin(self) -> None:
        """Have it moved."""
        command = ("mlaunch", "migrate", str(self.pid), self.target)
        self._move = self.cluster.home.popen(command)

    def moved(self, timeout: float = 60) -> tuple[int, str]:
        """Return the exit status of `mlaunch migrate`, and what it said."""
        assert self._move is not None
        with self._move as move:
            said = b"".join(move.communicate(timeout=timeout))
            return move.wait(), said.decode()

    def is_over(self) -> bool:
        """Tell whether `mlaunch migrate` has ended."""
        return self._move is not None and self._move.poll() is not None

    def interrupt(self) -> int:
        """Interrupt `mlaunch migrate`, and return how that has ended."""
        assert self._move is not None
        with self._move as move:
            move.send_signal(signal.SIGINT)
            move.communicate(timeout=20)
            return move.wait()

    def copies(self, *hosts: Host) -> list[str]:
        """Return the nodes, of these or all, on which a process of this program is."""
        return [
            host.name
            for host in hosts or self.cluster.nodes
            for _, line in host.processes("alice")
            if line.endswith(self.mark)
        ]

    def is_frozen(self) -> bool:
        """Tell whether it stands still on its source."""
        return "t" in self._states(self.source)

    def _states(self, node: str) -> list[str]:
        seen = self.cluster.node(node).look("alice")
        return [each.state for each in seen if each.words.endswith(self.mark)]

    def assert_lives_on(self, node: str) -> None:
        """Fail unless it runs on that node, and there alone, and has the right result."""
        self.ask()
        wait_until(lambda: self.copies() == [node], 40, f"one copy, on {node}: {self.copies()}")
        assert "t" not in self._states(node)
        self.ask()
        _, said = self.process.communicate(timeout=30)
        assert (self.process.returncode, said) == (0, b"")
        self.process.close()
        log = self.cluster.home.read(f"/home/alice/log-{self.number}")
        assert log == b"".join(self._asked)

    def assert_gone(self) -> None:
        """Fail unless no copy is left."""
        wait_until(lambda: not self.copies(), 40, "no copy is left")

    def assert_lost(self, node: str) -> None:
        """Fail unless mrun has ended with 125 and one line that names the node."""
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 125, said
        assert said.startswith(b"mrun: "), said
        assert node.encode() in said
        assert said.count(b"\n") == 1
        self.process.close()


def pid_of(host: Host, words: str) -> int:
    """Return the pid of a process of ours at home, by how it is called."""
    (pid,) = [pid for pid, line in host.processes("alice") if line.strip().startswith(words)]
    return pid


@contextlib.contextmanager
def stopped(host: Host, *pids: int) -> Iterator[None]:
    """Have processes stand still meanwhile."""
    numbers = [str(pid) for pid in pids]
    host.run(("kill", f"-{signal.SIGSTOP.value}", *numbers), check=True)
    try:
        yield
    finally:
        host.run(("kill", f"-{signal.SIGCONT.value}", *numbers))


def descriptors(host: Host, pid: int) -> int:
    """Return how many a process has."""
    argv = ("sh", "-c", f"ls /proc/{pid}/fd | wc -l")
    return int(host.run(argv, user="root", check=True).stdout)
