"""Every message: its number, its fields, and the system call that it is nearest to.

Numbers are written out and never reused. `reply` in a comment names the message that
answers; any request may be answered by Error instead. Requests carry a tag in their
frame, replies carry the same tag; posted messages carry tag 0 and are not answered.

Directions: H home, N node agent, M mrun, D home daemon, L link process. L speaks for H on
a link; on the local sockets M-D, M-L and D-L the same frames are used.

Order: on the rpc connection everything is handled in the order sent, in each direction.
That is the barrier of the home view: what home pushed before a message has been applied
by the node before it acts on that message, and what a body changed at home was sent
before its output and its exit.
"""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import (
        I32,
        I64,
        U8,
        U32,
        U64,
        Attr,
        Blob,
        Blobs,
        Change,
        Descriptor,
        Entry,
        U64s,
        Usage,
    )

# Attr.flags
ATTR_VOLATILE = 1  # home cannot watch it (network file system, no watch left): cache 1 s only
# A directory in which home will make and remove names as its mode, owner and rights allow it, no
# rule of the export in the way: any name (OPEN), or any that does not begin with a dot (PLAIN).
ATTR_PLAIN = 2
ATTR_OPEN = 4

# Write.flags
WRITE_APPEND = 1  # O_APPEND: at the end of the file as home has it, offset ignored

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

ROOT_ID = 1  # inode id of home's root directory

# Inode ids from here to twice that are the node's to give, each once, to files that it makes.
NODE_IDS = 1 << 62


# --- the link ---------------------------------------------------------------------------


class Hello(Message):
    """H→N first message: who home is. Reply: Welcome."""

    KIND = 0x01
    version: U32
    uid: U32
    gid: U32
    pid_max: U32
    hostname: Blob
    root: Attr


class Welcome(Message):
    """N→H: the node's facts. `problem` is empty when bodies can run, else says why not."""

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


class Ping(Message):
    """Either end, every second. Reply: Pong. `clock_ns` is the sender's CLOCK_REALTIME."""

    KIND = 0x03
    clock_ns: U64


class Pong(Message):
    """Answers Ping, with the answerer's clock."""

    KIND = 0x04
    clock_ns: U64


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


# --- file service: N→H requests ------------------------------------------------------------


class Lookup(Message):
    """fstatat(2) of a name. Reply: Found, or Error ENOENT."""

    KIND = 0x20
    dir: U64
    name: Blob


class Snapshot(Message):
    """getdents64(2) + fstatat(2) of all. Reply: Listing. `cookie` 0, then as told."""

    KIND = 0x21
    dir: U64
    cookie: U64


class Getattr(Message):
    """fstat(2). Reply: Attrs with one."""

    KIND = 0x22
    id: U64


class Setattr(Message):
    """fchmod, fchown, ftruncate, utimensat: fields by `valid`, FATTR_* of fuse.h. Reply: Attrs.

    Here and in all that follow, `pid` is the process in the capsule whose call it is.
    """

    KIND = 0x23
    id: U64
    valid: U32
    mode: U32
    uid: U32
    gid: U32
    size: U64
    atime_ns: I64
    mtime_ns: I64
    pid: U32


class Read(Message):
    """pread(2). Reply: Data (short at the end of the file)."""

    KIND = 0x24
    id: U64
    offset: U64
    size: U32


class Write(Message):
    """pwrite(2), posted (tag 0) or as a request. Reply if asked: Attrs. Failing posted: Failed."""

    KIND = 0x25
    id: U64
    offset: U64
    flags: U32
    pid: U32
    data: Blob


class Create(Message):
    """openat(2) O_CREAT: makes or opens a regular file. Reply: Found.

    `id` is 0, or one of NODE_IDS that the file has from now on.
    """

    KIND = 0x26
    dir: U64
    name: Blob
    mode: U32
    flags: U32
    id: U64
    pid: U32


class Mknod(Message):
    """mknodat(2): regular file, FIFO or socket. Reply: Found."""

    KIND = 0x27
    dir: U64
    name: Blob
    mode: U32
    rdev: U32
    pid: U32


class Mkdir(Message):
    """mkdirat(2). Reply: Found."""

    KIND = 0x28
    dir: U64
    name: Blob
    mode: U32
    pid: U32


class Symlink(Message):
    """symlinkat(2). Reply: Found."""

    KIND = 0x29
    dir: U64
    name: Blob
    target: Blob
    pid: U32


class Link(Message):
    """linkat(2) of an inode. Reply: Found."""

    KIND = 0x2A
    id: U64
    dir: U64
    name: Blob
    pid: U32


class Unlink(Message):
    """unlinkat(2). Reply: Attrs: the directory, and the file when a name or a user is left."""

    KIND = 0x2B
    dir: U64
    name: Blob
    pid: U32


