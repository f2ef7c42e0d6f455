"""Requests of a FUSE device that need no thought, answered by machine code (x86-64).

A compiler opens a thousand headers that thousands before it have opened. Each open(2) is a request
to the file system and each close(2) another, and Python takes forty microseconds for the two. What
is answered here: OPEN for reading only, by a process and of an inode that are both in tables, and
the RELEASE of what was opened so. Everything else is handed out. Layouts are those of
include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import select

from stubs.abi import fuse, machinecode

# Sizes of the tables: an entry is where the low bits of its number say, and in the way of others.
NODES = 1 << 14
PIDS = 1 << 12

FILE_HANDLE = 1  # of what was opened here; whoever else opens uses another

# long serve(struct Station *rdi): requests until one is for others (its length), none is there and
# the other descriptor is ready, the time is over, or 64 were answered in a row (0), or something
# failed (-errno). A request is read to the buffer; 0x223 is O_ACCMODE | O_TRUNC | FMODE_EXEC.
_CODE = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4889fb"  # mov rbx, rdi
    "41bc40000000"  # mov r12d, 64
    # again:
    "41ffcc"  # dec r12d
    "0f88c8000000"  # js none
    "8b3b"  # mov edi, [rbx]
    "488b7308"  # mov rsi, [rbx + 8]
    "8b5304"  # mov edx, [rbx + 4]
    "31c0"  # xor eax, eax
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "0f8887000000"  # js failed
    "8b4e04"  # mov ecx, [rsi + 4]
    "83f90e"  # cmp ecx, 14
    "7429"  # je open
    "83f912"  # cmp ecx, 18
    "0f85a3000000"  # jne out
    "48837e2801"  # cmp qword ptr [rsi + 40], 1
    "0f8598000000"  # jne out
    "f6463402"  # test byte ptr [rsi + 52], 2
    "0f858e000000"  # jnz out
    "48ff4370"  # inc qword ptr [rbx + 112]
    "ba10000000"  # mov edx, 16
    "eb39"  # jmp answer
    # open:
    "f7462823020000"  # test dword ptr [rsi + 40], 0x223
    "757a"  # jnz out
    "8b5620"  # mov edx, [rsi + 32]
    "89d1"  # mov ecx, edx
    "234b28"  # and ecx, [rbx + 40]
    "4c8b4320"  # mov r8, [rbx + 32]
    "41391488"  # cmp [r8 + rcx * 4], edx
    "7568"  # jne out
    "488b5610"  # mov rdx, [rsi + 16]
    "4889d1"  # mov rcx, rdx
    "48234b18"  # and rcx, [rbx + 24]
    "4c8b4310"  # mov r8, [rbx + 16]
    "493914c8"  # cmp [r8 + rcx * 8], rdx
    "7553"  # jne out
    "48ff4368"  # inc qword ptr [rbx + 104]
    "ba20000000"  # mov edx, 32
    # answer:
    "895348"  # mov [rbx + 72], edx
    "488b4e08"  # mov rcx, [rsi + 8]
    "48894b50"  # mov [rbx + 80], rcx
    "8b3b"  # mov edi, [rbx]
    "488d7348"  # lea rsi, [rbx + 72]
    "b801000000"  # mov eax, 1
    "0f05"  # syscall
    "e95affffff"  # jmp again
    # failed:
    "4883f8f5"  # cmp rax, -11
    "7527"  # jne out
    "488d7b30"  # lea rdi, [rbx + 48]
    "be02000000"  # mov esi, 2
    "8b5340"  # mov edx, [rbx + 64]
    "b807000000"  # mov eax, 7
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "780f"  # js out
    "740b"  # jz none
    "66837b3e00"  # cmp word ptr [rbx + 62], 0
    "0f842fffffff"  # je again
    # none:
    "31c0"  # xor eax, eax
    # out:
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
)


class Station(ctypes.Structure):
    """What the machine code works on; its offsets are written into the code."""

    _fields_ = (
        ("device", ctypes.c_int),
        ("room", ctypes.c_uint32),  # bytes in the buffer
        ("buffer", ctypes.c_uint64),
        ("nodes", ctypes.c_uint64),  # uint64_t[], nodeids
        ("node_mask", ctypes.c_uint64),
        ("pids", ctypes.c_uint64),  # uint32_t[]
        ("pid_mask", ctypes.c_uint64),
        # struct pollfd [2]: the device, and the other descriptor
        ("poll_device", ctypes.c_int),
        ("poll_device_events", ctypes.c_uint32),
        ("poll_other", ctypes.c_int),
        ("poll_other_events", ctypes.c_uint32),
        ("timeout", ctypes.c_int64),  # milliseconds; -1: none
        # struct fuse_out_header, struct fuse_open_out: the answer
        ("length", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("unique", ctypes.c_uint64),
        ("file_handle", ctypes.c_uint64),
        ("open_flags", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("opens", ctypes.c_uint64),  # answered here
        ("releases", ctypes.c_uint64),
    )


class FuseOpens:
    """The machine code at work on one device."""

    def __init__(self, device: int, buffer: bytearray) -> None:
        """Work on the device open as `device`, which does not block; OSError without machine code.

        Requests for others are in `buffer`, which must keep its size.
        """
        self._call = machinecode.function_of_struct(_CODE)
        self._nodes = (ctypes.c_uint64 * NODES)()
        self._pids = (ctypes.c_uint32 * PIDS)(*[0xFFFFFFFF] * PIDS)
        self._nobody = (ctypes.c_uint32 * PIDS)(*[0xFFFFFFFF] * PIDS)
        self._buffer = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._station = Station(
            device=device,
            room=len(buffer),
            buffer=ctypes.addressof(self._buffer),
            nodes=ctypes.addressof(self._nodes),
            node_mask=NODES - 1,
            pids=ctypes.addressof(self._pids),
            pid_mask=PIDS - 1,
            poll_device=device,
            poll_device_events=select.POLLIN,
            poll_other_events=select.POLLIN,
            file_handle=FILE_HANDLE,
            open_flags=fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH,
        )
        self._address = ctypes.addressof(self._station)

    def serve(self, other: int, timeout_ms: int) -> int:
        """Answer what can be; return as the machine code does (above).

        `other` is the descriptor to be waited for as well.
        """
        station = self._station
        station.poll_other = other
        station.timeout = timeout_ms
        return self._call(self._address)

    def take_counts(self) -> tuple[int, int]:
        """Return how many OPEN and RELEASE were answered since the last time."""
        station = self._station
        counts = station.opens, station.releases
        if counts != (0, 0):
            station.opens = station.releases = 0
        return counts

    def pause(self, paused: bool) -> None:
        """Hand out every OPEN, or no longer."""
        self._station.pids = ctypes.addressof(self._nobody if paused else self._pids)

    def add_pid(self, pid: int) -> None:
        """Answer this process."""
        self._pids[pid % PIDS] = pid

    def remove_pid(self, pid: int) -> None:
        """Answer it no more."""
        if self._pids[pid % PIDS] == pid:
            self._pids[pid % PIDS] = 0xFFFFFFFF

    def remove_pids(self) -> None:
        """Answer no process that was added until now."""
        ctypes.memset(self._pids, 0xFF, ctypes.sizeof(self._pids))

    def add_node(self, nodeid: int) -> int:
        """Answer for this inode; return the one that it displaces, or 0."""
        displaced = self._nodes[nodeid % NODES]
        self._nodes[nodeid % NODES] = nodeid
        return displaced

    def remove_node(self, nodeid: int) -> bool:
        """Answer for it no more; return whether it was there."""
        if self._nodes[nodeid % NODES] != nodeid:
            return False
        self._nodes[nodeid % NODES] = 0
        return True
