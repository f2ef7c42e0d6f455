"""The export policy as configured: built for a link process, and told in words by doctor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stubs.home.files.policy import EMPTY, ExportPolicy, default_hidden

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlaunch.config import Export


def hidden_paths(export: Export) -> list[bytes]:
    """Return what no node sees: by default, changed as the user wants it."""
    home = os.fsencode(os.path.expanduser("~"))
    visible = {os.fsencode(path) for path in export.visible}
    hidden = [path for path in default_hidden(home, os.getuid()) if path not in visible]
    return hidden + [os.fsencode(path) for path in export.hidden]


def policy(export: Export) -> ExportPolicy:
    """Return the policy that a link process enforces."""
    return ExportPolicy(hidden_paths(export), [os.fsencode(path) for path in export.readonly])


def in_words(export: Export) -> list[tuple[str, str]]:
    """Return (how it is treated, which paths): hidden, of its own, read-only, read-write."""
    hidden = hidden_paths(export)
    there = [path for path in hidden if os.path.lexists(path)]
    absent = len(hidden) - len(there)
    secrets = _joined(there) or "none of the paths that are hidden exists"
    words = [("hidden", f"{secrets} (and {absent} more, should they come to be)")]
    words.append(("node's own", ", ".join(os.fsdecode(path) for path in EMPTY)))
    if export.readonly:
        words.append(("read-only", _joined(os.fsencode(path) for path in export.readonly)))
    words.append(("read-write", "all else that you may read or write yourself"))
    return words


def mistakes(export: Export) -> list[str]:
    """Return what of the configuration has no effect or takes a risk, a sentence each."""
    found = [
        f"{key} {path} does not exist"
        for key, paths in (("hidden", export.hidden), ("readonly", export.readonly))
        for path in paths
        if not os.path.lexists(path)
    ]
    home = os.fsencode(os.path.expanduser("~"))
    default = default_hidden(home, os.getuid())
    for path in export.visible:
        if os.fsencode(path) in default:
            found.append(f"{_short(os.fsencode(path))} is shown to nodes, since it is in visible")
        else:
            found.append(f"visible {path} is not on the list of hidden paths")
    return found


def _joined(paths: Iterable[bytes]) -> str:
    return ", ".join(_short(path) for path in paths)


def _short(path: bytes) -> str:
    """Return the path as the user would write it, a directory with a slash at its end."""
    home = os.path.expanduser("~").rstrip("/") + "/"
    text = os.fsdecode(path)
    if text.startswith(home):
        text = "~/" + text[len(home) :]
    return text + "/" if os.path.isdir(path) else text
