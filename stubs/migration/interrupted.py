"""System calls that were interrupted by a stop, set to be made again elsewhere.

The kernel does that itself for a thread that stays (signal(7), "Interruption of system calls by
stop signals"), with what it keeps of the call; elsewhere the registers must say it. What a program
would see of a signal with a handler, that came at the same time, is kept.
"""

from __future__ import annotations

import struct

from stubs.abi import x86_64 as nr
from stubs.abi.mman import PAGE_SIZE

EINTR = -4
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = -512, -513, -514, -516

# orig_rax of a thread that is in no call.
NO_CALL = 0xFFFFFFFFFFFFFFFF

# Calls that a stop ends with EINTR. To make them again is what the program would want.
_ENDED_BY_STOPS = {
    nr.NR_epoll_wait,
    nr.NR_epoll_pwait,
    nr.NR_epoll_pwait2,
    nr.NR_rt_sigtimedwait,
    nr.NR_semop,
    nr.NR_semtimedop,
    nr.NR_io_getevents,
    nr.NR_read,
    nr.NR_recvfrom,
    nr.NR_recvmsg,
}
# Calls that the kernel goes on with by restart_syscall(2).
_GOES_ON = {nr.NR_nanosleep, nr.NR_clock_nanosleep, nr.NR_poll, nr.NR_futex}

# Words in the names of the kernel's functions in which they wait.
_WAITS = {b"futex": nr.NR_futex, b"poll": nr.NR_poll}

_SA_RESTART = 0x10000000
_ACTION = struct.Struct("=4Q")
_MOV_EAX = 0xB8


class UnknownCallError(Exception):
    """It cannot be told which call is to go on."""


def signed(value: int) -> int:
    """Return what a register holds as a number with a sign."""
    return value - (1 << 64) if value >> 63 else value


def interrupted_by_stop(regs: dict[str, int], deliverable: int) -> bool:
    """Tell whether a call returns EINTR for our stop, and not for a signal of the set."""
    return signed(regs["rax"]) == EINTR and regs["orig_rax"] in _ENDED_BY_STOPS and not deliverable


def goes_on(regs: dict[str, int]) -> bool:
    """Tell whether a call was interrupted for which restart_syscall(2) stands."""
    return (
        signed(regs["orig_rax"]) == nr.NR_restart_syscall
        and signed(regs["rax"]) == ERESTART_RESTARTBLOCK
    )


def made_again(regs: dict[str, int], number: int) -> dict[str, int]:
    """Return registers with which call `number` is made again."""
    return {**regs, "rax": number, "rip": regs["rip"] - 2, "orig_rax": NO_CALL}


def for_elsewhere(
    regs: dict[str, int], code: bytes, waits: bytes, deliverable: int, actions: bytes
) -> dict[str, int]:
    """Return the registers with which a thread is to start on another machine.

    `code` the 5 bytes before the syscall instruction; `waits` what its wchan was (proc(5)) before
    it was stopped; `deliverable` signals that are pending and not blocked; `actions` 64 struct
    kernel_sigaction. UnknownCallError when it cannot be told which call is to go on.
    """
    number, result = signed(regs["orig_rax"]), signed(regs["rax"])
    if number < 0 or result not in (
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ):
        return {**regs, "orig_rax": NO_CALL}
    handled = handlers(deliverable, actions)
    if handled:
        restart = result == ERESTARTNOINTR or (
            result == ERESTARTSYS and all(flags & _SA_RESTART for flags in handled)
        )
        if not restart:
            return {**regs, "rax": EINTR & NO_CALL, "orig_rax": NO_CALL}
    if number == nr.NR_restart_syscall:
        number = _going_on(regs, code, waits)
    again = made_again(regs, number)
    # The kernel has just stored what remains of the time; a sleep until a time has none.
    remainder = {nr.NR_nanosleep: "rsi", nr.NR_clock_nanosleep: "r10"}.get(number)
    if result == ERESTART_RESTARTBLOCK and remainder and regs[remainder]:
        again["rdi" if number == nr.NR_nanosleep else "rdx"] = regs[remainder]
    return again


def handlers(signals: int, actions: bytes) -> list[int]:
    """Return sa_flags of each signal of the set that has a handler."""
    found = []
    for number, (handler, flags, _, _) in enumerate(_ACTION.iter_unpack(actions)):
        if signals >> number & 1 and handler > 1:
            found.append(flags)
    return found


def _going_on(regs: dict[str, int], code: bytes, waits: bytes) -> int:
    """Return the number of the call that restart_syscall(2) stands for.

    The kernel function in which it waits tells, or `mov eax, NUMBER` right before the call.
    """
    for word, number in _WAITS.items():
        if word in waits:
            return number
    if code[0] == _MOV_EAX:
        number = int.from_bytes(code[1:5], "little")
        if number in _GOES_ON:
            return number
    if waits in (b"", b"0"):
        raise UnknownCallError
    # A sleep has no name in wchan. Its first argument is a clock, or the address of a time.
    return nr.NR_nanosleep if regs["rdi"] >= PAGE_SIZE else nr.NR_clock_nanosleep
