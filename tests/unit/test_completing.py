import sqlite3
from pathlib import Path

import click
import pytest

from mlaunch import completing, profilestore

WORD = click.Argument(["word"])


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> click.Context:
    """Return what click hands over, for a user who has nothing yet."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("MLAUNCH_CONFIG", raising=False)
    return click.Context(click.Command("test"))


def test_who_has_nothing_gets_nothing(context: click.Context, tmp_path: Path) -> None:
    assert completing.configured(context, WORD, "") == []
    assert completing.nodes(context, WORD, "") == ["home", "local"]
    assert completing.programs(context, WORD, "") == []
    assert completing.pids(context, WORD, "") == []
    assert not list(tmp_path.rglob("*.sock"))
    assert not list(tmp_path.rglob("*.sqlite"))


def test_programs_are_those_with_a_profile(context: click.Context, tmp_path: Path) -> None:
    (tmp_path / "mlaunch").mkdir()
    with sqlite3.connect(tmp_path / "mlaunch" / "profiles.sqlite", isolation_level=None) as db:
        profilestore.upgrade(db)
        marks = ",".join("?" * len(profilestore.COLUMNS))
        for exe, shape in (("/usr/bin/gcc", "-c"), ("/usr/bin/gcc", "-o"), ("/bin/gzip", "")):
            row = [exe, shape, "", *([0] * len(profilestore.NUMBERS))]
            db.execute(f"INSERT INTO program VALUES ({marks})", row)
    db.close()
    assert completing.programs(context, WORD, "") == ["gcc", "gzip"]
    assert completing.programs(context, WORD, "gz") == ["gzip"]


def test_a_damaged_file_completes_nothing(context: click.Context, tmp_path: Path) -> None:
    (tmp_path / "mlaunch").mkdir()
    (tmp_path / "mlaunch" / "profiles.sqlite").write_text("no database" * 99)
    (tmp_path / "mlaunch" / "config.toml").write_text("[[node]\n")
    assert completing.programs(context, WORD, "") == []
    assert completing.configured(context, WORD, "") == []
