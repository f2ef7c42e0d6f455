"""ELF as ld.so(8) reads it, and its cache: what a program needs to start, from bytes of its file.

Names and values are those of include/uapi/linux/elf.h and glibc's sysdeps/generic/dl-cache.h
(the new format, glibc-ld.so.cache1.1). Only 64-bit little-endian files; anything else, and
anything that does not fit together, needs nothing: this is for guessing, never for loading.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 0, 1, 5, 10, 15, 29

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
DYN = struct.Struct("<qQ")

CACHE_MAGIC = b"glibc-ld.so.cache1.1"
CACHE_HEADER = struct.Struct("<20sIIB3xI12x")  # magic, nlibs, len_strings, flags, extensions
CACHE_ENTRY = struct.Struct("<iIIIQ")  # flags, key, value, osversion, hwcap
FLAG_X8664_LIB64_ELF_LIBC6 = 0x0303

# More of these than any real file has is not read.
MAX_PHDRS, MAX_DYNAMIC, MAX_STRINGS, MAX_LIBRARIES = 128, 64 << 10, 1 << 20, 65536


class Needs:
    """What one ELF file asks of the dynamic linker."""

    def __init__(self) -> None:
        """Nothing: a static program, or no ELF file."""
        self.interpreter = b""
        self.libraries: list[bytes] = []
        self.rpath: list[bytes] = []
        self.runpath: list[bytes] = []


def needs(read: Callable[[int, int], bytes]) -> Needs:
    """Return what the file needs whose bytes `read(offset, size)` returns."""
    found = Needs()
    head = read(0, EHDR.size)
    if len(head) < EHDR.size or head[:6] != b"\x7fELF\2\1":
        return found
    fields = EHDR.unpack(head)
    offset, size, count = fields[5], fields[9], fields[10]
    if size != PHDR.size or count > MAX_PHDRS:
        return found
    table = read(offset, size * count)
    headers = list(PHDR.iter_unpack(table[: len(table) // size * size]))
    for kind, _, at, _, _, length, _, _ in headers:
        if kind == PT_INTERP and 0 < length <= 4096:
            found.interpreter = read(at, length).rstrip(b"\0")
        elif kind == PT_DYNAMIC:
            _read_dynamic(read, found, headers, read(at, min(length, MAX_DYNAMIC)))
    return found


def _read_dynamic(
    read: Callable[[int, int], bytes],
    found: Needs,
    headers: list[tuple[int, ...]],
    data: bytes,
) -> None:
    entries: list[tuple[int, int]] = []
    for tag, value in DYN.iter_unpack(data[: len(data) // DYN.size * DYN.size]):
        if tag == DT_NULL:
            break
        entries.append((tag, value))
    numbers = dict(entries)
    strings = b""
    for kind, _, at, address, _, length, _, _ in headers:
        start = numbers.get(DT_STRTAB, -1) - address
        if kind == PT_LOAD and 0 <= start < length:
            strings = read(at + start, min(numbers.get(DT_STRSZ, 0), MAX_STRINGS))
    for tag, value in entries:
        text = strings[value : strings.find(b"\0", value)] if value < len(strings) else b""
        if tag == DT_NEEDED and text:
            found.libraries.append(text)
        elif tag == DT_RPATH:
            found.rpath = [part for part in text.split(b":") if part]
        elif tag == DT_RUNPATH:
            found.runpath = [part for part in text.split(b":") if part]


def libraries(cache: bytes) -> dict[bytes, bytes]:
    """Return where /etc/ld.so.cache says that libraries are, by their names; x86-64 only.

    Of several kinds of one library (hwcaps) the plain one, which is the last.
    """
    # An old-format part may come first; the offsets count from where the new one begins.
    start = cache.find(CACHE_MAGIC)
    if start < 0 or len(cache) - start < CACHE_HEADER.size:
        return {}
    view = cache[start:]
    _, count, _, _, _ = CACHE_HEADER.unpack_from(view)
    end = CACHE_HEADER.size + min(count, MAX_LIBRARIES) * CACHE_ENTRY.size
    if end > len(view):
        return {}
    found = {}
    for flags, key, value, _, _ in CACHE_ENTRY.iter_unpack(view[CACHE_HEADER.size : end]):
        if flags == FLAG_X8664_LIB64_ELF_LIBC6 and key < len(view) and value < len(view):
            name, path = view[key : view.find(b"\0", key)], view[value : view.find(b"\0", value)]
            found[name] = path
    return found