class Rmdir(Message):
    """unlinkat(2) AT_REMOVEDIR. Reply: Attrs of the parent."""

    KIND = 0x2C
    dir: U64
    name: Blob
    pid: U32


class Rename(Message):
    """renameat2(2). Reply: Attrs of both directories, the moved inode and a replaced one."""

    KIND = 0x2D
    dir: U64
    name: Blob
    new_dir: U64
    new_name: Blob
    flags: U32
    pid: U32


class Readlink(Message):
    """readlinkat(2). Reply: Data."""

    KIND = 0x2E
    id: U64


class Fsync(Message):
    """fsync(2), or fdatasync(2) when `datasync`. Reply: Done."""

    KIND = 0x2F
    id: U64
    datasync: U8


class Fallocate(Message):
    """fallocate(2). Reply: Attrs."""

    KIND = 0x30
    id: U64
    mode: U32
    offset: U64
    length: U64
    pid: U32


class Seek(Message):
    """lseek(2) SEEK_DATA and SEEK_HOLE. Reply: Offset."""

    KIND = 0x31
    id: U64
    offset: U64
    whence: U32


class Statfs(Message):
    """statfs(2). Reply: Filesystem."""

    KIND = 0x32
    id: U64


class Getxattr(Message):
    """lgetxattr(2). Reply: Data."""

    KIND = 0x33
    id: U64
    name: Blob


class Setxattr(Message):
    """lsetxattr(2). Reply: Done."""

    KIND = 0x34
    id: U64
    name: Blob
    value: Blob
    flags: U32
    pid: U32


class Listxattr(Message):
    """llistxattr(2). Reply: Data, names ended by NUL."""

    KIND = 0x35
    id: U64


class Removexattr(Message):
    """lremovexattr(2). Reply: Done."""

    KIND = 0x36
    id: U64
    name: Blob
    pid: U32


class Lock(Message):
    """fcntl(2) F_GETLK, F_SETLK, F_SETLKW (`op` 0, 1, 2) or flock(2) (`flock` 1). Reply: Locked.

    `type` is F_RDLCK, F_WRLCK or F_UNLCK; `end` inclusive, 2**63-1 for the end of file. A
    waiting request is ended by Cancel.
    """

    KIND = 0x37
    id: U64
    owner: U64
    op: U8
    flock: U8
    type: U32
    start: U64
    end: U64
    pid: U32


class Cancel(Message):
    """Posted: the body does not wait for `request` (a tag) any more; it is answered EINTR."""

    KIND = 0x38
    request: U32


class Hold(Message):
    """Posted: bodies have these inodes open: keep them whatever becomes of their names."""

    KIND = 0x39
    ids: U64s


class Forget(Message):
    """Posted: the node has dropped these inode ids (and whatever Hold it had on them)."""

    KIND = 0x3A
    ids: U64s


class Unhold(Message):
    """Posted: no body has these inodes open any more; home closes what it kept open for them.

    Their ids stay known. (A file that home still had open for writing could not be executed.)
    """

    KIND = 0x3B
    ids: U64s


class Traced(Message):
    """Posted, before Exited: what a body of which home wanted to know has touched.

    `dirs` in which names were looked up or listed; `ranges` of files: id, offset and length each,
    in the order of their first use, length 0 when the file was opened and nothing of it read.
    """

    KIND = 0x40
    body: U32
    dirs: U64s
    ranges: U64s


class Lacking(Message):
    """Posted: what of the ranges offered the node has nowhere; home sends it (Contents)."""

    KIND = 0x41
    ranges: U64s


# --- file service: replies and pushes ---------------------------------------------------------


class Found(Message):
    """The entry asked for or made, and the directory's attributes after it."""

    KIND = 0x50
    entry: Entry
    dir: Attr


class Listing(Message):
    """Part of a directory. `cookie` of the next part, 0 when this was the last.

    Home watches the directory from before the first part was read, so the parts together are
    complete until an Invalidate says otherwise.
    """

    KIND = 0x51
    dir: Attr
    cookie: U64
    entries: list[Entry]


class Attrs(Message):
    """Attributes after a call; the first is the one asked for."""

    KIND = 0x52
    attrs: list[Attr]


class Data(Message):
    """Bytes of a file, a link target or an extended attribute."""

    KIND = 0x53
    BULK = True
    data: Blob


class Offset(Message):
    """An offset in a file, in bytes."""

    KIND = 0x54
    offset: U64


class Filesystem(Message):
    """statfs(2)'s numbers."""

    KIND = 0x55
    bsize: U32
    frsize: U32
    namelen: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64


class Locked(Message):
    """The lock now held, or for F_GETLK the one in the way (type F_UNLCK: none)."""

    KIND = 0x56
    type: U32
    start: U64
    end: U64
    pid: U32


