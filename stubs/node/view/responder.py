"""What those that serve the home view build on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Link
    from stubs.link.loop import Loop
    from stubs.node.view.fuse import Device
    from stubs.node.view.inodes import Inodes
    from stubs.node.view.invalidation import Notifier
    from stubs.node.view.temporaries import Temporaries
    from stubs.node.view.uplink import Uplink


class Core:
    """The kernel's side (device, notifier), home's (link, uplink), and what is known of files."""

    def __init__(
        self,
        loop: Loop,
        device: Device,
        notifier: Notifier,
        link: Link,
        uplink: Uplink,
        inodes: Inodes,
        temporaries: Temporaries,
        clock: Callable[[], float],
    ) -> None:
        """Name them; `clock` is monotonic, in seconds."""
        self.loop = loop
        self.device = device
        self.notifier = notifier
        self.link = link
        self.uplink = uplink
        self.inodes = inodes
        self.temporaries = temporaries
        self.clock = clock


class Responder:
    """One that answers some of the kernel's requests or home's messages."""

    def __init__(self, core: Core) -> None:
        """Have the core at hand."""
        self._loop = core.loop
        self._device = core.device
        self._notifier = core.notifier
        self._link = core.link
        self._uplink = core.uplink
        self._inodes = core.inodes
        self._temporaries = core.temporaries
        self._clock = core.clock
