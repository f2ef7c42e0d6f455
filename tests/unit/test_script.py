"""A script is taken for what the kernel makes of it: the kernel itself says what that is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlaunch.script import interpreted

SHOW = "import os, sys; sys.stdout.write(os.readlink('/proc/self/exe') + '\\0' + "
SHOW += "open('/proc/self/cmdline').read())"


@pytest.mark.parametrize(
    "line", ["#!/usr/bin/python3", "#! /usr/bin/python3 -S", "#!/usr/bin/env python3"]
)
def test_a_script_is_its_interpreter(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A python3 before this one on the path might be a script itself.
    monkeypatch.setenv("PATH", "/usr/bin")
    script = tmp_path / "script"
    script.write_text(f"{line}\n{SHOW}\n")
    script.chmod(0o755)
    said = subprocess.run([script, "an argument"], capture_output=True, check=True, text=True)
    exe, *argv = said.stdout.split("\0")[:-1]
    found, words = interpreted(str(script), ["script", "an argument"])
    assert os.path.realpath(found) == exe
    assert words == argv


def test_a_binary_is_itself() -> None:
    assert interpreted("/bin/true", ["true", "x"]) == ("/bin/true", ["true", "x"])
