"""Mappings: what of them is recorded, and the calls that make them again.

Mappings of the kernel's own ([vdso], [vvar]…) are not recorded: see stubs.migration.vdso.
"""

from __future__ import annotations

from stubs.abi.mman import (
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_WIPEONFORK,
    MAP_ANONYMOUS,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from stubs.migration.image import Area
from stubs.migration.reasons import Unmovable, reason
from stubs.migration.tracee import read_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from stubs.migration.proc import Vma

    class Opens(Protocol):
        """What stubs.migration.files finds out about the open files of a tree."""

        def descriptors(self, pid: int) -> list[tuple[int, int, bool]]:
            """Return (number, index, close-on-exec)."""

        def executable(self, pid: int) -> int:
            """Return the index of what it executes."""

        def directory(self, pid: int) -> int:
            """Return the index of its working directory."""

        def mapped(self, pid: int, area: Vma) -> tuple[int, int]:
            """Return the indexes of the file and of the shared memory, or -1."""


# The kernel's own mappings.
SPECIAL = (b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")

_PROTECTION = (("r", PROT_READ), ("w", PROT_WRITE), ("x", PROT_EXEC))

# Words of VmFlags (proc(5)) that tell of madvise(2).
_ADVICE = {
    "sr": MADV_SEQUENTIAL,
    "rr": MADV_RANDOM,
    "dc": MADV_DONTFORK,
    "dd": MADV_DONTDUMP,
    "mg": MADV_MERGEABLE,
    "hg": MADV_HUGEPAGE,
    "nh": MADV_NOHUGEPAGE,
    "wf": MADV_WIPEONFORK,
}

# How much of a mapping is searched for an instruction at once.
_PIECE = 1 << 20


def protection_of(vma: Vma) -> int:
    """Return PROT_* of a mapping."""
    return sum(bit for letter, bit in _PROTECTION if letter in vma.permissions)


def is_shared(vma: Vma) -> bool:
    """Tell whether what is written to it is seen by others."""
    return vma.permissions[3] == "s"


def is_anonymous(vma: Vma) -> bool:
    """Tell whether it is private memory without a file, and none that grows by itself."""
    special = vma.path in SPECIAL or is_shared(vma) or vma.inode
    return not special and "gd" not in vma.flags


def flags_of(vma: Vma) -> int:
    """Return MAP_GROWSDOWN and MAP_NORESERVE of a mapping."""
    flags = MAP_NORESERVE if "nr" in vma.flags else 0
    return flags | (MAP_GROWSDOWN if "gd" in vma.flags else 0)


def advice_of(vma: Vma) -> list[int]:
    """Return MADV_* that has been given for a mapping."""
    return [advice for word, advice in _ADVICE.items() if word in vma.flags]


def locked_of(vma: Vma) -> int:
    """Return how a mapping is locked; see Area."""
    return 0 if "lo" not in vma.flags else 2 if "lf" in vma.flags else 1


def record_areas(pid: int, vmas: list[Vma], opens: Opens) -> list[Area]:
    """Return an Area for each mapping of a process."""
    found = []
    for vma in vmas:
        if vma.path in SPECIAL:
            continue
        opened, shared = opens.mapped(pid, vma)
        flags = flags_of(vma) | (MAP_SHARED if is_shared(vma) else MAP_PRIVATE)
        if opened < 0 and shared < 0:
            flags |= MAP_ANONYMOUS
        found.append(
            Area(
                start=vma.start,
                end=vma.end,
                protection=protection_of(vma),
                flags=flags,
                advice=advice_of(vma),
                open=opened,
                shared=shared,
                offset=vma.offset if opened >= 0 or shared >= 0 else 0,
                locked=locked_of(vma),
            )
        )
    return found


def find_code(pid: int, vmas: list[Vma], code: bytes) -> int:
    """Return where a process has these bytes to be executed; the vDSO is looked at first."""
    executable = [vma for vma in vmas if vma.permissions.startswith("r-x")]
    for vma in sorted(executable, key=lambda vma: vma.path != b"[vdso]"):
        for start in range(vma.start, vma.end, _PIECE):
            try:
                at = read_memory(pid, start, min(_PIECE, vma.end - start)).find(code)
            except OSError:
                continue  # [vsyscall], or a file that has been cut short
            if at >= 0:
                return start + at
    raise Unmovable(reason("no_executable_memory", pid, "has no code that makes a system call"))


def is_free(layouts: list[list[tuple[int, int]]], at: int, size: int) -> bool:
    """Tell whether `size` bytes are free at `at` in all layouts, lists of (start, end)."""
    return not any(
        start < at + size + _GAP and at < end + _GAP for layout in layouts for start, end in layout
    )


def hole(layouts: list[list[tuple[int, int]]], size: int) -> int:
    """Return where `size` bytes are free in all layouts, lists of (start, end)."""
    taken = sorted({each for layout in layouts for each in layout})
    at = _LOWEST
    for start, end in taken:
        if start < at + size + _GAP and at < end + _GAP:
            at = end + _GAP
    if at + size > _HIGHEST:
        raise Unmovable(reason("no_executable_memory", 0, "leaves no address free"))
    return at


# Below where programs are: from what vm.mmap_min_addr allows on. A gap beside each mapping, as the
# kernel keeps it below a stack.
_LOWEST = 0x10000
_HIGHEST = 0x7FFFFFFFF000 - PAGE_SIZE
_GAP = 1 << 20
