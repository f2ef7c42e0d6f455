import importlib
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.kernel.viewbed import Bed, wait_or_kill
from tests.kernel.viewservers import spawn

MODULES = ("names", "contents", "attributes", "openfiles", "directories")
USER = 1000


def _checks() -> list[tuple[str, Callable[[str], None]]]:
    found = []
    for module in MODULES:
        for name, check in vars(importlib.import_module(f"tests.posix.{module}")).items():
            if name.startswith("check_"):
                found.append((name.removeprefix("check_"), check))
    return found


CHECKS = _checks()
IDS = [name for name, _ in CHECKS]


@pytest.fixture(scope="module", params=[0, USER], ids=["root", "user"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-posix-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, request.param) as bed:
            yield bed


def _in(top: str, name: str, check: Callable[[str], None], uid: int) -> None:
    os.mkdir(f"{top}/{name}")
    if uid and os.geteuid() == 0:
        os.chown(f"{top}/{name}", uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    check(f"{top}/{name}")


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=IDS)
def test_plain_directory(bed: Bed, name: str, check: Callable[[str], None]) -> None:
    plain = f"{os.path.dirname(bed.home)}/plain"
    os.makedirs(plain, exist_ok=True)
    pid = spawn(lambda: _in(plain, name, check, bed.uid))
    assert wait_or_kill(pid) == 0


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=IDS)
def test_home_view(bed: Bed, name: str, check: Callable[[str], None]) -> None:
    bed.run(_in, bed.mount, name, check, 0)
