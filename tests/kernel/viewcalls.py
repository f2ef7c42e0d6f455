"""What tests of the home view do in it, and at home."""

import errno
import subprocess
from collections.abc import Callable

from tests.posix.tools import make, read

USER = 1000


def put(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def outcome(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def list_all(d: str) -> None:
    subprocess.run(["ls", "-lR", d], check=True, stdout=subprocess.DEVNULL)


def make_files(d: str) -> None:
    for number in range(50):
        make(d, f"f{number}", b"x" * 3000)
        assert read(d, f"f{number}") == b"x" * 3000


def read_text(path: str) -> str:
    with open(path) as file:
        return file.read()


def is_text(path: str, text: str) -> None:
    assert read_text(path) == text
