"""The device of a FUSE mount: requests in, replies and notifications out.

One thread reads: the loop's. A request is handed to the handler of its opcode with its `unique`,
its nodeid and its length; its bytes are in `buffer` from BODY on, and only until the handler
returns, because the next request overwrites them. Whoever answers later calls `reply` or `error`.
Any thread may `notify`; a notification can block in the kernel on locks that a process holds which
waits for a reply of ours, so the loop must not do it (see stubs.node.view.invalidation).
"""

from __future__ import annotations

import errno
import math
import os

from stubs.abi import fuse
from stubs.abi.fuseopens import FuseOpens
from stubs.link.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stubs.link.loop import Loop
    from stubs.node.view.families import Families

    Handler = Callable[[int, int, int], None]

BODY = fuse.fuse_in_header.size

# Larger WRITEs are no cheaper (big copies), smaller ones cost a request per 4 KiB page.
MAX_WRITE = 128 << 10
MAX_PAGES = 256

# Requests handled before the loop looks at the link again.
BATCH = 32

# Asynchronous requests (read-ahead, RELEASE) that the kernel may have under way at once.
MAX_BACKGROUND = 64

FLAGS = (
    fuse.FUSE_ASYNC_READ
    | fuse.FUSE_POSIX_LOCKS
    | fuse.FUSE_ATOMIC_O_TRUNC
    | fuse.FUSE_BIG_WRITES
    | fuse.FUSE_FLOCK_LOCKS
    | fuse.FUSE_DO_READDIRPLUS
    | fuse.FUSE_READDIRPLUS_AUTO
    | fuse.FUSE_ASYNC_DIO
    | fuse.FUSE_PARALLEL_DIROPS
    | fuse.FUSE_MAX_PAGES
    | fuse.FUSE_CACHE_SYMLINKS
    | fuse.FUSE_NO_OPENDIR_SUPPORT
    | fuse.FUSE_EXPLICIT_INVAL_DATA
)

_HEADER = fuse.fuse_in_header.unpack_from
_OUT = fuse.fuse_out_header.pack
_OUT_SIZE = fuse.fuse_out_header.size


