"""Which files home expects a compiler to read; the oracle is what GCC itself says (`-M`)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.home.files import gcc, includes
from stubs.home.files.includes import Compile, Includes


class Files:
    """Files of this machine, as a link process would be given them."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.opened: list[str] = []

    def open(self, path: bytes) -> int:
        self.opened.append(os.fsdecode(path))
        self.fds.append(os.open(path, os.O_RDONLY))
        return self.fds[-1]

    def names(self, path: bytes) -> list[str]:
        return os.listdir(os.fsdecode(path))

    def image(self, path: bytes) -> bytes:
        return os.path.basename(os.path.realpath(path))


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    for fd in made.fds:
        os.close(fd)


class Project:
    """A source tree, and who looks for its headers."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.includes = Includes(files.open, files.names, files.image)

    def write(self, path: str, *lines: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines))

    def find(self, *argv: str, exe: str = "/usr/bin/gcc") -> list[str]:
        """Return what is found below the project's directory."""
        words = [os.fsencode(word) for word in (exe, *argv)]
        _, found = self.includes.of(os.fsencode(exe), words, os.fsencode(self.directory))
        return [os.path.relpath(os.fsdecode(path), self.directory) for path in found]


@pytest.fixture
def project(tmp_path: Path, files: Files) -> Project:
    return Project(tmp_path, files)


BARE = ("-nostdinc", "-Iinclude", "-c", "main.c")


def test_headers_are_followed_through_quotes_brackets_and_each_other(project: Project) -> None:
    project.write("main.c", '#include "near.h"', "  #  include <far.h>", "int main;")
    project.write("near.h", "#if 0", '#include "sub/deep.h"', "#endif")
    project.write("sub/deep.h", '#include "beside.h"')
    project.write("sub/beside.h")
    project.write("include/far.h", "#include <near.h>", '#include "missing.h"', "#include MACRO")
    found = project.find(*BARE)
    assert found == ["main.c", "near.h", "include/far.h", "sub/deep.h", "sub/beside.h"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("-I", "one", "-Itwo"), "one/x.h"),
        (("-isystem", "one", "-Itwo"), "two/x.h"),
        (("-idirafter", "one", "-isystemtwo"), "two/x.h"),
        (("-iquote", "one", "-I", "two"), "two/x.h"),
    ],
)
def test_directories_are_searched_in_the_compilers_order(
    project: Project, options: tuple[str, ...], place: str
) -> None:
    project.write("main.c", "#include <x.h>")
    project.write("one/x.h")
    project.write("two/x.h")
    assert project.find("-nostdinc", *options, "-c", "main.c") == ["main.c", place]


def test_the_next_of_a_name_is_behind_the_one_that_asks(project: Project) -> None:
    project.write("main.c", "#include <x.h>")
    project.write("one/x.h", "#include_next <x.h>")
    project.write("two/x.h", "#include_next <x.h>")
    found = project.find("-nostdinc", "-Ione", "-Itwo", "main.c")
    assert found == ["main.c", "one/x.h", "two/x.h"]


def test_what_an_option_includes_comes_with_all_that_it_includes(project: Project) -> None:
    project.write("main.c")
    project.write("include/config.h", "#include <more.h>")
    project.write("include/more.h")
    found = project.find(*BARE, "-include", "./include/config.h")
    assert found == ["main.c", "include/config.h", "include/more.h"]


def test_each_header_is_told_of_once_but_sources_always(project: Project) -> None:
    project.write("main.c", "#include <a.h>")
    project.write("other.c", "#include <a.h>", "#include <b.h>")
    project.write("include/a.h")
    project.write("include/b.h")
    assert project.find(*BARE) == ["main.c", "include/a.h"]
    assert project.find(*BARE) == ["main.c"]
    assert project.find(*BARE[:-1], "other.c") == ["other.c", "include/b.h"]
    # Another search may find others by the same names.
    assert project.find(*BARE, "-Iother") == ["main.c", "include/a.h"]


