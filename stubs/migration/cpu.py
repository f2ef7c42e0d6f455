"""What a processor can do, as far as a program that has looked once relies on it."""

from __future__ import annotations

from stubs.migration.errors import RestoreError

# Bits 0-2 of XCR0 (x87, SSE, AVX) lie at the same place for every processor; where the rest lies
# may differ unless both the features and the size of the whole are the same (CPUID leaf 0xD).
_XCR0_AT, _XSTATE_BV_AT = 464, 512
_FIXED, _FIXED_BYTES = 0x7, 832


def cpu_flags() -> bytes:
    """Return the flags of /proc/cpuinfo, by words."""
    with open("/proc/cpuinfo", "rb") as file:
        for line in file:
            if line.startswith(b"flags"):
                return line.partition(b":")[2].strip()
    return b""


# What brings instructions that programs use when it is there: families, and single ones.
_FAMILIES = (
    b"avx",
    b"sse",
    b"ssse",
    b"amx",
    b"bmi",
    b"3dnow",
    b"xsave",
    b"sha",
    b"sm",
    b"mmx",
    b"fma",
)
_SINGLE = frozenset(
    b"cmov cx8 cx16 fxsr pni movbe popcnt aes pclmulqdq f16c rdrand rdseed abm xop tbm rtm adx"
    b" clflushopt clwb cldemote xgetbv1 gfni vaes vpclmulqdq rdpid rdtscp movdiri movdir64b pku"
    b" ospke fsgsbase waitpkg cmpccxadd prefetchi serialize lwp".split()
)
# Those of the families that only the kernel can use.
_NOT_THEM = frozenset((b"smep", b"smap", b"smx", b"smca", b"xsaves", b"xsaveerptr"))


def _used_by_programs(flags: bytes) -> set[bytes]:
    words = set(flags.split()) - _NOT_THEM
    return {word for word in words if word in _SINGLE or word.startswith(_FAMILIES)}


def check_flags(theirs: bytes) -> None:
    """Raise RestoreError unless this processor has what the program may use."""
    missing = _used_by_programs(theirs) - set(cpu_flags().split())
    if missing:
        names = b" ".join(sorted(missing)).decode("ascii", "replace")
        raise RestoreError(f"the processor here lacks what the program may use: {names}")


def fit_xstate(theirs: bytes, ours: bytes) -> bytes:
    """Return the state of a thread in the layout that `ours`, of any thread here, has.

    RestoreError when it holds what has no place here.
    """
    if len(theirs) < _FIXED_BYTES or len(ours) < _FIXED_BYTES:
        raise RestoreError("the state of the processor is incomplete")
    features = slice(_XCR0_AT, _XCR0_AT + 8)
    if len(theirs) == len(ours) and theirs[features] == ours[features]:
        return theirs
    used = int.from_bytes(theirs[_XSTATE_BV_AT : _XSTATE_BV_AT + 8], "little")
    here = int.from_bytes(ours[features], "little")
    if used & ~_FIXED or used & ~here:
        raise RestoreError(f"the processor here keeps its state otherwise ({used:#x} in use)")
    fitted = theirs[:_FIXED_BYTES] + bytes(len(ours) - _FIXED_BYTES)
    return fitted[:_XCR0_AT] + ours[features] + fitted[_XCR0_AT + 8 :]
