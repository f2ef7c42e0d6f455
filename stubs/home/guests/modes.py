"""Modes of a terminal: what home's is set to, so that the node's does the line discipline.

The pseudo-terminal on the node has the modes that programs there see and set; it echoes, edits
lines and translates as they say. Home's terminal must then do none of that a second time, except
what is better done here:

* output: home's has the node's c_oflag, and the relay takes away the carriage return that the
  node's ONLCR put before each newline (stubs.home.guests.screen). So what reaches home's terminal
  is what the program wrote, home's own line discipline makes of it what it always does, and other
  writers at home are treated as always;
* ISIG: home's keys make signals, for all of the foreground process group, also while nobody reads;
* IXON: Ctrl-S takes effect at once.

Pure functions of struct termios2 (termios(3), include/uapi/asm-generic/termbits.h).
"""

from __future__ import annotations

import struct
import termios
from termios import (
    ECHO,
    ECHOCTL,
    ECHONL,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    IXANY,
    IXOFF,
    IXON,
    NOFLSH,
    ONLCR,
    OPOST,
    TOSTOP,
)

from stubs.abi.termbits import TERMIOS2_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Modes(NamedTuple):
        """struct termios2, field by field."""

        iflag: int
        oflag: int
        cflag: int
        lflag: int
        line: int
        cc: bytes
        ispeed: int
        ospeed: int
else:
    from collections import namedtuple

    Modes = namedtuple("Modes", "iflag oflag cflag lflag line cc ispeed ospeed")

_LAYOUT = struct.Struct("=4IB19s2I")

# Bits of c_lflag that are the terminal's state, or the agent's way to watch it, not a program's
# wish.
_STATE = termios.FLUSHO | termios.PENDIN | 0x10000  # EXTPROC

_SIGNAL_KEYS = ISIG | NOFLSH | TOSTOP
_FLOW = IXON | IXANY | IXOFF

TAB, NEWLINE, RETURN, DELETE = 0x09, 0x0A, 0x0D, 0x7F


def parse(raw: bytes) -> Modes:
    """Return the fields of a struct termios2; ValueError when it cannot be one."""
    if len(raw) != TERMIOS2_SIZE:
        raise ValueError(f"struct termios2 of {len(raw)} bytes")
    return Modes._make(_LAYOUT.unpack(raw))


def pack(modes: Modes) -> bytes:
    """Return the struct termios2."""
    return _LAYOUT.pack(*modes)


def differ(one: Modes, other: Modes) -> bool:
    """Whether a program has set one of them unlike the other (speeds set aside)."""
    return (
        one.iflag != other.iflag
        or one.oflag != other.oflag
        or (one.lflag ^ other.lflag) & ~_STATE != 0
        or one.cc != other.cc
    )


def relayed(found: Modes, node: Modes) -> Modes:
    """Return the modes for home's terminal while its keys go to the node's, which has `node`."""
    iflag = node.iflag & _FLOW
    if not node.iflag & INLCR:
        # Doing these twice is doing them once, and what a body leaves unread is as the next
        # reader at home expects it.
        iflag |= node.iflag & (ICRNL | IGNCR)
    lflag = found.lflag & ~(ICANON | ECHO | ECHONL | IEXTEN | _SIGNAL_KEYS | _STATE)
    lflag |= node.lflag & _SIGNAL_KEYS
    cc = bytearray(node.cc)
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    return found._replace(iflag=iflag, oflag=node.oflag, lflag=lflag, cc=bytes(cc))


def left_behind(found: Modes, before: Modes, after: Modes) -> Modes:
    """Return home's modes after a program found `before` and left `after`, as stty(1) does."""
    lflag = (before.lflag ^ after.lflag) & ~_STATE
    cc = bytes(new if new != old else kept for kept, old, new in zip(found.cc, before.cc, after.cc))
    return found._replace(
        iflag=found.iflag ^ before.iflag ^ after.iflag,
        oflag=found.oflag ^ before.oflag ^ after.oflag,
        lflag=found.lflag ^ lflag,
        cc=cc,
    )


def canonical(modes: Modes) -> bool:
    """Whether input is read by lines."""
    return bool(modes.lflag & ICANON)


def adds_returns(modes: Modes) -> bool:
    """Whether output gets a carriage return before each newline."""
    return modes.oflag & (OPOST | ONLCR) == OPOST | ONLCR


def echo_of(modes: Modes, data: bytes) -> bytes:
    """Return what a terminal of these modes shows of typed `data` (no editing keys)."""
    if not modes.lflag & ECHO:
        return b""
    echo = bytearray()
    for byte in data:
        if byte == RETURN and modes.iflag & (ICRNL | IGNCR):
            if modes.iflag & IGNCR:
                continue
            byte = NEWLINE
        if byte == NEWLINE:
            echo += b"\r\n" if adds_returns(modes) else b"\n"
        elif (byte < 0x20 and byte != TAB) or byte == DELETE:
            # n_tty.c, echo_char: ^C for the control key with C.
            echo += bytes((0x5E, byte ^ 0x40)) if modes.lflag & ECHOCTL else bytes((byte,))
        else:
            echo.append(byte)
    return bytes(echo)
