"""What is known here of the contents of a file: what is on its way to the kernel, what is kept."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Where it starts and ends in its file, and the SHA-256 of what is in it: less than that when
    # the file ends there.
    Part = tuple[int, int, bytes]

# Files are kept in parts that do not cross a multiple of this: what home hashes.
UNIT = 128 << 10


class Shelved:
    """The parts of a file of which the hashes are known, while its contents do not change."""

    __slots__ = ("_units",)

    def __init__(self) -> None:
        """None is known."""
        self._units: dict[int, list[Part]] = {}

    def add(self, part: Part) -> None:
        """Remember a part, in place of those that are within it, unless it is within another."""
        start, end, _ = part
        known = self._units.get(start // UNIT, ())
        if not any(each[0] <= start and end <= each[1] for each in known):
            others = [each for each in known if each[0] < start or end < each[1]]
            self._units[start // UNIT] = [*others, part]

    def remove(self, part: Part) -> None:
        """Forget a part: the shelf has it not."""
        known = self._units.get(part[0] // UNIT, [])
        if part in known:
            known.remove(part)

    def at(self, position: int) -> Part | None:
        """Return the part in which `position` is."""
        for part in self._units.get(position // UNIT, ()):
            if part[0] <= position < part[1]:
                return part
        return None

    def following(self, position: int, end: int) -> int:
        """Return where the next part begins behind `position`, which is in none; `end` at last."""
        if not self._units:
            return end
        for unit in range(position // UNIT, -(-end // UNIT)):
            starts = [part[0] for part in self._units.get(unit, ()) if part[0] > position]
            if starts:
                return min(end, *starts)
        return end


class Piece:
    """A range of a file: on its way, or here."""

    __slots__ = ("aged", "data", "end", "given", "left", "repeats", "stale", "start", "waiting")

    def __init__(self, start: int, end: int) -> None:
        """Nothing is here yet."""
        self.start = start
        self.end = end
        self.left = end - start  # bytes that the kernel has not taken yet
        self.data: memoryview | None = None
        self.stale = False  # the file changed since it was asked for
        self.aged = 0  # it has been here for so many periods
        self.given = False  # it comes without a request: from home, or from the shelf
        self.repeats = 0
        self.waiting: list[tuple[int, int, int]] = []  # (unique, offset, end)


class ReadAhead:
    """What was fetched of one file, and how it is being read."""

    __slots__ = ("asked", "expected", "given", "pieces", "shelved", "window")

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.pieces: list[Piece] = []
        self.given = False  # home sent what is likely to be read of it
        self.expected = 0  # where the next READ starts if the file is read in sequence
        self.window = 0  # how far ahead to ask
        self.asked = 0  # up to where it has been asked for
        self.shelved = Shelved()
