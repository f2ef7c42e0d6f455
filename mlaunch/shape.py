"""The shape of a command: what of its arguments tells how much it costs.

Runs that cost alike share a shape and others do not: `gcc -c -O2` of any C file, `gzip -9` of any
file, a script by its path. A shape is a short text, at most LONGEST characters, made of option
words and names of modes; operands and values of options are not in it.

Nothing here reads a file, but for symbolic links in the path of a script.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from mlaunch import tools
from mlaunch.commandline import inner, sub_command
from mlaunch.tools import tool, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONGEST = 120
# More different option words than this tell runs apart that cost alike.
_MOST_OPTIONS = 12
_MOST_SCRIPT_OPTIONS = 4


def shape(exe: str, argv: Sequence[str], cwd: str = "") -> str:
    """Return the shape of `argv`; `cwd` is what a script's relative path is relative to."""
    return _shape(exe, tuple(argv), cwd)


# Guess and profile ask one after the other, and so does whoever learns at the end.
@lru_cache(maxsize=512)
def _shape(exe: str, argv: tuple[str, ...], cwd: str) -> str:
    name = tool(exe, argv)
    for names, find in _BY_TOOL:
        if name in names:
            found = find(name, argv)
            break
    else:
        if name in tools.INTERPRETERS or name in tools.SHELLS:
            found = _interpreted(name, argv, cwd)
        else:
            found = _plain(argv[1:], _MOST_OPTIONS)
    if exe.rsplit("/", 1)[-1] in tools.MULTI_CALL:
        found = f"{name} {found}".rstrip()
    return _bounded(found)


def _bounded(text: str) -> str:
    # A path may hold bytes that are no UTF-8: a shape is stored and shown.
    if not text.isascii():
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=4).hexdigest()


# options


def _plain(arguments: Sequence[str], most: int) -> str:
    """Return the option words, sorted, without their values."""
    found: set[str] = set()
    for argument in arguments:
        if len(argument) < 2 or argument[0] != "-":
            continue
        if argument == "--":
            break
        found.add(_option(argument))
        if len(found) > 4 * most:
            break
    return " ".join(sorted(found)[:most])


@lru_cache(maxsize=4096)
def _option(argument: str) -> str:
    """Return an option without its value: -j8 is -j, --level=3 is --level, but -9 is -9."""
    word = argument.partition("=")[0]
    if word.startswith("--"):
        return word[:24]
    if not word[1:2].isdigit():
        word = word.rstrip("0123456789.")
    # What follows a capital, or looks like no word, is a value: -DX, -I/usr/include, -s1,2p.
    if word[1].isupper() or not word[1:].replace("-", "").isalnum():
        return word[:2]
    return word[:12]


# compilers

# Options whose value is the next word.
_VALUES = words(
    "-o -I -D -U -L -l -x -include -imacros -isystem -iquote -idirafter -isysroot -MF -MT -MQ -T -u"
    " -Xlinker -Xassembler -Xpreprocessor -Xclang -mllvm -arch -target --param -dumpbase -dumpdir"
    " -dumpbase-ext -auxbase -auxbase-strip -z -e -m -imultiarch -imultilib -iprefix"
)
_QUERIES = re.compile(r"--version|--help|-dump(machine|version|specs|full)|-print-|-###")
_MODES = {
    "-c": "-c",
    "-S": "-S",
    "-E": "-E",
    "-fsyntax-only": "-fsyntax-only",
    "-M": "-E",
    "-MM": "-E",
}
_LANGUAGES = {
    "c": "c", "i": "c", "cc": "c++", "cpp": "c++", "cxx": "c++", "C": "c++", "ii": "c++",
    "c++": "c++", "cp": "c++", "hpp": "c++", "h": "header", "S": "asm", "s": "asm", "sx": "asm",
    "f": "fortran", "F": "fortran", "f90": "fortran", "F90": "fortran", "f95": "fortran",
    "f03": "fortran", "f08": "fortran", "for": "fortran", "m": "objc", "mm": "objc++", "d": "d",
    "adb": "ada", "ads": "ada", "go": "go", "cu": "cuda", "hs": "haskell", "swift": "swift",
    "ml": "ocaml", "bc": "bitcode", "ll": "bitcode", "o": "objects", "a": "objects",
    "so": "objects", "lo": "objects",
}  # fmt: skip


