"""What a long-lived process of ours does to itself: its name, its signals, its limits."""

from __future__ import annotations

import ctypes
import resource
import signal


def set_name(name: str) -> None:
    """Show as `name` in ps and top: the command's name (15 bytes) and its command line."""
    with open("/proc/self/comm", "w") as file:
        file.write(name[:15])
    # The command line lies where the kernel put it at exec: fields 48 and 49 of proc(5) stat.
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    space = end - start
    # A command line must end in NUL or ps goes on into the environment.
    text = name.encode()[: space - 1]
    ctypes.memmove(start, text + bytes(space - len(text)), space)


def reset_signals() -> None:
    """Undo what was inherited: signals blocked, handled, or ignored for a background job.

    Nothing is ignored instead: bodies on the node `local` would inherit that.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)


def raise_limits() -> None:
    """Take all that the hard limits allow: limits of the shell that started us are not for us."""
    for limit in (
        resource.RLIMIT_NOFILE,
        resource.RLIMIT_CPU,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_DATA,
        resource.RLIMIT_AS,
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))
