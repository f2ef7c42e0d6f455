"""Messages about bodies: their start, signals to them, what they use, their end."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I32, I64, U8, U32, U64, Blob, Blobs, Descriptor, U64s, Usage

# Descriptor.kind
FD_FILE = 1  # regular file or directory: reopened in the home view (`ref` inode id)
FD_STREAM_IN = 2  # the body reads: pipe at home (`ref` stream number)
FD_STREAM_OUT = 3  # the body writes: pipe at home
FD_STREAM_BOTH = 4  # stream socket at home: both directions, a socketpair on the node
FD_TTY = 5  # the terminal at home: the pty of the body's session on the node
FD_DEVICE = 6  # a character device every node has (null, zero, full, random, urandom)

# Signal.scope
SCOPE_PROCESS = 0  # kill(2) of the body itself
SCOPE_GROUP = 1  # typed at a terminal: the body's process group, as far as it descends from it


class Spawn(Message):
    """H→N: execve(2) on the node. Reply: Spawned, or Error with execve's errno.

    `body` is the deputy's pid at home, and the body's on the node; `limits` 16 pairs of soft and
    hard rlimit in the order of RLIMIT_*; `blocked` and `ignored` are sigsets (bit signo-1);
    `descriptors` in ascending order of fd; `exclusive` the numbers of input streams that nobody
    else at home can read, so that they may be read ahead; `rows` 0 when the body has no terminal;
    `termios` is struct termios2 as the kernel has it (empty: no terminal); `foreground` the
    process group in the foreground of it.
    """

    KIND = 0x80
    body: U32
    ppid: U32
    pgrp: U32
    sid: U32
    umask: U32
    nice: I32
    blocked: U64
    ignored: U64
    cwd_id: U64
    rows: U32
    columns: U32
    terminal: U32
    foreground: U32
    exe: Blob
    cwd: Blob
    termios: Blob
    argv: Blobs
    env: Blobs
    limits: U64s
    exclusive: U64s
    descriptors: list[Descriptor]


class Spawned(Message):
    """N→H: the body runs; its pid on the node as its own namespace has it (normally `body`)."""

    KIND = 0x81
    pid: U32


class Signal(Message):
    """H→N, M→L: kill(2) to a body; SCOPE_*. SIGSTOP and SIGCONT included."""

    KIND = 0x82
    body: U32
    signo: U32
    scope: U8


class Resize(Message):
    """H→N, M→L: TIOCSWINSZ on the terminal of a body."""

    KIND = 0x83
    body: U32
    rows: U32
    columns: U32


class Kill(Message):
    """H→N, M→L: SIGKILL to the body and everything that descends from it."""

    KIND = 0x84
    body: U32


class Stopped(Message):
    """N→H, L→M: the body was stopped by `signo` (WIFSTOPPED)."""

    KIND = 0x85
    body: U32
    signo: U32


class Continued(Message):
    """N→H, L→M: the body goes on (WIFCONTINUED)."""

    KIND = 0x86
    body: U32


class Exited(Message):
    """N→H, L→M: the body ended. `status` as wait4(2) has it; times in us, memory in KiB.

    `round_trips` home was waited for, bytes as carried on the link for this body (as far as they
    can be told apart); `errno` and `path` of a posted write that failed and that nobody was told.
    """

    KIND = 0x87
    body: U32
    status: U32
    utime_us: U64
    stime_us: U64
    maxrss_kib: U64
    round_trips: U32
    bytes_to_node: U64
    bytes_to_home: U64
    errno: I32
    path: Blob


class Gone(Message):
    """N→H, L→D: nothing that descends from the body is left."""

    KIND = 0x88
    body: U32


class Position(Message):
    """N→H: where the body left the offset of inherited descriptor `fd` (sent before Exited)."""

    KIND = 0x89
    body: U32
    fd: I32
    offset: I64


class Lost(Message):
    """L→M: the node of the body was lost; why, for people.

    `unseen` 1: nothing that the body did can have been noticed at home, so that it may be started
    again as if it had never been.
    """

    KIND = 0x8A
    body: U32
    unseen: U8
    reason: Blob


class Family(Message):
    """N→H posted: process `pid` there descends from that body; 0: from none that is left."""

    KIND = 0x8B
    pid: U32
    body: U32


class Measure(Message):
    """H→N, D→L: what do the bodies that live use? Asked only by need. Reply: Measured."""

    KIND = 0x8C


class Measured(Message):
    """What each body there uses; bytes that the link has carried since it was made (N: 0)."""

    KIND = 0x8D
    bytes_to_node: U64
    bytes_to_home: U64
    usages: list[Usage]
