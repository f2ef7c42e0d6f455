"""Messages of migration: a body leaves a node, arrives on another, and only one of them goes on.

mrun conducts (stubs.home.run.moving). The source freezes the body and keeps it whole until the
destination has it, held as well: `Leave` and `Prepare`; `Left`, `Arrive`; Spawned. Then mrun sends
`Resume` to the destination and `Depart` to the source; if anything went wrong before, `Resume` to
the source. The image passes between the two link processes on a socket of their own, for home a
row of bytes.
"""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import U8, U32, U64, Blob, Blobs, U64s


# Bits of `how` a body is to leave.
HOW_LIVELY = 1  # what can be is sent while it runs
HOW_ZSTD = 2  # who is to get it can decompress that
HOW_PROMPTLY = 4  # that it is soon away matters more than for how long it stands still


class Dump(Message):
    """H→N: freeze a body with all that descends from it, and send its image. Reply: Parked.

    Or Error: why it cannot move. `how` as in Move.
    """

    KIND = 0x90
    body: U32
    how: U8


class Standing(Message):
    """N→H posted: the body stands still; home is to send nothing more for it, and Drain.

    `frozen_us`: for so long, in us.
    """

    KIND = 0x91
    body: U32
    frozen_us: U64


class Drain(Message):
    """H→N posted: nothing more will come for the streams of the body."""

    KIND = 0x92
    body: U32


class Parked(Message):
    """N→H: all that the body did is told; its image has been sent, or is on its way.

    `streams` in use, and `unread` what was sent for each and not read by it; `termios` of its
    terminal (empty: none), `foreground` the group there, `typed` what it has not read there;
    `handles` inode ids of files that have no name any more; `cpu_us` used; `signals` that came too
    late for it here, pairs of signo and SCOPE_*.
    """

    KIND = 0x93
    body: U32
    cpu_us: U64
    streams: U64s
    unread: Blobs
    foreground: U32
    termios: Blob
    typed: Blob
    handles: U64s
    signals: U64s


class ImageData(Message):
    """N→H→N posted: the next bytes of an image; none: its end.

    `serial` to a node as in Restore (0 from a node): what comes late of an image that was called
    off is not of the next one.
    """

    KIND = 0x94
    BULK = True
    body: U32
    serial: U32
    data: Blob


class ImageTaken(Message):
    """N→H, H→N posted: so many bytes of an image have gone on."""

    KIND = 0x95
    body: U32
    bytes: U32


class Restore(Message):
    """H→N: bring the image that follows to life, held. Reply: Spawned, or Error.

    After Error nothing is left of it. `spawn` as in Spawn, with the terminal alone of what the body
    inherits; Complete follows. `serial` is that of the image, another one for each.
    """

    KIND = 0x96
    serial: U32
    spawn: Blob


class Complete(Message):
    """H→N posted, after Restore: what leads out of the tree, now that it is known.

    Of `spawn` the `descriptors` count, each with its key as `fd` (stubs.migration.keys); `handles`
    inode ids of files that have no name; `cpu_us` that the body has used elsewhere.
    """

    KIND = 0x9F
    spawn: Blob
    handles: U64s
    cpu_us: U64


class Depart(Message):
    """M→L, H→N: the body lives elsewhere: destroy what stands still here.

    Reply: Done, or to mrun Departed.
    """

    KIND = 0x97
    body: U32


class Resume(Message):
    """M→L, H→N: the body goes on here. Reply: Done."""

    KIND = 0x98
    body: U32


class Leave(Message):
    """M→L: freeze a body; carries where its image goes. Reply: Left, or Error with the reason."""

    KIND = 0x99
    body: U32
    how: U8


class Left(Message):
    """L→M: the body stands still, and everything that it did is at home.

    `keys` of what leads out of the tree (stubs.migration.keys), and `fds`, the number under which
    mrun gave each; `unread` what of it the body has not read, `unwritten` what its reader has not
    taken. Carries files without a name, in the order of their handles, and then what has its locks:
    `locks` pairs of (flock 1, else fcntl) and the pid that holds it. `unseen` 1: as in Lost;
    `standing_ns` when (CLOCK_MONOTONIC of home) it stood still. The rest as in Parked.
    """

    KIND = 0x9A
    body: U32
    keys: U64s
    fds: U64s
    unread: Blobs
    unwritten: Blobs
    foreground: U32
    termios: Blob
    typed: Blob
    cpu_us: U64
    unseen: U8
    standing_ns: U64
    signals: U64s
    locks: U64s


class Departed(Message):
    """L→M: nothing of the body is left here; `bytes` of its image; `signals` as in Parked."""

    KIND = 0xB1
    bytes: U64
    signals: U64s


class Prepare(Message):
    """M→L: as Restore; carries the terminal, and last where the image comes from.

    Reply: Spawned once all is there, or Error.
    """

    KIND = 0x9B
    spawn: Blob


class Arrive(Message):
    """M→L posted, after Prepare: as Complete, with home's descriptors in the order of `spawn`.

    Those past the end of `unread` are files without a name; what has its locks comes last (`locks`
    as in Left). `unread` and `unwritten` of each descriptor, `typed` of the terminal: what is on
    its way. `unseen` 1: as in Lost.
    """

    KIND = 0xB0
    spawn: Blob
    unread: Blobs
    unwritten: Blobs
    typed: Blob
    cpu_us: U64
    unseen: U8
    locks: U64s


class Move(Message):
    """D→M: take a body (or a program at home) to a node. Reply: Moved, or Error with why not.

    Carries a socket to the link process of that node, as Placed does. `node` `home`: it comes
    home. `why` for people; `how`, HOW_*; `checkpoint` a path: it stays, and its image is written
    there.
    """

    KIND = 0x123
    pid: U32
    node: Blob
    why: Blob
    how: U8
    checkpoint: Blob


class Moved(Message):
    """M→D: it runs there now. Times in us; `bytes` of its image; `node` where it was."""

    KIND = 0x124
    pid: U32
    node: Blob
    frozen_us: U64
    wall_us: U64
    bytes: U64


class Checkpointed(Message):
    """M→L posted, before Resume: all of the body is in a file; note what it does from now on."""

    KIND = 0xB2
    body: U32


class Grown(Message):
    """L→M posted, before Lost: since Checkpointed home can have noticed nothing of the body.

    But that it has written to these files: pairs of device and inode.
    """

    KIND = 0xB3
    body: U32
    files: U64s


class CanMove(Message):
    """D→L, H→N: what keeps a body from moving? Reply: Reasons."""

    KIND = 0x9C
    body: U32


class Reasons(Message):
    """N→H, L→D: `names` (stubs.migration.whynot) and a sentence for each; none: it can move."""

    KIND = 0x9D
    names: Blobs
    sentences: Blobs


class Leaving(Message):
    """N→H posted: the node's agent has been told to end: its bodies are to move away.

    It waits some seconds for that, and then says Goodbye.
    """

    KIND = 0x9E
