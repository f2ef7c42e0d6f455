"""A program that has just been exec'ed, on its way to where it will run."""

from __future__ import annotations

import os
import time

from stubs.home.run.capture import Capture, Program
from stubs.home.run.inherited import ImmovableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.home.run.capture import Terminal
    from stubs.home.run.checkpoint import Last
    from stubs.home.run.links import Connection
    from stubs.home.run.living import Living
    from stubs.home.run.records import Records
    from stubs.home.run.recovery import Recovery
    from stubs.home.run.tree import Task
    from stubs.wire.codec import Descriptor

# Programs that trace others, or look into them: they need real processes, and nobody else who
# traces those (ptrace(2): a process has one tracer).
_TRACERS = frozenset((b"gdb", b"gdbserver", b"strace", b"ltrace", b"rr", b"lldb", b"lldb-server"))


class Wish:
    """What the user asks for a program; the default is for what that program starts."""

    def __init__(
        self,
        node: str = "",
        only: list[str] | None = None,
        strict: bool = False,
        top: bool = False,
        verbose: bool = False,
        records: Records | None = None,
        stay: bool = False,
    ) -> None:
        """`top`: an mrun was started for it; `strict`: not at home for want of a node.

        `records` are kept of it and of all that it starts, and written when it ends; `stay`: it
        does not move once it runs.
        """
        self.node = node
        self.only = only or []
        self.strict = strict
        self.top = top
        self.verbose = verbose
        self.records = records
        self.stay = stay

    def on(self, node: str) -> Wish:
        """Return the same wish, but for that node and no other."""
        return Wish(node, [], True, self.top, self.verbose, self.records, self.stay)


class Departure:
    """One program that stands before its first instruction."""

    def __init__(self, task: Task, wish: Wish, recovery: Recovery | None = None) -> None:
        """Read what there is to know; ImmovableError, and OSError when it has been killed.

        `recovery`: what its body is made of, which does not begin anew.
        """
        if task.is_32bit():
            raise ImmovableError("it is not a 64-bit program")
        self.task = task
        self.began = time.monotonic()
        self.wish = wish
        self.recovery = recovery
        self.program = Program(task.pid)
        self.capture: Capture | None = None
        self.node = ""
        self.reason = ""
        self.sticky = False  # whatever its arguments, it stays home
        self.wanted_home = False  # it stays there because that is best, not for want of a node
        self.connection: Connection | None = None  # with the link process of its body
        self.losses = 0  # nodes that were lost before it had begun there
        self.restarts = 0
        self.last: Last | None = None  # its last checkpoint
        self._kept: dict[int, int] = {}  # descriptor of the program -> our copy
        self._keys: dict[int, int] = {}  # what it was called when the body moved -> the same

    @property
    def name(self) -> str:
        """What messages call the program."""
        return self.program.name

    def take(
        self, mask: int | None, terminal: Terminal | None, living: Living | None = None
    ) -> Capture:
        """Capture it; arguments as of Capture.

        Raises ImmovableError, and OSError when it has been killed.
        """
        capture = Capture(self.program, mask, terminal, living)
        if self.recovery is not None:
            try:
                self.recovery.adapt(capture)
            except BaseException:
                capture.close()
                raise
        self.capture = capture
        return capture

    def copies(self) -> list[int]:
        """Return copies of its descriptors for the link process; they are kept here as well.

        Should its node be lost they are needed once more. Preconditions: it is captured.
        """
        assert self.capture is not None
        if not self._kept:
            fds, self.capture.fds = self.capture.fds, []
            self._kept = {item.fd: fd for item, fd in zip(self.capture.spawn.descriptors, fds)}
        return [os.dup(fd) for fd in self._kept.values()]

    @property
    def is_whole(self) -> bool:
        """Whether all that it inherited is still here, so that it can be started again."""
        capture = self.capture
        return capture is not None and len(self._kept) == len(capture.spawn.descriptors)

    def copy_of(self, key: int) -> int | None:
        """Return one copy more of a descriptor, by its number or its key; None if it is gone."""
        fd = self._kept.get(self._keys.get(key, key))
        return None if fd is None else os.dup(fd)

    def descriptor(self, key: int) -> Descriptor:
        """Return what was captured of that descriptor; KeyError when there was none."""
        assert self.capture is not None
        number = self._keys.get(key, key)
        return {item.fd: item for item in self.capture.spawn.descriptors}[number]

    def rename(self, names: dict[int, int]) -> None:
        """Take note that the body has moved: `names` are keys of now, and those before."""
        self._keys = {key: self._keys.get(former, former) for key, former in names.items()}
        self.last = None

    def let_go_of(self, fd: int) -> None:
        """Close the copy of a descriptor that the body has closed: others must see that."""
        copy = self._kept.pop(self._keys.get(fd, fd), -1)
        if copy >= 0:
            os.close(copy)

    def close(self) -> None:
        """Close all copies."""
        for fd in list(self._kept):
            self.let_go_of(fd)
        if self.capture is not None:
            self.capture.close()


def traces_others(exe: bytes) -> bool:
    """Tell whether the program at that path would not be itself where somebody else traces."""
    return os.path.basename(exe) in _TRACERS
