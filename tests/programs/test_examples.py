"""Each example does what it says, and the same as when `mrun` is a word that does nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Host

EXAMPLES = Path(__file__).parents[2] / "examples"
PLACE = "/home/alice/examples"

# mrun as it would be if it did nothing: the option that an example uses, and then the program.
NOTHING = b"""#!/bin/sh
if [ "$1" = --stats ]; then echo '{"bodies": []}' > "$2"; shift 2; fi
exec "$@"
"""

COMMANDS = {
    "compress.sh": "cp -r /usr/include/linux folder; ./compress.sh folder; sha256sum folder.tar.xz",
    "words.sh": "cat /usr/share/common-licenses/* | ./words.sh",
    "each.sh": "cp -r /usr/include/asm-generic folder; ./each.sh folder; sha256sum folder/*",
    "compile.sh": "./compile.sh",
    "build.sh": "./build.sh",
    "primes.py": "./primes.py 20000",
    "receipt.sh": "./receipt.sh seq 3",
}


@pytest.fixture
def examples(ready_home: Host) -> Iterator[Host]:
    """Return a home where alice has the examples."""
    ready_home.run(("mkdir", "-p", f"{PLACE}/nothing"), check=True)
    for path in EXAMPLES.iterdir():
        ready_home.write(f"{PLACE}/{path.name}", path.read_bytes())
    ready_home.write(f"{PLACE}/nothing/mrun", NOTHING)
    ready_home.run(("chmod", "-R", "+x", PLACE), check=True)
    yield ready_home
    ready_home.run(("rm", "-rf", PLACE), check=True)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_does_the_same_here_and_elsewhere(examples: Host, name: str) -> None:
    shell = ("bash", "-c", COMMANDS[name])
    path = f"{PLACE}/nothing:/usr/bin:/bin"
    native = examples.run(shell, cwd=PLACE, env={"PATH": path}, check=True)
    assert native.stdout
    examples.run(("rm", "-rf", f"{PLACE}/folder", f"{PLACE}/folder.tar.xz"), check=True)
    done = examples.run(shell, cwd=PLACE, check=True)
    assert done.stdout == native.stdout


def test_the_receipt_tells_where_a_program_ran(examples: Host) -> None:
    done = examples.run(("./receipt.sh", "seq", "3"), cwd=PLACE, check=True)
    assert done.stdout == b"1\n2\n3\n"
    assert done.stderr.startswith(b"seq ran on ")