def test_what_is_written_meanwhile_is_found(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(includes, "NAMES_SECONDS", 0.0)
    project.write("main.c", "#include <made.h>")
    assert project.find(*BARE) == ["main.c"]
    project.write("include/made.h")
    assert project.find(*BARE) == ["main.c", "include/made.h"]
    project.write("main.c", "#include <made.h>", "#include <new.h>")
    project.write("include/new.h")
    assert project.find(*BARE) == ["main.c", "include/new.h"]


def test_only_compilers_are_expected_to_read_headers(project: Project, files: Files) -> None:
    project.write("main.c", "#include <a.h>")
    project.write("include/a.h")
    assert project.find(*BARE, exe="/usr/bin/wc") == []
    assert project.find("-nostdinc", "-c", "main.o", "main.s", "--version") == []
    assert project.find("-nostdinc", "-c", "gone.c") == ["gone.c"]
    assert files.opened == [str(project.directory / "gone.c")]


def test_not_more_is_looked_for_than_can_be_of_use(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(includes, "MAX_FOUND", 10)
    for number in range(100):
        project.write(f"include/h{number}.h", f"#include <h{number + 1}.h>")
    project.write("main.c", "#include <h0.h>")
    assert project.find(*BARE)[1:] == [f"include/h{number}.h" for number in range(10)]
    # One that has not been looked through is told of again, and followed then.
    project.write("other.c", "#include <h9.h>")
    found = project.find(*BARE[:-1], "other.c")
    assert found == ["other.c", *(f"include/h{number}.h" for number in range(9, 19))]


@pytest.mark.parametrize(
    ("compiler", "source", "headers"),
    [
        ("gcc", "main.c", ("stdio.h", "stdlib.h", "limits.h", "pthread.h", "stdatomic.h")),
        ("g++", "plain.c", ("cstdio", "map")),
        ("g++", "main.cpp", ("vector", "string", "iostream", "memory", "cmath")),
    ],
)
def test_all_that_gcc_reads_is_found(
    project: Project, compiler: str, source: str, headers: tuple[str, ...]
) -> None:
    project.write(source, *(f"#include <{name}>" for name in headers), '#include "own.h"')
    project.write("own.h")
    done = subprocess.run(
        [compiler, "-M", source], cwd=project.directory, capture_output=True, check=True
    )
    paths = done.stdout.decode().replace("\\\n", " ").split()[1:]
    read = {os.path.realpath(project.directory / path) for path in paths}
    names = project.find("-c", source, exe=f"/usr/bin/{compiler}")
    found = {os.path.realpath(project.directory / name) for name in names}
    assert len(read) > 20
    assert read <= found


def test_the_passes_of_gcc_are_where_it_says() -> None:
    for compiler, name, is_cplusplus in (("gcc", "cc1", False), ("g++", "cc1plus", True)):
        image = os.fsencode(os.path.basename(os.path.realpath(f"/usr/bin/{compiler}")))
        asked = [compiler, f"-print-prog-name={name}"]
        said = subprocess.run(asked, capture_output=True, check=True).stdout.strip()
        first, assembler = gcc.passes(image, is_cplusplus)
        assert os.path.samefile(first, said)
        assert assembler == b"/usr/bin/as"
    assert gcc.passes(b"clang-14", False) == []
    assert gcc.headers(b"clang-14", False) == [b"/usr/local/include", b"/usr/include"]


def test_messages_are_those_of_the_users_language() -> None:
    assert gcc.messages([]) == []
    assert gcc.messages([b"LANG=C.UTF-8", b"LC_ALL=C"]) == []
    assert b"/usr/lib/locale/C.utf8/LC_CTYPE" in gcc.messages([b"LC_ALL=", b"LANG=C.UTF-8"])


def test_an_option_without_its_word_is_nothing_worse() -> None:
    found = Compile([b"gcc", b"main.c", b"-I"], b"/project")
    assert found.sources == [b"/project/main.c"]
    assert found.angled == (b"/project",)
