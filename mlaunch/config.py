"""The configuration file as one frozen value; editing the list of nodes in it.

    [[node]]      name, host (default: the name), user, port; the rest is in ~/.ssh/config
    [placement]   home_bias: how many times sooner home must end a program to keep it;
                  balance: whether programs that run move by themselves
    [export]      hidden, visible, readonly: lists of paths; `visible` takes a path out of what is
                  hidden by default
    [daemon]      idle_minutes: without work, after which the daemon goes

Every error names file, line and key. A file that does not exist is an empty one.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from dataclasses import dataclass, field
from typing import Any

from mlaunch.errors import LaunchError

# Names that mean something else on the command line.
RESERVED = ("home", "local", "auto")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([\w\"'-]+)\s*(?:\.[\w.\"' -]+)?=")


@dataclass(frozen=True)
class Node:
    """A node as configured: what the file says; the rest is up to ~/.ssh/config."""

    name: str
    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Export:
    """What nodes may see of home; paths with `~` expanded."""

    hidden: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """All that is configured."""

    path: str = ""
    nodes: tuple[Node, ...] = ()
    home_bias: float = 1.25
    balance: bool = True
    export: Export = field(default_factory=Export)
    idle_s: float = 600.0

    def node(self, name: str) -> Node | None:
        """Return the node of that name, if there is one."""
        return next((node for node in self.nodes if node.name == name), None)


def load(path: str) -> Config:
    """Read the file at `path`; LaunchError with file, line and key when it is wrong."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Config(path)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise LaunchError(f"{path}:{line}: not UTF-8") from error
    return parse(path, text)


def parse(path: str, text: str) -> Config:
    """Return what `text` configures; `path` is for messages."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LaunchError(_syntax(path, text, str(error))) from error
    return _Checker(path, text).config(tree)


def _syntax(path: str, text: str, message: str) -> str:
    found = re.search(r" \(at line (\d+), column \d+\)$", message)
    if found:
        return f"{path}:{found.group(1)}: {message[: found.start()]}"
    # "(at end of document)", or a duplicate table, for which tomllib tells no line.
    return f"{path}:{text.count(chr(10)) + 1}: {message}"


class _Checker:
    """Turns the tree of tomllib into a Config, and knows on which line a key stands."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = _key_lines(text)

    def config(self, tree: dict[str, Any]) -> Config:
        self._only(tree, "", 0, ("node", "placement", "export", "daemon"))
        nodes = self._nodes(tree.get("node", []))
        placement = self._table(tree, "placement", ("home_bias", "balance"))
        export = self._table(tree, "export", ("hidden", "visible", "readonly"))
        daemon = self._table(tree, "daemon", ("idle_minutes",))
        default = Config()
        return Config(
            path=self._path,
            nodes=nodes,
            home_bias=self._number(placement, "placement", "home_bias", default.home_bias, 0.1),
            balance=self._flag(placement, "placement", "balance", default.balance),
            export=Export(
                hidden=self._paths(export, "hidden"),
                visible=self._paths(export, "visible"),
                readonly=self._paths(export, "readonly"),
            ),
            idle_s=60 * self._number(daemon, "daemon", "idle_minutes", default.idle_s / 60, 0.0),
        )

    def _fail(self, table: str, index: int, key: str, text: str) -> LaunchError:
        line = self._lines.get((table, index, key)) or self._lines.get((table, index, ""), 1)
        name = ".".join(part for part in (table, key) if part)
        return LaunchError(f"{self._path}:{line}: {name}: {text}")

    def _only(self, tree: dict[str, Any], table: str, index: int, known: tuple[str, ...]) -> None:
        for key in tree:
            if key not in known:
                # A table of its own has its own line; a key is looked up in its table.
                where = (key, 0, "") if not table and (key, 0, "") in self._lines else None
                from mlaunch import suggest

                hint = suggest.meant(key, known) or f"known are {', '.join(known)}"
                text = f"unknown key; {hint}"
                raise self._fail(*where, text) if where else self._fail(table, index, key, text)

    def _table(self, tree: dict[str, Any], table: str, known: tuple[str, ...]) -> dict[str, Any]:
        value = tree.get(table, {})
        if not isinstance(value, dict):
            raise self._fail("", 0, table, f"must be a table: [{table}]")
        self._only(value, table, 0, known)
        return value

    def _nodes(self, value: Any) -> tuple[Node, ...]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            where = ("node", 0, "") if ("node", 0, "") in self._lines else ("", 0, "node")
            raise self._fail(*where, "must be an array of tables: [[node]]")
        nodes: list[Node] = []
        for index, item in enumerate(value):
            node = self._node(item, index)
            if any(node.name == other.name for other in nodes):
                raise self._fail("node", index, "name", f"there is a node {node.name} already")
            nodes.append(node)
        return tuple(nodes)

    def _node(self, item: dict[str, Any], index: int) -> Node:
        self._only(item, "node", index, ("name", "host", "user", "port"))
        for key in ("name", "host", "user"):
            if key in item and not isinstance(item[key], str):
                raise self._fail("node", index, key, "must be a string")
        if "name" not in item:
            raise self._fail("node", index, "name", "is missing")
        problem = name_problem(item["name"]) or host_problem(item.get("host", item["name"]))
        if problem:
            raise self._fail("node", index, "name" if "name" in problem else "host", problem)
        port = item.get("port")
        if port is not None and (type(port) is not int or not 0 < port < 65536):
            raise self._fail("node", index, "port", "must be a number from 1 to 65535")
        return Node(item["name"], item.get("host", item["name"]), item.get("user") or None, port)

    def _flag(self, values: dict[str, Any], table: str, key: str, otherwise: bool) -> bool:
        value = values.get(key, otherwise)
        if not isinstance(value, bool):
            raise self._fail(table, 0, key, "must be true or false")
        return value

    def _number(
        self, tree: dict[str, Any], table: str, key: str, default: float, least: float
    ) -> float:
        value = tree.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fail(table, 0, key, "must be a number")
        if not least <= value < float("inf"):
            raise self._fail(table, 0, key, f"must be at least {least:g}")
        return float(value)

    def _paths(self, tree: dict[str, Any], key: str) -> tuple[str, ...]:
        value = tree.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._fail("export", 0, key, "must be a list of paths")
        paths = [os.path.expanduser(item) for item in value]
        for given, path in zip(value, paths, strict=True):
            if not path.startswith("/") or "\0" in path:
                raise self._fail("export", 0, key, f"{given!r} must begin with / or ~")
            if key == "hidden" and os.path.normpath(path) == "/":
                raise self._fail("export", 0, key, "the root directory cannot be hidden")
        return tuple(os.path.normpath(path) for path in paths)


