"""What the files of each body cost: bytes over the link, and how often somebody waited for home."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.node.view.fuse import Device

# Bodies counted at once; what comes for one that has ended would be kept for ever otherwise.
_MOST = 1 << 13


class Traffic:
    """Counts for all, and for each body."""

    def __init__(self, device: Device) -> None:
        """Begin at zero; `device` tells whose request is being handled."""
        self.round_trips = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._device = device
        self._of: dict[int, list[int]] = {}

    def body(self, pid: int | None = None) -> int:
        """Return the body that a process belongs to, 0 if to none; the one that asks just now."""
        families = self._device.families
        if families is None:
            return 0
        return families.bodies.get(self._device.pid if pid is None else pid, 0)

    def waits(self) -> None:
        """Note that the process that asks just now waits for home."""
        self.round_trips += 1
        self._add(self.body(), 0, 1)

    def came(self, body: int, count: int) -> None:
        """Note bytes of files that came from home, for that body or for nobody (0)."""
        self.bytes_in += count
        self._add(body, 1, count)

    def went(self, pid: int, count: int) -> None:
        """Note bytes of files that went home, written by that process."""
        self.bytes_out += count
        self._add(self.body(pid), 2, count)

    def of(self, body: int) -> tuple[int, int, int]:
        """Return (round trips, bytes in, bytes out) of a body so far."""
        round_trips, bytes_in, bytes_out = self._of.get(body, (0, 0, 0))
        return round_trips, bytes_in, bytes_out

    def take(self, body: int) -> tuple[int, int, int]:
        """Return (round trips, bytes in, bytes out) of a body that has ended, and forget it."""
        found = self.of(body)
        self._of.pop(body, None)
        return found

    def _add(self, body: int, index: int, count: int) -> None:
        if not body:
            return
        if len(self._of) >= _MOST and body not in self._of:
            del self._of[next(iter(self._of))]
        self._of.setdefault(body, [0, 0, 0])[index] += count
