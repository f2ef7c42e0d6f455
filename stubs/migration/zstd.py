"""Compression by libzstd.so.1 (RFC 8878), which many machines have and Python before 3.14 not."""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEVEL = 1


class Zstd:
    """The library; OSError where there is none."""

    def __init__(self) -> None:
        """Load it."""
        self._library: Any = ctypes.CDLL("libzstd.so.1")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        for name, arguments in (
            ("ZSTD_compressBound", (size,)),
            ("ZSTD_compress", (pointer, size, ctypes.c_char_p, size, ctypes.c_int)),
            ("ZSTD_decompress", (pointer, size, ctypes.c_char_p, size)),
        ):
            call = getattr(self._library, name)
            call.argtypes, call.restype = arguments, size

    def compress(self, data: bytes) -> bytes:
        """Return `data` compressed, as fast as it goes."""
        bound: int = self._library.ZSTD_compressBound(len(data))
        room = ctypes.create_string_buffer(bound)
        size = self._library.ZSTD_compress(room, bound, data, len(data), _LEVEL)
        return ctypes.string_at(room, size)

    def decompress(self, data: bytes, size: int) -> bytes:
        """Return the `size` bytes that were compressed; ValueError when these are none."""
        room = ctypes.create_string_buffer(size)
        if self._library.ZSTD_decompress(room, size, data, len(data)) != size:
            raise ValueError("not what zstd has compressed")
        return ctypes.string_at(room, size)


def load() -> Zstd | None:
    """Return the library if this machine has it."""
    try:
        return Zstd()
    except (OSError, AttributeError):
        return None
