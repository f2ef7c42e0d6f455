"""What is assumed of a program at first sight."""

import os
import shlex
import shutil
from pathlib import Path

import pytest

from mlaunch import elf, tools
from mlaunch.guess import guess, stays_whatever
from mlaunch.profiles import Profile
from mlaunch.spreading import LEAST_S
from mlaunch.states import CHILD, TOP, Program

MOMENT_S = 0.02  # what is not worth a trip, whatever the link
WORK_S = 0.3


def of(line: str, exe: str = "", top: bool = False) -> Program:
    argv = shlex.split(line)
    program, why = guess(exe or f"/usr/bin/{argv[0]}", argv, top, "/nowhere")
    assert why
    assert why == program.why
    assert program.kind == (TOP if top else CHILD)
    return program


@pytest.mark.parametrize(
    "line",
    [
        "make -j8",
        "ninja",
        "sh -c 'gcc -c a.c'",
        "bash ./configure",
        "dash",
        "xargs -P4 gzip",
        "perl /usr/bin/parallel gzip",
        "env X=1 gcc -c a.c",
        "nice make",
        "timeout 5 make",
        "cmake --build build",
        "cmake -S . -B build",
        "ctest -j4",
        "find . -name x -exec gzip {} +",
        "python3 /usr/bin/meson compile",
        "python3 -m pytest -n4",
        "python3 /usr/bin/pytest -n 4 tests",
        "go build ./...",
        "cargo build --release",
        "tmux",
        "script -c make",
    ],
)
@pytest.mark.parametrize("top", [False, True])
def test_who_starts_others_stays_home_so_that_they_can_spread(line: str, top: bool) -> None:
    program = of(line, top=top)
    assert program.starter
    assert "children are to spread" in program.stays


@pytest.mark.parametrize(
    "line",
    ["cmake -E touch x", "find . -name x", "go version", "cargo --version", "python3 x.py",
     "python3 -m pytest tests", "gcc -c a.c"],
)  # fmt: skip
def test_who_starts_nobody_is_no_starter(line: str) -> None:
    assert not of(line).starter


@pytest.mark.parametrize(
    "line",
    ["echo x", "test -f x", "[ -f x ]", "rm -rf x", "cat x", "dirname x", "sed s/a/b/ x",
     "grep x y", "awk 1 x", "gcc --version", "python3 --version", "true", "ar rcs x.a a.o",
     "git status", "cmake -E touch x", "ls", "expr 1 + 1"],
)  # fmt: skip
def test_what_is_done_in_a_moment(line: str) -> None:
    assert of(line).cpu_s <= MOMENT_S


@pytest.mark.parametrize(
    "line",
    ["gcc -c a.c", "g++ -c a.cc", "cc1plus -quiet a.cc", "ld -o x a.o", "gcc -o x a.o", "gzip x",
     "xz -9 x", "sort x", "john x", "ffmpeg -i x y", "python3 build.py", "perl gen.pl", "node x.js",
     "rustc --crate-name x x.rs", "own-program x", "compile -p fmt a.go"],
)  # fmt: skip
def test_what_is_work(line: str) -> None:
    program = of(line)
    assert program.cpu_s >= WORK_S
    assert not program.stays


def test_the_costs_are_in_a_sound_order() -> None:
    lines = (
        "echo x",
        "sed x y",
        "gcc -c conftest.c",
        "as x.s",
        "gcc -c a.c",
        "g++ -c a.cc",
        "john",
    )
    costs = [of(line).cpu_s for line in lines]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    assert of("gzip x").cpu_s > of("gunzip x").cpu_s
    assert of("g++ -c a.cc").memory > of("gcc -c a.c").memory > 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("cp -r a b", "handles files"),
        ("find /usr", "handles files"),
        ("tar czf x.tgz dir", "handles files"),
        ("curl http://x", "network"),
        ("ssh x", "network"),
        ("git clone http://x", "network"),
        ("git-remote-https origin x", "network"),
        ("rsync -a x: y", "handles files"),
        ("mount /dev/x /y", "this machine"),
        ("kill 1", "this machine"),
        ("sudo make", "this machine"),
        ("gdb x", "this machine"),
        ("docker run x", "this machine"),
    ],
)
def test_what_is_tied_to_home_stays_and_it_is_said_why(line: str, reason: str) -> None:
    assert reason in of(line).stays


