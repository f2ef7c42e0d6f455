"""The agent's way onto a node: the archive, stage 0, the cache; on this machine's python3."""

import ast
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlaunch import bootstrap
from mlaunch.errors import LaunchError

TOKEN = bytes(range(32))
# Those of the usual login shells that are here.
SHELLS = [name for name in ("bash", "dash", "tcsh", "fish", "zsh", "ksh") if shutil.which(name)]
# Stands for the agent: says that it got the token, and which modules came from the archive.
AGENT = """
import os, sys
def main(read_fd, write_fd, token):
    import stubs.wire.messages as messages
    os.write(write_fd, b"here %s %s" % (token.hex().encode(), messages.__spec__.origin.encode()))
    return 0
"""


class Pipe:
    """A command on this machine, as bootstrap.Remote."""

    def __init__(self, command: list[str] | str, home: Path, path: str | None = None) -> None:
        environment = {"HOME": str(home), "PATH": path or os.environ["PATH"]}
        self.process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self.written = 0

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself
        self.process.communicate()

    def read(self, most: int) -> bytes:
        assert self.process.stdout
        return os.read(self.process.stdout.fileno(), most)

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()
        self.written += len(data)

    def failure(self) -> str:
        assert self.process.stderr
        words = self.process.stderr.read().decode().strip()
        return f"{words} (exit status {self.process.wait()})"

    def rest(self) -> bytes:
        output, errors = self.process.communicate(timeout=20)
        assert errors == b""
        return output


