"""Linux ABI: x86-64 system call numbers and the layout of the registers that ptrace shows.

Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl; NR_ stands for the header's
__NR_, which Python would mangle inside a class.
"""

from __future__ import annotations

NR_read = 0
NR_write = 1
NR_open = 2
NR_close = 3
NR_poll = 7
NR_lseek = 8
NR_mmap = 9
NR_mprotect = 10
NR_munmap = 11
NR_brk = 12
NR_rt_sigaction = 13
NR_rt_sigprocmask = 14
NR_ioctl = 16
NR_pread64 = 17
NR_readv = 19
NR_access = 21
NR_select = 23
NR_mremap = 25
NR_mincore = 27
NR_madvise = 28
NR_dup2 = 33
NR_pause = 34
NR_nanosleep = 35
NR_getitimer = 36
NR_setitimer = 38
NR_getpid = 39
NR_sendfile = 40
NR_recvfrom = 45
NR_recvmsg = 47
NR_clone = 56
NR_execve = 59
NR_exit = 60
NR_wait4 = 61
NR_kill = 62
NR_semop = 65
NR_fcntl = 72
NR_truncate = 76
NR_chdir = 80
NR_fchdir = 81
NR_rename = 82
NR_mkdir = 83
NR_rmdir = 84
NR_creat = 85
NR_link = 86
NR_unlink = 87
NR_symlink = 88
NR_readlink = 89
NR_chmod = 90
NR_umask = 95
NR_gettimeofday = 96
NR_setpgid = 109
NR_setsid = 112
NR_capset = 126
NR_rt_sigtimedwait = 128
NR_rt_sigqueueinfo = 129
NR_sigaltstack = 131
NR_personality = 135
NR_setpriority = 141
NR_pivot_root = 155
NR_prctl = 157
NR_mount = 165
NR_umount2 = 166
NR_time = 201
NR_futex = 202
NR_io_getevents = 208
NR_set_tid_address = 218
NR_restart_syscall = 219
NR_semtimedop = 220
NR_timer_create = 222
NR_timer_settime = 223
NR_timer_gettime = 224
NR_timer_delete = 226
NR_clock_gettime = 228
NR_clock_getres = 229
NR_clock_nanosleep = 230
NR_exit_group = 231
NR_epoll_wait = 232
NR_epoll_ctl = 233
NR_tgkill = 234
NR_openat = 257
NR_mkdirat = 258
NR_unlinkat = 263
NR_renameat = 264
NR_linkat = 265
NR_symlinkat = 266
NR_readlinkat = 267
NR_fchmodat = 268
NR_faccessat = 269
NR_pselect6 = 270
NR_ppoll = 271
NR_unshare = 272
NR_set_robust_list = 273
NR_get_robust_list = 274
NR_splice = 275
NR_tee = 276
NR_utimensat = 280
NR_epoll_pwait = 281
NR_dup3 = 292
NR_preadv = 295
NR_rt_tgsigqueueinfo = 297
NR_recvmmsg = 299
NR_prlimit64 = 302
NR_setns = 308
NR_getcpu = 309
NR_process_vm_readv = 310
NR_process_vm_writev = 311
NR_kcmp = 312
NR_sched_setattr = 314
NR_renameat2 = 316
NR_getrandom = 318
NR_execveat = 322
NR_userfaultfd = 323
NR_mlock2 = 325
NR_preadv2 = 327
NR_statx = 332
NR_rseq = 334
NR_pidfd_open = 434
NR_clone3 = 435
NR_close_range = 436
NR_openat2 = 437
NR_pidfd_getfd = 438
NR_faccessat2 = 439
NR_epoll_pwait2 = 441
NR_mount_setattr = 442

# struct user_regs_struct, arch/x86/include/asm/user_64.h: 27 unsigned longs in this order.
# fmt: off
USER_REGS = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9",
    "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs",
    "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
]
# fmt: on

# The code segment of 32-bit programs, __USER32_CS.
USER32_CS = 0x23