class Failed(Message):
    """H→N posted: a posted write was refused. The next call on that inode gets the errno."""

    KIND = 0x57
    id: U64
    errno: I32
    path: Blob


class Acknowledge(Message):
    """H→N posted: so many bytes of posted writes have been done at home since the last one."""

    KIND = 0x58
    bytes: U64


class Invalidate(Message):
    """H→N posted: what changed at home other than by this node.

    `data` inodes whose contents changed (new attributes given), `attrs` inodes of which only the
    attributes did, `names` entries that came, went or changed, `dirs` directories to be forgotten
    whole.
    """

    KIND = 0x60
    data: list[Attr]
    attrs: list[Attr]
    names: list[Change]
    dirs: U64s


class InvalidateAll(Message):
    """H→N posted: home lost count (IN_Q_OVERFLOW): believe nothing that is cached."""

    KIND = 0x61


class Names(Message):
    """H→N posted, unasked: part of a directory, as Listing has it.

    `first` 1: the parts begin here; `last` 1: they end here. The parts of one directory are not
    mixed with those of another.
    """

    KIND = 0x62
    dir: Attr
    first: U8
    last: U8
    entries: list[Entry]


class Coming(Message):
    """H→N posted: Contents of these will follow, unasked: id, offset and length of each range."""

    KIND = 0x63
    ranges: U64s


class Contents(Message):
    """H→N posted: one of the ranges announced; short at the end of the file, `errno` if not.

    The `errno` tells that it could not be read, or that the node has to ask if it wants it; `body`
    is the one it is for.
    """

    KIND = 0x64
    BULK = True
    id: U64
    offset: U64
    errno: I32
    body: U32
    data: Blob


class Trace(Message):
    """H→N posted, before Spawn: note what this body touches, and tell (Traced).

    With another body in `like` it does the same as that one: note it there. Else 0.
    """

    KIND = 0x65
    body: U32
    like: U32


class Offered(Message):
    """H→N posted: ranges as in Coming, each with the SHA-256 of what is in it.

    The node takes them from where it has them; the others it asks for (Lacking).
    """

    KIND = 0x66
    ranges: U64s
    hashes: Blob


# --- bodies -------------------------------------------------------------------------------------


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
    """H→N, D→L: what do the bodies use? Asked only while somebody watches. Reply: Measured."""

    KIND = 0x8C


class Measured(Message):
    """What each body there uses; bytes that the link has carried since it was made (N: 0)."""

    KIND = 0x8D
    bytes_to_node: U64
    bytes_to_home: U64
    usages: list[Usage]


# --- streams: between the pipes of home and those on the node ------------------------------------


class StreamData(Message):
    """Either way: bytes, in order."""

    KIND = 0xA0
    BULK = True
    stream: U32
    data: Blob


class StreamEnd(Message):
    """Either way: the writers are gone; the reader sees end of file."""

    KIND = 0xA1
    BULK = True
    stream: U32


class StreamBroken(Message):
    """Either way: the readers are gone; the writer gets EPIPE and SIGPIPE."""

    KIND = 0xA2
    stream: U32


class StreamWant(Message):
    """N→H: a reader waits for up to `bytes` of home's pipe or terminal. 0: it gave up."""

    KIND = 0xA3
    stream: U32
    bytes: U32


class StreamTaken(Message):
    """Either way: so many bytes went on to their reader: the sender's window opens by them."""

    KIND = 0xA4
    stream: U32
    bytes: U32


class Modes(Message):
    """Either way: a program there has changed the modes of the terminal (struct termios2)."""

    KIND = 0xA5
    stream: U32
    termios: Blob


# --- local sockets --------------------------------------------------------------------------------


class Place(Message):
    """M→D: where shall this program run? Reply: Placed, with the link's socket unless at home.

    `node` a name or empty; `only` names; `strict` 1: no fallback to home; `top` 1: the program that
    mrun was started for, else one that it has started, directly or not.
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


# --- within a node: between the agent (A) and what it forked in the capsule (C) ------------------


class Enter(Message):
    """A→C: unshare(2) all namespaces. Reply: Done; then the agent writes the maps of ids."""

    KIND = 0x140


class MountView(Message):
    """A→C: become pid 1 and mount the view. Reply: Spawned (the node's pid), with /dev/fuse."""

    KIND = 0x141
    uid: U32
    gid: U32


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
    """A→its shelf: keep these contents."""

    KIND = 0x43
    hash: Blob
    data: Blob


def _all_messages() -> dict[int, type[Message]]:
    """Return the messages by their number; a number used twice is a bug found at import."""
    table: dict[int, type[Message]] = {}
    for kind in Message.__subclasses__():
        if kind.KIND in table:
            raise RuntimeError(f"{kind.__name__} and {table[kind.KIND].__name__} share a number")
        table[kind.KIND] = kind
    return table


MESSAGES = _all_messages()
