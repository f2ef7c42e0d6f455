"""What the user asks of one mrun; see mrun(1)."""

from __future__ import annotations

HOME = "home"


class Options:
    """The options, as they are when none is given."""

    def __init__(self, argv: list[bytes]) -> None:
        """`argv` is the program and its arguments."""
        self.argv = argv
        self.node = ""
        self.only: list[str] = []
        self.fallback = True
        self.stay = False
        self.recover: str | None = None  # a checkpoint, in the place of a program
        self.checkpoint_s = 0.0  # seconds from one checkpoint to the next; 0: none are made
        self.stats: str | None = None
        self.trace: str | None = None
        self.progress = False
        self.verbose = False
