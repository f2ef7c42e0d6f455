"""Includes: sources and headers that a compile will read, found as the preprocessor finds them.

`#include` lines are followed from the source that the arguments name, through the directories of
-I and its like and those that GCC knows by itself. Conditions are not looked at: in the Linux
kernel one header in six is found that the compiler then leaves out, and none is missing. A guess,
like a closure: what a macro names, or another compiler's own directories hold, is fetched when it
is asked for.
"""

from __future__ import annotations

import os
import re
import time

from stubs.home.files import gcc
from stubs.wire.compilers import is_compiler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # Name, whether it was in quotation marks, whether by #include_next.
    Include = tuple[bytes, bool, bool]

# By extension: what the preprocessor runs on, and of this what is C++ (gcc(1), "Options
# Controlling the Kind of Output").
_CPLUSPLUS = frozenset((b".cc", b".cp", b".cxx", b".cpp", b".CPP", b".c++", b".C"))
_SOURCES = _CPLUSPLUS | {b".c", b".S", b".sx"}

_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include(_next)?[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)

# Options that name a directory, or with -include a file, in the same word or the next.
_QUOTED, _ANGLED, _SYSTEM, _AFTER, _FORCED = (
    b"-iquote",
    b"-I",
    b"-isystem",
    b"-idirafter",
    b"-include",
)
_OPTIONS = (_QUOTED, _ANGLED, _SYSTEM, _AFTER, _FORCED)

# GCC reads it before every source (gcc/c-family/c-opts.cc).
PREINCLUDED = (b"stdc-predef.h", False, False)

# Bytes of a file that are looked through, and headers that are found for one compile.
MAX_BYTES = 1 << 20
MAX_FOUND = 2000

# What is remembered is forgotten at once when it is more than this: files, ways to search.
MAX_KNOWN = 50_000
MAX_SEARCHES = 200

# Names of directories are looked up again after so long: builds make headers.
NAMES_SECONDS = 5.0


class Compile:
    """What a compiler's arguments say of the files that it reads; paths are absolute."""

    def __init__(self, argv: Sequence[bytes], cwd: bytes) -> None:
        """Read the arguments; without a source there is nothing to be preprocessed."""
        found: dict[bytes, list[bytes]] = {option: [] for option in _OPTIONS}
        self.sources: list[bytes] = []
        words = iter(argv[1:])
        for word in words:
            option = b""
            if word.startswith((b"-I", b"-i")):
                option = next((name for name in _OPTIONS if word.startswith(name)), b"")
            if option:
                found[option].append(_absolute(cwd, word[len(option) :] or next(words, b"")))
            elif not word.startswith(b"-") and os.path.splitext(word)[1] in _SOURCES:
                self.sources.append(_absolute(cwd, word))
        self.forced = found[_FORCED]
        self.quoted = tuple(found[_QUOTED])
        self.angled = (*found[_ANGLED], *found[_SYSTEM])
        self.after = tuple(found[_AFTER])
        self.standard = b"-nostdinc" not in argv
        self.is_cplusplus = any(os.path.splitext(path)[1] in _CPLUSPLUS for path in self.sources)


def _absolute(cwd: bytes, path: bytes) -> bytes:
    return os.path.normpath(os.path.join(cwd, path))


def _compile(exe: bytes, argv: Sequence[bytes], cwd: bytes) -> Compile | None:
    """Return what a program compiles; None if it does not."""
    if not is_compiler(exe):
        return None
    found = Compile(argv, cwd)
    return found if found.sources else None


class _Search:
    """One way to search, and what has been found by it."""

    def __init__(self, quoted: tuple[bytes, ...], angled: tuple[bytes, ...]) -> None:
        self.quoted = quoted
        self.angled = angled
        self.places: dict[bytes, bytes] = {}  # where <name> was found
        self.known: set[bytes] = set()  # headers that were told of, and looked through
        self.new = [*quoted, *angled]  # directories that have not been told of


