"""The configuration file: what it means, where its errors are, and how nodes are edited."""

from pathlib import Path

import pytest

from mlaunch import config
from mlaunch.config import Node
from mlaunch.errors import FAILED, LaunchError

FULL = """\
# My machines.
[[node]]
name = "n1"

[[node]]                 # the one in the cellar
name = "n2"
host = "cellar.example"
user = "bob"
port = 2222

# What they may see.
[export]
hidden = ["/srv/private", "~/diary"]
visible = ["~/.npmrc"]
readonly = ["/usr"]

[placement]
home_bias = 2
balance = false

[daemon]
idle_minutes = 0.5
"""


def test_a_file_that_is_not_there_configures_nothing(tmp_path: Path) -> None:
    loaded = config.load(str(tmp_path / "none" / "config.toml"))
    assert (loaded.nodes, loaded.balance, loaded.idle_s) == ((), True, 600.0)


def test_everything_that_can_be_configured_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    parsed = config.parse("c", FULL)
    assert parsed.nodes == (Node("n1", "n1"), Node("n2", "cellar.example", "bob", 2222))
    assert parsed.export.hidden == ("/srv/private", "/home/u/diary")
    assert parsed.export.visible == ("/home/u/.npmrc",)
    assert parsed.export.readonly == ("/usr",)
    assert (parsed.home_bias, parsed.balance, parsed.idle_s) == (2.0, False, 30.0)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[node]\n", 1, "Expected"),
        ('[[node]]\nname = "a"\nname = "b"\n', 3, "overwrite"),
        ('[[node]]\nname = "a"\n\n[[node]]\nname = 3\n', 5, "node.name: must be a string"),
        ('[[node]]\nhost = "h"\n', 1, "node.name: is missing"),
        ('[[node]]\nname = "a"\nport = "22"\n', 3, "node.port: must be a number"),
        ('[[node]]\nname = "a"\nport = true\n', 3, "node.port: must be a number"),
        ('[[node]]\nname = "a"\nport = 70000\n', 3, "node.port: must be a number from 1"),
        ('[[node]]\nname = "home"\n', 2, "node.name: the name home is taken"),
        ('[[node]]\nname = "a b"\n', 2, "node.name: 'a b' is no name"),
        ('[[node]]\nname = "a"\nhost = "-oProxyCommand=x"\n', 3, "is no host"),
        ('[[node]]\nname = "a"\n[[node]]\nname = "a"\n', 4, "there is a node a already"),
        ('[[node]]\nname = "a"\ncolour = "red"\n', 3, "node.colour: unknown key; known are name"),
        ('\n[nodes]\nname = "a"\n', 2, "nodes: unknown key; did you mean node?"),
        ('node = "n1"\n', 1, "node: must be an array of tables"),
        ('[node]\nname = "n1"\n', 1, "must be an array of tables"),
        ("export = 3\n", 1, "export: must be a table"),
        ("[export]\nhidden = 3\n", 2, "export.hidden: must be a list of paths"),
        ('[export]\n\nhidden = ["a"]\n', 3, "export.hidden: 'a' must begin with / or ~"),
        ('[export]\nhidden = ["/"]\n', 2, "the root directory cannot be hidden"),
        ("[placement]\nhome_bias = false\n", 2, "placement.home_bias: must be a number"),
        ("[placement]\nbalance = 1\n", 2, "placement.balance: must be true or false"),
        ("[daemon]\nidle_minutes = -1\n", 2, "daemon.idle_minutes: must be at least 0"),
        ("[daemon]\nidle_minutes = nan\n", 2, "daemon.idle_minutes: must be at least 0"),
        ("[daemon]\nidle = 3\n", 2, "daemon.idle: unknown key; did you mean idle_minutes?"),
    ],
)
def test_an_error_names_file_line_and_key(text: str, line: int, words: str) -> None:
    with pytest.raises(LaunchError) as caught:
        config.parse("/etc/c.toml", text)
    assert caught.value.text.startswith(f"/etc/c.toml:{line}: ")
    assert words in caught.value.text
    assert "\n" not in caught.value.text
    assert caught.value.exit_code == FAILED


def test_a_file_that_is_not_text_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(LaunchError, match=r"c\.toml:2: not UTF-8"):
        config.load(str(path))


def test_a_node_is_added_to_a_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "config.toml")
    config.add_node(path, Node("n1", "host", "me", 23))
    assert config.load(path).nodes == (Node("n1", "host", "me", 23),)


def test_adding_and_removing_a_node_leaves_every_other_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    config.add_node(str(path), Node("n3", "h3"))
    assert path.read_text().startswith(FULL)
    config.remove_node(str(path), "n3")
    assert path.read_text().rstrip("\n") == FULL.rstrip("\n")


def test_removing_a_node_keeps_the_comment_of_the_next_table(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    config.remove_node(str(path), "n2")
    left = path.read_text()
    assert "cellar" not in left
    assert "# What they may see.\n[export]" in left
    assert config.load(str(path)).nodes == (Node("n1", "n1"),)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("")
    path = tmp_path / "c.toml"
    path.symlink_to(real)
    config.add_node(str(path), Node("n1", "n1"))
    assert path.is_symlink()
    assert config.load(str(real)).nodes == (Node("n1", "n1"),)


def test_a_node_that_is_there_or_is_not_there_is_said(tmp_path: Path) -> None:
    path = str(tmp_path / "c.toml")
    config.add_node(path, Node("n1", "n1"))
    with pytest.raises(LaunchError, match="there is a node n1 already"):
        config.add_node(path, Node("n1", "other"))
    with pytest.raises(LaunchError, match="no node n2") as caught:
        config.remove_node(path, "n2")
    assert caught.value.hint == "did you mean n1?"


def test_an_edit_that_would_change_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('node = [{name = "n1"}]\n')
    with pytest.raises(LaunchError):
        config.remove_node(str(path), "n1")
    with pytest.raises(LaunchError):
        config.add_node(str(path), Node("n2", "n2"))
    assert path.read_text() == 'node = [{name = "n1"}]\n'