class Device:
    """/dev/fuse of one mount; owns the descriptor."""

    def __init__(self, loop: Loop, fd: int, on_end: Callable[[str], None]) -> None:
        """Answer INIT and read requests from now on; `on_end` is called when the mount is gone."""
        self.buffer = bytearray(MAX_WRITE + (64 << 10))
        self.view = memoryview(self.buffer)
        self.pid = 0  # who made the request being handled
        self.families: Families | None = None  # told of everybody who makes one
        self.counts = [0] * fuse.OPCODES
        self.spared = 0  # of these, requests that no handler saw
        self.handlers: dict[int, Handler] = {fuse.FUSE_INIT: self._init}
        self.closed = False
        self._fd = fd
        self._loop = loop
        self._on_end = on_end
        self._vector = [self.buffer]
        os.set_blocking(fd, False)
        self.opens = _fuse_opens(fd, self.buffer)
        if self.opens is None:
            loop.watch(fd, READ, self.read_requests)
        else:
            loop.wait = self._wait

    @property
    def requests(self) -> int:
        """How many requests the kernel has made so far."""
        return sum(self.counts)

    def body(self, length: int, start: int = BODY) -> bytes:
        """Return the rest of the request being handled, from `start`."""
        return bytes(self.view[start:length])

    def names(self, length: int, start: int = BODY) -> list[bytes]:
        """Return the NUL-ended strings of the request being handled, from `start`."""
        return bytes(self.view[start : length - 1]).split(b"\0")

    def read_requests(self, _: int) -> None:
        """Handle what requests there are, at most a batch."""
        for _ in range(BATCH):
            try:
                length = os.readv(self._fd, self._vector)
            except BlockingIOError:
                return
            except OSError as error:
                # ENOENT: the request was taken back (its process was killed) while we read it.
                if error.errno == errno.ENOENT:
                    continue
                self._end(os.strerror(error.errno or 0))
                return
            self._handle(length)
            if self.closed:
                return

    def _wait(self, other: int, seconds: float | None) -> None:
        """Handle requests until there are none and `other` is ready, or the time is over."""
        assert self.opens is not None
        timeout = -1 if seconds is None else math.ceil(seconds * 1000)
        for _ in range(BATCH):
            length = self.opens.serve(other, timeout)
            opened, released = self.opens.take_counts()
            self.counts[fuse.FUSE_OPEN] += opened
            self.counts[fuse.FUSE_RELEASE] += released
            self.spared += opened + released
            if length > 0:
                self._handle(length)
            elif length not in (0, -errno.ENOENT, -errno.EINTR):
                self._end(os.strerror(-length))
            if length <= 0 or self.opens is None:
                return
            timeout = 0

    def _handle(self, length: int) -> None:
        """Handle the request in the buffer."""
        _, opcode, unique, nodeid, _, _, self.pid, _, _ = _HEADER(self.buffer)
        if self.families is not None and self.pid not in self.families.bodies:
            self.families.meet(self.pid)
        handler = self.handlers.get(opcode)
        if handler is None:
            self.error(unique, errno.ENOSYS)
        else:
            self.counts[opcode] += 1
            handler(unique, nodeid, length)

    def reply(self, unique: int, body: bytes) -> bool:
        """Answer with success; False when nobody waits any more (the process was killed)."""
        return self._write((_OUT(_OUT_SIZE + len(body), 0, unique), body))

    def reply_parts(self, unique: int, parts: Sequence[bytes | memoryview], size: int) -> bool:
        """Answer with success and `size` bytes in several pieces."""
        return self._write((_OUT(_OUT_SIZE + size, 0, unique), *parts))

    def error(self, unique: int, code: int) -> bool:
        """Answer with an errno; 0: success with nothing to tell."""
        return self._write((_OUT(_OUT_SIZE, -code, unique),))

    def notify(self, code: int, body: bytes) -> int:
        """Send a FUSE_NOTIFY_*; return 0, or the errno (ENOENT: the kernel has no such thing)."""
        try:
            os.writev(self._fd, (_OUT(_OUT_SIZE + len(body), code, 0), body))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _write(self, parts: Sequence[bytes | memoryview]) -> bool:
        if self.closed:
            return False
        try:
            os.writev(self._fd, parts)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EFAULT):
                raise  # a malformed reply: ours to repair
            # ENOENT: interrupted and gone; anything else: no mount any more, which reading tells.
            return False
        return True

    def _init(self, unique: int, _: int, __: int) -> None:
        major, minor, readahead, offered, _ = fuse.fuse_init_in.unpack_from(self.buffer, BODY)
        if major < fuse.FUSE_KERNEL_VERSION or minor < 31:
            self.error(unique, errno.EPROTO)
            return
        flags = FLAGS & offered
        # Home's own kernel removes set-user-ID bits when it does the write. The second form
        # also spares a GETXATTR before every write (SB_NOSEC).
        if offered & fuse.FUSE_HANDLE_KILLPRIV_V2:
            flags |= fuse.FUSE_HANDLE_KILLPRIV_V2
        else:
            flags |= fuse.FUSE_HANDLE_KILLPRIV & offered
        self.reply(
            unique,
            fuse.fuse_init_out.pack(
                fuse.FUSE_KERNEL_VERSION,
                min(minor, fuse.FUSE_KERNEL_MINOR_VERSION),
                readahead,
                flags,
                MAX_BACKGROUND,
                MAX_BACKGROUND * 3 // 4,
                MAX_WRITE,
                1,  # time_gran: nanoseconds
                MAX_PAGES,
                0,
                0,
            ),
        )

    def hand_out(self) -> None:
        """Have every request handled by its handler from now on."""
        if self.opens is not None:
            self.opens = self._loop.wait = None
            self._loop.watch(self._fd, READ, self.read_requests)

    def _end(self, reason: str) -> None:
        if not self.closed:
            self._let_go()
            self._on_end(reason)

    def _let_go(self) -> None:
        if self.opens is not None:
            self.opens = self._loop.wait = None
        self._loop.forget(self._fd)

    def close(self) -> None:
        """Close the descriptor; if it was the last one, the kernel ends the connection."""
        if not self.closed:
            self.closed = True
            self._let_go()
            os.close(self._fd)


def _fuse_opens(fd: int, buffer: bytearray) -> FuseOpens | None:
    """Return what answers simple requests; None where nothing may be made executable."""
    try:
        return FuseOpens(fd, buffer)
    except OSError:
        return None