class Includes:
    """Finds headers in one export, and tells of each once."""

    def __init__(
        self,
        opened: Callable[[bytes], int],
        names: Callable[[bytes], list[str]],
        image: Callable[[bytes], bytes],
    ) -> None:
        """Read what is in the export.

        `opened(path)` returns a borrowed descriptor of a file, `names(path)` the names in a
        directory, `image(path)` the name of a program behind all symlinks; OSError from each.
        """
        self._opened = opened
        self._names = names
        self._image = image
        self._searches: dict[tuple[tuple[bytes, ...], ...], _Search] = {}
        # By path: size and change time, and what it includes.
        self._scanned: dict[bytes, tuple[tuple[int, int], list[Include]]] = {}
        self._listed: dict[bytes, frozenset[str]] = {}
        self._listed_at = 0.0

    def of(self, exe: bytes, argv: Sequence[bytes], cwd: bytes) -> tuple[list[bytes], list[bytes]]:
        """Return the directories that are searched, and sources and headers, in order of use.

        Of directories and headers only those that were not returned before.
        """
        compile_ = _compile(exe, argv, cwd)
        if compile_ is None:
            return [], []
        if time.monotonic() - self._listed_at > NAMES_SECONDS:
            self._listed.clear()
            self._listed_at = time.monotonic()
        search = self._search(exe, compile_)
        found = dict.fromkeys(path for path in compile_.forced if path not in search.known)
        todo = [*found, *compile_.sources]
        for path in todo:  # grows
            if len(found) >= MAX_FOUND:
                break
            if path in found:
                search.known.add(path)
            more = self._includes(path)
            if compile_.standard and path in compile_.sources:
                more = [PREINCLUDED, *more]
            for include in more:
                place = self._find(include, path, search)
                if place and place not in search.known and place not in found:
                    found[place] = None
                    todo.append(place)
        if len(search.known) > MAX_KNOWN:
            self._searches.clear()
        directories, search.new = search.new, []
        return directories, [*compile_.sources, *found]

    def passes(self, exe: bytes, argv: Sequence[bytes], cwd: bytes) -> list[bytes]:
        """Return the programs that a compiler's driver will start."""
        compile_ = _compile(exe, argv, cwd)
        if compile_ is None:
            return []
        return gcc.passes(self._image_of(exe), compile_.is_cplusplus)

    def _image_of(self, exe: bytes) -> bytes:
        try:
            return self._image(exe)
        except OSError:
            return b""  # gone, or not for the node

    def _search(self, exe: bytes, compile_: Compile) -> _Search:
        own: list[bytes] = []
        if compile_.standard:
            own = gcc.headers(self._image_of(exe), compile_.is_cplusplus)
        key = (compile_.quoted, (*compile_.angled, *own, *compile_.after))
        search = self._searches.get(key)
        if search is None:
            if len(self._searches) >= MAX_SEARCHES:
                self._searches.clear()
            search = self._searches[key] = _Search(*key)
        return search

    def _includes(self, path: bytes) -> list[Include]:
        """Return what a file includes; nothing if it is not to be read."""
        try:
            fd = self._opened(path)
            status = os.fstat(fd)
            version = (status.st_size, status.st_ctime_ns)
            known = self._scanned.get(path)
            if known is not None and known[0] == version:
                return known[1]
            lines = _INCLUDE.findall(os.pread(fd, MAX_BYTES, 0))
        except OSError:
            return []
        if len(self._scanned) >= MAX_KNOWN:
            self._scanned.clear()
        found = [(name, mark == b'"', bool(following)) for following, mark, name in lines]
        self._scanned[path] = version, found
        return found

    def _find(self, include: Include, path: bytes, search: _Search) -> bytes:
        """Return the path of what a file includes; empty if there is none."""
        name, quoted, following = include
        if not quoted and not following and name in search.places:
            return search.places[name]
        places = [*search.quoted, *search.angled] if quoted else list(search.angled)
        here = os.path.dirname(path)
        if following:
            # From behind the directory in which this file was found.
            nearest = [at for at, place in enumerate(places) if path == os.path.join(place, name)]
            places = places[nearest[0] + 1 :] if nearest else places
        elif quoted:
            places.insert(0, here)
        for directory in places:
            place = os.path.normpath(os.path.join(directory, name))
            if self._exists(place):
                if not quoted and not following:
                    search.places[name] = place
                return place
        return b""

    def _exists(self, path: bytes) -> bool:
        directory, name = os.path.split(path)
        names = self._listed.get(directory)
        if names is None:
            try:
                names = frozenset(self._names(directory))
            except OSError:
                names = frozenset()
            self._listed[directory] = names
        return os.fsdecode(name) in names
