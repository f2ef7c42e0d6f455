"""The Tab key in real shells: what is typed, and what the line is after Tab."""

from collections.abc import Iterator
from re import escape

import pytest

from tests.cluster import Host
from tests.programs.nodes import node_entry
from tests.programs.person import Person
from tests.programs.test_terminal import BASH, Screen

# A shell, what it has to be told first, and what it reads the script with.
SHELLS = {
    "bash": (BASH, ". /usr/share/bash-completion/bash_completion", "source <({})"),
    "bash-alone": (BASH, "shopt -u progcomp_alias", "source <({})"),
    "zsh": ("env PS1='$ ' zsh -f", "autoload -U compinit; compinit -u -D", "source <({})"),
    "fish": ("fish --private", "true", "{} | source"),
}

FISH_CONFIG = """
set fish_greeting
set fish_autosuggestion_enabled 0
function fish_prompt
    echo -n '$ '
end
"""

# Typed, and what follows it after Tab; `#` where an argument of mrun's program is completed by that
# program's own completion, which needs bash-completion in bash.
LINES = [
    ("mlaunch doct", "or"),
    ("mlaunch doctor al", "pha"),
    ("mlaunch doctor --qui", "ck"),
    ("mlaunch doctor hom", "e"),
    ("mlaunch nodes remove be", "ta"),
    ("mlaunch completion fi", "sh"),
    ("mrun --no-f", "allback"),
    ("mrun -v --stat", "s"),
    ("mrun -n al", "pha"),
    ("mrun -vn be", "ta"),
    ("mrun --node be", "ta"),
    ("mrun --node=be", "ta"),
    ("mrun --only al", "pha"),
    ("mrun --only alpha,be", "ta"),
    ("mrun --stats only-f", "ile"),
    ("mrun sha512s", "um"),
    ("mrun -n alpha sha512s", "um"),
    ("mrun -n alpha -- sha512s", "um"),
    ("mrun --node=alpha -v ./only-f", "ile"),
    ("mrun -v sha512sum only-f", "ile"),
    ("mrun -n beta mlaunch doct", "or#"),
]


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, ready_home: Host) -> Iterator[tuple[str, Screen, Person]]:
    """Return a shell that has read the script, and whose it is, with nodes alpha and beta."""
    person = Person(ready_home)
    person.config(node_entry("alpha", "n1") + node_entry("beta", "n2"))
    person.write("work/only-file", "", mode="755")
    person.write(".config/fish/config.fish", FISH_CONFIG)
    # Else fish reads all manual pages at its first start.
    person.write(".local/share/fish/generated_completions/none", "")
    command, first, read = SHELLS[request.param]
    place = f"env HOME={person.folder} XDG_RUNTIME_DIR={person.folder}/run "
    screen = Screen(ready_home, f"{person.folder}/work", place + command)
    screen.enter(first)
    screen.enter(read.format("mlaunch completion " + request.param.removesuffix("-alone")))
    screen.enter("clear; echo ready")
    screen.wait_for("ready")
    yield request.param, screen, person
    screen.close()
    person.close()


def press_tab(screen: Screen, typed: str) -> None:
    screen.type("C-u", "C-l")
    screen.wait_for(r"\A\$(\n|\Z)*")
    screen.tmux("send-keys", "-l", typed)
    screen.type("Tab")


@pytest.mark.parametrize(("typed", "rest"), LINES, ids=[typed for typed, _ in LINES])
def test_tab_completes(shell: tuple[str, Screen, Person], typed: str, rest: str) -> None:
    name, screen, _ = shell
    if rest.endswith("#") and name == "bash-alone":
        rest = ""
    press_tab(screen, typed)
    # What the shell puts after the word is its own habit: so a letter follows.
    screen.type("x")
    screen.wait_for(rf"\$ {escape(typed + rest.rstrip('#'))}[ =,]?x")


def test_tab_neither_starts_a_daemon_nor_says_what_is_wrong(
    shell: tuple[str, Screen, Person],
) -> None:
    _, screen, person = shell
    press_tab(screen, "mlaunch doctor al")
    screen.wait_for(r"\$ mlaunch doctor alpha")
    assert b"does not run" in person.run("mlaunch", "daemon", "status").stdout
    person.config("this is no TOML")
    press_tab(screen, "mlaunch nodes remove al")
    screen.type("x")
    screen.wait_for(r"\$ mlaunch nodes remove al ?x")
    press_tab(screen, "mrun -n be")
    screen.type("x")
    assert screen.wait_for(r"\$ mrun -n be ?x").strip().count("\n") == 0
    person.config(node_entry("alpha", "n1") + node_entry("beta", "n2"))
