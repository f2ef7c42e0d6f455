"""Messages of migration: a body leaves a node, arrives on another, and only one of them goes on.

mrun conducts (stubs.home.run.moving). The source freezes the body and keeps it whole until the
destination has it, held as well: `Leave`, `Left`, `Arrive`, Spawned. Then mrun sends `Depart` to
the one and `Resume` to the other; if anything went wrong before, `Resume` to the source. The image
passes between the two link processes on a socket of their own, for home a row of bytes.
"""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import U8, U32, U64, Blob, Blobs, U64s


class Dump(Message):
    """H→N: freeze a body with all that descends from it, and send its image. Reply: Parked.

    Or Error, with a reason of stubs.migration.whynot. `lively` 1: send what it can while it runs.
    """

    KIND = 0x90
    body: U32
    lively: U8


class Standing(Message):
    """N→H posted: the body stands still; home is to send nothing more for it, and Drain."""

    KIND = 0x91
    body: U32


class Drain(Message):
    """H→N posted: nothing more will come for the streams of the body."""

    KIND = 0x92
    body: U32


class Parked(Message):
    """N→H: all that the body did is told; its image has been sent, or is on its way.

    `streams` in use, `ends` of them (1: the body reads, 2: it writes, 3: both) and `unread`, what
    was sent for each and not read by it; `termios` of its terminal (empty: none) and `typed`, what
    it has not read there; `handles` inode ids of files that have no name any more; `cpu_us` used.
    """

    KIND = 0x93
    body: U32
    cpu_us: U64
    streams: U64s
    ends: U64s
    unread: Blobs
    termios: Blob
    typed: Blob
    handles: U64s


class ImageData(Message):
    """N→H→N posted: the next bytes of an image; none: its end."""

    KIND = 0x94
    BULK = True
    body: U32
    data: Blob


class ImageTaken(Message):
    """N→H, H→N posted: so many bytes of an image have gone on."""

    KIND = 0x95
    body: U32
    bytes: U32


class Restore(Message):
    """H→N: bring an image to life, held. Reply: Spawned, or Error; nothing is left of it then.

    `spawn` as in Spawn, but that `descriptors` are what the image calls outside, each by a key in
    `fd`; `handles` paths of files that have no name; `cpu_us` that it has used elsewhere.
    """

    KIND = 0x96
    spawn: Blob
    handles: Blobs
    cpu_us: U64


class Depart(Message):
    """M→L, H→N: the body lives elsewhere: destroy what stands still here. Reply: Done."""

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
    lively: U8


class Left(Message):
    """L→M: the body stands still, and everything that it did is at home.

    `keys` of what leads out of the tree, `kinds` FD_* and `flags` of each; `fds` the descriptor
    under which mrun gave it, or, past MAX of I32, none: then it is the next of those carried
    here; `unread` what of it the body has not read and `unwritten` what its reader has not taken.
    `handles` of the keys are files without a name. `unseen` 1: as in Lost.
    """

    KIND = 0x9A
    body: U32
    keys: U64s
    fds: U64s
    unread: Blobs
    unwritten: Blobs
    handles: U64s
    termios: Blob
    typed: Blob
    cpu_us: U64
    unseen: U8


class Arrive(Message):
    """M→L: like Restore, with home's descriptors in the order of `descriptors`, then the image.

    `unread`, `unwritten` for each descriptor, `typed` for the terminal: what is on its way.
    Reply: Spawned, or Error.
    """

    KIND = 0x9B
    spawn: Blob
    unread: Blobs
    unwritten: Blobs
    handles: U64s
    typed: Blob
    cpu_us: U64
    unseen: U8


class Move(Message):
    """D→M: take a body (or a program at home) to a node. Reply: Moved, or Error with why not.

    Carries a socket to the link process of that node, as Placed does. `node` `home`: it comes
    home. `why` for people; `lively` 1: much of it may be sent while it runs; `checkpoint` a path:
    it stays, and its image is written there.
    """

    KIND = 0x123
    pid: U32
    node: Blob
    why: Blob
    lively: U8
    checkpoint: Blob


class Moved(Message):
    """M→D: it runs there now. Times in us; `bytes` of its image; `node` where it was."""

    KIND = 0x124
    pid: U32
    node: Blob
    frozen_us: U64
    wall_us: U64
    bytes: U64


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
