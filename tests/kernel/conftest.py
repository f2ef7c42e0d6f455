import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.file_peer import Peer
from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import USER


@pytest.fixture(autouse=True)
def _same_umask() -> Iterator[None]:
    umask = os.umask(0o22)
    yield
    os.umask(umask)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(str(tmp_path))
    yield peer
    assert not peer.lost
    peer.close()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Return a directory that ordinary users can reach."""
    path = Path(tempfile.mkdtemp(prefix="files-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[0, USER], ids=["root", "user"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, request.param) as bed:
            yield bed


@pytest.fixture
def root_bed() -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory, Bed(directory) as bed:
        yield bed
