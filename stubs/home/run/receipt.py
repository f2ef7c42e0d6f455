"""The receipt: what a run did, as JSON, for `mrun --stats FILE`.

It tells of each body and of the program that mrun was started for; what else ran at home is in the
CPU seconds of that.
"""

from __future__ import annotations

# As slow to load as all the rest of mrun's start: this module is loaded only where it is needed.
import json
import os
import time

from stubs.home.run.record import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stubs.home.run.record import Record, Run


def pieces(run: Run, status: int) -> Iterator[str]:
    """Yield the file; `status` as wait4(2) has it."""
    wall_s = time.monotonic() - run.began
    told = [record for record in run.all if record.is_away or record is run.program]
    receipt = {
        **outcome(status),
        "wall_s": round(wall_s, 6),
        "bodies": [_body(run, record) for record in told],
    }
    yield json.dumps(receipt, indent=2)
    yield "\n"


def _body(run: Run, record: Record) -> dict[str, object]:
    assert record.ended is not None
    return {
        "pid": record.pid,
        "argv": [os.fsdecode(word) for word in record.argv],
        "node": record.node,
        "wall_s": round(record.wall_s if record.is_away else record.ended - run.began, 6),
        "cpu_s": round(record.cpu_s, 6),
        "round_trips": record.round_trips,
        "bytes_to_node": record.bytes_to_node,
        "bytes_to_home": record.bytes_to_home,
        "restarts": record.restarts,
        "migrations": [
            {
                "from": migration.source,
                "to": migration.target,
                "freeze_ms": round(migration.freeze_ms, 3),
                "bytes": migration.bytes,
                "why": migration.why,
            }
            for migration in record.migrations
        ],
        "why": record.why,
    }
