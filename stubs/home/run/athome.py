"""The program at home: mrun becomes it, or has it as a child when a receipt is wanted.

Becoming it is as good as home gets: pid, signals, job control, CPU times and core files are the
program's own, and set-user-ID works, since nobody traces it.
"""

from __future__ import annotations

import os
import signal

from stubs.abi.signalfd import SI_KERNEL, sigset
from stubs.home.run.ending import stop_self
from stubs.home.run.launch import Child, execute, let_go_of_streams
from stubs.home.run.proc import read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from stubs.home.run.launch import Given


def become(argv: list[bytes], given: Given) -> NoReturn:
    """Replace mrun by the program; returns only by raising ExecError."""
    given.restore_dispositions()
    given.restore_mask()
    execute(argv, given.environment)


def run_child(argv: list[bytes], given: Given) -> tuple[int, int, float]:
    """Run the program as a child, and do as it does; return its pid, wait4(2) status, CPU seconds.

    Raises ExecError. Preconditions: all signals are blocked.
    """
    child = Child(argv, given)
    child.release(traced=False)
    failed = child.failure()
    if failed is not None:
        os.waitpid(child.pid, 0)
        raise failed
    let_go_of_streams()
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            _forward(child.pid, signal.sigwaitinfo(signal.valid_signals()))
        elif os.WIFSTOPPED(status):
            if not stop_self(os.WSTOPSIG(status)):
                os.kill(child.pid, signal.SIGCONT)
        else:
            return pid, status, usage.ru_utime + usage.ru_stime


def _forward(pid: int, info: signal.struct_siginfo) -> None:
    """Pass on what was sent to mrun alone.

    What a terminal sends, the program has got by itself. Of a signal sent by kill(2) to the whole
    group nobody can tell any more when the program has dealt with it: it may then come twice.
    """
    signo = info.si_signo
    if signo == signal.SIGCHLD:
        return
    if info.si_code == SI_KERNEL and signo != signal.SIGALRM:
        return
    try:
        status = read_status(pid)
        pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
        if signo == signal.SIGCONT or not pending & sigset([signo]):
            os.kill(pid, signo)
    except OSError:
        return  # it has ended; wait4 will say how