# Not the remembered one: tests pack other sources.
pack = bootstrap.archive.__wrapped__
Start = Callable[..., Pipe]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of our packages in which `stubs.node.agent` is AGENT."""
    root = tmp_path / "packages"
    top = Path(__file__).parents[2]
    for part in ("stubs/__init__.py", "stubs/abi", "stubs/wire", "stubs/link", "stubs/home"):
        target = root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", top / part, target], check=True)
    (root / "stubs/node").mkdir()
    (root / "stubs/node/__init__.py").write_text("")
    (root / "stubs/node/agent.py").write_text(AGENT)
    packed = pack(str(root))
    monkeypatch.setattr(bootstrap, "archive", lambda: packed)
    return root


@pytest.fixture
def start(tmp_path: Path, packages: Path) -> Iterator[Start]:
    """Return `start(shell=…, before=…)`, which runs the bootstrap command as sshd would."""
    started: list[Pipe] = []

    def run(shell: str = "sh", before: str = "", home: Path = tmp_path) -> Pipe:
        pipe = Pipe([shell, "-c", before + bootstrap.command()], home)
        started.append(pipe)
        return pipe

    yield run
    for pipe in started:
        pipe.kill()


def cache(home: Path) -> list[Path]:
    return sorted((home / ".cache/mlaunch").iterdir())


def test_equal_sources_give_equal_bytes_without_home(packages: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", packages, tmp_path / "copy"], check=True)
    (tmp_path / "copy/stubs/wire/__pycache__").mkdir(exist_ok=True)
    (tmp_path / "copy/stubs/wire/__pycache__/more.py").write_text("")
    one, other = pack(str(packages)), pack(str(tmp_path / "copy"))
    assert one == other
    assert one.digest == hashlib.sha256(one.data).hexdigest()
    names = {item[0] for item in ast.literal_eval(sources(one))}
    assert {"stubs", "stubs.wire.messages", "stubs.node.agent"} <= names
    assert not any(name.startswith("stubs.home") or "more" in name for name in names)


def test_a_changed_source_gives_another_archive(packages: Path) -> None:
    before = pack(str(packages))
    (packages / "stubs/node/agent.py").write_text(AGENT + "# changed")
    assert pack(str(packages)).digest != before.digest


def sources(archive: bootstrap.Archive) -> str:
    text = zlib.decompress(archive.data).decode()
    return text.partition("\n")[0].removeprefix("SOURCES = ")


def test_stage_0_is_small_and_safe_in_any_shell() -> None:
    command = bootstrap.command()
    assert len(command) < 1024
    assert "\n" not in command
    quoted = command.partition('"')[2].rpartition('"')[0]
    assert not set(quoted) & set('"$`\\!')


def test_the_first_time_the_archive_is_sent_and_then_never_again(
    start: Start, tmp_path: Path
) -> None:
    for sent in (len(bootstrap.archive().data) + len(TOKEN), len(TOKEN)):
        pipe = start()
        early = bootstrap.converse(pipe, TOKEN)
        assert early + pipe.rest() == b"here %s <mlaunch>" % TOKEN.hex().encode()
        assert pipe.written == sent
    [kept] = cache(tmp_path)
    assert kept.name == f"agent-{bootstrap.archive().digest[:24]}.{sys.implementation.cache_tag}"
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100_000])
def test_a_damaged_cache_is_replaced(start: Start, tmp_path: Path, damage: bytes) -> None:
    bootstrap.converse(start(), TOKEN)
    [kept] = cache(tmp_path)
    good = kept.read_bytes()
    kept.write_bytes(damage)
    pipe = start()
    bootstrap.converse(pipe, TOKEN)
    pipe.rest()
    assert kept.read_bytes() == good


def test_one_bit_of_damage_is_noticed(start: Start, tmp_path: Path) -> None:
    bootstrap.converse(start(), TOKEN)
    [kept] = cache(tmp_path)
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    pipe = start()
    bootstrap.converse(pipe, TOKEN)
    assert pipe.written > len(TOKEN)


def test_without_a_place_for_the_cache_the_agent_runs_from_memory(
    start: Start, tmp_path: Path
) -> None:
    home = tmp_path / "full"
    home.mkdir()
    (home / ".cache").write_text("a file where a directory should be")
    pipe = start(home=home)
    early = bootstrap.converse(pipe, TOKEN)
    assert (early + pipe.rest()).startswith(b"here ")


def test_what_login_scripts_print_is_passed_over(start: Start) -> None:
    pipe = start(before="echo Welcome to this machine; printf '\\0ml'; ")
    early = bootstrap.converse(pipe, TOKEN)
    assert (early + pipe.rest()).startswith(b"here ")


def test_a_login_script_that_never_ends_is_given_up(start: Start) -> None:
    with pytest.raises(LaunchError, match="print too much"):
        bootstrap.converse(start(before="yes; "), TOKEN)


def test_no_python3_is_said_with_its_remedy(tmp_path: Path, packages: Path) -> None:
    pipe = Pipe(["/bin/sh", "-c", bootstrap.command()], tmp_path, path="/nowhere")
    with pytest.raises(LaunchError, match="it has no python3") as caught:
        bootstrap.converse(pipe, TOKEN)
    assert caught.value.hint
    pipe.process.communicate()


def fake(tmp_path: Path, script: str) -> Pipe:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python3").chmod(0o755)
    command = ["/bin/sh", "-c", bootstrap.command()]
    return Pipe(command, tmp_path, path=f"{folder}:{os.environ['PATH']}")


def test_an_old_python3_is_said_with_its_version(tmp_path: Path, packages: Path) -> None:
    pipe = fake(tmp_path, "printf '\\0mlaunch:V3.6\\n'")
    with pytest.raises(LaunchError, match=r"python3 is 3\.6, too old"):
        bootstrap.converse(pipe, TOKEN)
    pipe.process.communicate()


def test_stage_0_tells_an_old_version_by_itself(tmp_path: Path) -> None:
    source = bootstrap._STAGE0 % ("0" * 64, 1, "m")
    old = f"import sys; sys.version_info = (3, 6, 8); exec({source!r})"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, check=False)
    assert done.stdout == bootstrap.MARKER + b"V3.6\n"


def test_an_agent_that_dies_at_once_is_told_with_its_last_words(
    tmp_path: Path, packages: Path
) -> None:
    pipe = fake(tmp_path, "echo no more memory >&2; exit 3")
    with pytest.raises(LaunchError, match=r"no more memory \(exit status 3\)"):
        bootstrap.converse(pipe, TOKEN)
    pipe.process.communicate()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_understands_the_command(start: Start, shell: str) -> None:
    pipe = start(shell=shell)
    early = bootstrap.converse(pipe, TOKEN)
    assert (early + pipe.rest()).startswith(b"here ")
