"""What a program imports from its libraries, read from its ELF file.

Only the dynamic symbol table is looked at. A program that is linked statically, or is no 64-bit
little-endian ELF file, imports nothing as far as this can tell.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache

# To serve on a socket. A program that does is to be found at home's addresses.
SERVING = frozenset({b"listen", b"accept", b"accept4", b"bind"})

_IDENT = b"\x7fELF\x02\x01"
_SHT_DYNSYM = 11
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
# Nobody waits while we read the symbols of a giant.
_MOST_SECTIONS = 4096
_MOST_BYTES = 8 << 20


def serves(path: str) -> bool:
    """Tell whether the program imports what it takes to wait for connections; OSError."""
    found = os.stat(path)
    return _serves(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _serves(path: str, *identity: int) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = imports(fd, SERVING)
    finally:
        os.close(fd)
    return b"listen" in found and bool(found & {b"accept", b"accept4"})


def imports(fd: int, names: frozenset[bytes]) -> set[bytes]:
    """Return those of `names` that the ELF file leaves to its libraries."""
    try:
        symbols, strings = _dynamic_symbols(fd)
    except (struct.error, IndexError):
        return set()
    wanted: dict[int, bytes] = {}
    for name in names:
        # A name may be the end of another one's: linkers share the bytes.
        at = strings.find(name + b"\0")
        while at >= 0:
            wanted[at] = name
            at = strings.find(name + b"\0", at + 1)
    if not wanted:
        return set()
    whole = len(symbols) - len(symbols) % _SYMBOL.size
    return {
        wanted[name]
        for name, _, _, section, _, _ in _SYMBOL.iter_unpack(symbols[:whole])
        if section == 0 and name in wanted
    }


def _dynamic_symbols(fd: int) -> tuple[bytes, bytes]:
    """Return the sections .dynsym and .dynstr, empty where there are none."""
    header = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
    ident, offset, size, count = header[0], header[6], header[11], header[12]
    if not ident.startswith(_IDENT) or size != _SECTION.size or count > _MOST_SECTIONS:
        return b"", b""
    table = os.pread(fd, size * count, offset)
    sections = [_SECTION.unpack_from(table, size * number) for number in range(count)]
    for section in sections:
        if section[1] == _SHT_DYNSYM:
            return _content(fd, section), _content(fd, sections[section[6]])
    return b"", b""


def _content(fd: int, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    return os.pread(fd, size, offset) if size <= _MOST_BYTES else b""
