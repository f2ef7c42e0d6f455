"""The vDSO (vdso(7)): code of the kernel in every process, which a program has found once.

A restored program finds it where it was. If this kernel's is the very same, it is moved there. If
not, the old one is put there as ordinary memory, each of its functions overwritten by the system
call that it stands for; the data of the kernel that it would read is not there.
"""

from __future__ import annotations

import struct

from stubs.abi import x86_64 as nr
from stubs.abi.mman import MREMAP_FIXED, MREMAP_MAYMOVE
from stubs.migration.errors import RestoreError
from stubs.migration.tracee import read_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.executor import Table
    from stubs.migration.proc import Vma

PARTS = (b"[vvar]", b"[vvar_vclock]", b"[vdso]")

# More than all parts of any kernel together.
MOST_BYTES = 256 << 10

_CALLS = {
    b"__vdso_clock_gettime": nr.NR_clock_gettime,
    b"__vdso_gettimeofday": nr.NR_gettimeofday,
    b"__vdso_time": nr.NR_time,
    b"__vdso_clock_getres": nr.NR_clock_getres,
    b"__vdso_getcpu": nr.NR_getcpu,
}
_GETRANDOM = b"__vdso_getrandom"
# mov eax, NUMBER; syscall; ret
_CALL = struct.Struct("<BI3s")
_MOV_EAX, _SYSCALL_RET = 0xB8, b"\x0f\x05\xc3"
# cmp r8, -1; jne +6; mov eax, -ENOSYS; ret; mov eax, 318; syscall; ret. Called with a length of
# its opaque state of ~0 it is asked how large that is; then there is no such function.
_GETRANDOM_CODE = bytes.fromhex("4983f8ff 7506 b8daffffff c3 b83e010000 0f05 c3")

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<qQ")
_SYM = struct.Struct("<IBBHQQ")
_PT_DYNAMIC = 2
_DT_STRTAB, _DT_SYMTAB = 5, 6
_MOST_SYMBOLS = 256


def parts_of(vmas: list[Vma]) -> list[tuple[int, int]]:
    """Return (start, size) of each of PARTS; 0 for those that are not there."""
    found = {vma.path: (vma.start, vma.end - vma.start) for vma in vmas}
    return [found.get(name, (0, 0)) for name in PARTS]


def read_vdso(pid: int, parts: list[tuple[int, int]]) -> bytes:
    """Return the ELF image of a process's vDSO, empty if it has none."""
    start, size = parts[-1]
    return read_memory(pid, start, size) if size else b""


def move(table: Table, parts: list[tuple[int, int]], to: list[int]) -> list[tuple[int, int]]:
    """Move each part; return where they are then."""
    moved = []
    for (start, size), at in zip(parts, to):
        if size and start != at:
            flags = MREMAP_MAYMOVE | MREMAP_FIXED
            table.call(nr.NR_mremap, start, size, size, flags, at)
        moved.append((at, size))
    return moved


def proxy(image: bytes) -> bytes:
    """Return a vDSO whose functions are system calls. RestoreError when it is not understood."""
    code = bytearray(image)
    symbols = _symbols(image)
    for name, number in _CALLS.items():
        if name in symbols:
            _put(code, symbols[name], _CALL.pack(_MOV_EAX, number, _SYSCALL_RET))
    if _GETRANDOM in symbols:
        _put(code, symbols[_GETRANDOM], _GETRANDOM_CODE)
    return bytes(code)


def _put(code: bytearray, at: int, new: bytes) -> None:
    if not 0 < at <= len(code) - len(new):
        raise RestoreError("the vDSO of the image has a function outside of it")
    code[at : at + len(new)] = new


def _symbols(image: bytes) -> dict[bytes, int]:
    """Return the address, from the start of the image, of every function."""
    try:
        header = _EHDR.unpack_from(image)
        phdrs = [
            _PHDR.unpack_from(image, header[5] + number * _PHDR.size)
            for number in range(header[10])
        ]
        at, size = next((each[3], each[6]) for each in phdrs if each[0] == _PT_DYNAMIC)
        entries = dict(_DYN.iter_unpack(image[at : at + size // _DYN.size * _DYN.size]))
        strings, table = entries[_DT_STRTAB], entries[_DT_SYMTAB]
        found = {}
        # The table of symbols has no size of its own; here the strings follow it.
        count = min((strings - table) // _SYM.size, _MOST_SYMBOLS)
        for number in range(count):
            name, _, _, section, value, _ = _SYM.unpack_from(image, table + number * _SYM.size)
            end = image.find(b"\0", strings + name)
            if section and end >= 0:
                found[image[strings + name : end]] = value
        return found
    except (struct.error, KeyError, StopIteration) as error:
        raise RestoreError("the vDSO of the image is not understood") from error
