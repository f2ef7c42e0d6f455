"""Messages within a node: of the agent (A) with its shelf, the capsule (C), and workers (W)."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I64, U8, U32, U64, Blob, Blobs, U64s


class Enter(Message):
    """A→C: unshare(2) all namespaces. Reply: Done; then the agent writes the maps of ids."""

    KIND = 0x140


class MountView(Message):
    """A→C: become pid 1 and mount the view. Reply: Spawned (the node's pid), with /dev/fuse.

    `clocks`: by how many ns CLOCK_MONOTONIC and CLOCK_BOOTTIME shall differ from the node's.
    """

    KIND = 0x141
    uid: U32
    gid: U32
    monotonic: I64
    boottime: I64


class Furnish(Message):
    """A→C: make /proc, /sys and /dev, change root. Reply: Done, carrying /proc and /dev/pts."""

    KIND = 0x142
    hostname: Blob
    pid_max: U32
    full_map: U8


class Ghost(Message):
    """A→C: clone a ghost with this pid; carries its socket, and the terminal of a session leader.

    `leader` 1: it begins a session; 2: only a process group; 3: there is one with this pid already
    and it is to lead a process group; carries nothing.
    """

    KIND = 0x143
    pid: U32
    leader: U8


class Body(Message):
    """A→C: clone and exec a body; carries what it reads and writes. Reply: Spawned.

    That is one descriptor for each stream in Spawn.descriptors that shares none, and its terminal
    last; `foreground` 1: the body's group gets that.
    """

    KIND = 0x144
    foreground: U8
    spawn: Blob


class Watch(Message):
    """A→C: does a body wait to read `link` (as /proc/PID/fd shows it)? Reply: StreamWant.

    The reply comes once it is another than `bytes`; asking again ends an earlier question with
    Error ECANCELED, an empty `link` does no more. Nothing may be written there meanwhile.
    """

    KIND = 0x145
    stream: U32
    bytes: U32
    link: Blob


class Foreground(Message):
    """A→C, to a session's ghost: tcsetpgrp(3), carries the terminal. Reply: Done.

    `pgrp` 0: make it the terminal of the session first (TIOCSCTTY).
    """

    KIND = 0x146
    pgrp: U32


class Census(Message):
    """A→C: every process of the capsule. Reply: Counted.

    The agent must not look itself: /proc/PID/stat of a program that is being exec'ed waits for the
    end of that, and the exec for the agent, which has to answer the FLUSH of what it closes.
    """

    KIND = 0x147


class Counted(Message):
    """C→A: the processes, as numbers: see stubs.node.capsule.processes."""

    KIND = 0x148
    processes: U64s


class Inherited(Message):
    """A→C, to a body's parent: which files did it inherit? Reply: Heirlooms."""

    KIND = 0x149
    body: U32


class Heirlooms(Message):
    """C→A: `pid` of the ghost, and pairs: the key of a file (Descriptor.fd), the ghost's own fd.

    `orphans`: children of the ghost that descend from a body; `bodies`: how many it has.
    """

    KIND = 0x14A
    pid: U32
    files: U64s
    orphans: U64s
    bodies: U32


class Stub(Message):
    """W→A, A→C: clone the process that is to be made a body; it waits for a path, and execs that.

    Carries the socket on which it waits, which it has at number `control`, and one on which Bequest
    will come. `pid` is the one that it must have. Reply: Spawned.
    """

    KIND = 0x14B
    body: U32
    pid: U32
    pgrp: U32
    control: U32


class Bequest(Message):
    """W→C posted: files that the body has inherited; carries them. `keys` as in Heirlooms.

    Not by way of the agent: it could not close a file of the home view, which it serves itself.
    """

    KIND = 0x14E
    body: U32
    keys: U64s


class Unread(Message):
    """W→A posted: what has not been read of each stream, by its key."""

    KIND = 0x14F
    keys: U64s
    data: Blobs


class Stood(Message):
    """W→A posted: the tree stands still, or (when it is restored) is whole and held.

    `handles` and `cpu_us` as in Parked, `frozen_us` as in Standing.
    """

    KIND = 0x14C
    pid: U32
    frozen_us: U64
    cpu_us: U64
    handles: U64s


class Outside(Message):
    """A→W posted: what leads out of the tree, by `keys`; carries it, in that order.

    `files` are inode ids of inherited files to be opened, `file_keys` their keys, and `file_flags`
    and `file_offsets` how; `handles` as in Complete.
    """

    KIND = 0x14D
    keys: U64s
    files: U64s
    file_keys: U64s
    file_flags: U64s
    file_offsets: U64s
    handles: U64s


class Find(Message):
    """A→its shelf: contents by their hashes. Posted back: Contents for each range, in order.

    `sizes` and `paths` of home's files, which the node may have, too.
    """

    KIND = 0x42
    ranges: U64s
    sizes: U64s
    hashes: Blob
    paths: Blobs


class Keep(Message):
    """A→its shelf: keep these contents. Posted back: Kept, in order.

    `lasting` has a number for each: 0 when no other agent is going to look for it.
    """

    KIND = 0x43
    lasting: U64s
    contents: Blobs


class Kept(Message):
    """Shelf→A: the SHA-256 of all that is kept of a Keep; fewer: nothing can be kept any more."""

    KIND = 0x44
    hashes: Blob
