"""The keys under which hosts are known: known_hosts files, sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.

A host whose key is not known, or is another than the known one, is refused, always: nobody is
there to be asked. `@cert-authority` lines are passed over.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from mlaunch import sshconfig
from mlaunch.errors import LaunchError

if TYPE_CHECKING:
    from mlaunch.sshconfig import SshHost


class KnownHosts:
    """The keys under which one host is known."""

    def __init__(self, host: SshHost) -> None:
        """Read the files that exist; LaunchError if one cannot be read."""
        self._host = host
        self._revoked: set[bytes] = set()
        names = [host.known_as]
        if host.known_as.startswith("["):
            names.append(host.hostname)  # as ssh does: known there on the usual port
        found: dict[str, list[tuple[str, bytes]]] = {name: [] for name in names}
        for path in host.known_hosts:
            self._read(path, found)
        keys = next((keys for keys in found.values() if keys), [])
        self.kinds = {kind for kind, _ in keys}
        self._blobs = {blob for _, blob in keys}

    def _read(self, path: str, found: dict[str, list[tuple[str, bytes]]]) -> None:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise LaunchError(f"{path}: {error.strerror}") from error
        for line in lines:
            fields = line.split()
            marker = fields.pop(0) if line.startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#"):
                continue
            blob = decode(fields[2])
            name = next((name for name in found if _matches(name, fields[0])), None)
            if blob is None or name is None:
                continue
            if marker == "@revoked":
                self._revoked.add(blob)
            elif not marker:
                found[name].append((fields[1], blob))

    def check(self, kind: str, blob: bytes) -> None:
        """Raise LaunchError unless the host is known by this very key."""
        host = self._host
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        shown = f"{kind} SHA256:{digest}"
        if blob in self._revoked:
            raise LaunchError(f"the host key of {host.known_as} is revoked ({shown})")
        if blob in self._blobs:
            return
        if self._blobs:
            raise LaunchError(
                f"the host key of {host.known_as} has changed (now {shown})",
                f'if that is as it should be: ssh-keygen -R "{host.known_as}"',
            )
        raise LaunchError(
            f"the host key of {host.known_as} is not known ({shown})",
            f"to accept it: ssh {sshconfig.target(host)}",
        )


def decode(text: str) -> bytes | None:
    """Return the bytes of a public key, None when they are none."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _matches(name: str, field: str) -> bool:
    """Match a name against the first field of a line, which may be hashed."""
    if not field.startswith("|"):
        return sshconfig.matches(name, field.split(","))
    parts = field.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    salt, expected = decode(parts[2]), decode(parts[3])
    if salt is None or expected is None:
        return False
    return hmac.digest(salt, name.encode(), "sha1") == expected
