"""A guest and its mrun, as the link process knows them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.guests.terminal import Terminal
    from stubs.link.endpoint import Endpoint
    from stubs.wire.codec import Message
    from stubs.wire.messages import FdClosed, Signal, Spawn


class Session:
    """One mrun: its socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Begin."""
        self.endpoint = endpoint

    def post(self, message: Message) -> None:
        """Tell mrun; nothing happens when it is gone."""
        self.endpoint.post(message)


class Guest:
    """One body, and what it has at home."""

    def __init__(self, session: Session, spawn: Spawn) -> None:
        """Begin with nothing held."""
        self.session = session
        self.spawn = spawn
        self.pid = spawn.body
        self.files: dict[int, int] = {}  # descriptor of the body -> ours on the same open file
        self.adopted: list[int] = []  # their inodes, and that of the working directory
        self.streams: set[int] = set()
        self.passed: dict[int, int] = {}  # what had gone over these streams before it began
        self.mark: dict[int, int] | None = None  # the same, before its last checkpoint
        self.terminal: Terminal | None = None
        self.computed = False  # it has ended on the node; what it did may still be on its way
        self.exited = False
        self.closed: list[FdClosed] = []  # mrun does not know of these yet
        # While mrun decides where it goes on nothing is read or written for it:
        self.left = False  # here, or elsewhere
        self.arriving = False  # elsewhere, or here
        self.departing = False  # it goes on elsewhere, and what is left on the node ends
        self.standing_ns = 0  # since when (CLOCK_MONOTONIC) it stands still, to go elsewhere
        self.held: list[Signal] = []  # for it, and come meanwhile
        self.seen = False  # what it did on another node may have been noticed at home

    @property
    def ended(self) -> bool:
        """Whether it is known that it lives no more."""
        return self.computed or self.exited

    def tell_closed(self, message: FdClosed) -> None:
        """Tell mrun that the body has closed a descriptor, unless it did so by ending."""
        if message in self.closed:
            self.closed.remove(message)
            if not self.ended:
                self.session.post(message)

    def take_signals(self) -> list[int]:
        """Return what has come for it while it stood still, as Parked.signals has it, once."""
        held, self.held = self.held, []
        return [number for signal in held for number in (signal.signo, signal.scope)]

    def close_files(self) -> None:
        """Let go of the inherited files."""
        files, self.files = self.files, {}
        for fd in files.values():
            os.close(fd)
