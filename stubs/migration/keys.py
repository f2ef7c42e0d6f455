"""Keys: what an image calls the things that lead out of its tree.

A stream's key is its number on the link that the body leaves. Files that it inherited, its terminal
and files that have no name any more have keys in ranges of their own. (All fit Descriptor.fd.)
"""

from __future__ import annotations

FILES = 1 << 24
TERMINAL = 1 << 25
HANDLES = 1 << 26


def of_file(number: int) -> int:
    """Return the key of an inherited file: `number` is its descriptor, or its key already."""
    return number | FILES


def of_handle(index: int) -> int:
    """Return the key of the file without a name with that index."""
    return HANDLES + index


def is_stream(key: int) -> bool:
    """Tell whether a key is a stream's."""
    return 0 < key < FILES


def is_file(key: int) -> bool:
    """Tell whether a key is that of an inherited file."""
    return FILES <= key < TERMINAL


def is_handle(key: int) -> bool:
    """Tell whether a key is that of a file without a name."""
    return key >= HANDLES
