"""Every message: its number, its fields, and the system call that it is nearest to.

Numbers are written out and never reused. `reply` in a comment names the message that
answers; any request may be answered by Error instead. Requests carry a tag in their
frame, replies carry the same tag; posted messages carry tag 0 and are not answered.

Directions: H home, N node agent, M mrun, D home daemon, L link process. L speaks for H on
a link; on the local sockets M-D, M-L and D-L the same frames are used.

Order: on the rpc connection everything is handled in the order sent, in each direction.
That is the barrier of the home view: what home pushed before a message has been applied
by the node before it acts on that message, and what a body changed at home was sent
before its output and its exit.
"""

from __future__ import annotations

from stubs.wire.codec import Message
from stubs.wire.messages.answers import Acknowledge as Acknowledge
from stubs.wire.messages.answers import Attrs as Attrs
from stubs.wire.messages.answers import Coming as Coming
from stubs.wire.messages.answers import Contents as Contents
from stubs.wire.messages.answers import Data as Data
from stubs.wire.messages.answers import Failed as Failed
from stubs.wire.messages.answers import Filesystem as Filesystem
from stubs.wire.messages.answers import Found as Found
from stubs.wire.messages.answers import Invalidate as Invalidate
from stubs.wire.messages.answers import InvalidateAll as InvalidateAll
from stubs.wire.messages.answers import Listing as Listing
from stubs.wire.messages.answers import Locked as Locked
from stubs.wire.messages.answers import Names as Names
from stubs.wire.messages.answers import Offered as Offered
from stubs.wire.messages.answers import Offset as Offset
from stubs.wire.messages.answers import Trace as Trace
from stubs.wire.messages.bodies import FD_DEVICE as FD_DEVICE
from stubs.wire.messages.bodies import FD_FILE as FD_FILE
from stubs.wire.messages.bodies import FD_STREAM_BOTH as FD_STREAM_BOTH
from stubs.wire.messages.bodies import FD_STREAM_IN as FD_STREAM_IN
from stubs.wire.messages.bodies import FD_STREAM_OUT as FD_STREAM_OUT
from stubs.wire.messages.bodies import FD_TTY as FD_TTY
from stubs.wire.messages.bodies import SCOPE_GROUP as SCOPE_GROUP
from stubs.wire.messages.bodies import SCOPE_PROCESS as SCOPE_PROCESS
from stubs.wire.messages.bodies import Continued as Continued
from stubs.wire.messages.bodies import Exited as Exited
from stubs.wire.messages.bodies import Family as Family
from stubs.wire.messages.bodies import Gone as Gone
from stubs.wire.messages.bodies import Kill as Kill
from stubs.wire.messages.bodies import Lost as Lost
from stubs.wire.messages.bodies import Measure as Measure
from stubs.wire.messages.bodies import Measured as Measured
from stubs.wire.messages.bodies import Position as Position
from stubs.wire.messages.bodies import Resize as Resize
from stubs.wire.messages.bodies import Signal as Signal
from stubs.wire.messages.bodies import Spawn as Spawn
from stubs.wire.messages.bodies import Spawned as Spawned
from stubs.wire.messages.bodies import Stopped as Stopped
from stubs.wire.messages.capsule import Bequest as Bequest
from stubs.wire.messages.capsule import Body as Body
from stubs.wire.messages.capsule import Census as Census
from stubs.wire.messages.capsule import Counted as Counted
from stubs.wire.messages.capsule import Enter as Enter
from stubs.wire.messages.capsule import Find as Find
from stubs.wire.messages.capsule import Foreground as Foreground
from stubs.wire.messages.capsule import Furnish as Furnish
from stubs.wire.messages.capsule import Ghost as Ghost
from stubs.wire.messages.capsule import Heirlooms as Heirlooms
from stubs.wire.messages.capsule import Inherited as Inherited
from stubs.wire.messages.capsule import Keep as Keep
from stubs.wire.messages.capsule import Kept as Kept
from stubs.wire.messages.capsule import MountView as MountView
from stubs.wire.messages.capsule import Outside as Outside
from stubs.wire.messages.capsule import Stood as Stood
from stubs.wire.messages.capsule import Stub as Stub
from stubs.wire.messages.capsule import Unread as Unread
from stubs.wire.messages.capsule import Watch as Watch
from stubs.wire.messages.link import Bulk as Bulk
from stubs.wire.messages.link import Clocked as Clocked
from stubs.wire.messages.link import Clocks as Clocks
from stubs.wire.messages.link import Done as Done
from stubs.wire.messages.link import Echo as Echo
from stubs.wire.messages.link import Echoed as Echoed
from stubs.wire.messages.link import Error as Error
from stubs.wire.messages.link import Goodbye as Goodbye
from stubs.wire.messages.link import Hello as Hello
from stubs.wire.messages.link import Load as Load
from stubs.wire.messages.link import Ping as Ping
from stubs.wire.messages.link import Pong as Pong
from stubs.wire.messages.link import Welcome as Welcome
from stubs.wire.messages.local import Answer as Answer
from stubs.wire.messages.local import Attach as Attach
from stubs.wire.messages.local import Computed as Computed
from stubs.wire.messages.local import Ended as Ended
from stubs.wire.messages.local import FdClosed as FdClosed
from stubs.wire.messages.local import Nested as Nested
from stubs.wire.messages.local import Place as Place
from stubs.wire.messages.local import Placed as Placed
from stubs.wire.messages.local import Progress as Progress
from stubs.wire.messages.local import Query as Query
from stubs.wire.messages.local import Quit as Quit
from stubs.wire.messages.local import Refused as Refused
from stubs.wire.messages.local import Report as Report
from stubs.wire.messages.local import Start as Start
from stubs.wire.messages.moving import HOW_LIVELY as HOW_LIVELY
from stubs.wire.messages.moving import HOW_PROMPTLY as HOW_PROMPTLY
from stubs.wire.messages.moving import HOW_ZSTD as HOW_ZSTD
from stubs.wire.messages.moving import Arrive as Arrive
from stubs.wire.messages.moving import CanMove as CanMove
from stubs.wire.messages.moving import Checkpointed as Checkpointed
from stubs.wire.messages.moving import Complete as Complete
from stubs.wire.messages.moving import Depart as Depart
from stubs.wire.messages.moving import Departed as Departed
from stubs.wire.messages.moving import Drain as Drain
from stubs.wire.messages.moving import Dump as Dump
from stubs.wire.messages.moving import Grown as Grown
from stubs.wire.messages.moving import ImageData as ImageData
from stubs.wire.messages.moving import ImageTaken as ImageTaken
from stubs.wire.messages.moving import Leave as Leave
from stubs.wire.messages.moving import Leaving as Leaving
from stubs.wire.messages.moving import Left as Left
from stubs.wire.messages.moving import Move as Move
from stubs.wire.messages.moving import Moved as Moved
from stubs.wire.messages.moving import Parked as Parked
from stubs.wire.messages.moving import Prepare as Prepare
from stubs.wire.messages.moving import Reasons as Reasons
from stubs.wire.messages.moving import Restore as Restore
from stubs.wire.messages.moving import Resume as Resume
from stubs.wire.messages.moving import Standing as Standing
from stubs.wire.messages.requests import ATTR_OPEN as ATTR_OPEN
from stubs.wire.messages.requests import ATTR_PLAIN as ATTR_PLAIN
from stubs.wire.messages.requests import ATTR_VOLATILE as ATTR_VOLATILE
from stubs.wire.messages.requests import NODE_IDS as NODE_IDS
from stubs.wire.messages.requests import ROOT_ID as ROOT_ID
from stubs.wire.messages.requests import WRITE_APPEND as WRITE_APPEND
from stubs.wire.messages.requests import Cancel as Cancel
from stubs.wire.messages.requests import Create as Create
from stubs.wire.messages.requests import Fallocate as Fallocate
from stubs.wire.messages.requests import Forget as Forget
from stubs.wire.messages.requests import Fsync as Fsync
from stubs.wire.messages.requests import Getattr as Getattr
from stubs.wire.messages.requests import Getxattr as Getxattr
from stubs.wire.messages.requests import Hold as Hold
from stubs.wire.messages.requests import Lacking as Lacking
from stubs.wire.messages.requests import Link as Link
from stubs.wire.messages.requests import Listxattr as Listxattr
from stubs.wire.messages.requests import Lock as Lock
from stubs.wire.messages.requests import Lookup as Lookup
from stubs.wire.messages.requests import Mkdir as Mkdir
from stubs.wire.messages.requests import Mknod as Mknod
from stubs.wire.messages.requests import Read as Read
from stubs.wire.messages.requests import Readlink as Readlink
from stubs.wire.messages.requests import Removexattr as Removexattr
from stubs.wire.messages.requests import Rename as Rename
from stubs.wire.messages.requests import Rmdir as Rmdir
from stubs.wire.messages.requests import Seek as Seek
from stubs.wire.messages.requests import Setattr as Setattr
from stubs.wire.messages.requests import Setxattr as Setxattr
from stubs.wire.messages.requests import Snapshot as Snapshot
from stubs.wire.messages.requests import Statfs as Statfs
from stubs.wire.messages.requests import Symlink as Symlink
from stubs.wire.messages.requests import Traced as Traced
from stubs.wire.messages.requests import Unhold as Unhold
from stubs.wire.messages.requests import Unlink as Unlink
from stubs.wire.messages.requests import Write as Write
from stubs.wire.messages.streams import Modes as Modes
from stubs.wire.messages.streams import StreamBroken as StreamBroken
from stubs.wire.messages.streams import StreamData as StreamData
from stubs.wire.messages.streams import StreamEnd as StreamEnd
from stubs.wire.messages.streams import StreamTaken as StreamTaken
from stubs.wire.messages.streams import StreamWant as StreamWant


def _all_messages() -> dict[int, type[Message]]:
    """Return the messages by their number; a number used twice is a bug found at import."""
    table: dict[int, type[Message]] = {}
    for kind in Message.__subclasses__():
        if not kind.KIND:
            continue  # a part of something else (stubs.migration.image)
        if kind.KIND in table:
            raise RuntimeError(f"{kind.__name__} and {table[kind.KIND].__name__} share a number")
        table[kind.KIND] = kind
    return table


MESSAGES = _all_messages()
