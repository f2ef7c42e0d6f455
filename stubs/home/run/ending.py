"""How mrun stops and ends: as the program did.

The shell looks at mrun, not at the program: it must see the stop, the exit status and the fatal
signal that it would see of the program.
"""

from __future__ import annotations

import os
import resource
import signal

from stubs.abi.prctl import PR_SET_DUMPABLE, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def stop_self(signo: int) -> bool:
    """Stop as by `signo`; return, when continued, True, or at once False if that does not stop us.

    A terminal's stop signals stop nobody in an orphaned process group (setpgid(2)).
    Preconditions: all signals are blocked.
    """
    if signo not in STOP_SIGNALS or signal.getsignal(signo) is not signal.SIG_DFL:
        signo = signal.SIGSTOP
    if signo != signal.SIGSTOP:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signo])
    os.kill(os.getpid(), signo)
    if signo != signal.SIGSTOP:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signo])
    # What continued us is pending, since it is blocked.
    return signal.SIGCONT in signal.sigpending()


def end_as(status: int) -> NoReturn:
    """End as a process did whose wait4(2) status this is; never with a core file of our own."""
    if os.WIFSIGNALED(status):
        signo = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        prctl(PR_SET_DUMPABLE, 0)
        if signo != signal.SIGKILL:
            signal.signal(signo, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signo])
        os.kill(os.getpid(), signo)
        # Only a signal that does not kill by default gets here.
        os._exit(128 + signo)
    os._exit(os.WEXITSTATUS(status))


def exit_status(code: int) -> int:
    """Return the wait4(2) status of a process that exits with `code`."""
    return (code & 0xFF) << 8
