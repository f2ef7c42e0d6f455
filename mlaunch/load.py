"""The home node's own load, sampled by the daemon once a second while it has work.

Measured exactly as an agent measures its node, so that the two compare.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from typing import TYPE_CHECKING

from mlaunch import process
from mlaunch.placement import HOME, NodeState
from mlaunch.slots import Slots
from stubs.node.probe import Probe, cached_speed, keep_speed, measure_speed, usable_cpus
from stubs.wire.messages import Load

if TYPE_CHECKING:
    from typing import NoReturn

    from mlaunch.service import Service

# As on a node (mlaunch.bootstrap), and for the agent of the node `local` the same file.
CACHE = "~/.cache/mlaunch"

# Shorter samples would be noise: /proc/stat counts in ticks.
LEAST_SAMPLE_S = 0.5


# However much goes with others, such a part of the CPUs is left.
LEAST_LEFT = 0.25


class HomeLoad:
    """Idle CPUs of home between two samples, its memory, its speed."""

    def __init__(self, service: Service) -> None:
        """Take the first sample; `service` is what goes with programs, here or elsewhere."""
        self._probe = Probe()
        self._cache = os.path.expanduser(CACHE)
        self._measuring = False
        self._at = time.monotonic()
        self._load: Load | None = None
        self.slots = Slots()
        self._service = service
        self._computed_s = 0.0
        self._guests_cpu = 0.0

    def sample(self) -> None:
        """Take a sample; harmless if the last one was just now."""
        now = time.monotonic()
        passed = now - self._at
        if passed < LEAST_SAMPLE_S:
            return
        self._at = now
        load = self._load = self._probe.load(0)
        self._service.measured((load.cpus_milli - load.idle_milli) / 1000, passed)
        self.slots.cpus = self._left(load.cpus_milli / 1000)
        # Nobody measures what children at home use; but all that do are known.
        computed_s = self.slots.computed_s(now)
        self._guests_cpu = (computed_s - self._computed_s) / passed
        self._computed_s = computed_s

    def state(self) -> NodeState:
        """Return what placement wants to know of home."""
        # Before the first sample there is only the load average to go by.
        load = self._load or self._probe.load(0)
        cpus = load.cpus_milli / 1000
        idle = load.idle_milli if self._load else load.cpus_milli - load.load1_milli
        return NodeState(
            HOME,
            cpus=self._left(cpus),
            idle=max(0.0, idle / 1000),
            load1=load.load1_milli / 1000,
            # We count ourselves, and the mrun that asks.
            running=max(0, load.running - 2),
            speed=float(self._speed()),
            memory_available=load.memory_available,
            slots_used=self.slots.used,
            queued_s=self.slots.queued_s(time.monotonic()),
            guests_cpu=self._guests_cpu,
        )

    @property
    def cpus(self) -> float:
        """How many CPUs home has, whatever they do."""
        return usable_cpus()

    def _left(self, cpus: float) -> float:
        """Return how many CPUs are left to compute with: who serves others is served first."""
        return max(LEAST_LEFT * cpus, cpus - self._service.cpus)

    def _speed(self) -> int:
        """Return the speed as kept in the cache; the first time a child measures it."""
        if not self._probe.speed:
            self._probe.speed = cached_speed(self._cache)
        if not self._probe.speed and not self._measuring:
            self._measuring = True
            if os.fork() == 0:
                _become_measurer(self._cache)
        return self._probe.speed


def _become_measurer(cache: str) -> NoReturn:
    """In the forked child: keep nothing of the daemon, measure, and end.

    It may outlive the daemon. With that one's lock and listening socket nobody else could take its
    place, and an mrun would wait at a door behind which there is nobody.
    """
    try:
        # What is closed by number must not be collected here: see mlaunch.inventory.
        gc.freeze()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        process.reset_signals()
        process.set_name("mlaunch: speed")
        keep_speed(cache, measure_speed())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