def test_git_works_on_files_anywhere() -> None:
    assert of("git commit -m x").stays == ""


def test_what_the_user_typed_is_thought_long_whatever_it_is() -> None:
    assert of("own-program", top=True) == Program(
        exe="/usr/bin/own-program", why="never seen: 30 s of work assumed"
    )
    assert of("gzip x", top=True).cpu_s == Program().cpu_s


def test_every_known_program_has_a_guess_with_a_reason() -> None:
    for name in tools.KNOWN:
        program, why = guess(f"/usr/bin/{name}", [name, "x"], False)
        assert program.cpu_s > 0
        assert why
        assert guess(f"/usr/bin/{name}", [], False)[1]


# what a program's file says


@pytest.fixture
def build(tmp_path: Path) -> str:
    """Return a program that is a server by its imports, whatever it does."""
    source = tmp_path / "server.c"
    source.write_text(
        "#include <sys/socket.h>\n"
        "int main(void) { int s = socket(AF_UNIX, SOCK_STREAM, 0);\n"
        "  return listen(s, 1) || accept(s, 0, 0) < 0; }\n"
    )
    target = str(tmp_path / "server")
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    assert os.spawnv(os.P_WAIT, compiler, ["gcc", str(source), "-o", target]) == 0
    return target


def test_a_program_that_waits_for_connections_stays_home(build: str) -> None:
    program = of("server", exe=build)
    assert "sockets are the node's" in program.stays
    assert not of("server", exe=build, top=True).stays


def test_a_stripped_one_is_known_as_well(build: str) -> None:
    strip = shutil.which("strip")
    assert strip is not None
    assert os.spawnv(os.P_WAIT, strip, ["strip", build]) == 0
    assert elf.serves(build)


def test_a_program_that_does_not_may_go() -> None:
    assert not elf.serves("/bin/sort")


def test_imports_are_told_from_other_names() -> None:
    with open("/bin/sort", "rb") as file:
        names = frozenset({b"malloc", b"listen", b"alloc", b"main"})
        assert elf.imports(file.fileno(), names) == {b"malloc"}


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 100, 5000])
def test_what_is_no_whole_elf_file_imports_nothing(cut: int, tmp_path: Path) -> None:
    with open("/bin/sort", "rb") as file:
        (tmp_path / "cut").write_bytes(file.read(cut))
    assert not elf.serves(str(tmp_path / "cut"))
    program = of("cut", exe=str(tmp_path / "cut"))
    assert not program.stays


def test_a_program_that_is_gone_is_guessed_all_the_same() -> None:
    assert of("gone", exe="/nowhere/gone").cpu_s >= WORK_S


def _seen(runs: int, cpu_s: float, spread: float) -> Profile:
    return Profile(runs, cpu_s, spread, cpu_s, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, False, False)


def test_what_was_always_short_is_not_asked_about_again() -> None:
    nm = "/usr/bin/x86_64-linux-gnu-nm"
    assert stays_whatever(nm, _seen(4, 0.02, 0.005))
    assert not stays_whatever(nm, _seen(3, 0.02, 0.005))
    assert not stays_whatever(nm, _seen(9, 0.02, 0.02))
    assert not stays_whatever(nm, _seen(9, LEAST_S, 0.0))
    for varied in ("gcc", "x86_64-linux-gnu-gcc-12", "python3.11", "busybox"):
        assert not stays_whatever(f"/usr/bin/{varied}", _seen(9, 0.02, 0.005))
    assert not stays_whatever(nm, None)
