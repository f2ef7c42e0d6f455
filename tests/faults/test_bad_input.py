"""What a user can get wrong: one clear line and the right status."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.faults.refusals import refused
from tests.programs.nodes import CONFIG, add_nodes, configure, node_entry, on


@pytest.fixture(scope="module")
def shared(_no_leaks: None) -> Iterator[Cluster]:
    with Cluster(f"bad-{os.getpid()}", nodes=1) as cluster:
        add_nodes(cluster.home, "n1")
        yield cluster


@pytest.fixture
def home(shared: Cluster) -> Iterator[Host]:
    yield shared.home
    add_nodes(shared.home, "n1")


@pytest.mark.parametrize(
    "argv",
    [
        ("mrun", "--nonsense", "true"),
        ("mrun", "-x", "true"),
        ("mrun", "--node"),
        ("mrun", "-n", "n1"),
        ("mrun",),
        ("mrun", "--stats", "/no/such/place", "true"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_named(home: Host, argv: tuple[str, ...]) -> None:
    line = refused(home, *argv)
    wrong = [word for word in argv if word.startswith(("--nonsense", "-x", "/no"))]
    assert all(word.lstrip("-") in line for word in wrong)


@pytest.mark.parametrize("option", ["-n", "--only"])
def test_an_unknown_node_is_named(home: Host, option: str) -> None:
    assert "nowhere" in refused(home, "mrun", option, "nowhere", "true")


def test_a_program_that_is_not_there_is_status_127(home: Host) -> None:
    for program in ("no-such-program", "./no-such-program", "/no/such/program"):
        assert program in refused(home, *on("n1"), program, status=127)


def test_a_program_that_cannot_be_executed_is_status_126(home: Host) -> None:
    home.run(("sh", "-c", "echo x > plain; chmod 644 plain; mkdir -p folder"), check=True)
    for program in ("./plain", "./folder", "/etc/passwd"):
        assert program in refused(home, *on("n1"), program, status=126)


def test_a_binary_for_another_machine_is_status_126(home: Host) -> None:
    # An ELF header for AArch64, and one for a machine that does not exist.
    for machine in (183, 60000):
        header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + machine.to_bytes(2, "little")
        home.write("/home/alice/foreign", header + bytes(200))
        home.run(("chmod", "+x", "foreign"), check=True)
        assert "./foreign" in refused(home, *on("n1"), "./foreign", status=126)


def test_a_script_whose_interpreter_is_missing_fails_as_in_a_shell(home: Host) -> None:
    home.write("/home/alice/orphan", b"#!/no/such/interpreter\n")
    home.run(("chmod", "+x", "orphan"), check=True)
    native = home.run(("bash", "-c", "./orphan")).returncode
    assert "./orphan" in refused(home, *on("n1"), "./orphan", status=native)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[[node]]\nname = \n", 2, ""),
        ('[[node]]\nname = "n1"\n\n[export\n', 4, ""),
        ('[[node]]\nname = "n1"\nport = "many"\n', 3, "node.port"),
        ('[[node]]\nname = "n1"\nport = 99999\n', 3, "node.port"),
        ("[[node]]\nname = 7\n", 2, "node.name"),
        ('[[node]]\nname = "n1"\ncolour = "red"\n', 3, "node.colour"),
        ('[[node]]\nname = "n1"\n\n[[node]]\nname = "n1"\n', 5, "node.name"),
        ('[[node]]\nname = "home"\n', 2, "node.name"),
        ('[[node]]\nname = "a b"\n', 2, "node.name"),
        ('[export]\nhidden = "~/x"\n', 2, "export.hidden"),
        ("[export]\nhidden = [1]\n", 2, "export.hidden"),
        ("[daemon]\nidle_minutes = true\n", 2, "daemon.idle_minutes"),
        ("[nonsense]\nx = 1\n", 1, "nonsense"),
        ("node = 5\n", 1, "node"),
    ],
)
@pytest.mark.parametrize(
    "command", [(*on("n1"), "true"), ("mlaunch", "nodes")], ids=["mrun", "mlaunch"]
)
def test_a_wrong_configuration_is_told_with_file_line_and_key(
    home: Host, command: tuple[str, ...], text: str, line: int, key: str
) -> None:
    configure(home, text)
    said = refused(home, *command)
    assert f"{CONFIG}:{line}: " in said
    assert key in said


def test_a_wrong_configuration_does_not_keep_a_program_from_running(home: Host) -> None:
    assert home.run((*on("n1"), "true")).returncode == 0
    configure(home, "nonsense\n")
    done = home.run(("mrun", "echo", "out"))
    assert done.returncode in (0, 125)
    # Never both: half a result is none.
    assert (done.stdout == b"out\n") == (done.returncode == 0)


def test_a_configuration_that_was_put_right_is_used_at_once(home: Host) -> None:
    configure(home, "nonsense\n")
    refused(home, *on("n1"), "true")
    add_nodes(home, "n1")
    assert home.run((*on("n1"), "true")).returncode == 0


@pytest.mark.parametrize("host", ["10.77.0.99", "no-such-host.invalid", "127.0.0.1"])
def test_an_unreachable_host_is_named(home: Host, host: str) -> None:
    configure(home, node_entry("gone", host))
    line = refused(home, *on("gone"), "true")
    assert "gone" in line
    assert host in line


def test_an_unreachable_node_does_not_keep_a_program_from_running(home: Host) -> None:
    configure(home, node_entry("gone", "127.0.0.1"))
    done = home.run(("mrun", "echo", "ran"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ran\n", b"")


def test_verbose_says_why_a_program_stays_at_home(home: Host) -> None:
    configure(home, node_entry("gone", "127.0.0.1"))
    done = home.run(("mrun", "-v", "echo", "ran"))
    assert done.stdout == b"ran\n"
    lines = done.stderr.decode().splitlines()
    assert lines
    assert all(line.startswith("mrun: ") for line in lines)
    assert any("gone" in line for line in lines)


def test_a_place_of_the_daemon_that_is_another_users_is_told(home: Host) -> None:
    taken = f"/tmp/mlaunch-{home.spec.users['alice']}"
    home.run(("mlaunch", "daemon", "stop"))
    home.run(("rm", "-rf", taken), check=True)
    home.run(("mkdir", taken), user="bob", check=True)
    try:
        assert taken in refused(home, "mlaunch", "daemon", "status")
        assert taken in refused(home, "mrun", "--no-fallback", "true")
    finally:
        home.run(("rmdir", taken), user="bob", check=True)
