"""Messages about the link itself: greetings, pings, load, its end."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I32, U8, U32, U64, Attr, Blob


class Hello(Message):
    """H→N first message: who home is. Reply: Welcome.

    `clocks` 1: bodies are to have the clocks of home, which tells them when it is asked (Clocks).
    """

    KIND = 0x01
    version: U32
    uid: U32
    gid: U32
    pid_max: U32
    hostname: Blob
    root: Attr
    clocks: U8


class Welcome(Message):
    """N→H: the node's facts. `problem` is empty when bodies can run, else says why not.

    `zstd` 1: the agent can decompress it.
    """

    KIND = 0x02
    version: U32
    uid: U32
    pid: U32
    cpus_milli: U32
    speed: U32
    hostname: Blob
    release: Blob
    python: Blob
    attach: Blob  # address of the agent's abstract socket, for the bulk connection
    problem: Blob
    zstd: U8


class Ping(Message):
    """Either end, now and then. Reply: Pong. `clock_ns` is the sender's CLOCK_REALTIME."""

    KIND = 0x03
    clock_ns: U64


class Pong(Message):
    """Answers Ping, with the answerer's clock."""

    KIND = 0x04
    clock_ns: U64


class Clocks(Message):
    """N→H: what time is it? Reply: Clocked."""

    KIND = 0x10


class Clocked(Message):
    """H→N: CLOCK_MONOTONIC and CLOCK_BOOTTIME of home, in ns: bodies have these on every node."""

    KIND = 0x11
    monotonic: U64
    boottime: U64


class Error(Message):
    """Answers any request: an errno for the body (0 never), and a text for people."""

    KIND = 0x05
    errno: I32
    text: Blob


class Done(Message):
    """Answers a request that has nothing to tell."""

    KIND = 0x06


class Goodbye(Message):
    """Either end: the link is being closed on purpose, and why."""

    KIND = 0x07
    reason: Blob


class Load(Message):
    """N→H, every second. cpus, idle, load in thousandths; memory in bytes; psi avg10 in 1/1000.

    `speed` is relative to other nodes, higher is faster, times cpus is capacity. `owner_idle_s`
    is the time since somebody typed at a terminal of the node (0xffffffff: nobody is there).
    """

    KIND = 0x08
    cpus_milli: U32
    idle_milli: U32
    running: U32
    load1_milli: U32
    memory_total: U64
    memory_available: U64
    psi_cpu_milli: U32
    psi_memory_milli: U32
    speed: U32
    guests: U32
    guests_cpu_milli: U32
    owner_idle_s: U32
    agent_rss: U64


class Bulk(Message):
    """H→N, first frame on the bulk connection: proves that it belongs to this link."""

    KIND = 0x09
    token: Blob


class Echo(Message):
    """H→N: bytes for nothing, to measure the link. Reply: Echoed with `size` bytes."""

    KIND = 0x0E
    BULK = True
    data: Blob
    size: U32


class Echoed(Message):
    """Answers Echo."""

    KIND = 0x0F
    data: Blob