def _compiler(name: str, argv: Sequence[str]) -> str:
    """Return mode, language, level and what else makes a compile slow."""
    mode = "-c" if name in tools.COMPILER_PROPER else ""
    level = language = value_of = ""
    extras: set[str] = set()
    for argument, (kind, word) in zip(argv[1:], map(_meaning, argv[1:]), strict=True):
        if value_of:
            language = argument if value_of == "-x" else language
            value_of = ""
        elif not kind:
            continue
        elif kind == "value":
            value_of = word
        elif kind == "source":
            language = language or word
        elif kind == "mode":
            mode = word
        elif kind == "level":
            level = word
        elif kind == "extra":
            extras.add(word)
        else:
            return "query"
        if kind == "source" and _is_trial(argument):
            extras.add("trial")
    if not language and not extras:
        return "query"
    if not mode:
        mode = "link" if language == "objects" else "build"
    return " ".join(filter(None, (mode, language or tools.COMPILERS[name], level, *sorted(extras))))


# The compiles of a project share nearly all of their hundred options.
@lru_cache(maxsize=8192)
def _meaning(argument: str) -> tuple[str, str]:
    """Return what an argument of a compiler is, and what of it counts; ("", "") if nothing."""
    if argument[:1] != "-":
        return "source", _language(argument)
    if argument in _VALUES:
        return "value", argument
    if argument in _MODES:
        return "mode", _MODES[argument]
    if argument == "-":
        return "extra", "stdin"
    if argument[1] == "O":
        return "level", argument[:6]
    if argument[1] == "x":
        return "source", argument[2:]
    if argument.startswith(("-flto", "-fsanitize")):
        return "extra", argument.partition("=")[0]
    if argument[1] == "g" and argument != "-g0":
        return "extra", "-g"
    return ("query", "") if _QUERIES.match(argument) else ("", "")


def _is_trial(operand: str) -> bool:
    """Tell whether it is compiled to see whether it can be, by a configure script or cmake."""
    base = operand.rsplit("/", 1)[-1]
    names = ("conftest", "CMakeCCompiler", "CMakeCXXCompiler")
    return operand == "/dev/null" or base.startswith(names) or "/CMakeScratch/" in operand


def _language(operand: str) -> str:
    """Return the language of a source by its name."""
    base = operand.rsplit("/", 1)[-1]
    # The objects to link, in a file of their own, or a library with a version.
    if base[:1] == "@" or ".so." in base:
        return "objects"
    stem, dot, extension = base.rpartition(".")
    return _LANGUAGES.get(extension, "") if dot and stem else ""


def _rustc(_: str, argv: Sequence[str]) -> str:
    """Return the crate: crates differ in cost by orders of magnitude, runs of one do not."""
    crate = level = ""
    extras: set[str] = set()
    before = ""
    for argument in argv[1:]:
        if before == "--crate-name":
            crate = argument
        elif argument.startswith(("-Copt-level=", "opt-level=")):
            level = argument.removeprefix("-C")
        elif argument in ("-O", "--test"):
            extras.add(argument)
        elif argument.startswith("--emit=") and "link" not in argument:
            extras.add("metadata")
        elif argument in ("-vV", "-V", "--version") or argument.startswith("--print"):
            return "query"
        before = argument
    return " ".join(filter(None, ("crate", crate, level, *sorted(extras))))


def _go_package(name: str, argv: Sequence[str]) -> str:
    """Return the package that Go's compiler compiles."""
    if name == "compile" and "-p" in argv[:-1]:
        return f"package {argv[list(argv).index('-p') + 1]}"
    return _plain(argv[1:], _MOST_OPTIONS)


def _linker(_: str, argv: Sequence[str]) -> str:
    """Return what is linked: a program, a shared library, a partial object; and with what."""
    kinds = {"-shared": "shared", "-r": "partial", "--relocatable": "partial", "-i": "partial"}
    found = {kinds[argument] for argument in argv if argument in kinds}
    found.update("lto" for argument in argv if "liblto_plugin" in argument or argument == "-flto")
    if any(argument in ("-v", "-V", "--version", "--help") for argument in argv[1:2]):
        return "query"
    return " ".join(["link", *sorted(found)])


