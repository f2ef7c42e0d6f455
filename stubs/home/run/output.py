"""A file that mrun writes when its program has ended: whole, or not at all."""

from __future__ import annotations

import os
import stat

from stubs.home.run.errors import MrunError, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Output:
    """One such file."""

    def __init__(self, path: str, name: str) -> None:
        """MrunError when `path` could not be written in the end; `name` is what would be lost."""
        self._path = path
        self._name = name
        self._fd = -1
        try:
            self._try_path(path)
        except OSError as error:
            raise MrunError(f"{path}: {error.strerror}") from error

    def _try_path(self, path: str) -> None:
        if os.path.exists(path):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            # A pipe or a device cannot be replaced by a new file: it is written as it is.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self._fd = fd
                return
            os.close(fd)
        # Through symbolic links: it is the file that is replaced.
        self._path = os.path.realpath(path)
        os.close(self._create())
        os.unlink(self._temporary)

    @property
    def _temporary(self) -> str:
        return f"{self._path}.{os.getpid()}.part"

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(self._temporary, flags, 0o666)

    def write(self, pieces: Iterable[str]) -> None:
        """Write it; says so when it cannot."""
        try:
            self._write(pieces)
        except OSError as error:
            say(f"{self._path}: {error.strerror}: the {self._name} is lost")

    def _write(self, pieces: Iterable[str]) -> None:
        fd = self._fd if self._fd >= 0 else self._create()
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.writelines(pieces)
            if self._fd < 0:
                os.replace(self._temporary, self._path)
        except OSError:
            if self._fd < 0:
                os.unlink(self._temporary)
            raise
