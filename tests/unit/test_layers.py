"""Who may import whom, and that every module says what it is."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(p for top in ("mlaunch", "stubs") for p in (ROOT / top).rglob("*.py"))
# What each part may import of our own; `stubs` itself (its __init__) is nobody's business.
ALLOWED = {
    "stubs": {"stubs"},
    "stubs.abi": {"stubs.abi"},
    "stubs.wire": {"stubs.abi", "stubs.wire"},
    "stubs.link": {"stubs.abi", "stubs.wire", "stubs.link"},
    "stubs.migration": {"stubs.abi", "stubs.wire", "stubs.link", "stubs.migration"},
    "stubs.home": {"stubs.abi", "stubs.wire", "stubs.link", "stubs.migration", "stubs.home"},
    "stubs.node": {"stubs.abi", "stubs.wire", "stubs.link", "stubs.migration", "stubs.node"},
    "mlaunch": {
        "mlaunch",
        "stubs.abi",
        "stubs.wire",
        "stubs.link",
        "stubs.migration",
        "stubs.home",
        "stubs.node",
    },
}
# A module, or a package and all that is in it.
ONLY_IN = {"paramiko": ("mlaunch.ssh",), "rich": ("mlaunch.display", "mlaunch.top")}
THIRD_PARTY = {"paramiko", "psutil", "dill", "rich", "click"}
# Each costs milliseconds of every start on a node, for what an annotation can say in a string.
SLOW = {"asyncio", "dataclasses", "enum", "typing"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the layer that a module of ours belongs to: "stubs.abi", "mlaunch", …."""
    words = module.split(".")
    part = ".".join(words[:2])
    return part if words[0] == "stubs" and part in ALLOWED else words[0]


def imports(module: str, tree: ast.AST, *, package: bool) -> Iterator[str]:
    """Yield the full name of everything that a module imports, wherever it does."""
    base = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # "from stubs import abi" means stubs.abi; a name that is no module does no harm here.
            yield from (f"{source}.{alias.name}" for alias in node.names)


def at_run_time(tree: ast.Module) -> ast.Module:
    """Return the module's own statements but those under `if TYPE_CHECKING:`."""
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]
    return ast.Module(body, type_ignores=[])


def violations(module: str, source: str, *, package: bool = False) -> list[str]:
    """Return what in a module's source breaks the order of imports."""
    found = []
    for name in imports(module, ast.parse(source), package=package):
        top = name.split(".")[0]
        if top in ("mlaunch", "stubs"):
            if part_of(name) not in ALLOWED[part_of(module)]:
                found.append(f"{module} imports {name}, which is above it")
        elif top in sys.stdlib_module_names:
            continue
        elif not module.startswith("mlaunch"):
            found.append(f"{module} imports {name}: only the standard library is there on a node")
        elif top not in THIRD_PARTY:
            found.append(f"{module} imports {name}, which pyproject.toml does not name")
        elif top in ONLY_IN and not f"{module}.".startswith(tuple(f"{o}." for o in ONLY_IN[top])):
            found.append(f"{module} imports {name}: only {' and '.join(ONLY_IN[top])} may")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_what_is_below_them(path: Path) -> None:
    package = path.name == "__init__.py"
    assert violations(name_of(path), path.read_text(), package=package) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "stubs").rglob("*.py")), ids=name_of)
def test_what_travels_is_python_3_9_and_loads_fast(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    package = path.name == "__init__.py"
    loaded = imports(name_of(path), at_run_time(tree), package=package)
    assert {name.split(".")[0] for name in loaded} & SLOW == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stubs.abi.libc", "import paramiko"),
        ("stubs.abi.libc", "from stubs.wire import frame"),
        ("stubs.wire.frame", "from ..link import endpoint"),
        ("stubs.home.run.deputy", "from stubs.node.capsule.body import Body"),
        ("stubs.node.capsule.body", "def f():\n    import stubs.home.run.deputy"),
        ("stubs.node.capsule.body", "from mlaunch import errors"),
        ("mlaunch.daemon", "from paramiko import Transport"),
        ("mlaunch.cli", "import rich.table"),
        ("mlaunch.topple", "import rich.table"),
        ("mlaunch.cli", "import requests"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert violations(module, source)


def test_what_is_allowed_is_not_a_breach() -> None:
    assert violations("stubs.home.run.deputy", "import os\nfrom stubs.abi import libc") == []
    assert violations("mlaunch.ssh", "import paramiko") == []
    assert violations("mlaunch.display", "import rich.table") == []
    assert violations("mlaunch.top.lines", "from rich.style import Style") == []


def test_who_completes_a_word_loads_nothing_that_is_slow() -> None:
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import mlaunch.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
    assert loaded & {"rich", "paramiko", "psutil", "asyncio", "dill"} == set()
