"""The image of a frozen tree: everything but its memory, in a checked format.

An image is written where the tree stands still and read where it is to go on, on another machine
and perhaps by another version of Python: messages within messages, each decoded with checks, no
pickle. Memory travels beside it, in the blocks of stubs.migration.pages.

Numbers are the kernel's: pids as the capsule has them, addresses in bytes, sigsets with bit
signo-1, times in ns.
"""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I32, I64, U8, U32, U64, Blob, Blobs, U64s

# Raised whenever the meaning of a field changes: an image of another format is refused.
FORMAT = 1

# OpenFile.kind
OPEN_FILE = 1  # regular file or directory of home: reopened by `path`, or by `handle`
OPEN_DEVICE = 2  # a character device that every node has: reopened by `path`
OPEN_OUTSIDE = 3  # what leads out of the tree: a stream, a terminal; `ref` is its key
OPEN_PIPE = 4  # a pipe with both ends in the tree; `ref` tells pipes apart
OPEN_EVENTFD = 5
OPEN_EPOLL = 6
OPEN_TIMERFD = 7
OPEN_SIGNALFD = 8
OPEN_INOTIFY = 9
OPEN_MEMORY = 10  # memfd or shared memory; `ref` is an index of Image.shared
OPEN_SOCKET = 11  # one of a socketpair with both ends in the tree; `ref` tells pairs apart
OPEN_PIDFD = 12  # of a process in the tree; `ref` is its pid, -1 if it is gone


class Image(Message):
    """A frozen tree. `processes` (Process) parents before children, the first is the body."""

    format: U32
    release: Blob  # of the kernel, for people
    cpu_flags: Blob  # as in /proc/cpuinfo; those in use must be there
    vdso: Blob  # its ELF image
    vdso_parts: U64s  # (size) of [vvar], [vvar_vclock], [vdso] in order of address; 0: not there
    processes: Blobs
    opens: Blobs  # OpenFile: what descriptors and mappings refer to by index
    shared: Blobs  # Shared: memory that several mappings or processes share
    clocks: U64s  # CLOCK_MONOTONIC and CLOCK_BOOTTIME of the first when it was frozen


class Process(Message):
    """One process. `ppid` 0: its parent is that of the body (it was orphaned, or is the body)."""

    pid: U32
    ppid: U32
    pgid: U32
    sid: U32
    zombie: U8  # it has ended with `status`, and nobody has waited for it yet
    status: U32
    exe: U32  # index of Image.opens
    cwd: U32  # index of Image.opens
    umask: U32
    personality: U32
    nice: I32
    dumpable: U8
    stopped: U8  # by job control, with this signal
    vdso: U64s  # where [vvar], [vvar_vclock], [vdso] are; 0: not there
    mm: U64s  # struct prctl_mm_map without auxv and exe_fd: start_code … env_end
    auxv: Blob
    settings: U64s  # pairs (PR_GET_*, value)
    capabilities: U64s  # inheritable, permitted, effective; a bit for each
    limits: U64s  # pairs of soft and hard, in the order of RLIMIT_*
    actions: Blob  # 64 times struct kernel_sigaction of 32 bytes
    pending: Blobs  # siginfo_t, of the process
    itimers: Blob  # 3 times struct itimerval
    timers: Blobs  # Timer
    areas: Blobs  # Area, by address
    descriptors: U64s  # triples: number, index of Image.opens, 1: close-on-exec
    threads: Blobs  # Thread, the leader first


class Thread(Message):
    """One thread."""

    tid: U32
    comm: Blob
    regs: Blob  # struct user_regs_struct, with an interrupted call already set to be made again
    xstate: Blob
    blocked: U64
    pending: Blobs  # siginfo_t, of the thread
    altstack: Blob  # stack_t
    clear_tid: U64  # set_tid_address(2)
    robust: U64
    robust_bytes: U64
    rseq: U64
    rseq_bytes: U32
    rseq_signature: U32


class Area(Message):
    """A mapping (VMA)."""

    start: U64
    end: U64
    protection: U32  # PROT_*
    flags: U32  # MAP_*, with MAP_GROWSDOWN
    advice: U64s  # MADV_* to be given again
    open: I32  # index of Image.opens, or -1
    shared: I32  # index of Image.shared, or -1
    offset: U64  # in the file or in the shared memory
    locked: U8  # 1: in memory, mlock(2); 2: what is touched, MLOCK_ONFAULT


class Shared(Message):
    """Memory that is shared: anonymous, a memfd, or a file of /dev/shm (`path`)."""

    bytes: U64
    name: Blob
    path: Blob
    seals: U32
    mode: U32  # permissions


class OpenFile(Message):
    """An open file description; what is not used by its kind is 0 or empty."""

    kind: U8
    ref: I64  # of an epoll the process whose numbers its entries are
    flags: U32
    offset: U64
    path: Blob
    ino: U64  # as fstat(2) in the home view says: the file reopened must be the same
    handle: I32  # index of the files that have no name any more, or -1
    content: Blob  # bytes that are in a pipe or socket, to be put into it by one of its ends
    state: U64s  # of an eventfd, timerfd, signalfd: see stubs.migration.files
    watched: Blobs  # Watched of an epoll, or inotify's watches
    locks: Blobs  # FileLock


class Watched(Message):
    """A descriptor in an epoll (`fd`, events, data), or what inotify watches (wd, mask, `path`).

    Of inotify `data` is 0, or 1 more than the index of a handle that stands for the path.
    """

    fd: I32
    events: U32
    data: U64
    path: Blob


class FileLock(Message):
    """A lock on a file: `kind` of stubs.migration.locks, `type` F_*LCK, end OFFSET_MAX: its end."""

    kind: U8
    type: U8
    start: U64
    end: U64
    pid: U32  # of its owner; 0 where the open file owns it


class Timer(Message):
    """A POSIX timer."""

    number: I32
    clock: I32
    notify: I32  # SIGEV_*
    signo: I32
    value: U64  # sigev_value
    tid: U32  # SIGEV_THREAD_ID
    interval: U64
    remaining: U64
