"""A small SQLite file of the user's, shared by all link processes, that may be lost without harm.

One that is corrupt is set aside (`*.corrupt`) and begun anew; while it is locked, full or out of
reach it is done without. sqlite3 is imported when it is first needed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")

_BUSY_SECONDS = 0.2


class Store:
    """The file, and the connection to it."""

    def __init__(self, path: str, *schema: str) -> None:
        """Make the file, with its directory, when there is something to keep."""
        self._path = path
        self._schema = schema
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def look(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        """Return what `work` finds in it; `otherwise` if there is none, or none to be used.

        ValueError from `work`: what it found makes no sense.
        """
        return self._attempt(work, otherwise) if os.path.exists(self._path) else otherwise

    def change(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Have `work` change it, in one transaction; ValueError as for `look`."""

        def within(connection: sqlite3.Connection) -> None:
            with connection:
                work(connection)

        self._attempt(within, None)

    def _attempt(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        import sqlite3

        try:
            return work(self._opened())
        except (sqlite3.OperationalError, OSError):
            return otherwise  # locked, full or out of reach
        except (sqlite3.DatabaseError, ValueError):
            self._set_aside()
            return otherwise

    def _opened(self) -> sqlite3.Connection:
        import sqlite3

        if self._connection is None:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
            self._connection = connection
            # What a crash of the machine loses is found out again.
            connection.execute("PRAGMA synchronous = OFF")
            for statement in self._schema:
                connection.execute(statement)
        return self._connection

    def _set_aside(self) -> None:
        self.close()
        try:
            os.replace(self._path, self._path + ".corrupt")
        except FileNotFoundError:
            pass  # another link process has done it
