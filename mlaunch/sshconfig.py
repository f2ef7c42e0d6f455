"""What ~/.ssh/config and /etc/ssh/ssh_config say about a host; ssh_config(5).

Only what a connection of ours needs: HostName, User, Port, IdentityFile, IdentitiesOnly,
IdentityAgent, ProxyJump, ProxyCommand, UserKnownHostsFile, GlobalKnownHostsFile, HostKeyAlias and
ConnectTimeout; with Host, Match (all, host, originalhost, user, localuser, exec), Include and
%-tokens. As in ssh(1) the first value found counts, but every IdentityFile does.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import pwd
import re
import shlex
import socket
import subprocess
from dataclasses import dataclass, replace

from mlaunch.errors import LaunchError

USER_FILE = "~/.ssh/config"
SYSTEM_FILE = "/etc/ssh/ssh_config"

# ssh(1) gives up at 16 (READCONF_MAX_DEPTH).
MAX_DEPTH = 16

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")

CONNECT_TIMEOUT_S = 8.0


@dataclass(frozen=True)
class SshHost:
    """How to connect to a host."""

    alias: str  # as the user names it
    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    identities_only: bool
    agent: str | None  # path of the agent's socket, or None for no agent
    proxy_jump: tuple[str, ...]
    proxy_command: str | None
    known_hosts: tuple[str, ...]
    known_as: str  # the name under which its key is known
    connect_timeout_s: float


class _Lookup:
    """One pass through the files for one host."""

    def __init__(self, alias: str, user: str | None) -> None:
        self.alias = alias
        self.values: dict[str, list[str]] = {}
        if user:
            self.values["user"] = [user]

    def read(self, path: str, depth: int = 0, active: bool = True) -> None:
        """Apply one file, if it is there; LaunchError when it cannot be read or understood."""
        if depth > MAX_DEPTH:
            raise LaunchError(f"{path}: too many levels of Include")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise LaunchError(f"{path}: {error.strerror}") from error
        enclosing = active
        for number, line in enumerate(lines, 1):
            keyword, arguments = _split(path, number, line)
            if not keyword:
                continue
            if keyword == "host":
                active = enclosing and matches(self.alias, arguments)
            elif keyword == "match":
                active = enclosing and self._match(path, number, arguments)
            elif keyword == "include":
                for item in arguments:
                    for found in _included(path, item):
                        self.read(found, depth + 1, active)
            elif active:
                self._set(keyword, arguments)

    def _set(self, keyword: str, arguments: list[str]) -> None:
        if keyword == "identityfile":
            self.values.setdefault(keyword, []).extend(arguments)
        elif keyword not in self.values:
            self.values[keyword] = arguments

    def _match(self, path: str, number: int, arguments: list[str]) -> bool:
        """Evaluate a Match line; criteria that are not known (canonical, final…) do not match."""
        words = [word.lower() for word in arguments[:1]]
        if words == ["all"]:
            return True
        result = True
        items = list(arguments)
        while items:
            criterion = items.pop(0).lower()
            negated = criterion.startswith("!")
            criterion = criterion.lstrip("!")
            if criterion in ("canonical", "final", "all"):
                matched = criterion == "all"
            elif not items:
                raise LaunchError(f"{path}:{number}: Match {criterion} lacks its argument")
            else:
                matched = result and self._criterion(criterion, items.pop(0))
            result = result and matched != negated
        return result

    def _criterion(self, criterion: str, argument: str) -> bool:
        hostname = self.first("hostname", self.alias)
        subjects = {
            "host": _expand(hostname, {"h": self.alias}),
            "originalhost": self.alias,
            "user": self.first("user", _local_user()),
            "localuser": _local_user(),
        }
        if criterion in subjects:
            return matches(subjects[criterion], argument.split(","))
        if criterion == "exec":
            command = _expand(argument, self.tokens(hostname))
            return subprocess.run(command, shell=True, stdin=subprocess.DEVNULL).returncode == 0
        return False

    def first(self, keyword: str, default: str) -> str:
        """Return the first argument of a keyword."""
        found = self.values.get(keyword)
        return found[0] if found else default

    def tokens(self, hostname: str) -> dict[str, str]:
        """Return what %-tokens stand for; ssh_config(5), TOKENS."""
        me = socket.gethostname()
        return {
            "h": hostname,
            "n": self.alias,
            "p": self.first("port", "22"),
            "r": self.first("user", _local_user()),
            "u": _local_user(),
            "d": os.path.expanduser("~"),
            "i": str(os.getuid()),
            "l": me,
            "L": me.partition(".")[0],
            "k": self.first("hostkeyalias", self.alias),
        }


def lookup(
    alias: str,
    user: str | None = None,
    port: int | None = None,
    files: tuple[str, ...] = (USER_FILE, SYSTEM_FILE),
) -> SshHost:
    """Return how to connect to `alias`; `user` and `port`, if given, win over the files."""
    found = _Lookup(alias, user)
    if port is not None:
        found.values["port"] = [str(port)]
    for path in files:
        found.read(os.path.expanduser(path))
    hostname = _expand(found.first("hostname", alias), {"h": alias}).lower()
    tokens = found.tokens(hostname)
    number = found.first("port", "22")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise LaunchError(f"{alias}: Port {number} in ~/.ssh/config is no port")
    return SshHost(
        alias=alias,
        hostname=hostname,
        port=int(number),
        user=tokens["r"],
        identity_files=_identity_files(found, tokens),
        identities_only=found.first("identitiesonly", "no").lower() == "yes",
        agent=_agent(found, tokens),
        proxy_jump=_proxy_jump(found),
        proxy_command=_proxy_command(found, tokens),
        known_hosts=_known_hosts(found, tokens),
        known_as=_known_as(found, hostname, int(number)),
        connect_timeout_s=_timeout(found),
    )


def _split(path: str, number: int, line: str) -> tuple[str, list[str]]:
    """Return the keyword in lower case and its arguments; "" for a blank line or a comment."""
    line = line.strip()
    if not line or line.startswith("#"):
        return "", []
    keyword, rest = line, ""
    for index, letter in enumerate(line):
        if letter in " \t=":
            keyword, rest = line[:index], line[index:].lstrip()
            rest = rest.removeprefix("=").lstrip()
            break
    keyword = keyword.lower()
    # The rest of the line as it is: it goes to a shell.
    if keyword == "proxycommand":
        return keyword, [rest]
    try:
        lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        return keyword, list(lexer)
    except ValueError as error:
        raise LaunchError(
            f"{path}:{number}: {error}".replace("No closing", "no closing")
        ) from error


def matches(subject: str, patterns: list[str]) -> bool:
    """Match against patterns of which a negated one forbids; ssh_config(5), PATTERNS."""
    found = False
    for pattern in patterns:
        # '[' is an ordinary character in these patterns, unlike in fnmatch.
        plain = pattern.lstrip("!").lower().replace("[", "[[]")
        if fnmatch.fnmatchcase(subject.lower(), plain):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _included(path: str, item: str) -> list[str]:
    """Return the files that an Include names, relative ones beside the user's or the system's."""
    item = os.path.expanduser(item)
    if not item.startswith("/"):
        system = path.startswith("/etc/ssh/")
        item = os.path.join("/etc/ssh" if system else os.path.expanduser("~/.ssh"), item)
    return sorted(glob.glob(item))


def _expand(text: str, tokens: dict[str, str]) -> str:
    values = {"%": "%", **tokens}
    return re.sub("%(.)", lambda found: values.get(found[1], found[0]), text)


def _path(text: str, tokens: dict[str, str]) -> str:
    return os.path.expanduser(os.path.expandvars(_expand(text, tokens)))


def _local_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _identity_files(found: _Lookup, tokens: dict[str, str]) -> tuple[str, ...]:
    given = found.values.get("identityfile")
    if given is None:
        given = [f"~/.ssh/{name}" for name in DEFAULT_KEYS]
    return tuple(dict.fromkeys(_path(item, tokens) for item in given if item.lower() != "none"))


def _agent(found: _Lookup, tokens: dict[str, str]) -> str | None:
    given = found.first("identityagent", "SSH_AUTH_SOCK")
    if given.lower() == "none":
        return None
    if given == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if given.startswith("$"):
        return os.environ.get(given[1:].strip("{}")) or None
    return _path(given, tokens)


def _proxy_jump(found: _Lookup) -> tuple[str, ...]:
    given = found.first("proxyjump", "none")
    if given.lower() == "none":
        return ()
    return tuple(item.strip() for item in given.split(",") if item.strip())


def _proxy_command(found: _Lookup, tokens: dict[str, str]) -> str | None:
    given = found.first("proxycommand", "none")
    if given.lower() == "none":
        return None
    return _expand(given, tokens)


def _known_hosts(found: _Lookup, tokens: dict[str, str]) -> tuple[str, ...]:
    user = found.values.get("userknownhostsfile", ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"])
    system = found.values.get(
        "globalknownhostsfile", ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
    )
    return tuple(_path(item, tokens) for item in [*user, *system] if item.lower() != "none")


def _known_as(found: _Lookup, hostname: str, port: int) -> str:
    alias = found.first("hostkeyalias", "")
    if alias:
        return alias
    return hostname if port == 22 else f"[{hostname}]:{port}"


def _timeout(found: _Lookup) -> float:
    given = found.first("connecttimeout", "none")
    # Longer than mrun would wait for a node is of no use here.
    return min(CONNECT_TIMEOUT_S, float(given)) if given.isdigit() else CONNECT_TIMEOUT_S


def with_jump(host: SshHost, hops: tuple[str, ...]) -> SshHost:
    """Return `host`, to be reached through `hops`."""
    return replace(host, proxy_jump=hops, proxy_command=None)


def target(host: SshHost) -> str:
    """Return what the user gives to ssh to reach the host in the same way."""
    plain = lookup(host.alias)
    user = "" if plain.user == host.user else f"{host.user}@"
    port = "" if plain.port == host.port else f"-p {host.port} "
    return f"{port}{user}{host.alias}"


def split_jump(item: str) -> tuple[str, str | None, int | None]:
    """Return host, user and port of one hop of ProxyJump: [ssh://][USER@]HOST[:PORT]."""
    item = item.removeprefix("ssh://").rstrip("/")
    user, at, place = item.rpartition("@")
    host, port = split_port(place)
    return host, (user if at else None), port


def split_port(place: str) -> tuple[str, int | None]:
    """Split HOST[:PORT]; an IPv6 address needs brackets to have a port."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, int(rest[1:]) if rest[1:].isdigit() else None
    host, colon, port = place.partition(":")
    if colon and port.isdigit():
        return host, int(port)
    return place, None
