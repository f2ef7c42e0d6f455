"""The closure of a program: the files that it must have before its first own instruction.

The ELF interpreter, and all libraries that are needed by name, found as ld.so(8) finds them: RPATH,
LD_LIBRARY_PATH, RUNPATH, /etc/ld.so.cache, the default directories. A guess: a library that is
missed here is fetched when it is asked for.
"""

from __future__ import annotations

import errno
import os

from stubs.abi import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CACHE = b"/etc/ld.so.cache"
DEFAULT = (b"/lib/x86_64-linux-gnu", b"/usr/lib/x86_64-linux-gnu", b"/lib64", b"/usr/lib64")

MAX_FILES = 512


class Closure:
    """Finds closures in one export; remembers the linker's cache while it stays the same."""

    def __init__(self, opened: Callable[[bytes], int]) -> None:
        """Read files by `opened(path)`, which returns a borrowed descriptor or raises OSError."""
        self._opened = opened
        self._cache: dict[bytes, bytes] = {}
        self._cache_key: tuple[int, ...] = ()

    def of(self, program: bytes, env: Iterable[bytes]) -> list[bytes]:
        """Return the paths, the program's own first, in about the order in which they are read."""
        preset: list[bytes] = []
        for variable in env:
            if variable.startswith(b"LD_LIBRARY_PATH="):
                preset = [part for part in variable[16:].split(b":") if part]
        found = {program: None}
        first = self._needs(program)
        if first is None or not (first.interpreter or first.libraries):
            return list(found)
        if first.interpreter:
            found[first.interpreter] = None
        found[CACHE] = None
        self._load_cache()
        todo = [(program, first)]
        inherited = _expand(first.rpath, program) if not first.runpath else []
        for path, needed in todo:  # grows
            for name in needed.libraries:
                place = self._find(name, path, needed, inherited, preset)
                if place and place not in found and len(found) < MAX_FILES:
                    found[place] = None
                    more = self._needs(place)
                    if more is not None:
                        todo.append((place, more))
        return list(found)

    def _needs(self, path: bytes) -> elf.Needs | None:
        try:
            fd = self._opened(path)
            return elf.needs(lambda offset, size: os.pread(fd, size, offset))
        except (OSError, OverflowError):
            return None  # not to be read, or offsets that no file has

    def _find(
        self,
        name: bytes,
        path: bytes,
        needed: elf.Needs,
        inherited: list[bytes],
        preset: list[bytes],
    ) -> bytes:
        if b"/" in name:
            return name if name.startswith(b"/") else b""
        own = _expand(needed.rpath, path) if not needed.runpath else []
        for directory in [*own, *inherited, *preset, *_expand(needed.runpath, path)]:
            place = os.path.join(directory, name)
            if self._exists(place):
                return place
        if name in self._cache:
            return self._cache[name]
        for directory in DEFAULT:
            place = os.path.join(directory, name)
            if self._exists(place):
                return place
        return b""

    def _exists(self, path: bytes) -> bool:
        try:
            self._opened(path)
        except OSError:
            return False
        return True

    def _load_cache(self) -> None:
        try:
            fd = self._opened(CACHE)
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
            if key != self._cache_key:
                self._cache = elf.libraries(os.pread(fd, min(status.st_size, 8 << 20), 0))
                self._cache_key = key
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.ESTALE):
                raise
            self._cache, self._cache_key = {}, ()


def _expand(directories: list[bytes], path: bytes) -> list[bytes]:
    """Return absolute directories, with what ld.so puts in the place of its variables."""
    origin = os.path.dirname(path)
    found = []
    for directory in directories:
        for name, value in (
            (b"ORIGIN", origin),
            (b"LIB", b"lib/x86_64-linux-gnu"),
            (b"PLATFORM", b"x86_64"),
        ):
            directory = directory.replace(b"${" + name + b"}", value)
            directory = directory.replace(b"$" + name, value)
        if directory.startswith(b"/"):
            found.append(os.path.normpath(directory))
    return found
