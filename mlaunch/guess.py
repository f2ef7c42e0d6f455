"""What is assumed of a program at first sight, and what is expected once it has been seen.

`guess` goes by tables of well-known programs (mlaunch.tools) and, for a program in none of them,
by what its file imports. `expect` puts a profile in place of the guess. Both say why, in words
that `mlaunch why` shows. Files are read, nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlaunch import elf, tools
from mlaunch.commandline import inner, sub_command
from mlaunch.shape import shape
from mlaunch.states import CHILD, TOP, Program, in_words
from mlaunch.tools import tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaunch.profiles import Profile

MB = 1 << 20

# CPU seconds at first sight. Measured on ordinary sources with -O2; only the order counts.
SHORT_S = 0.003
FILTER_S = 0.008
TRIAL_S = 0.05  # what configure compiles
COMPILE_S = 0.5
COMPILE_CXX_S = 1.0
RUST_S = 2.0
ASSEMBLE_S = 0.1
LINK_S = 0.5
BINARY_TOOL_S = 0.02
COMPRESS_S = 2.0
DECOMPRESS_S = 0.3
SCRIPT_S = 1.0
CODE_S = 0.1
UNKNOWN_S = 0.3

# Waits for home of a body that finds its files on the node.
TRIPS = 10
# The first run on a node had to bring them there, and tells nothing of the next ones.
WARM_RUNS = 2

COMPILE_MEMORY = 100 * MB
COMPILE_CXX_MEMORY = 400 * MB
LINK_MEMORY = 300 * MB


def guess(exe: str, argv: Sequence[str], top: bool, cwd: str = "") -> tuple[Program, str]:
    """Return what is assumed of a program never seen, and why; `top`: the user typed it."""
    name = tool(exe, argv)
    starter = _starter(name, argv)
    if starter:
        found = Program(SHORT_S, starter=True, stays=f"{starter}: its children are to spread")
    elif top:
        # Whoever types mrun wants it elsewhere, and knows that it is worth it.
        found = Program()
        found = replace(found, why=f"never seen: {in_words(found.cpu_s)} of work assumed")
    else:
        found = _bound(name, exe, argv) or _costs(name, exe, argv, cwd)
    found = replace(found, kind=TOP if top else CHILD, exe=exe, why=found.why or found.stays)
    return found, found.why


def expect(
    exe: str, argv: Sequence[str], profile: Profile | None, top: bool, cwd: str = ""
) -> Program:
    """Return what is expected of a program: as its profile has it, else as it is guessed."""
    guessed, _ = guess(exe, argv, top, cwd)
    if profile is None:
        return guessed
    cpu_s = profile.cpu_s
    if profile.pooled:
        # Of other arguments: half of the truth, on a scale on which halves and doubles are equal.
        cpu_s = (cpu_s * guessed.cpu_s) ** 0.5
    if top:
        cpu_s = max(cpu_s, guessed.cpu_s)
    found = replace(guessed, cpu_s=cpu_s, memory=profile.memory or guessed.memory)
    if profile.node_runs >= WARM_RUNS:
        found = replace(
            found,
            round_trips=round(profile.round_trips),
            bytes_to_node=int(profile.bytes_to_node),
            bytes_to_home=int(profile.bytes_to_home),
        )
    if guessed.stays:
        return found
    # A compiler starts its passes, two at once with -pipe: they belong together.
    if profile.starter and tool(exe, argv) not in tools.COMPILERS:
        others = f"up to {profile.peak_children:.0f} others at once"
        if profile.peak_children < 2:
            others = f"{profile.children:.0f} others"
        stays = f"it started {others} before: its children are to spread"
        return replace(found, starter=True, stays=stays, why=stays)
    times = f"{profile.runs} time{'s' * (profile.runs != 1)}"
    what = "with other arguments" if profile.pooled else "like this"
    return replace(found, why=f"it ran {what} {times}: {in_words(profile.cpu_s)} of CPU")


def stays_whatever(exe: str, profile: Profile | None) -> bool:
    """Tell whether an executable stays home whatever its arguments, as far as one can tell."""
    name = tool(exe, [])
    if name in _ALWAYS_HOME:
        return True
    if profile is None or profile.runs < SURE_RUNS or name in _VARIED:
        return False
    return profile.cpu_s + profile.cpu_spread < SURELY_SHORT_S


def keeps_together(exe: str) -> bool:
    """Tell whether what an executable starts are its own passes: a compiler's."""
    return tools.tool(exe, [exe]) in tools.COMPILERS


# So often must a program have been seen to be short, and so short: less than what is not worth a
# trip (mlaunch.spreading). A kernel's build runs nm(1) for each object, 20 ms each time.
SURE_RUNS = 4
SURELY_SHORT_S = 0.03

_ALWAYS_HOME = (
    tools.STARTERS
    | tools.SHELLS
    | tools.FILE_TOOLS
    | tools.LOCAL_TOOLS
    | tools.NETWORK_CLIENTS
    | tools.SHORT_TOOLS
)
# What they cost is in their arguments.
_VARIED = (
    tools.INTERPRETERS
    | frozenset(tools.COMPILERS)
    | frozenset(tools.SUB_COMMANDS)
    | tools.MULTI_CALL
)


# who starts others


