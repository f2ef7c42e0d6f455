"""Linux ABI: the FUSE protocol as spoken on /dev/fuse.

Names, values and layouts are those of include/uapi/linux/fuse.h, protocol 7.31 (Linux 5.4) to 7.45
(Linux 6.18); each struct is a struct.Struct of the same name, little-endian as our machines are.
A request is a fuse_in_header and its body, a reply a fuse_out_header and its body, each in one
read(2) or writev(2).
"""

from __future__ import annotations

from struct import Struct

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 38  # what we speak; the kernel adapts to a lower minor than its own
FUSE_ROOT_ID = 1
FUSE_MIN_READ_BUFFER = 8192

# struct fuse_setattr_in, valid
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_LOCKOWNER = 1 << 9
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11

# struct fuse_open_out, open_flags
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_CACHE_DIR = 1 << 3
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5

# INIT flags; those from bit 32 on travel in flags2
FUSE_ASYNC_READ = 1 << 0
FUSE_POSIX_LOCKS = 1 << 1
FUSE_ATOMIC_O_TRUNC = 1 << 3
FUSE_BIG_WRITES = 1 << 5
FUSE_DONT_MASK = 1 << 6
FUSE_FLOCK_LOCKS = 1 << 10
FUSE_AUTO_INVAL_DATA = 1 << 12
FUSE_DO_READDIRPLUS = 1 << 13
FUSE_READDIRPLUS_AUTO = 1 << 14
FUSE_ASYNC_DIO = 1 << 15
FUSE_WRITEBACK_CACHE = 1 << 16
FUSE_NO_OPEN_SUPPORT = 1 << 17
FUSE_PARALLEL_DIROPS = 1 << 18
FUSE_HANDLE_KILLPRIV = 1 << 19
FUSE_POSIX_ACL = 1 << 20
FUSE_ABORT_ERROR = 1 << 21
FUSE_MAX_PAGES = 1 << 22
FUSE_CACHE_SYMLINKS = 1 << 23
FUSE_NO_OPENDIR_SUPPORT = 1 << 24
FUSE_EXPLICIT_INVAL_DATA = 1 << 25
FUSE_HANDLE_KILLPRIV_V2 = 1 << 28
FUSE_SETXATTR_EXT = 1 << 29
FUSE_INIT_EXT = 1 << 30

# struct fuse_release_in, release_flags
FUSE_RELEASE_FLUSH = 1 << 0
FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1

FUSE_LK_FLOCK = 1 << 0  # struct fuse_lk_in, lk_flags
FUSE_WRITE_CACHE = 1 << 0  # struct fuse_write_in, write_flags: from the page cache, no open file
FUSE_FSYNC_FDATASYNC = 1 << 0  # struct fuse_fsync_in, fsync_flags

# enum fuse_opcode
FUSE_LOOKUP = 1
FUSE_FORGET = 2  # no reply
FUSE_GETATTR = 3
FUSE_SETATTR = 4
FUSE_READLINK = 5
FUSE_SYMLINK = 6
FUSE_MKNOD = 8
FUSE_MKDIR = 9
FUSE_UNLINK = 10
FUSE_RMDIR = 11
FUSE_RENAME = 12
FUSE_LINK = 13
FUSE_OPEN = 14
FUSE_READ = 15
FUSE_WRITE = 16
FUSE_STATFS = 17
FUSE_RELEASE = 18
FUSE_FSYNC = 20
FUSE_SETXATTR = 21
FUSE_GETXATTR = 22
FUSE_LISTXATTR = 23
FUSE_REMOVEXATTR = 24
FUSE_FLUSH = 25
FUSE_INIT = 26
FUSE_OPENDIR = 27
FUSE_READDIR = 28
FUSE_RELEASEDIR = 29
FUSE_FSYNCDIR = 30
FUSE_GETLK = 31
FUSE_SETLK = 32
FUSE_SETLKW = 33
FUSE_ACCESS = 34
FUSE_CREATE = 35
FUSE_INTERRUPT = 36  # no reply
FUSE_BMAP = 37
FUSE_DESTROY = 38
FUSE_IOCTL = 39
FUSE_POLL = 40
FUSE_NOTIFY_REPLY = 41
FUSE_BATCH_FORGET = 42  # no reply
FUSE_FALLOCATE = 43
FUSE_READDIRPLUS = 44
FUSE_RENAME2 = 45
FUSE_LSEEK = 46
FUSE_COPY_FILE_RANGE = 47
FUSE_SYNCFS = 50
FUSE_TMPFILE = 51
FUSE_STATX = 52