def _key_lines(text: str) -> dict[tuple[str, int, str], int]:
    """Return the lines (from 1) of (table, how manieth of that name, key); "" for the header."""
    lines: dict[tuple[str, int, str], int] = {}
    seen: dict[str, int] = {}
    table, index = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        key = _KEY.match(line)
        if header:
            table = header.group(2).strip("\"'")
            index = seen.get(table, 0)
            seen[table] = index + 1
            lines[table, index, ""] = number
        elif key:
            lines.setdefault((table, index, key.group(1).strip("\"'")), number)
    return lines


def name_problem(name: str) -> str:
    """Say what is wrong with the name of a node; empty when nothing is."""
    if name in RESERVED:
        return f"the name {name} is taken: it means something else to mlaunch"
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name: letters, digits, '.', '_' and '-' are"
    return ""


def host_problem(host: str) -> str:
    """Say what is wrong with a host name or address; empty when nothing is."""
    # A leading dash would be taken for an option by a ProxyCommand that is given %h.
    if not host or host.startswith("-") or re.search(r"[\s\"'`$\\;&<>|()\0/@]", host):
        return f"{host!r} is no host"
    return ""


def add_node(path: str, node: Node) -> None:
    """Append a [[node]] to the file and leave the rest as it is; LaunchError if it is there."""
    config = load(path)
    if config.node(node.name):
        raise LaunchError(
            f"there is a node {node.name} already",
            f"to change it: mlaunch nodes remove {node.name}",
        )
    lines = ["[[node]]", f'name = "{node.name}"', f'host = "{node.host}"']
    if node.user:
        lines.append(f"user = {_toml_string(node.user)}")
    if node.port:
        lines.append(f"port = {node.port}")
    text = _text(path)
    if text and not text.endswith("\n"):
        text += "\n"
    text += ("\n" if text else "") + "\n".join(lines) + "\n"
    _replace(path, text, (*config.nodes, node))


def remove_node(path: str, name: str) -> None:
    """Take the [[node]] of that name out of the file; LaunchError if there is none."""
    config = load(path)
    if not config.node(name):
        from mlaunch import suggest

        raise suggest.unknown_node(name, [node.name for node in config.nodes])
    index = [node.name for node in config.nodes].index(name)
    lines = _text(path).splitlines(keepends=True)
    start = _key_lines("".join(lines)).get(("node", index, ""), 0) - 1
    if start < 0:
        raise LaunchError(f"{path}: node {name} is not written as [[node]]", "edit it by hand")
    end = start + 1
    while end < len(lines) and not _HEADER.match(lines[end]):
        end += 1
    # Comments and blank lines just before the next header belong to that.
    while end < len(lines) and end > start + 1 and re.match(r"\s*(#.*)?$", lines[end - 1]):
        end -= 1
    text = "".join(lines[:start] + lines[end:])
    _replace(path, text, tuple(node for node in config.nodes if node.name != name))


def _toml_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _replace(path: str, text: str, nodes: tuple[Node, ...]) -> None:
    """Put `text` in the place of the file in one step, if it has exactly these nodes."""
    if parse(path, text).nodes != nodes:
        raise LaunchError(f"{path}: cannot be edited without changing more", "edit it by hand")
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        mode = os.stat(target).st_mode & 0o7777 if os.path.exists(target) else 0o600
        fd, new = tempfile.mkstemp(prefix=".config-", dir=folder)
        try:
            with open(fd, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                os.fchmod(fd, mode)
            os.replace(new, target)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
