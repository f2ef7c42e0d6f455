"""Messages of the file service: what a node asks of home, or tells it."""

from __future__ import annotations

from stubs.wire.codec import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.wire.codec import I64, U8, U32, U64, Blob, U64s

# Attr.flags
ATTR_VOLATILE = 1  # home cannot watch it (network file system, no watch left): cache 1 s only
# A directory in which home will make and remove names as its mode, owner and rights allow it, no
# rule of the export in the way: any name (OPEN), or any that does not begin with a dot (PLAIN).
ATTR_PLAIN = 2
ATTR_OPEN = 4

# Write.flags
WRITE_APPEND = 1  # O_APPEND: at the end of the file as home has it, offset ignored

ROOT_ID = 1  # inode id of home's root directory

# Inode ids from here to twice that are the node's to give, each once, to files that it makes.
NODE_IDS = 1 << 62


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

    Of others what they had to ask home for. `dirs` in which names were looked up or listed;
    `ranges` of files: id, offset and length each, in the order of their first use, length 0 when
    the file was opened and nothing of it read.
    """

    KIND = 0x40
    body: U32
    dirs: U64s
    ranges: U64s


class Lacking(Message):
    """Posted: what of the ranges offered the node has nowhere; home sends it (Contents)."""

    KIND = 0x41
    ranges: U64s