OPCODES = 64  # all opcodes that a mount of ours can see are below this

# enum fuse_notify_code
FUSE_NOTIFY_INVAL_INODE = 2
FUSE_NOTIFY_INVAL_ENTRY = 3
FUSE_NOTIFY_STORE = 4
FUSE_NOTIFY_DELETE = 6

fuse_in_header = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
fuse_out_header = Struct("<IiQ")  # len error unique

# ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize
# flags. The seconds are unsigned in the header, but the kernel casts them: before 1970 is negative.
fuse_attr = Struct("<QQQqqqIIIIIIIIII")
# nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec; a fuse_attr follows
fuse_entry_out = Struct("<QQQQII")
fuse_attr_out = Struct("<QII")  # attr_valid attr_valid_nsec dummy; a fuse_attr follows

fuse_init_in = Struct("<IIIII")  # major minor max_readahead flags flags2; 11 unused words follow
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages
# map_alignment flags2 unused
fuse_init_out = Struct("<IIIIHHIIHHI28x")

fuse_forget_in = Struct("<Q")  # nlookup
fuse_batch_forget_in = Struct("<II")  # count dummy
fuse_forget_one = Struct("<QQ")  # nodeid nlookup
fuse_getattr_in = Struct("<IIQ")  # getattr_flags dummy fh
# valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused4 uid
# gid unused5
fuse_setattr_in = Struct("<IIQQQqqqIIIIIIII")
fuse_mknod_in = Struct("<IIII")  # mode rdev umask padding
fuse_mkdir_in = Struct("<II")  # mode umask
fuse_rename_in = Struct("<Q")  # newdir
fuse_rename2_in = Struct("<QII")  # newdir flags padding
fuse_link_in = Struct("<Q")  # oldnodeid
fuse_open_in = Struct("<II")  # flags open_flags
fuse_create_in = Struct("<IIII")  # flags mode umask open_flags
fuse_open_out = Struct("<QII")  # fh open_flags padding
fuse_release_in = Struct("<QIIQ")  # fh flags release_flags lock_owner
fuse_flush_in = Struct("<QIIQ")  # fh unused padding lock_owner
fuse_read_in = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
fuse_write_in = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
fuse_write_out = Struct("<II")  # size padding
fuse_fsync_in = Struct("<QII")  # fh fsync_flags padding
fuse_setxattr_in = Struct("<II")  # size flags (without FUSE_SETXATTR_EXT)
fuse_getxattr_in = Struct("<II")  # size padding
fuse_getxattr_out = Struct("<II")  # size padding
fuse_lk_in = Struct("<QQQQIIII")  # fh owner start end type pid lk_flags padding
fuse_lk_out = Struct("<QQII")  # start end type pid
fuse_interrupt_in = Struct("<Q")  # unique
fuse_fallocate_in = Struct("<QQQII")  # fh offset length mode padding
fuse_lseek_in = Struct("<QQII")  # fh offset whence padding
fuse_lseek_out = Struct("<Q")  # offset
# blocks bfree bavail files ffree bsize namelen frsize padding spare[6]
fuse_statfs_out = Struct("<QQQQQIIII24x")
fuse_dirent = Struct("<QQII")  # ino off namelen type; the name follows, padded to 8 bytes

fuse_notify_inval_inode_out = Struct("<Qqq")  # ino off len
fuse_notify_inval_entry_out = Struct("<QII")  # parent namelen flags; name and NUL follow
fuse_notify_delete_out = Struct("<QQII")  # parent child namelen padding; name and NUL follow
