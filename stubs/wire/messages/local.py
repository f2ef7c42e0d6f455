"""Messages on local sockets: between mrun, home daemon, link processes and the mlaunch command."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I32, U8, U32, U64, Blob, Blobs


class Place(Message):
    """M→D: where shall this program run? Reply: Placed, with the link's socket unless at home.

    `node` a name or empty; `only` names; `strict` 1: no fallback to home; `top` 1: the program that
    mrun was started for, else one that it has started, directly or not; `stay` 1: it is not to move
    once it runs.
    """

    KIND = 0x100
    version: U32
    pid: U32
    exe: Blob
    cwd: Blob
    node: Blob
    only: Blobs
    strict: U8
    top: U8
    stay: U8
    argv: Blobs


class Placed(Message):
    """D→M: the node (`home` for home) and the reason.

    Carries a socket to the node's link process, unless it is home or this connection has been given
    one to the same process before. `sticky` 1: this executable stays home whatever its arguments,
    and need not be asked about again for a while; 2: what it starts stays home with it.
    """

    KIND = 0x101
    node: Blob
    sticky: U8
    reason: Blob


class Refused(Message):
    """D→M: cannot be done; a line for the user, a hint, and mrun's exit status."""

    KIND = 0x102
    status: U32
    text: Blob
    hint: Blob


class Start(Message):
    """M→L: like Spawn, with home's descriptors in the order of `descriptors`. Reply: Spawned.

    What only the link knows is left 0 by mrun (inode ids, stream numbers) and filled in by it.
    """

    KIND = 0x103
    spawn: Blob


class FdClosed(Message):
    """L→M: the body has closed a pipe or socket: mrun may let go of its own copy."""

    KIND = 0x104
    body: U32
    fd: I32


class Ended(Message):
    """M→D posted: a program that was asked about has ended, at home or (`away` 1) on its node.

    Times in us, memory in KiB; `own_us` of `cpu_us` is not of children; `children` that it started,
    directly or not, and `peak` of them at once (0 for a body, whose children home does not see);
    the rest as in Exited. With a `reason` it did not run to its end where it was sent, and all
    numbers are 0: it goes on at home, or (`away` 1) is lost with its node.
    """

    KIND = 0x105
    pid: U32
    away: U8
    cpu_us: U64
    own_us: U64
    wall_us: U64
    maxrss_kib: U64
    children: U32
    peak: U32
    round_trips: U32
    bytes_to_node: U64
    bytes_to_home: U64
    reason: Blob


class Nested(Message):
    """M→M: what an mrun that runs under another asks for its program, which it becomes then.

    Reply: Done, or Refused. As in Place; `stats` and `trace` are paths of a receipt and of a story,
    or empty; `verbose` 1: say what is decided.
    """

    KIND = 0x106
    pid: U32
    node: Blob
    only: Blobs
    strict: U8
    stay: U8
    verbose: U8
    stats: Blob
    trace: Blob


class Computed(Message):
    """N→H, L→M, M→D posted: the body's program has ended; what it wrote is on its way home still.

    There is room for another on its node. Not sent if Exited can follow at once.
    """

    KIND = 0x107
    body: U32


class Progress(Message):
    """M→L posted: show on the terminal, if that is free, how the body on `node` comes along."""

    KIND = 0x108
    body: U32
    node: Blob


class Query(Message):
    """The mlaunch command to D, or D→L: a request in JSON. Reply: Answer."""

    KIND = 0x110
    version: U32
    text: Blob


class Answer(Message):
    """Answers Query: JSON."""

    KIND = 0x111
    text: Blob


class Report(Message):
    """L→D: the state of a node, in JSON (`state`, `reason`, `rtt_ms`, facts of Welcome)."""

    KIND = 0x120
    text: Blob


class Attach(Message):
    """D→L: a new mrun; carries its socket."""

    KIND = 0x121
    pid: U32


class Quit(Message):
    """D→L: end the link in good order."""

    KIND = 0x122
