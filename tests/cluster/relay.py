"""A cable with a delay: carries frames between two interfaces, each some time after it came.

Segments that the kernel has not cut up yet (GSO) pass whole, with the header that says how
(struct virtio_net_hdr, PACKET_VNET_HDR in packet(7)); otherwise Python would be far too slow.
"""

import collections
import select
import socket
import time
from typing import NoReturn

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
MAX_FRAME = 1 << 17  # 64 KiB of payload, headers and virtio_net_hdr
BUFFER = 64 << 20  # what may wait in the kernel while the relay does not get to run
BATCH = 64  # frames taken from one side before the other's turn


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    end.bind((interface, ETH_P_ALL))
    end.setblocking(False)
    return end


def run(left: str, right: str, delay: float) -> NoReturn:
    """Carry frames both ways, each `delay` seconds late, until killed."""
    ends = _open(left), _open(right)
    waiting: tuple[collections.deque[tuple[float, bytes]], ...]
    waiting = collections.deque(), collections.deque()
    while True:
        due = min((queue[0][0] for queue in waiting if queue), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select(ends, (), (), timeout)
        for number, end in enumerate(ends):
            if end in readable:
                _take(end, waiting[number], delay)
        now = time.monotonic()
        for number, queue in enumerate(waiting):
            while queue and queue[0][0] <= now:
                _pass_on(ends[1 - number], queue.popleft()[1])


def _take(end: socket.socket, queue: collections.deque[tuple[float, bytes]], delay: float) -> None:
    for _ in range(BATCH):
        try:
            frame = end.recv(MAX_FRAME)
        except BlockingIOError:
            return
        queue.append((time.monotonic() + delay, frame))


def _pass_on(end: socket.socket, frame: bytes) -> None:
    try:
        end.send(frame)
    except OSError:
        # A full queue or a link that is down loses frames; that is what links do.
        return
