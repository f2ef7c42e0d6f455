"""A tree: shared memory, zombies, groups, sessions, another executable, one stopped, an orphan."""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable


def born(do: Callable[[], object]) -> int:
    """Fork a child that does something and ends."""
    pid = os.fork()
    if pid == 0:
        do()
        os._exit(0)
    return pid


def compute(data: mmap.mmap, found: mmap.mmap, number: int) -> None:
    """Compute from shared memory into other shared memory."""
    if number == 1:
        os.setpgid(0, 0)
    elif number == 2:
        os.setsid()
    result = 0
    for _ in range(30):
        for at in range(10000):
            result = (result * 31 + at * number + data[at % 1000]) & 0xFFFFFFFF
        time.sleep(0.05)
    found[number * 8 : number * 8 + 4] = result.to_bytes(4, "little")
    groups = (os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid())
    os._exit(number + 1 + 8 * groups[0] + 16 * groups[1])


def leave() -> None:
    """Leave an orphan."""

    def be_orphan() -> None:
        time.sleep(2.2)
        print("orphan", os.getppid() == 1, flush=True)

    born(be_orphan)


def stop() -> None:
    """Stop, and go on when told."""
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(42)


def main() -> None:
    """Make the tree, and tell what became of it."""
    data, found = mmap.mmap(-1, 4 << 20), mmap.mmap(-1, 4096)
    data[:1000] = bytes(at & 255 for at in range(1000))
    exited = born(lambda: os._exit(9))
    killed = born(lambda: os.kill(os.getpid(), signal.SIGTERM))
    workers = [born(lambda number=number: compute(data, found, number)) for number in range(3)]
    sleeper = born(lambda: os.execv("/bin/sleep", ["sleep", "3"]))
    stopped = born(stop)
    os.waitpid(born(leave), 0)
    os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
    print("ready", flush=True)

    def code(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    print("workers", [code(pid) for pid in workers])
    print("memory", found[:24].hex())
    print("zombies", code(exited), code(killed))
    print("stopped", os.WIFSTOPPED(os.waitpid(stopped, os.WUNTRACED)[1]))
    os.kill(stopped, signal.SIGCONT)
    print("continued", code(stopped), "slept", code(sleeper))
    sys.stdout.flush()


main()
