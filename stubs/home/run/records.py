"""Records: what is known about each program of a run, for its receipt and for its story.

One record for a body on a node, and one for a program that ran at home. Two writers make files of
them: stubs.home.run.receipt (`mrun --stats`) and stubs.home.run.story (`mrun --trace`). Neither
is loaded unless it is asked for.
"""

from __future__ import annotations

from stubs.home.run.record import HOME, MOST_ARGUMENTS, Record, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stubs.home.run.output import Output

    # A writer gets the run and the status as wait4(2) has it.
    Writer = Callable[[Run, int], Iterable[str]]


class Records(Run):
    """Those of one mrun, and the files that shall be written of them."""

    def __init__(self, argv: list[bytes], stats: str | None, trace: str | None) -> None:
        """Start the clock. MrunError when a path could not be written in the end."""
        super().__init__(argv)
        self.has_story = trace is not None
        self.most = MOST_ARGUMENTS if stats is None else 0
        self._writers: list[tuple[Output, Writer]] = []
        if stats is not None:
            from stubs.home.run import receipt

            self._add_writer(stats, "receipt", receipt.pieces)
        if trace is not None:
            from stubs.home.run import story

            self._add_writer(trace, "story", story.pieces)

    def _add_writer(self, path: str, name: str, writer: Writer) -> None:
        from stubs.home.run.output import Output

        self._writers.append((Output(path, name), writer))

    @property
    def wanted(self) -> bool:
        """Whether there is a file to be written."""
        return bool(self._writers)

    def add_only(self, pid: int, argv: list[bytes], why: str, status: int, cpu_s: float) -> None:
        """Note the run of a program at home which nobody traced."""
        record = Record(pid, argv, HOME, why, self.most)
        record.began = self.began
        record.end_at_home(status, cpu_s, cpu_s, 0)
        self.all.append(record)
        self.program = record

    def write(self, status: int) -> None:
        """Write what there is to be written; `status` is mrun's, as wait4(2) has it."""
        for output, writer in self._writers:
            output.write(writer(self, status))
