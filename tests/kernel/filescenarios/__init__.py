"""What test_moving_files moves: how it is set up, and what must still be so afterwards."""

from tests.kernel.filescenarios import events, files, others, pipes, refused
from tests.kernel.filescenarios.common import MOVED, REFUSED

__all__ = ["MOVED", "REFUSED", "events", "files", "others", "pipes", "refused"]
