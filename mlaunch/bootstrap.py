"""Getting the agent onto a node and started there, with one exec.

What travels is `stubs` without its `home` side, packed so that equal sources give equal bytes. The
node keeps it compiled in ~/.cache/mlaunch, one file per content and Python version; each begins
with the SHA-256 of its rest and is checked when read, so that a torn one is as good as none.

The conversation on the stream of the exec, before the first frame:

    node   marker, then one letter: G go on; M the archive is missing; V python is too old (version
           follows, ended by a newline); D the archive came damaged
    home   after M: the archive, whose length stage 0 knows; after G: the token of stubs.link.loader
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from mlaunch.errors import LaunchError, plain
from stubs.link.runtime import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Callable

# Login scripts that print something on a connection without terminal do so before this.
MARKER = b"\0mlaunch:"
MOST_NOISE = 64 << 10

OLDEST_PYTHON = (3, 9)

# Runs with any python3 from 3.2 on; under 1 KiB once it is squeezed. %s: hash of the archive; %d:
# its length; %r: the module to enter.
_STAGE0 = r"""
import os,sys
def say(b):os.write(1,b"\0mlaunch:"+b)
if sys.version_info<(3,9):
 say(("V%%d.%%d\n"%%sys.version_info[:2]).encode());sys.exit(1)
import marshal,zlib
from hashlib import sha256 as H
h="%s";n=%d;e=%r
p=os.path.expanduser("~/.cache/mlaunch")
f=p+"/agent-"+h[:24]+"."+sys.implementation.cache_tag
m=None
try:
 with open(f,"rb") as s:
  b=s.read()
  if os.fstat(s.fileno()).st_uid==os.getuid() and H(b[32:]).digest()==b[:32]:m=marshal.loads(b[32:])
except OSError:pass
if m is None:
 say(b"M");b=b""
 while len(b)<n:
  d=os.read(0,n-len(b))
  if not d:sys.exit(1)
  b+=d
 if H(b).hexdigest()!=h:say(b"D");sys.exit(1)
 g={"p":p,"f":f};exec(zlib.decompress(b),g);m=g["m"]
g={"__name__":"stubs.link.loader"};exec(m["stubs.link.loader"][1],g)
g["install"](m)
say(b"G")
g["enter"](e)
"""

# What is in the archive: the sources, and how to compile and keep them. Runs with `p` and `f` of
# stage 0. A cache that cannot be written is no error: the agent then runs from memory.
_UNPACK = """
import glob, marshal, os, time
from hashlib import sha256
m = {
    name: (package, compile(text, "<mlaunch>/" + name.replace(".", "/") + ".py", "exec", 0, True))
    for name, package, text in SOURCES
}
new = "%s.%d.new" % (f, os.getpid())
try:
    os.makedirs(p, 0o700, exist_ok=True)
    data = marshal.dumps(m)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "wb") as file:
        file.write(sha256(data).digest() + data)
    os.replace(new, f)
    for old in glob.glob(p + "/agent-*"):
        if old != f and os.stat(old).st_mtime < time.time() - 30 * 86400:
            os.unlink(old)
except OSError:
    try:
        os.unlink(new)
    except OSError:
        pass
"""


@dataclass(frozen=True)
class Archive:
    """What is sent to a node that does not have it."""

    data: bytes
    digest: str


@cache
def archive(root: str = PACKAGES) -> Archive:
    """Pack `stubs` of the packages at `root`, without `home`: equal sources, equal bytes."""
    sources = []
    top = os.path.join(root, "stubs")
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(set(folders) - {"__pycache__", "home"})
        for file in sorted(files):
            if file.endswith(".py"):
                sources.append(_source(root, os.path.join(folder, file)))
    sources.sort()
    text = f"SOURCES = {sources!r}\n{_UNPACK}"
    data = zlib.compress(text.encode(), 9)
    return Archive(data, hashlib.sha256(data).hexdigest())


def _source(root: str, path: str) -> tuple[str, bool, str]:
    """Return the name of the module at `path`, whether it is a package, and its text."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    name = os.path.relpath(path, root)[: -len(".py")].replace(os.sep, ".")
    package = name.endswith(".__init__")
    return name.removesuffix(".__init__"), package, text


def python_command(source: str, *arguments: str) -> str:
    """Return a command line that runs `source` on the node's python3.

    Every login shell understands it: one line without quotes or signs that a shell expands.
    """
    squeezed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    code = f"import zlib,binascii;exec(zlib.decompress(binascii.a2b_base64('{squeezed}')))"
    return " ".join(["exec python3 -I -S -E -c", f'"{code}"', *arguments])


def command(module: str = "stubs.node.agent") -> str:
    """Return the command that starts `module` of our package on a node."""
    packed = archive()
    return python_command(_STAGE0 % (packed.digest, len(packed.data), module))


class Remote(Protocol):
    """A command that runs on a node; both calls block, up to the connection's time-out."""

    def read(self, most: int) -> bytes:
        """Return some bytes of its standard output, b"" at the end; LaunchError when it is late."""

    def write(self, data: bytes) -> None:
        """Write all of `data` to its standard input."""

    def failure(self) -> str:
        """After the end: say what its standard error and exit status tell."""


def converse(remote: Remote, token: bytes) -> bytes:
    """Bring the agent that `command` has started to its first frame.

    Returns what of its frames has been read already. LaunchError when it does not start.
    """
    heard = b""
    packed = archive()
    while True:
        heard = _until(remote, heard, lambda data: MARKER in data[:-1])
        heard = heard[heard.index(MARKER) + len(MARKER) :]
        letter, heard = heard[:1], heard[1:]
        if letter == b"G":
            remote.write(token)
            return heard
        if letter == b"M":
            remote.write(packed.data)
        elif letter == b"V":
            heard = _until(remote, heard, lambda data: b"\n" in data)
            raise too_old(plain(heard.partition(b"\n")[0]))
        elif letter == b"D":
            raise LaunchError("the agent arrived damaged", "try again")
        else:
            raise LaunchError(f"its answer makes no sense: {letter!r}")


def _until(remote: Remote, heard: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """Read on until `enough`."""
    while not enough(heard):
        data = remote.read(MOST_NOISE)
        if not data:
            raise explain(remote.failure())
        heard += data
        if len(heard) > MOST_NOISE:
            raise LaunchError(
                "its login scripts print too much", "let them be silent without a terminal"
            )
    return heard


def explain(failure: str) -> LaunchError:
    """Explain how a command ended that should have become the agent."""
    if "not found" in failure or "status 127" in failure or "No such file" in failure:
        return LaunchError("it has no python3", "install python3 (3.9 or newer) there")
    return LaunchError(f"the agent does not start: {failure}", "mlaunch doctor")


def too_old(version: str) -> LaunchError:
    """Say that the node's python3 is not new enough."""
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return LaunchError(
        f"its python3 is {version}, too old", f"install python3 {oldest} or newer there"
    )
