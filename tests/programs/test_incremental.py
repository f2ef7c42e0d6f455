"""Builds of a tree that is built already: exactly what natively is made anew, and nothing stale."""

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.projects import builds, small
from tests.projects.catalog import SMALL

TURNS = 20
JOBS = "-j4"


class Tree:
    """A copy of the small project, and which of its objects each build makes."""

    def __init__(self, home: Host, directory: str, source: str) -> None:
        self._home = home
        self._directory = directory
        copy = ("cp", "-r", "--preserve=mode,timestamps", source, directory)
        home.run(copy, check=True)
        self._made = self._stamps()

    def _stamps(self) -> dict[str, str]:
        command = ("find", ".", "-name", "*.[oad]", "-printf", "%P %T@ %i\n")
        listed = self._home.run(command, cwd=self._directory, check=True).stdout.decode()
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def edit(self, name: str, text: str) -> None:
        self._home.write(f"{self._directory}/{name}", text.encode())

    def touch(self, name: str) -> None:
        self._home.run(("touch", name), cwd=self._directory, check=True)

    def make(self, *prefix: str) -> list[str]:
        """Build; return what was made anew."""
        self._home.run((*prefix, "make", JOBS), cwd=self._directory, check=True, timeout=120)
        before, self._made = self._made, self._stamps()
        return sorted(name for name in self._made if self._made[name] != before.get(name))

    def files(self) -> builds.Tree:
        return builds.snapshot(self._home, SMALL, self._directory)

    def output(self) -> str:
        done = self._home.run(("app/app",), cwd=self._directory, check=True)
        return done.stdout.decode()


@pytest.fixture
def trees(one_node: Cluster) -> Iterator[tuple[Tree, Tree]]:
    """Return a tree that is only ever built natively, and its twin; built both."""
    home, names = one_node.home, ("/home/alice/tree-native", "/home/alice/tree-mrun")
    native = Tree(home, names[0], SMALL.source())
    native.make()
    pair = native, Tree(home, names[1], names[0])
    yield pair
    home.run(("rm", "-rf", *names), check=True)


def test_what_depends_on_a_touched_file_is_made_anew(trees: tuple[Tree, Tree]) -> None:
    native, other = trees
    assert other.make(*builds.mrun()) == []
    for name in ("include/header3.h", "lib/part07.c", "app/main.c", "include/common.h"):
        for tree in trees:
            tree.touch(name)
        made = native.make()
        assert made
        assert other.make(*builds.mrun()) == made
        assert other.make() == []
        assert builds.differences(native.files(), other.files()) == []


def test_native_builds_and_others_in_turn_leave_nothing_stale_and_make_nothing_twice(
    trees: tuple[Tree, Tree],
) -> None:
    native, other = trees
    values = dict.fromkeys(range(small.HEADERS), 0)
    version = 1
    for turn in range(1, TURNS + 1):
        number = turn % small.HEADERS
        values[number] = turn
        edits = {f"include/header{number}.h": small.header(number, turn)}
        if turn == TURNS // 2 + 1:
            # From this one a script makes a header for all.
            version = turn
            edits["version.txt"] = f"{turn}\n"
        for tree in trees:
            for name, text in edits.items():
                tree.edit(name, text)
        made = native.make()
        assert other.make(*(builds.mrun() if turn % 2 else ())) == made, turn
        assert other.output() == small.output(values, version), turn
        assert builds.differences(native.files(), other.files()) == [], turn
    assert other.make() == []
