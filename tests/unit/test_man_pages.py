"""The manual pages list what there is, no more and no less, and are good troff."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlaunch.cli import mlaunch
from mlaunch.completion import options
from mlaunch.mrun import FLAGS, SHORT, VALUED

PAGES = Path(__file__).parents[2] / "docs" / "man"


def text(page: str) -> str:
    """Return a page without escapes and requests, words as a reader sees them."""
    source = (PAGES / page).read_text().replace("\\-", "-")
    source = re.sub(r"\\f[BIR]|\\&|\\\||\"", "", source)
    return re.sub(r"^\.(TP|SH|SS|BR|RB|RI|IR|B|I|IP|EX|EE|PP|br)\b ?", "", source, flags=re.M)


def listed(text: str) -> set[str]:
    """Return the options of which a text speaks."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands(mlaunch, "mlaunch"))


def synopsis() -> list[str]:
    """Return the lines of the synopsis of mlaunch(1), one for each command."""
    part = (PAGES / "mlaunch.1").read_text().partition(".SH SYNOPSIS\n")[2].partition(".SH")[0]
    lines = part.replace("\\-", "-").split(".br\n")
    return [re.sub(r"^\.[A-Z]+ |\"|\n", " ", line, flags=re.M).strip() for line in lines]


def test_every_option_of_mrun_is_listed_and_no_other() -> None:
    known = {*VALUED, *FLAGS, *(f"-{letter}" for letter in SHORT)}
    # Of other programs the page speaks, too, but not in the tags of this section.
    section = text("mrun.1").partition("\nOPTIONS\n")[2].partition("\nEXIT STATUS\n")[0]
    tags = re.findall(r"^-.*", section, flags=re.M)
    assert listed("\n".join(tags)) == known
    assert {option.name for option in options()} == {*VALUED, *FLAGS}


def test_every_option_of_mlaunch_is_listed_and_no_other() -> None:
    known = {"-h", "--help"}
    for command in (mlaunch, *COMMANDS.values()):
        known |= {
            name
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for name in parameter.opts
        }
    assert listed(text("mlaunch.1")) == known


@pytest.mark.parametrize("path", COMMANDS)
def test_every_subcommand_is_in_the_synopsis_with_its_options(path: str) -> None:
    command = COMMANDS[path]
    words = path.split()
    lines = [re.split(r"[\s|\[\]]+", line) for line in synopsis()]
    found = [
        line
        for line in lines
        if line[: len(words)] == words
        or (line[:-1] and line[:2] == words[:2] and words[-1] in line)
    ]
    assert found, f"{path} is not in the synopsis of mlaunch(1)"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert set(parameter.opts) & set(found[0]), f"{path} {parameter.opts}"


def test_the_synopsis_has_no_command_that_does_not_exist() -> None:
    for line in synopsis():
        words = line.replace(" | ", "|").split()[1:]
        group: click.Group | None = mlaunch
        while group is not None and words and re.match(r"[a-z|]+$", words[0]):
            alternatives = words.pop(0).split("|")
            assert set(alternatives) <= set(group.commands), line
            command = group.commands[alternatives[0]]
            group = command if isinstance(command, click.Group) else None


@pytest.mark.parametrize("page", ["mrun.1", "mlaunch.1"])
def test_a_page_is_rendered_without_a_warning(page: str) -> None:
    argv = ("groff", "-man", "-Tutf8", "-ww", "-z", str(PAGES / page))
    done = subprocess.run(argv, capture_output=True, check=True)
    assert done.stderr.decode() == ""
