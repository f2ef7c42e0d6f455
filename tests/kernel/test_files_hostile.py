"""A node that sends whatever it likes: home answers, closes the link at worst, and shows nothing.

As an ordinary user, in a directory beside which another one lies that must not be touched although
the user could.
"""

import inspect
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stubs.home.files.traces import Trace as Touched
from stubs.home.files.traces import Traces, key_of
from stubs.link.endpoint import REPLY
from stubs.wire.codec import Message
from stubs.wire.frame import encode_frame
from stubs.wire.messages import (
    MESSAGES,
    NODE_IDS,
    Cancel,
    Coming,
    Contents,
    Create,
    Error,
    Find,
    Forget,
    Getattr,
    Hold,
    Keep,
    Kept,
    Lacking,
    Lock,
    Names,
    Offered,
    Trace,
    Traced,
    Unhold,
)
from tests.kernel.file_peer import Peer, in_child
from tests.kernel.viewservers import BODY, make_spawn
from tests.posix.tools import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

USER = 60123
CASES = 5_000

LARGE = 200_000  # a file that is offered by its hash
SETTLED_SECONDS = 2.5  # younger ones are not hashed: see stubs.home.files.hashes

# What must not be seen.
HIDDEN = b"a private key"
UNTOUCHED = b"untouched"

# Bodies of each link of which home wants to know what they touch.
BODIES = 8

# Requests of the file service, stubs.wire.messages.
REQUESTS = [MESSAGES[number] for number in (*range(0x20, 0x3C), Traced.KIND, Lacking.KIND)]

# Messages that are not for a file service: the agent's with its shelf, and home's own.
_NOT_OURS = [Find, Keep, Kept, Names, Coming, Contents, Trace, Offered]

