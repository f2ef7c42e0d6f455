import subprocess
import sys
from pathlib import Path

import pytest

from mlaunch.mrun import FLAGS, SHORT, USAGE, VALUED, Show, parse
from stubs.home.run.errors import MrunError, say

ROOT = Path(__file__).parents[2]


def test_options_end_at_the_program() -> None:
    options = parse(["-v", "ls", "-n", "--only", "x"])
    assert options.argv == [b"ls", b"-n", b"--only", b"x"]
    assert (options.verbose, options.node, options.only) == (True, "", [])


def test_a_double_dash_ends_the_options() -> None:
    assert parse(["--", "-v"]).argv == [b"-v"]
    assert parse(["-v", "--", "--", "x"]).argv == [b"--", b"x"]


def test_a_lone_dash_is_a_program() -> None:
    assert parse(["-", "x"]).argv == [b"-", b"x"]


@pytest.mark.parametrize(
    "words",
    [["-n", "n1"], ["-nn1"], ["--node", "n1"], ["--node=n1"], ["-vn", "n1"], ["-vnn1"]],
)
def test_a_node_is_given_in_every_usual_way(words: list[str]) -> None:
    options = parse([*words, "true"])
    assert (options.node, options.argv) == ("n1", [b"true"])
    assert options.verbose == words[0].startswith("-v")


def test_all_options_at_once() -> None:
    words = ["--only", "a,b", "--only=c", "--stay", "--no-fallback", "--stats", "f", "--verbose"]
    words += ["--trace=g", "--progress", "--checkpoint-every", "0.5"]
    options = parse([*words, "p", ""])
    assert options.only == ["a", "b", "c"]
    assert not options.fallback
    assert (options.stats, options.trace, options.progress) == ("f", "g", True)
    assert options.verbose
    assert options.checkpoint_s == 30
    assert options.argv == [b"p", b""]


def test_a_checkpoint_stands_in_the_place_of_a_program() -> None:
    options = parse(["-v", "--recover", "image"])
    assert (options.recover, options.argv) == ("image", [])


def test_words_need_not_be_text() -> None:
    assert parse(["\udcff\udcfe"]).argv == [b"\xff\xfe"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no program given"),
        (["-v"], "no program given"),
        (["--"], "no program given"),
        (["--nod", "x", "true"], "unknown option --nod"),
        (["-x", "true"], "unknown option -x"),
        (["-vx", "true"], "unknown option -x"),
        (["-n"], "option --node needs a value"),
        (["--stats"], "option --stats needs a value"),
        (["--node=", "true"], "option --node: the name is empty"),
        (["--trace=", "true"], "option --trace: the name is empty"),
        (["--recover=", "-v"], "option --recover: the name is empty"),
        (["--recover", "f", "x"], "option --recover takes no program: the checkpoint has one"),
        (["--checkpoint-every", "0", "x"], "option --checkpoint-every: 0 is no number of minutes"),
        (["--checkpoint-every=x", "x"], "option --checkpoint-every: x is no number of minutes"),
        (["--only", "a,,b", "true"], "option --only: a name is empty"),
        (["--stay=yes", "true"], "option --stay takes no value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], text: str) -> None:
    with pytest.raises(MrunError) as raised:
        parse(words)
    assert raised.value.text == text
    assert raised.value.status == 125


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-vh", "x"], ["--version", "x"]])
def test_help_and_version_come_before_anything_runs(words: list[str]) -> None:
    with pytest.raises(Show):
        parse(words)


def test_every_option_is_in_the_help_and_in_the_manual() -> None:
    manual = (ROOT / "docs" / "man" / "mrun.1").read_text().replace("\\", "")
    for name in [*VALUED, *FLAGS, *(f"-{letter}" for letter in SHORT)]:
        assert name in USAGE
        assert name in manual


def mrun(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mlaunch.mrun", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


def test_help_goes_to_standard_output() -> None:
    done = mrun("--help")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, USAGE, b"")


def test_an_error_goes_to_standard_error() -> None:
    done = mrun("--foo")
    line = b"mrun: unknown option --foo (try: mrun --help)\n"
    assert (done.returncode, done.stdout, done.stderr) == (125, b"", line)


def test_mrun_loads_nothing_that_is_slow() -> None:
    code = "import sys; import mlaunch.mrun; print(*sys.modules)"
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {code}",
    ]
    loaded = subprocess.run(command, capture_output=True, check=True).stdout.decode().split()
    slow = {
        "asyncio",
        "argparse",
        "click",
        "dataclasses",
        "json",
        "paramiko",
        "psutil",
        "re",
        "rich",
    }
    assert set(loaded) & {*slow, "subprocess", "tempfile", "threading", "typing"} == set()


def test_what_a_node_says_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    say("refused: \x1b[2Jgone\nmrun: all is well\x9b\udc9b ü")
    assert capfd.readouterr().err == "mrun: refused: ?[2Jgone?mrun: all is well?? ü\n"
