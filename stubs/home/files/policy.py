"""The export policy: what of home's files a node may see, and what it may change.

Rules are absolute, canonical paths; the longest one that contains a path decides, except that
nothing below a hidden path is ever shown. `/proc`, `/sys` and `/dev` are shown as empty
directories: the capsule mounts its own there.

The policy is asked once per directory: a `View` says how the names in it are to be treated.
Hidden objects are also known by device and inode, so that a bind mount or a hard link of one does
not show it under another name.
"""

from __future__ import annotations

import errno
import os
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Shown as empty directories.
EMPTY = (b"/proc", b"/sys", b"/dev")

# Keys, tokens and passwords, relative to a home directory.
SECRETS = (
    b".ssh",
    b".gnupg",
    b".aws",
    b".azure",
    b".kube",
    b".docker/config.json",
    b".config/gcloud",
    b".config/gh",
    b".config/hub",
    b".config/git/credentials",
    b".config/rclone",
    b".config/containers/auth.json",
    b".config/sops",
    b".config/age",
    b".config/op",
    b".config/chromium",
    b".config/google-chrome",
    b".git-credentials",
    b".netrc",
    b".authinfo",
    b".authinfo.gpg",
    b".pgpass",
    b".my.cnf",
    b".mylogin.cnf",
    b".npmrc",
    b".pypirc",
    b".cargo/credentials",
    b".cargo/credentials.toml",
    b".gem/credentials",
    b".terraform.d/credentials.tfrc.json",
    b".vault-token",
    b".password-store",
    b".local/share/keyrings",
    b".local/share/kwalletd",
    b".mozilla",
    b".thunderbird",
    b".Xauthority",
    b".ICEauthority",
    b".krb5",
    b".pki",
    b".putty",
)

# What only root can read at home would otherwise be shown to the nodes of a home that root runs.
ROOT_SECRETS = (
    b"/etc/shadow",
    b"/etc/shadow-",
    b"/etc/gshadow",
    b"/etc/gshadow-",
    b"/etc/krb5.keytab",
    b"/etc/ssl/private",
    b"/etc/sudoers",
    b"/etc/sudoers.d",
    b"/var/lib/sss/secrets",
    *(b"/etc/ssh/ssh_host_%s_key" % kind for kind in (b"rsa", b"dsa", b"ecdsa", b"ed25519")),
)


class View:
    """How the names in one directory are to be treated."""

    __slots__ = ("empty", "guarded", "hidden", "hides_all", "modes", "readonly")

    def __init__(self, readonly: bool, empty: bool = False, hides_all: bool = False) -> None:
        """Begin with no name that is treated in a special way."""
        self.readonly = readonly
        self.empty = empty  # shown as if nothing were in it
        self.hides_all = hides_all  # this directory itself is hidden
        self.hidden: set[bytes] = set()
        # Names that are, or lead to, a path with a rule of its own: moved elsewhere, what lies
        # there would escape its rule.
        self.guarded: set[bytes] = set()
        self.modes: dict[bytes, bool] = {}  # readonly of names that differ from their directory

    def readonly_name(self, name: bytes) -> bool:
        """Tell whether the object at `name` may not be changed."""
        return self.modes.get(name, self.readonly)


def default_hidden(home: bytes, uid: int) -> list[bytes]:
    """Return what is hidden unless the user says otherwise; of everybody's, if the user is root."""
    homes = {home}
    hidden: list[bytes] = []
    if uid == 0:
        hidden += ROOT_SECRETS
        homes.update(os.fsencode(entry.pw_dir) for entry in pwd.getpwall())
    for place in sorted(homes):
        if place.startswith(b"/") and place.strip(b"/"):
            hidden += [os.path.join(place, secret) for secret in SECRETS]
    return hidden


class ExportPolicy:
    """Which paths are hidden, read-only or free."""

    def __init__(
        self,
        hidden: Iterable[bytes],
        readonly: Iterable[bytes] = (),
        writable: Iterable[bytes] = (),
        empty: Iterable[bytes] = EMPTY,
    ) -> None:
        """Take absolute paths; a hidden path that is a symlink hides its target too."""
        self._hidden = _canonical(hidden)
        self._empty = set(empty)
        self._readonly: dict[bytes, bool] = dict.fromkeys(_canonical(readonly), True)
        self._readonly.update(dict.fromkeys(_canonical(writable), False))
        if b"/" in self._hidden:
            raise ValueError("the root directory cannot be hidden")
        # Names below each directory that has a rule somewhere in it.
        self._below: dict[bytes, set[bytes]] = {}
        for path in [*self._hidden, *self._empty, *self._readonly]:
            self._index(path)
        self._secrets = _identities(self._hidden)
        self._plain = {flag: View(flag) for flag in (False, True)}

    def _index(self, path: bytes) -> None:
        while path != b"/":
            path, name = os.path.split(path)
            self._below.setdefault(path, set()).add(name)

    def is_hidden(self, path: bytes) -> bool:
        """Tell whether `path` is hidden or lies below something hidden or emptied."""
        return any(above in self._hidden for above in _above(path)) or any(
            above in self._empty for above in _above(os.path.dirname(path))
        )

    def is_readonly(self, path: bytes) -> bool:
        """Tell whether what is at `path` may not be changed."""
        for above in _above(path):
            if above in self._readonly:
                return self._readonly[above]
        return False

    def is_secret(self, dev: int, ino: int) -> bool:
        """Tell whether this very object is a hidden one, whatever name it was reached by."""
        if (dev, ino) not in self._secrets:
            return False
        # The number may belong to another file by now (a secret that was rewritten and renamed).
        self._secrets = _identities(self._hidden)
        return (dev, ino) in self._secrets

    def check(self, path: bytes, write: bool = False) -> None:
        """Raise OSError unless the canonical `path` may be seen (and changed, if `write`)."""
        if self.is_hidden(path):
            raise OSError(errno.ENOENT, "not exported", path)
        if write and self.is_readonly(path):
            raise OSError(errno.EROFS, "exported read-only", path)

    def view(self, path: bytes) -> View:
        """Return how the names in the directory with canonical `path` are to be treated."""
        if self.is_hidden(path):
            return View(readonly=True, empty=True, hides_all=True)
        if path in self._empty:
            return View(readonly=True, empty=True)
        readonly = self.is_readonly(path)
        special = self._below.get(path)
        if special is None:
            return self._plain[readonly]
        view = View(readonly)
        view.guarded = special
        for name in special:
            below = os.path.join(path, name)
            if below in self._hidden:
                view.hidden.add(name)
            if self._readonly.get(below, readonly) != readonly:
                view.modes[name] = not readonly
        return view


def _above(path: bytes) -> Iterable[bytes]:
    """Yield `path` and every directory above it, longest first."""
    while True:
        yield path
        if len(path) <= 1:
            return
        path = os.path.dirname(path)


def _canonical(paths: Iterable[bytes]) -> set[bytes]:
    """Return the paths as written (their directories resolved) and what they lead to."""
    result = set()
    for path in paths:
        if not path.startswith(b"/"):
            raise ValueError(f"not an absolute path: {os.fsdecode(path)}")
        path = b"/" + os.path.normpath(path).lstrip(b"/")
        parent, name = os.path.split(path)
        result.add(os.path.join(os.path.realpath(parent), name) if name else b"/")
        result.add(os.path.realpath(path))
    return result


def _identities(paths: Iterable[bytes]) -> frozenset[tuple[int, int]]:
    """Return (device, inode) of those paths that exist now."""
    found = set()
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue  # absent or out of reach: then its path is all there is to hide
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)