_EDGES = [0, 1, 2, 0x7F, 0xFFF, 1 << 20, (1 << 31) - 1, (1 << 32) - 1]
_LONG_EDGES = [*_EDGES, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
# Numbers of what `Bed.ready` looks up: the root is 1, directories 4 and 8, files 2, 3, 5 and 9.
_IDS = st.one_of(
    st.integers(1, 9),
    st.sampled_from([0, 10, 11, 999, (1 << 64) - 1]),
    st.integers(NODE_IDS, NODE_IDS + 50),
)
# What a file that is made is to be called: mostly as home likes, or by an id of the node's own.
_GIVEN = st.one_of(
    st.just(0),
    st.integers(NODE_IDS, NODE_IDS + 50),
    st.sampled_from([1, 5, NODE_IDS - 1, 2 * NODE_IDS - 1, 2 * NODE_IDS, (1 << 64) - 1]),
)
_DIRS = st.one_of(st.sampled_from([1, 4]), st.sampled_from([1, 4]), _IDS)
_GOOD_NAMES = st.sampled_from([b"a", b"b", b"d", b"f", b"new", b"out"])
_ODD_NAMES = st.sampled_from(
    [
        *(b"a", b"b", b"d", b"l", b"p", b"ro", b".ssh", b"out", b"new", b"\xff\n", b"n" * 300),
        *(b"", b".", b"..", b"/", b"../outside", b"../outside/canary", b"a/b", b"x\0y", b"/etc"),
    ]
)
_NAMES = st.one_of(_GOOD_NAMES, _GOOD_NAMES, _ODD_NAMES)
# Fields in which most numbers mean nothing: those that do come often enough.
_SMALL = {
    "op": st.integers(0, 3),
    "type": st.integers(0, 3),
    "start": st.sampled_from([0, 1, 10, 1 << 63]),
    "end": st.sampled_from([5, 20, (1 << 63) - 1, 1 << 63]),
    "whence": st.integers(0, 5),
    "flock": st.integers(0, 1),
    "cookie": st.integers(0, 2),
    "mode": st.sampled_from([0o644, 0o755, 0, 0o7777, 0o10644, 0o20644, 0o140600]),
    "flags": st.sampled_from([0, 0, 0, 1, 2, 4, os.O_RDWR | os.O_TRUNC, os.O_EXCL]),
    "valid": st.sampled_from([1, 6, 8, 0x30, 0x1B0, 0x7FF, 0]),
    "uid": st.sampled_from([0, USER, (1 << 32) - 1]),
    "gid": st.sampled_from([0, USER, (1 << 32) - 1]),
}
_RANGES = st.lists(
    st.tuples(_IDS, st.sampled_from(_LONG_EDGES), st.sampled_from([0, 1, 4096, 1 << 20, 1 << 26])),
    max_size=3,
).map(lambda found: [number for part in found for number in part])
_BLOBS = st.one_of(_NAMES, st.binary(max_size=60), st.just(b"user.x"), st.just(b"../outside"))


def _field(kind: type[Message], name: str, spelled: str) -> st.SearchStrategy[Any]:
    if name in ("dir", "new_dir"):
        return _DIRS
    if name == "id":
        return _GIVEN if kind is Create else _IDS
    if name in _SMALL:
        few = _SMALL[name]
        return few if spelled == "U8" else st.one_of(few, few, st.sampled_from(_EDGES))
    if name in ("name", "new_name"):
        return st.one_of(_NAMES, st.binary(max_size=5)) if "xattr" not in kind.__name__ else _BLOBS
    if name == "body":
        return st.integers(0, BODIES)
    if name == "ranges":
        return _RANGES
    if spelled == "U64s":
        return st.lists(_IDS, max_size=4)
    if spelled == "Blob":
        return _BLOBS
    if spelled == "U8":
        return st.integers(0, 255)
    if spelled == "I64":
        return st.sampled_from([0, 1, -1, (1 << 63) - 1, -1 << 63])
    if spelled == "U64":
        return st.sampled_from(_LONG_EDGES)
    return st.one_of(st.integers(0, 8), st.sampled_from(_EDGES), st.integers(0, (1 << 32) - 1))


def _request(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = inspect.get_annotations(kind)
    return st.builds(kind, **{name: _field(kind, name, fields[name]) for name in fields})


_REQUESTS = st.sampled_from(REQUESTS).flatmap(_request)

# The export lives on from case to case: a failure depends on what came before, and does not shrink.
_SETTINGS = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def shows_nothing(peer: Peer) -> list[Message]:
    """See that what home has sent unasked holds nothing hidden; return it, and forget it."""
    pushed, peer.pushed = peer.pushed, []
    for message in pushed:
        if isinstance(message, Names):
            assert b".ssh" not in [entry.name for entry in message.entries]
        if isinstance(message, Contents):
            assert HIDDEN not in message.data
            assert UNTOUCHED not in message.data
    return pushed


class Bed:
    """The export, what lies beside it, and a link that is made anew when it is lost."""

    def __init__(self, base: Path) -> None:
        self.export = base / "export"
        self.outside = base / "outside"
        self.learned = base / "learned"
        self.peer: Peer | None = None
        self.used = 0

    def ready(self) -> Peer:
        if self.peer is not None and not self.peer.lost and self.used < 100:
            self.used += 1
            return self.peer
        former, self.peer, self.used = self.peer, None, 0
        if former is not None:
            former.close()
        if self.export.exists():
            self._remove_export()
        for name in ("d", "ro", ".ssh"):
            (self.export / name).mkdir(parents=True)
            (self.export / name / "f").write_bytes(b"data")
        (self.export / ".ssh/f").write_bytes(HIDDEN)
        for name in ("a", "b"):
            (self.export / name).write_bytes(b"data")
        (self.export / "l").symlink_to("/etc/passwd")
        (self.export / "out").symlink_to("../outside")
        os.mkfifo(self.export / "p")
        root = os.fsencode(self.export)
        learned = (str(self.learned), str(self.learned))
        self.peer = Peer(str(self.export), [root + b"/.ssh"], [root + b"/ro"], learned)
        for path in ("a", "b", "d", "d/f", "l", "p", "ro", "ro/f"):
            self.peer.lookup(path)
        # Sends what the node has said on earlier links.
        for body in range(1, BODIES + 1):
            self.peer.service.prefetch(make_spawn([f"/program{body}"], body))
        return self.peer

    def _remove_export(self) -> None:
        self.export.chmod(0o700)
        for top, names, _ in os.walk(self.export):
            for name in names:
                if not os.path.islink(os.path.join(top, name)):
                    os.chmod(os.path.join(top, name), 0o700)
        shutil.rmtree(self.export)

    def check(self) -> None:
        """See that nothing happened where nothing may happen."""
        assert os.listdir(self.outside) == ["canary"]
        assert (self.outside / "canary").read_bytes() == UNTOUCHED
        assert (self.outside / "canary").stat().st_mode & 0o777 == 0o666
        self.export.chmod(0o700)
        assert (self.export / ".ssh/f").read_bytes() == HIDDEN
        assert (self.export / "ro/f").read_bytes() == b"data"
        assert len(os.listdir("/proc/self/fd")) < 700
        if self.peer is not None:
            shows_nothing(self.peer)


@pytest.fixture
def bed(open_dir: Path) -> Bed:
    for name in ("export", "outside"):
        (open_dir / name).mkdir()
    (open_dir / "outside/canary").write_bytes(UNTOUCHED)
    (open_dir / "outside/canary").chmod(0o666)
    (open_dir / "export").rmdir()
    for path in (open_dir, open_dir / "outside", open_dir / "outside/canary"):
        os.chown(path, USER, USER)
    return Bed(open_dir)


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_whatever_a_node_asks_is_answered_and_nothing_escapes(bed: Bed) -> None:
    posted = (Cancel, Forget, Hold, Unhold, Traced, Lacking)

    @settings(_SETTINGS, max_examples=CASES)
    @given(st.lists(st.tuples(_REQUESTS, st.booleans()), min_size=1, max_size=6))
    def hostile(requests: list[tuple[Message, bool]]) -> None:
        peer = bed.ready()
        pending: list[list[Message]] = []
        for request, asked in requests:
            if asked and not isinstance(request, posted):
                tag, answers = peer.begin(request)
                pending.append(answers)
                if isinstance(request, Lock):
                    peer.node.post(Cancel(tag))
            else:
                peer.node.post(request)
        peer.ask(Getattr(1))
        peer.until(lambda: all(pending) or peer.lost)
        assert not peer.lost
        for answer in (answers[0] for answers in pending):
            assert not isinstance(answer, Error) or answer.errno > 0
        bed.check()

    def run() -> None:
        _limit_file_size()
        hostile()

    in_child(run, USER)


def test_garbage_closes_the_link_and_nothing_else(bed: Bed) -> None:
    kinds = st.one_of(
        st.sampled_from([kind.KIND for kind in REQUESTS + _NOT_OURS]),
        st.integers(0, 0xFFFF),
        st.sampled_from([kind.KIND | REPLY for kind in REQUESTS]),
    )

    @settings(_SETTINGS, max_examples=1000)
    @given(kinds, st.integers(0, 3), st.integers(0, 5), st.binary(max_size=80))
    def garbage(kind: int, tag: int, after: int, payload: bytes) -> None:
        peer = bed.ready()
        frame = encode_frame(kind, payload, tag, after)
        peer.node._out.append((frame, []))
        peer.node._out_bytes += len(frame)
        _, answers = peer.begin(Getattr(1))
        peer.until(lambda: answers or peer.lost)
        bed.check()

    def run() -> None:
        _limit_file_size()
        garbage()

    in_child(run, USER)


# what home learns from a node, and sends ahead for it


@pytest.fixture
def export(open_dir: Path) -> Path:
    """Make an export with something large, something hidden, and something outside."""
    export = open_dir / "export"
    (export / "d").mkdir(parents=True)
    (export / ".ssh").mkdir()
    (export / ".ssh/f").write_bytes(HIDDEN)
    (export / "d/f").write_bytes(b"data")
    (export / "large").write_bytes(os.urandom(LARGE))
    (export / "out").symlink_to("../outside")
    (open_dir / "outside").mkdir()
    (open_dir / "outside/canary").write_bytes(UNTOUCHED)
    return export


def _peer(export: Path) -> Peer:
    learned = str(export.parent / "learned")
    hidden = [os.fsencode(export) + b"/.ssh"]
    return Peer(str(export), hidden, learned=(learned, learned))


def _prefetch(peer: Peer, argv: list[str]) -> list[Message]:
    """Have a program start; return all that home sends ahead."""
    peer.service.prefetch(make_spawn(argv))
    peer.ask(Getattr(1))
    return shows_nothing(peer)


_MALFORMED: list[tuple[str, Message]] = [
    ("a part of a range", Traced(BODY, [], [1, 0])),
    ("too many directories", Traced(BODY, [1] * 100_000, [])),
    ("too many ranges", Traced(BODY, [], [1, 0, 0] * 100_000)),
    ("too many bytes", Traced(BODY, [], [1, 0, 1 << 63])),
    ("a part of a lacking range", Lacking([1, 0])),
    ("the shelf's question", Find([1, 0, 4], [4], bytes(32), [b"/d/f"])),
    ("the shelf's answer", Contents(1, 0, 0, 0, b"")),
    ("something to keep", Keep([1], [b"x"])),
    ("home's own offer", Offered([1, 0, 4], bytes(32))),
    ("home's own announcement", Coming([1, 0, 4])),
    ("home's own wish", Trace(BODY, 0)),
]


@pytest.mark.parametrize(
    "message", [m for _, m in _MALFORMED], ids=[name for name, _ in _MALFORMED]
)
def test_what_no_node_says_closes_the_link(export: Path, message: Message) -> None:
    peer = _peer(export)
    assert type(_prefetch(peer, ["/program"])[0]) is Trace
    peer.node.post(message)
    peer.until(lambda: peer.lost)
    peer.close()


def test_a_trace_of_nonsense_teaches_nothing_and_shows_nothing(export: Path) -> None:
    peer = _peer(export)
    known = {name: peer.lookup(name).id for name in ("d", "d/f", "out")}
    first = _prefetch(peer, ["/program"])
    ids = [0, 2, 999, NODE_IDS, (1 << 64) - 1, *known.values()]
    ranges = [(id_, at, 1) for id_ in ids for at in (0, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)]
    peer.node.post(Traced(BODY + 1, ids, [0, 0, 0] * 1000))  # of a body that nobody asked about
    peer.node.post(Traced(BODY, ids * 100, [number for part in ranges for number in part]))
    peer.node.post(Traced(BODY, [1], []))  # once is enough
    peer.ask(Getattr(1))
    assert not peer.lost
    peer.close()
    peer = _peer(export)
    sent = _prefetch(peer, ["/program"])
    assert [type(message) for message in first] == [Trace, Names]
    announced = [message for message in sent if isinstance(message, Coming)]
    assert [len(message.ranges) for message in announced] == [3]
    assert [m.data for m in sent if isinstance(m, Contents)] == [b"data"]
    peer.close()


def test_a_trace_with_paths_of_its_own_leads_nowhere(export: Path) -> None:
    trace = Touched()
    odd = (b"/../outside", b"/d/../../outside", b"/out", b"/.ssh", b"/d/../.ssh", b"", b"relative")
    for path in odd:
        trace.dirs[path] = 0
        for name in (b"canary", b"f", b"..", b"x\0y", b"n" * 5000):
            trace.files[path + b"/" + name] = (0, [(0, 100), (1 << 61, 1 << 61), (-5, 10)])
    store = Traces(str(export.parent / "learned"))
    store.record(key_of(b"/program", [b"/program"], b"/"), trace)
    store.close()
    peer = _peer(export)
    sent = _prefetch(peer, ["/program"])
    assert not [message for message in sent if isinstance(message, (Contents, Coming, Offered))]
    assert not peer.lost
    peer.close()


def test_what_was_not_offered_is_not_sent_for_the_lack_of_it(export: Path) -> None:
    until(lambda: time.time() - os.stat(export / "large").st_ctime > SETTLED_SECONDS)
    peer = _peer(export)
    large = peer.lookup("large").id
    _prefetch(peer, ["/program"])
    peer.node.post(Traced(BODY, [1], [large, 0, LARGE]))
    peer.until((export.parent / "learned/hashes.sqlite").exists)
    peer.close()
    peer = _peer(export)
    sent = _prefetch(peer, ["/program"])
    (offer,) = [message for message in sent if isinstance(message, Offered)]
    assert not [message for message in sent if isinstance(message, Contents)]
    large, offset, length = offer.ranges[:3]
    small = peer.lookup("d/f").id
    odd = [small, 0, 4, 1, 0, 4096, 999, 0, 4, large, 1, 4096, large, offset, 1 << 63]
    for _ in range(3):
        peer.node.post(Lacking(odd * 1000))
    peer.ask(Getattr(1))
    contents = [message for message in shows_nothing(peer) if isinstance(message, Contents)]
    given = [message for message in contents if not message.errno]
    assert [(m.id, m.offset, len(m.data)) for m in given] == [(large, offset, length)]
    assert not any(message.data for message in contents if message.errno)
    peer.close()
