"""What was meant by a name that nobody knows: the one place for "did you mean".

Not imported before something is wrong: difflib takes longer to load than mrun to start.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from mlaunch.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterable

# n3 and n2 are alike by one half; words that share less have nothing to do with each other.
LEAST_LIKENESS = 0.5
MOST = 3


def meant(word: str, known: Iterable[str]) -> str:
    """Return `did you mean X?` for the most similar of `known`, or nothing."""
    # Dashes make all options alike.
    bare = word.lstrip("-")
    likeness = {
        name: SequenceMatcher(None, bare, name.lstrip("-")).ratio() for name in sorted(known)
    }
    best = max(likeness.values(), default=0.0)
    if best < LEAST_LIKENESS:
        return ""
    names = [name for name, value in likeness.items() if value == best][:MOST]
    *others, last = names
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def unknown_node(name: str, known: Iterable[str], others: Iterable[str] = ()) -> LaunchError:
    """Return the error for a node that is not configured; `others` could have been said, too."""
    names = sorted(known)
    hint = meant(name, [*names, *others])
    if not hint and names:
        hint = f"known are: {', '.join(names)}"
    return LaunchError(f"no node {name}", hint or f"to add it: mlaunch nodes add {name} HOST")