def _starter(name: str, argv: Sequence[str]) -> str:
    """Return what kind of starter it is, empty if it is none."""
    if name in tools.STARTERS:
        return f"{name} starts others"
    if name in tools.SHELLS:
        return "a shell starts others"
    if name == "find" and not _FIND_STARTS.isdisjoint(argv):
        return "find starts others here"
    if name in tools.STARTER_COMMANDS:
        command = sub_command(name, argv)[0].split(" ")[0]
        if command in tools.STARTER_COMMANDS[name]:
            return f"{name} {command} starts others"
    if name in tools.INTERPRETERS:
        how, text, rest = inner(name, argv)
        base = text.rsplit("/", 1)[-1] if how in ("script", "module") else ""
        spreads = base in ("pytest", "py.test") and any(word.startswith("-n") for word in rest)
        if base in tools.STARTER_SCRIPTS or spreads:
            return f"{base} starts others"
    return ""


_FIND_STARTS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})


# what belongs to home


def _bound(name: str, exe: str, argv: Sequence[str]) -> Program | None:
    """Return a program that has to run at home, None if it may go."""
    why = ""
    if name in tools.FILE_TOOLS:
        why = f"{name} handles files, and they are at home"
    elif name in tools.LOCAL_TOOLS:
        why = f"{name} deals with this machine or this session"
    elif name in tools.NETWORK_CLIENTS:
        why = f"{name} speaks with the network, and a body's sockets are the node's"
    elif name in tools.NETWORK_COMMANDS:
        command = sub_command(name, argv)[0]
        if command in tools.NETWORK_COMMANDS[name]:
            why = f"{name} {command} speaks with the network, and a body's sockets are the node's"
    if not why and name not in tools.KNOWN and _serves(exe):
        why = "it imports listen and accept, and a body's sockets are the node's, not home's"
    return Program(SHORT_S, stays=why) if why else None


def _serves(exe: str) -> bool:
    try:
        return elf.serves(exe)
    except OSError:
        return False  # deleted since, or not for us to read: nothing speaks against it


# what it costs


def _costs(name: str, exe: str, argv: Sequence[str], cwd: str) -> Program:
    """Return what a child that may go is thought to cost."""
    if name in tools.COMPILERS:
        return _compile(name, shape(exe, argv, cwd))
    if name in tools.INTERPRETERS:
        return _script(name, argv)
    if name in tools.COMPRESSORS:
        slow = shape(exe, argv, cwd).startswith(("compress", "zip"))
        return _assume(COMPRESS_S if slow else DECOMPRESS_S, f"{name} computes")
    for names, cpu_s, memory, what in _KINDS:
        if name in names:
            return _assume(cpu_s, f"{name} {what}", memory)
    if name in tools.LONG_TOOLS:
        return _assume(tools.LONG_TOOLS[name], f"{name} computes")
    if name in tools.SUB_COMMANDS:
        return _assume(BINARY_TOOL_S, f"{name} does small things as a rule")
    return _assume(UNKNOWN_S, "never seen")


_KINDS: tuple[tuple[frozenset[str], float, int, str], ...] = (
    (tools.SHORT_TOOLS, SHORT_S, 0, "is done in a moment"),
    (tools.SHORT_AT_FIRST, FILTER_S, 0, "is short as a rule"),
    (tools.ASSEMBLERS, ASSEMBLE_S, 0, "assembles"),
    (tools.LINKERS, LINK_S, LINK_MEMORY, "links"),
    (tools.BINARY_TOOLS, BINARY_TOOL_S, 0, "is short as a rule"),
)


def _assume(cpu_s: float, what: str, memory: int = 0) -> Program:
    return Program(cpu_s, memory, TRIPS, why=f"{what}: {in_words(cpu_s)} of CPU assumed")


def _compile(name: str, words: str) -> Program:
    """Return the cost of a compile by its shape."""
    parts = words.split(" ")
    if parts[0] == "query":
        return _assume(SHORT_S, f"{name} is only asked something")
    if parts[-1] == "trial":
        return _assume(TRIAL_S, f"{name} tries whether something compiles")
    if parts[0] == "link":
        return _assume(LINK_S, f"{name} links", LINK_MEMORY)
    if parts[0] == "-E":
        return _assume(ASSEMBLE_S, f"{name} only reads the headers")
    if "asm" in parts:
        return _assume(ASSEMBLE_S, f"{name} assembles")
    if name in ("rustc", "javac", "ghc", "swiftc"):
        return _assume(RUST_S, f"{name} compiles", COMPILE_CXX_MEMORY)
    if not {"c++", "objc++", "cuda"}.isdisjoint(parts):
        return _assume(COMPILE_CXX_S, f"{name} compiles C++", COMPILE_CXX_MEMORY)
    return _assume(COMPILE_S, f"{name} compiles", COMPILE_MEMORY)


def _script(name: str, argv: Sequence[str]) -> Program:
    how, text, _ = inner(name, argv)
    if how == "code":
        return _assume(CODE_S, f"{name} runs a line of code")
    if not how and not _QUERIES.isdisjoint(argv):
        return _assume(SHORT_S, f"{name} is only asked something")
    what = f"{name} runs {text.rsplit('/', 1)[-1]}" if text else f"{name} runs what it reads"
    return _assume(SCRIPT_S, what)


_QUERIES = frozenset({"--version", "-V", "-version", "--help", "-h"})
