"""Keys of `mlaunch top`: names for what terminals send, signals for what people type."""

import signal

import pytest

from mlaunch.top.keys import Keys
from mlaunch.top.prompt import Choice, Prompt
from mlaunch.top.signalling import parse_signal, send

# What xterm, tmux, rxvt and the Linux console send.
KEYS = {
    b"q": ["q"],
    b"\x1b[A\x1b[B": ["Up", "Down"],
    b"\x1bOA\x1bOD": ["Up", "Left"],
    b"\x1b[5~\x1b[6~": ["PageUp", "PageDown"],
    b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~": ["Home", "End"] * 3,
    b"\x1bOP\x1b[11~\x1b[[A\x1b[P": ["F1"] * 4,
    b"\x1b[15~\x1b[[E": ["F5", "F5"],
    b"\x1b[21~\x1b[24~": ["F10", "F12"],
    b"\x1b[1;5A": ["Up"],
    b"\r\n": ["Enter", "Enter"],
    b"\x7f\x08": ["Backspace", "Backspace"],
    b"\x0c\x15": ["Ctrl-L", "Ctrl-U"],
    "é漢".encode(): ["é", "漢"],
    b"\xff": ["\ufffd"],
}


@pytest.mark.parametrize("data", KEYS)
def test_keys_have_names(data: bytes) -> None:
    assert Keys().feed(data) == KEYS[data]


@pytest.mark.parametrize("data", KEYS)
def test_keys_survive_any_cut(data: bytes) -> None:
    keys = Keys()
    assert [key for number in data for key in keys.feed(bytes([number]))] == KEYS[data]
    assert not keys.waiting


def test_an_escape_alone_is_a_key_once_nothing_follows() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.settle() == ["Escape"]
    assert not keys.waiting
    assert keys.feed(b"[A") == ["[", "A"]


def test_two_escapes_are_two_keys() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b\x1b") + keys.settle() == ["Escape", "Escape"]


@pytest.mark.parametrize("data", [b"\x1bk", b"\x1b[?1;2c", b"\x1b[99~", b"\x1b[24;80R", b"\x1bOM"])
def test_what_is_no_key_of_ours_presses_none(data: bytes) -> None:
    keys = Keys()
    assert keys.feed(data + b"j") == ["j"]


def test_a_sequence_that_never_ends_is_given_up() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b[1;") == []
    assert keys.settle() == []
    assert keys.feed(b"q") == ["q"]


@pytest.mark.parametrize("text", ["15", "TERM", "term", "SIGTERM", " sigterm "])
def test_signals_are_named_as_for_kill(text: str) -> None:
    assert parse_signal(text) == signal.SIGTERM


@pytest.mark.parametrize("text", ["", "0", "65", "999", "-1", "NOSUCH", "15 9", "SIG", "²"])
def test_what_is_no_signal_is_none(text: str) -> None:
    assert parse_signal(text) is None


def test_a_signal_to_nobody_says_so() -> None:
    assert send(2**22 + 1, signal.SIGTERM).startswith("TERM was not sent to 4194305: no such")


def test_a_prompt_tells_each_change_and_the_end() -> None:
    told: list[str] = []
    prompt = Prompt("Filter", "", told.append, lambda text: told.append(f"~{text}"))
    keys = ["g", "c", "x", "Backspace", "c", "Left", "Enter"]
    assert [prompt.key(key) for key in keys] == [False] * 6 + [True]
    assert told == ["~g", "~gc", "~gcx", "~gc", "~gcc", "gcc"]


def test_the_first_letter_replaces_what_a_prompt_proposes() -> None:
    told: list[str] = []
    for keys in (["Enter"], ["9", "Enter"], ["Backspace", "2", "Enter"]):
        prompt = Prompt("Signal", "15", told.append)
        for key in keys:
            prompt.key(key)
    assert told == ["15", "9", "12"]


def test_escape_cancels_a_prompt() -> None:
    told: list[str] = []
    prompt = Prompt("Filter", "gcc", told.append, None, lambda: told.append("cancelled"))
    assert prompt.key("Escape")
    assert told == ["cancelled"]


def test_a_choice_goes_round_and_shows_what_is_chosen() -> None:
    told: list[str] = []
    choice = Choice("Sort by", ["pid", "node", "time"], "node", told.append)
    assert not choice.key("Right")
    assert "time" in "".join(part.text for part in choice.line(16))
    assert not choice.key("Right")
    assert choice.key("Enter")
    assert Choice("Sort by", ["pid"], "pid", told.append).key("Escape")
    assert told == ["pid"]
