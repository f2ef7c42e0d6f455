"""Stops of tracees that machine code answers, and the same without machine code."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernel.mruns import DEADLINE_S, Bed, bed

__all__ = ["bed"]

# Traces a child that starts three of its own, one after the other, then sends itself a signal.
# Another child is not traced, and stops.
TRACER = """
import json, os, select, signal, sys
from stubs.abi import ptrace
from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.signalfd import signalfd
from stubs.abi.tracestops import LOOK, NOTHING, STOP, TraceStops
from stubs.home.run.tracer import WALL, Tracee

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
children = signalfd([signal.SIGCHLD])
ready = select.epoll()
ready.register(children)
other, poke = os.pipe()
ready.register(other, select.EPOLLIN)
go, come = os.pipe()
idle = os.fork()
if idle == 0:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
pid = os.fork()
if pid == 0:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.close(come)
    os.read(go, 1)
    for _ in range(3):
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(7)
Tracee(pid)
stops = TraceStops(children)
if sys.argv[1] == "handed":
    stops.hand_out(pid)
os.write(come, b"x")
handed, ended, noted = [], {}, []
found = NOTHING
while pid not in ended:
    found = stops.wait(ready.fileno(), -1) if found == NOTHING else stops.look()
    noted += stops.take_noted()
    if found == STOP:
        stopped, status = stops.stop()
        handed.append((stopped == pid, status >> 16, os.WSTOPSIG(status)))
        ptrace.cont(stopped, os.WSTOPSIG(status) if status >> 16 == 0 else 0)
    elif found == LOOK:
        end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | WALL)
        if end is not None:
            assert end.si_code == os.CLD_EXITED
            ended[end.si_pid] = end.si_status
os.write(poke, b"x")
for _ in range(3):
    assert stops.wait(ready.fileno(), -1) == NOTHING  # the other is ready, and it returns
os.kill(idle, signal.SIGKILL)
os.waitpid(idle, 0)
print(json.dumps([pid, handed, ended, noted]))
"""


def trace(how: str) -> tuple[int, list[list[int]], dict[str, int], list[list[int]]]:
    command = [sys.executable, "-c", TRACER, how]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    pid, handed, ended, noted = json.loads(done.stdout)
    return pid, handed, ended, noted


FORK, FIRST_STOP = 1, 128
SIGCHLD, SIGUSR1, SIGTRAP = 17, 10, 5


def test_births_are_noted_and_all_else_is_handed_out() -> None:
    pid, handed, ended, noted = trace("answered")
    assert handed == [[True, 0, SIGUSR1]]
    born = [about for who, event, about in noted if (who, event) == (pid, FORK)]
    first = [about for who, event, about in noted if event == FIRST_STOP and who == about]
    assert len(born) == 3
    assert sorted(first) == sorted(born)
    assert ended == {str(pid): 7} | {str(child): 0 for child in born}


def test_of_a_deputy_every_stop_is_handed_out() -> None:
    pid, handed, ended, noted = trace("handed")
    assert handed == [[True, FORK, SIGTRAP], [True, 0, SIGCHLD]] * 3 + [[True, 0, SIGUSR1]]
    assert [who for who, _, _ in noted].count(pid) == 0
    assert len(ended) == 4


SCRIPT = """
trap 'echo usr1' USR1
(kill -USR1 $$; exit 3); echo $?
sleep 0 & sleep 0 & wait; echo waited
(kill -STOP $(exec sh -c 'echo $PPID'); echo went on) & stopped=$!
until grep -q '^State:.[Tt]' /proc/$stopped/status; do :; done
kill -CONT $stopped; wait $stopped; echo $?
i=0; while [ $i -lt 100 ]; do (:); i=$((i + 1)); done | cat
seq 3 | while read x; do echo $(($x * 2)); done
exit 5
"""
REFUSING = """
import sys
from stubs.abi import machinecode
def refuse(code):
    raise PermissionError("nothing may be made executable")
machinecode.load = refuse
from mlaunch.mrun import main
main()
"""


@pytest.mark.parametrize("code", ["with machine code", "without"])
def test_a_tree_does_what_it_does_natively(bed: Bed, code: str) -> None:
    native = subprocess.run(["bash", "-c", SCRIPT], capture_output=True, check=False)
    command = bed.command("bash", "-c", SCRIPT, node="home")
    if code == "without":
        at = command.index("-m")
        command[at : at + 2] = ["-c", REFUSING]
    done = subprocess.run(
        command, capture_output=True, timeout=DEADLINE_S, env=bed.env, check=False
    )
    assert native.returncode == 5, native
    assert (done.returncode, done.stdout, done.stderr) == (5, native.stdout, native.stderr)
    assert os.fsdecode(done.stdout).split()[:3] == ["usr1", "3", "waited"]
