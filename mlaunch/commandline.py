"""The words of a command line, understood as its program does: sub-commands, scripts, modules.

`git -C x commit -m y` commits; `python3 -u build.py --fast` runs build.py; `sh -ec "make all"` has
a piece of code. No file is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mlaunch import tools

if TYPE_CHECKING:
    from collections.abc import Sequence


class Inner(NamedTuple):
    """What an interpreter runs: `how` is "script", "module", "code" or "" (none: interactive)."""

    how: str
    text: str
    rest: Sequence[str]


def sub_command(name: str, argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return what a multi-purpose tool is told to do, and the arguments after that."""
    values = tools.SUB_COMMANDS[name]
    skip = False
    for position, argument in enumerate(argv[1:], 1):
        if skip:
            skip = False
        elif argument[:1] != "-":
            if name == "cmake":
                break
            return argument, argv[position + 1 :]
        elif name == "cmake" and argument in ("--build", "-E", "-P", "--install", "--version"):
            word = argv[position + 1] if argument == "-E" and len(argv) > position + 1 else ""
            return f"{argument} {word}".rstrip(), argv[position + 1 + bool(word) :]
        else:
            skip = argument in values
    # cmake with neither is the configuring of a tree.
    return ("configure" if name == "cmake" else ""), argv[1:]


# For each: a cluster of options that ends with the one for code, or for a module; and options
# whose value is the next word.
_CODE = {
    "python": re.compile(r"-[bBdEhiIOPqRsSuvVx]*c$"),
    "perl": re.compile(r"-[acfhlnpsStTuUvwWX0-9]*[eE]$"),
    "ruby": re.compile(r"-[acdhlnpsSvwWy0-9]*e$"),
    "node": re.compile(r"(-e|-p|-pe|--eval|--print)$"),
    "php": re.compile(r"-[n]*r$"),
    "lua": re.compile(r"-e$"),
    "R": re.compile(r"-e$"),
}
_CODE.update(pypy=_CODE["python"], nodejs=_CODE["node"], Rscript=_CODE["R"], luajit=_CODE["lua"])
_SHELL_CODE = re.compile(r"-[abefhiklmnprstuvxBCEHPT]*c[abefhiklmnprstuvxBCEHPT]*$")
_MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*m$")
_INTERPRETER_VALUES = {
    "python": frozenset(("-W", "-X", "-Q")),
    "perl": frozenset(("-I", "-M", "-m")),
    "ruby": frozenset(("-I", "-r", "-C")),
    "node": frozenset(("-r", "--require", "--import", "-C")),
    "php": frozenset(("-d", "-c", "-z")),
    "lua": frozenset(("-l",)),
    "java": frozenset(("-cp", "-classpath", "--class-path", "-p", "--module-path")),
}
_INTERPRETER_VALUES["nodejs"] = _INTERPRETER_VALUES["node"]
_SHELL_VALUES = frozenset(("-o", "+o", "-O", "+O", "--rcfile", "--init-file"))


def inner(name: str, argv: Sequence[str]) -> Inner:
    """Return what the interpreter or shell `name` is told to run."""
    shell = name in tools.SHELLS
    code = _SHELL_CODE if shell else _CODE.get(name)
    values = _SHELL_VALUES if shell else _INTERPRETER_VALUES.get(name, frozenset())
    skip = False
    for position, argument in enumerate(argv[1:], 1):
        after = argv[position + 1] if position + 1 < len(argv) else ""
        if skip:
            skip = False
        elif code and code.match(argument):
            return Inner("code", after, argv[position + 2 :])
        elif name in ("python", "pypy") and _MODULE.match(argument):
            return Inner("module", after, argv[position + 2 :])
        elif (name == "java" and argument == "-jar") or (argument == "--" and after):
            return Inner("script", after, argv[position + 2 :])
        elif argument in values:
            skip = True
        elif argument[:1] not in ("-", "+") or argument == "":
            return Inner("script", argument, argv[position + 1 :])
    return Inner("", "", ())