# archives and compressors


def _archiver(_: str, argv: Sequence[str]) -> str:
    """Return what tar does, and through which compressor."""
    mode = filtered = ""
    for position, argument in enumerate(argv[1:]):
        if argument.startswith("--"):
            word = argument[2:].partition("=")[0]
            mode = mode or {"create": "c", "extract": "x", "get": "x", "list": "t"}.get(word, "")
            filtered = filtered or (word if word in _FILTERS.values() else "")
        elif position == 0 or argument.startswith("-"):
            letters = argument.lstrip("-")
            mode = mode or next((letter for letter in letters if letter in "cxtruA"), "")
            filtered = filtered or next((_FILTERS[x] for x in letters if x in _FILTERS), "")
    return " ".join(filter(None, (mode, filtered)))


_FILTERS = {"z": "gzip", "j": "bzip2", "J": "xz", "Z": "compress", "zstd": "zstd", "lzma": "lzma"}
_DECOMPRESSORS = words("gunzip zcat bunzip2 bzcat unxz xzcat unzstd zstdcat unzip")


def _compressor(name: str, argv: Sequence[str]) -> str:
    """Return the direction and the level."""
    decompress = name in _DECOMPRESSORS
    level = ""
    extras: set[str] = set()
    for argument in argv[1:]:
        if argument in ("-t", "--test"):
            return "test"
        if argument in ("-l", "--list"):
            return "list"
        if argument.startswith("--"):
            decompress |= argument in ("--decompress", "--uncompress")
            level = {"--fast": "-1", "--best": "-9"}.get(argument, level)
            if argument in ("--ultra", "--long"):
                extras.add(argument)
        elif argument[:1] == "-":
            decompress |= "d" in argument
            digits = "".join(filter(str.isdigit, argument)) if argument[1:2] != "T" else ""
            level = f"-{digits}" if digits else level
            if argument[-1:] == "e" and name in ("xz", "lzma"):
                extras.add("-e")
    return (
        "decompress"
        if decompress
        else " ".join(["compress", *filter(None, [level]), *sorted(extras)])
    )


# sub-commands, scripts


def _with_sub_command(name: str, argv: Sequence[str]) -> str:
    command, rest = sub_command(name, argv)
    return f"{command} {_plain(rest, 6)}".strip()


def _interpreted(name: str, argv: Sequence[str], cwd: str) -> str:
    how, text, rest = inner(name, argv)
    if how == "script":
        options = _plain(rest, _MOST_SCRIPT_OPTIONS)
        # The main class of a Java program is no path.
        path = text if name == "java" and not text.endswith(".jar") else _real(cwd, text)
        return f"{_tail(path)} {options}".rstrip()
    if how == "module":
        return f"-m {text} {_plain(rest, _MOST_SCRIPT_OPTIONS)}".rstrip()
    if how == "code" and name in tools.SHELLS:
        # Every recipe of a makefile is another one; they all start others.
        return f"-c {text.split(None, 1)[0][:24] if text.strip() else ''}".rstrip()
    if how == "code":
        # Generated code differs in its numbers only.
        return f"-c {_digest(re.sub('[0-9]+', '0', text))}"
    return _plain(argv[1:], _MOST_OPTIONS)


@lru_cache(maxsize=2048)
def _real(cwd: str, path: str) -> str:
    return (
        os.path.realpath(os.path.join(cwd, path))
        if cwd or path[:1] == "/"
        else os.path.normpath(path)
    )


def _tail(path: str) -> str:
    """Return a long path by its end, which tells more than its beginning."""
    most = LONGEST - 30
    return path if len(path) <= most else f"~{_digest(path)}{path[-(most - 9) :]}"


_BY_TOOL: tuple[tuple[frozenset[str], Callable[[str, Sequence[str]], str]], ...] = (
    (frozenset({"rustc"}), _rustc),
    (frozenset({"compile", "asm"}), _go_package),
    (frozenset(tools.COMPILERS), _compiler),
    (tools.LINKERS, _linker),
    (frozenset({"tar"}), _archiver),
    (tools.COMPRESSORS - {"7z", "7za", "7zr", "zip"}, _compressor),
    (frozenset(tools.SUB_COMMANDS), _with_sub_command),
)
