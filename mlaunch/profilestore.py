"""The file of the profiles: SQLite, written in batches by the home daemon.

Nothing that can be wrong with the file or its disk is fatal. A damaged file is set aside
(`*.corrupt-TIME`) and a new one begun; where none can be kept, profiles live in memory only. Each
such thing is said once on stderr, which is the daemon's log. A file of a later version is left
alone. Two daemons may write at once: the last one to have learned a row has it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Key = tuple[str, str]

# What has to be done to a file of version N, its user_version, to make it one of version N + 1.
# A step that has been released is never changed.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE program ("
        " exe TEXT NOT NULL, shape TEXT NOT NULL, identity TEXT NOT NULL,"
        " runs INTEGER NOT NULL, node_runs INTEGER NOT NULL,"
        " cpu_s REAL NOT NULL, cpu_spread REAL NOT NULL, own_share REAL NOT NULL,"
        " wall_s REAL NOT NULL, memory REAL NOT NULL,"
        " children REAL NOT NULL, peak_children REAL NOT NULL,"
        " round_trips REAL NOT NULL, bytes_to_node REAL NOT NULL, bytes_to_home REAL NOT NULL,"
        " used INTEGER NOT NULL, PRIMARY KEY (exe, shape)) WITHOUT ROWID",
        "CREATE INDEX program_used ON program (used)",
    ),
)

TEXTS = ("exe", "shape", "identity")
NUMBERS = (
    "runs", "node_runs", "cpu_s", "cpu_spread", "own_share", "wall_s", "memory", "children",
    "peak_children", "round_trips", "bytes_to_node", "bytes_to_home", "used",
)  # fmt: skip
COLUMNS = TEXTS + NUMBERS

# The loop of the daemon waits no longer than this for another writer; the batch is kept. At its
# start there is time.
BUSY_S = 0.05
OPEN_BUSY_S = 2.0

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def default_path() -> str:
    """Return where the profiles of this user are kept."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "mlaunch", "profiles.sqlite")


class NewerError(Exception):
    """The file is of a later version than we know."""


def upgrade(db: sqlite3.Connection, steps: Sequence[Sequence[str]] = STEPS) -> None:
    """Bring a file of any earlier version, or an empty one, up to date."""
    while (version := _version(db)) != len(steps):
        if version > len(steps):
            raise NewerError(f"it is of version {version}, this mlaunch knows {len(steps)}")
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another daemon may have taken this step while we waited for our turn.
            if _version(db) == version:
                for statement in steps[version]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version + 1}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


class Store:
    """The file, if there can be one."""

    def __init__(self, path: str) -> None:
        """Open or make it."""
        self.path = path
        self.begun_anew = False  # while in use: what was in it is there no more
        self._db: sqlite3.Connection | None = None
        self._told = ""
        self._open()

    def _open(self) -> None:
        for _ in range(2):
            try:
                os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
                self._db = _connect(self.path)
                return
            except (OSError, sqlite3.Error, NewerError) as error:
                if not self._damaged(error) or not self._set_aside(error):
                    self._tell(f"profiles are not kept: {self.path}: {error}")
                    return

    def load(self, most: int) -> list[tuple[Any, ...]]:
        """Return the `most` rows used last, the earlier ones first, as COLUMNS; see `is_sound`."""
        if self._db is None:
            return []
        query = f"SELECT {', '.join(COLUMNS)} FROM program ORDER BY used DESC LIMIT ?"
        try:
            rows = self._db.execute(query, (most,)).fetchall()
        except sqlite3.Error as error:
            self._failed(error)
            return []
        rows.reverse()
        return rows

    def write(self, rows: Iterable[tuple[Any, ...]], dropped: Iterable[Key]) -> bool:
        """Write and delete rows in one transaction; tell whether that is done."""
        if self._db is None:
            return True  # there is no file to wait for
        marks = ", ".join("?" * len(COLUMNS))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("DELETE FROM program WHERE exe = ? AND shape = ?", dropped)
            self._db.executemany(f"INSERT OR REPLACE INTO program VALUES ({marks})", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            # A failure may have ended the transaction, or not begun it.
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self._failed(error)
            return False
        self._told = ""
        return True

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    # what can go wrong

    def _failed(self, error: sqlite3.Error) -> None:
        if self._damaged(error):
            self.close()
            if self._set_aside(error):
                self.begun_anew = True
                self._open()
        elif _code(error) != sqlite3.SQLITE_BUSY:
            self._tell(f"profiles cannot be written now: {self.path}: {error}")

    def _damaged(self, error: Exception) -> bool:
        """Tell whether the file, and not its disk or another writer, is to blame."""
        if _code(error) in _DAMAGED or "decode" in str(error):  # a text that is no UTF-8
            return True
        if _code(error) != sqlite3.SQLITE_CANTOPEN or not os.path.lexists(self.path):
            return False
        return not os.path.isfile(self.path) or not os.access(self.path, os.R_OK | os.W_OK)

    def _set_aside(self, error: Exception) -> bool:
        aside = f"{self.path}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}"
        try:
            os.rename(self.path, aside)
        except OSError as refused:
            self._tell(f"profiles are not kept: {self.path}: {error}, {refused.strerror}")
            return False
        for suffix in ("-wal", "-shm"):
            # They belong to that file: to a new one they would do damage.
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + suffix, aside + suffix)
        self._tell(f"profiles begin anew: {error}; the old file is {aside}")
        return True

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            print(f"mlaunch: {text}", file=sys.stderr, flush=True)


def _connect(path: str) -> sqlite3.Connection:
    # Transactions are ours to begin: isolation_level None.
    db = sqlite3.connect(path, timeout=OPEN_BUSY_S, isolation_level=None)
    try:
        # No fsync at a commit: what is lost with the power is learned again.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        upgrade(db)
        db.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")
    except BaseException:
        db.close()
        raise
    return db


def _code(error: Exception) -> int:
    """Return the primary result code of SQLite, 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_sound(row: tuple[Any, ...]) -> bool:
    """Tell whether the values are of their columns' kinds: SQLite does not care."""
    texts, numbers = row[: len(TEXTS)], row[len(TEXTS) :]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, (int, float)) and 0 <= number < math.inf for number in numbers
    )
