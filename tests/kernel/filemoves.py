"""Moves the open files of small programs, as an ordinary user: `python -m tests.kernel.filemoves`.

A scenario is set up in a process, which forks until there is one for each check. They stop, their
open files are collected and go through the bytes of an image, and the processes are killed. Then
they are opened again, for new processes with the same pids, in each of which one check runs.
That is what a capsule can do, so this runs as the first process of a user and a pid namespace.
"""

import ctypes
import fcntl
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

from stubs.abi.pidfd import pidfd_getfd, pidfd_open
from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import clone_with_pid
from stubs.migration.files import Opened, Opens, Unmovable
from stubs.migration.image import FORMAT, Image, Process

_syscall = ctypes.CDLL(None, use_errno=True)["syscall"]
_syscall.restype = ctypes.c_long

_HIGH = 500  # where descriptors wait until they are put in their places


class Scenario(NamedTuple):
    """`make` sets up; `part` is what each process does after the forks; `checks` one for each."""

    make: Callable[[], None]
    checks: list[Callable[[], None]]
    part: Callable[[int], None] = lambda number: None
    outside: Callable[[], dict[bytes, int]] = dict  # link -> descriptor of the mover


def start(scenario: Scenario) -> list[int]:
    """Return the processes of a scenario, all stopped."""
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(reading)
        _run(lambda: _become(scenario, writing))
    os.close(writing)
    with open(reading) as file:
        pids = [first, *map(int, file.read().split())]
    for pid in pids:
        _wait_stopped(pid)
    return pids


def _become(scenario: Scenario, writing: int) -> None:
    scenario.make()
    number = 0
    for each in range(1, len(scenario.checks)):
        pid = os.fork()
        if pid == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            number = each
            break
        os.write(writing, b"%d\n" % pid)
    scenario.part(number)
    os.close(writing)
    # What the mover has there is no business of the scenario.
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    os.kill(os.getpid(), signal.SIGSTOP)
    signal.pause()


def _wait_stopped(pid: int) -> None:
    while True:
        with open(f"/proc/{pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
        if state == "T":
            return
        if state == "Z":
            raise ChildProcessError(f"{pid} has ended")
        os.sched_yield()


def image_of(opens: Opens, pids: list[int]) -> Image:
    """Return what was collected, as it comes out of its bytes; nothing else of an image."""
    processes = []
    for pid in pids:
        process = Process.__new__(Process)  # no test here needs its other fields
        numbers = [int(number) for each in opens.descriptors(pid) for number in each]
        process.__dict__.update(pid=pid, descriptors=numbers)
        processes.append(process)
    image = Image(
        format=FORMAT,
        release=b"",
        cpu_flags=b"",
        vdso=b"",
        vdso_parts=[],
        processes=[],
        opens=[file.encode() for file in opens.opens],
        shared=[shared.encode() for shared in opens.shared],
        clocks=[],
    )
    image = Image.decode(image.encode())
    image.__dict__["processes"] = processes
    return image


def end(pids: list[int]) -> None:
    """Kill the processes of a scenario; when the first has gone the others are our children."""
    for pid in pids[::-1]:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def restore(scenario: Scenario, image: Image, outside: dict[int, int]) -> None:
    """Run the checks in processes that have the open files; AssertionError when one fails."""
    opened = Opened(image, outside, [])
    ready, taken, go = os.pipe(), os.pipe(), os.pipe()
    numbers = os.memfd_create("numbers")  # of our descriptors, by index

    def begin(process: Process, check: Callable[[], None]) -> None:
        for pipe in (ready, go):
            os.close(pipe[1])
        os.read(ready[0], 1)
        fds = _take(process, numbers)
        os.write(taken[1], b"x")
        os.read(go[0], 1)
        _place(process, fds)
        for number, *arguments in opened.calls_after(process):
            if _syscall(number, *arguments) < 0:
                raise OSError(ctypes.get_errno(), f"system call {number}")
        check()
        os._exit(0)

    for process, check in zip(image.processes, scenario.checks, strict=True):
        if clone_with_pid(process.pid) == 0:  # type: ignore[attr-defined]
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            _run(lambda process=process, check=check: begin(process, check))  # type: ignore[misc]
    opened.seal()
    for index in range(len(image.opens)):
        os.pwrite(numbers, struct.pack("=i", opened.fd(index)), 4 * index)
    os.close(ready[1])
    for _ in image.processes:
        os.read(taken[0], 1)
    opened.close()
    os.close(go[1])
    statuses = [os.wait()[1] for _ in image.processes]
    assert statuses == [0] * len(statuses), statuses


def _take(process: Process, numbers: int) -> dict[int, int]:
    """Return the open files of a process, by index, in our hands (as SCM_RIGHTS would)."""
    mover = pidfd_open(os.getppid())
    found = {}
    for index in set(process.descriptors[1::3]):
        (fd,) = struct.unpack("=i", os.pread(numbers, 4, 4 * index))
        found[index] = pidfd_getfd(mover, fd)
    return found


def _place(process: Process, fds: dict[int, int]) -> None:
    high = {index: fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for index, fd in fds.items()}
    os.closerange(3, _HIGH)
    wanted = process.descriptors
    for at in range(0, len(wanted), 3):
        number, index, cloexec = wanted[at : at + 3]
        if number <= 2:
            continue  # a check has something to say if it fails
        os.dup2(high[index], number, inheritable=not cloexec)
    os.closerange(_HIGH, _HIGH + 2 * len(high))


def _run(body: Callable[[], None]) -> None:
    try:
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def move(scenario: Scenario) -> None:
    """Do it all."""
    outside = scenario.outside()
    keys = {text: key for key, text in enumerate(outside)}
    pids = start(scenario)
    try:
        opens = Opens(pids, keys)
        image = image_of(opens, pids)
    finally:
        end(pids)
    for path in [shared.path for shared in opens.shared if shared.path]:
        os.unlink(path)
    restore(scenario, image, {keys[text]: fd for text, fd in outside.items()})


def refused(scenario: Scenario) -> str:
    """Return the name of the reason why the files of a scenario cannot be moved."""
    pids = start(scenario)
    try:
        Opens(pids, {})
    except Unmovable as error:
        print(error, file=sys.stderr)
        return error.reason.name
    finally:
        end(pids)
    return "nothing"


def main() -> None:
    """Move the scenario that is named, in the directory that is named."""
    from tests.kernel import filescenarios

    what, name, directory = sys.argv[1:]
    os.chdir(directory)
    if what == "move":
        move(filescenarios.MOVED[name])
    else:
        found = refused(filescenarios.REFUSED[name][0])
        assert found == filescenarios.REFUSED[name][1], found


if __name__ == "__main__":
    main()
