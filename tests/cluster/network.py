"""The switch and the cables: a bridge in the supervisor's network namespace.

    eth0 (host) ── v-n1 ── br0                       a plain cable
    eth0 (host) ── v-n1 ── relay ── r-n1 ── p-n1 ── br0    one with a delay

netem is missing from some kernels, so delay is a process (`relay`); bandwidth is tbf(8), at both
ends of the cable. Everything here runs in the supervisor.
"""

import os
import signal
import subprocess
from collections.abc import Callable

from tests.cluster import kernel, relay
from tests.cluster.spec import HostSpec

BRIDGE = "br0"


def _ip(*commands: str) -> None:
    text = "\n".join(commands).encode()
    subprocess.run(("ip", "-batch", "-"), input=text, check=True, timeout=30)


def create_switch() -> None:
    """Make the bridge in the current network namespace."""
    _ip(
        "link set lo up", f"link add {BRIDGE} type bridge mcast_snooping 0", f"link set {BRIDGE} up"
    )


class Cable:
    """What connects one host to the switch; knows what was asked of it, also after a reboot."""

    def __init__(self, host: HostSpec) -> None:
        self._host = host
        self._end = f"v-{host.name}"
        self._relay: int | None = None
        self.connected = True
        self.rtt_ms = 0.0
        self.mbit = 0.0

    def plug(self, pid: int) -> None:
        """Put eth0 into the network namespace of process `pid`."""
        _ip(
            f"link add {self._end} type veth peer name eth0 address {self._host.mac} netns {pid}",
            f"link set {self._end} up",
        )

    def unplug(self) -> None:
        """Take the cable away."""
        self._stop_relay()
        # It may have gone with the host's network namespace, or be about to.
        subprocess.run(("ip", "link", "del", self._end), stderr=subprocess.DEVNULL, check=False)

    def _stop_relay(self) -> None:
        if self._relay is not None:
            os.kill(self._relay, signal.SIGKILL)
            os.waitpid(self._relay, 0)
            self._relay = None
            _ip(f"link del r-{self._host.name}")

    @property
    def _port(self) -> str:
        return self._end if self._relay is None else f"p-{self._host.name}"

    def apply(self, pid: int, in_child: Callable[[], None]) -> None:
        """Make the cable what `connected`, `rtt_ms` and `mbit` say.

        `in_child` is called in the relay's process, to let go of what is the supervisor's.
        """
        self._stop_relay()
        if self.rtt_ms:
            name = self._host.name
            _ip(
                f"link set {self._end} nomaster",
                f"link add r-{name} type veth peer name p-{name}",
                f"link set r-{name} up",
                f"link set p-{name} up",
            )
            self._relay = self._start_relay(f"r-{name}", in_child)
        self._shape(pid)
        self.connect(self.connected)

    def _start_relay(self, other: str, in_child: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                kernel.set_parent_death_signal(signal.SIGKILL)
                in_child()
                relay.run(self._end, other, self.rtt_ms / 2000)
            finally:
                os._exit(1)
        return pid

    def _shape(self, pid: int) -> None:
        for prefix, device in (
            ((), self._end),
            (("nsenter", f"--net=/proc/{pid}/ns/net"), "eth0"),
        ):
            tc = (*prefix, "tc", "qdisc")
            if self.mbit:
                # A burst of 5 ms, yet at least a few full frames; half a second of buffer, as a
                # home router has.
                burst = max(16_000, int(self.mbit * 1e6 / 8 * 0.005))
                tbf = f"root tbf rate {self.mbit}mbit burst {burst} latency 500ms"
                subprocess.run((*tc, "replace", "dev", device, *tbf.split()), check=True)
            else:
                # Fails when there is nothing to delete, which is fine.
                subprocess.run(
                    (*tc, "del", "dev", device, "root"), stderr=subprocess.DEVNULL, check=False
                )

    def connect(self, connected: bool) -> None:
        """Let frames pass, or drop them all; neither end sees its link go down."""
        self.connected = connected
        _ip(f"link set {self._port} {f'master {BRIDGE}' if connected else 'nomaster'}")
