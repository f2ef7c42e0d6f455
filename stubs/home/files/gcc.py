"""Where GCC has what it uses without being told: its headers and its passes, as on Debian."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# gcc-12, x86_64-linux-gnu-g++-12: target and version name the directories.
_GCC = re.compile(rb"(?P<target>.+)-(?P<driver>gcc|g\+\+)-(?P<version>[\d.]+)")
_GXX = b"g++"  # takes C for C++, too

_ALWAYS = [b"/usr/local/include", b"/usr/include"]


def headers(image: bytes, is_cplusplus: bool) -> list[bytes]:
    """Return the directories that it searches last, in order; `image` is the driver's own name."""
    match = _GCC.fullmatch(image)
    if match is None:
        return _ALWAYS
    target, version = match["target"], match["version"]
    plus = [
        b"/usr/include/c++/" + version,
        b"/usr/include/%s/c++/%s" % (target, version),
        b"/usr/include/c++/%s/backward" % version,
    ]
    return [
        *(plus if is_cplusplus or match["driver"] == _GXX else []),
        b"/usr/lib/gcc/%s/%s/include" % (target, version),
        b"/usr/local/include",
        b"/usr/include/" + target,
        b"/usr/include",
    ]


def passes(image: bytes, is_cplusplus: bool) -> list[bytes]:
    """Return the programs that it starts for a source."""
    match = _GCC.fullmatch(image)
    if match is None:
        return []
    compiler = b"cc1plus" if is_cplusplus or match["driver"] == _GXX else b"cc1"
    directory = b"/usr/lib/gcc/%s/%s" % (match["target"], match["version"])
    return [b"%s/%s" % (directory, compiler), b"/usr/bin/as"]


def messages(env: Iterable[bytes]) -> list[bytes]:
    """Return what it reads to speak the user's language: setlocale(3), gettext(3)."""
    set_ = dict(entry.partition(b"=")[::2] for entry in env)
    names = (set_.get(variable) for variable in (b"LC_ALL", b"LC_CTYPE", b"LANG"))
    name = next((name for name in names if name), b"C")
    if name in (b"C", b"POSIX"):
        return []
    directory = b"/usr/lib/locale/" + name.replace(b"UTF-8", b"utf8")
    return [
        b"/usr/lib/locale/locale-archive",
        b"/usr/share/locale/locale.alias",
        directory + b"/LC_CTYPE",
        directory + b"/LC_MESSAGES/SYS_LC_MESSAGES",
        b"/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
    ]
