"""What programs touched when they ran on a node: remembered from one run to the next.

What the first body of a kind touched on a link is noted as a whole, and forgotten when others do
without it. What later ones had to ask for is added to that, and lasts: each compile reads headers
of its own, and all of them are wanted again by the next build.

One small SQLite file of the user's, shared by all link processes. Nothing depends on it: a file
that is corrupt is set aside and begun anew, and what cannot be read or written is not remembered.

A key is the program, the kind of file that it is given (the extension), and the directory it
runs in; where that directory is new, the last trace of the same program and kind stands in.
"""

from __future__ import annotations

import json
import os
import time
import zlib

from stubs.home.files.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    # program, kind, directory
    Key = tuple[bytes, bytes, bytes]

# Of one trace.
MAX_DIRS = 1000
MAX_FILES = 4000
MAX_BYTES = 128 << 20

# Traces kept; the least recently used give way.
MAX_TRACES = 500

# A path that was not touched in so many runs in a row is forgotten, but one that was asked for.
MAX_MISSED = 3
LASTING = -1


def key_of(exe: bytes, argv: Sequence[bytes], cwd: bytes) -> Key:
    """Return the key for a program that is about to be started."""
    for word in argv[1:]:
        extension = os.path.splitext(word)[1]
        if not word.startswith(b"-") and 1 < len(extension) <= 8:
            return exe, extension, cwd
    return exe, b"", cwd


class Trace:
    """Directories looked into, and files with the ranges read of them; in order of first use."""

    def __init__(self) -> None:
        """Nothing was touched."""
        # path -> in how many runs since it was last touched, or LASTING
        self.dirs: dict[bytes, int] = {}
        # path -> the same, and (offset, length) of each range
        self.files: dict[bytes, tuple[int, list[tuple[int, int]]]] = {}

    def merge(self, newer: Trace) -> Trace:
        """Return what is known after another run."""
        merged = Trace()
        merged.dirs.update(newer.dirs)
        merged.files.update(newer.files)
        for path, missed in self.dirs.items():
            if missed == LASTING:
                merged.dirs[path] = LASTING
            elif path not in merged.dirs and missed < MAX_MISSED:
                merged.dirs[path] = missed + 1
        for path, (missed, ranges) in self.files.items():
            if missed == LASTING:
                merged._add(path, ranges)
            elif path not in merged.files and missed < MAX_MISSED:
                merged.files[path] = (missed + 1, ranges)
            elif path in merged.files and not merged.files[path][1]:
                # It was in the page cache of the node: what is read of it was not seen this time.
                merged.files[path] = (0, ranges)
        return merged._bounded()

    def extended(self, more: Trace) -> Trace:
        """Return what is known when later runs had to ask for more."""
        found = Trace()
        found.dirs = {**self.dirs, **dict.fromkeys(more.dirs, LASTING)}
        found.files = dict(self.files)
        for path, (_, ranges) in more.files.items():
            found._add(path, ranges)
        return found._bounded()

    def _add(self, path: bytes, ranges: list[tuple[int, int]]) -> None:
        """Add ranges of a file that last."""
        _, known = self.files.get(path, (LASTING, []))
        self.files[path] = (LASTING, [*known, *(item for item in ranges if item not in known)])

    def outside(self, cwd: bytes) -> Trace:
        """Return what is of use in another directory: what does not lie in `cwd`."""
        inside = cwd.rstrip(b"/") + b"/"
        if inside == b"/":
            return self
        found = Trace()
        found.dirs = {
            path: missed
            for path, missed in self.dirs.items()
            if path != cwd and not path.startswith(inside)
        }
        found.files = {
            path: item for path, item in self.files.items() if not path.startswith(inside)
        }
        return found

    def _bounded(self) -> Trace:
        bounded = Trace()
        for path in list(self.dirs)[:MAX_DIRS]:
            bounded.dirs[path] = self.dirs[path]
        left = MAX_BYTES
        for path in list(self.files)[:MAX_FILES]:
            left -= sum(length for _, length in self.files[path][1])
            if left < 0:
                break
            bounded.files[path] = self.files[path]
        return bounded

    def encode(self) -> bytes:
        """Return it as bytes for the store."""
        dirs = [[os.fsdecode(path), missed] for path, missed in self.dirs.items()]
        files = [
            [os.fsdecode(path), missed, ranges] for path, (missed, ranges) in self.files.items()
        ]
        return zlib.compress(json.dumps([dirs, files]).encode(), 1)

    @classmethod
    def decode(cls, data: bytes) -> Trace:
        """Return what `encode` made; ValueError for anything else."""
        try:
            dirs, files = json.loads(zlib.decompress(data))
            trace = cls()
            for path, missed in dirs:
                trace.dirs[os.fsencode(path)] = int(missed)
            for path, missed, ranges in files:
                pairs = [(int(offset), int(length)) for offset, length in ranges]
                trace.files[os.fsencode(path)] = (int(missed), pairs)
        except (zlib.error, TypeError) as error:
            raise ValueError("not a trace") from error
        return trace


class Traces:
    """The store."""

    def __init__(self, directory: str) -> None:
        """Keep it in `directory`, which is made when there is something to remember."""
        self._stored = Store(
            os.path.join(directory, "traces.sqlite"),
            "CREATE TABLE IF NOT EXISTS traces (exe BLOB, kind BLOB, cwd BLOB,"
            " used REAL, trace BLOB, PRIMARY KEY (exe, kind, cwd))",
        )

    def close(self) -> None:
        """Close the file."""
        self._stored.close()

    def recall(self, key: Key) -> Trace:
        """Return what is known of `key`, or of what is most like it; empty if nothing is."""

        def find(connection: sqlite3.Connection) -> Trace:
            row = connection.execute(
                "SELECT trace, cwd FROM traces WHERE exe = ? AND kind = ?"
                " ORDER BY cwd = ? DESC, used DESC LIMIT 1",
                key,
            ).fetchone()
            if row is None:
                return Trace()
            trace = Trace.decode(row[0])
            return trace if row[1] == key[2] else trace.outside(row[1])

        return self._stored.look(find, Trace())

    def record(self, key: Key, trace: Trace) -> None:
        """Remember what a run touched, together with what was known of exactly this key."""
        self._update(key, lambda known: known.merge(trace))

    def extend(self, key: Key, trace: Trace) -> None:
        """Remember what later runs asked for, with what was known of exactly this key."""
        self._update(key, lambda known: known.extended(trace))

    def _update(self, key: Key, change: Callable[[Trace], Trace]) -> None:
        def add(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT trace FROM traces WHERE exe = ? AND kind = ? AND cwd = ?", key
            ).fetchone()
            changed = change(Trace.decode(row[0]) if row is not None else Trace())
            connection.execute(
                "INSERT OR REPLACE INTO traces VALUES (?, ?, ?, ?, ?)",
                (*key, time.time(), changed.encode()),
            )
            connection.execute(
                "DELETE FROM traces WHERE used <="
                " (SELECT used FROM traces ORDER BY used DESC LIMIT 1 OFFSET ?)",
                (MAX_TRACES,),
            )

        self._stored.change(add)
