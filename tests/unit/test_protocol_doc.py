"""docs/protocol.md lists exactly the messages that the code has."""

from __future__ import annotations

import inspect
from pathlib import Path

from stubs.wire.codec import Message
from stubs.wire.frame import HEADER, MAX_FDS, MAX_PAYLOAD
from stubs.wire.messages import MESSAGES
from stubs.wire.version import VERSION

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def row(message: type[Message]) -> str:
    """Return the line of the table for one message: number, name, fields, first sentence."""
    own = inspect.get_annotations(message)
    fields = ", ".join(f"{name} {kind}" for name, kind in own.items())
    says = " ".join((message.__doc__ or "").split("\n\n")[0].split())
    return f"| {message.KIND:#05x} | {message.__name__} | {fields} | {says} |"


def table() -> list[str]:
    """Return the whole table, in order of the numbers."""
    return [row(MESSAGES[kind]) for kind in sorted(MESSAGES)]


def test_every_message_is_in_the_document_as_the_code_has_it() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| 0x")]
    assert rows == table()


def test_the_limits_and_the_version_in_the_document_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert f"Version {VERSION}." in text
    assert f"{HEADER.size}-byte header" in text
    assert f"{MAX_PAYLOAD >> 20} MiB" in text
    assert f"{MAX_FDS} descriptors" in text


if __name__ == "__main__":
    print("\n".join(table()))
