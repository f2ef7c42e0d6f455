"""What an examination finds: one thing that was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

GOOD = "ok"
NOTE = "note"  # worth knowing: it works, but not as well as it could
BAD = "FAILS"

KIB = 1 << 10


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one machine; `values` are its numbers, for scripts."""

    node: str
    check: str
    state: str
    text: str
    remedy: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether programs can run in spite of it."""
        return self.state != BAD

    def as_json(self) -> dict[str, Any]:
        """Return it as `mlaunch doctor --json` prints it."""
        return {**asdict(self), "state": self.state.lower()}


def size(number: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB"):
        if number < KIB:
            return f"{number:.0f} {unit}"
        number /= KIB
    return f"{number:.1f} GiB"
