"""The system calls that Python 3.11 lacks: namespaces, mounts and prctl.

Names and values are those of the kernel's headers. Every call raises OSError on failure.
"""

import ctypes
import errno
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24

CAP_SYS_MODULE = 16
CAP_SYS_RAWIO = 17
CAP_SYS_BOOT = 22
CAP_SYS_TIME = 25
CAP_MKNOD = 27

# include/uapi/linux/seccomp.h, filter.h, bpf_common.h
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
BPF_LD_W_ABS = 0x20
BPF_JEQ = 0x15
BPF_JSET = 0x45
BPF_RET = 0x06
_NR_OFFSET, _ARG0_OFFSET = 0, 16  # in struct seccomp_data; little-endian

# pivot_root, unshare, clone, clone3
_NUMBERS = {"x86_64": (155, 272, 56, 435), "aarch64": (41, 97, 220, 435)}
_SYS_PIVOT_ROOT, _SYS_UNSHARE, _SYS_CLONE, _SYS_CLONE3 = _NUMBERS[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones, as unshare(2) does."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`, as setns(2) does."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount, as mount(2) does; empty strings stand for NULL."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    _check(result, f"mount {source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind-mount `source`, without what is mounted below it."""
    mount(source, target, flags=MS_BIND)
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def umount_detached(target: str) -> None:
    """umount2(2) with MNT_DETACH: gone from here at once, freed when nobody uses it any more."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def pivot_root(new: str) -> None:
    """Make the mount at `new` the root of this mount namespace and let go of the old one."""
    os.chdir(new)
    # pivot_root(".", "."), pivot_root(2): the old root ends up mounted over the new one.
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."), f"pivot_root {new}")
    umount_detached(".")
    os.chdir("/")


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl {option}")


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send us this signal when the thread that forked us is gone."""
    _prctl(PR_SET_PDEATHSIG, number)


def drop_capability(number: int) -> None:
    """Take a capability away from everything that this process will exec."""
    _prctl(PR_CAPBSET_DROP, number)


def forbid_user_namespaces() -> None:
    """Make the kernel refuse user namespaces to us and all descendants, as some systems do.

    clone3(2) is refused altogether, for a filter cannot see its flags; C libraries go on with
    clone(2) then. Needs CAP_SYS_ADMIN, and lets setuid programs be.
    """
    program = (
        (BPF_LD_W_ABS, 0, 0, _NR_OFFSET),
        (BPF_JEQ, 3, 0, _SYS_UNSHARE),
        (BPF_JEQ, 2, 0, _SYS_CLONE),
        (BPF_JEQ, 5, 0, _SYS_CLONE3),
        (BPF_RET, 0, 0, SECCOMP_RET_ALLOW),
        (BPF_LD_W_ABS, 0, 0, _ARG0_OFFSET),
        (BPF_JSET, 1, 0, CLONE_NEWUSER),
        (BPF_RET, 0, 0, SECCOMP_RET_ALLOW),
        (BPF_RET, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        (BPF_RET, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
    )
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock_fprog = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    prog = ctypes.create_string_buffer(sock_fprog, len(sock_fprog))
    zero = ctypes.c_ulong(0)
    mode, address = ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.c_ulong(ctypes.addressof(prog))
    _check(_libc.prctl(PR_SET_SECCOMP, mode, address, zero, zero), "prctl PR_SET_SECCOMP")
