"""Compilers, assemblers and linkers by name: of them both sides know more than of other programs.

They replace what they write without a look at what was there, so that one can be started again
although the former object file is gone: it makes the same once more. And they lock no files.
"""

from __future__ import annotations

import os
import re

# Without version (gcc-12) and target (x86_64-linux-gnu-gcc). Not ar, strip or objcopy: these read
# what they replace.
_NAMES = frozenset(
    b"gcc g++ cc c++ clang clang++ gfortran gnat1 cc1 cc1plus cc1obj f951 lto1 cpp as nasm yasm"
    b" ld ld.bfd ld.gold ld.lld lld mold gold collect2 rustc".split()
)
_VERSION = re.compile(rb"-?\d+(\.\d+)*$")


def is_compiler(exe: bytes) -> bool:
    """Tell whether the program at that path is one."""
    base = os.path.basename(exe)
    plain = _VERSION.sub(b"", base)
    return not _NAMES.isdisjoint((base, plain, plain.rpartition(b"-")[2]))
