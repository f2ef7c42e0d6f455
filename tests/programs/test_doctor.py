"""mlaunch doctor: good nodes, bad ones, home; for people and for scripts."""

import json
import re

from tests.cluster import Cluster
from tests.programs.nodes import node_entry
from tests.programs.person import Person

HOME = ["mlaunch", "python", "kernel", "ptrace", "daemon", "inotify", "files"]
HOME += ["export", "export", "export", "profiles", "cache"]
NODE = ["python", "kernel", "namespaces", "/dev/fuse", "pids", "migration", "memory", "cache"]
NODE += ["clock", "agent", "speed"]
SSH = ["ssh", "key"]


def examined(person: Person, *words: str, status: int = 0) -> list[dict[str, object]]:
    done = person.run("mlaunch", "doctor", "--json", *words)
    assert (done.returncode, done.stderr) == (status, b""), done.stdout
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def told(person: Person, check: str) -> list[str]:
    """Return what is found of that at home, each with its remedy."""
    found = examined(person, "home")
    return [f"{item['text']} {item['remedy']}".strip() for item in found if item["check"] == check]


def test_all_is_well_on_good_nodes(person: Person) -> None:
    person.config(node_entry("n1") + node_entry("n2"))
    done = person.run("mlaunch", "doctor")
    assert done.returncode == 0, done.stdout
    lines = [
        line.replace("open files", "files").split() for line in done.stdout.decode().split("\n")
    ]
    expected = [["home", check, "ok"] for check in HOME]
    expected += [[node, check, "ok"] for node in ("n1", "n2") for check in SSH + NODE]
    assert [line[:3] for line in lines if line] == expected


def test_the_first_thing_that_fails_is_told_with_what_to_do(person: Person) -> None:
    person.config(node_entry("n1"))
    person.write(".ssh/known_hosts", "")
    done = person.run("mlaunch", "doctor", "n1")
    assert done.returncode == 1
    (line,) = done.stdout.decode().splitlines()
    assert line.split()[:3] == ["n1", "ssh", "FAILS"]
    assert "remedy: to accept it: ssh n1" in line


def test_a_bad_node_does_not_hide_a_good_one(person: Person) -> None:
    person.config(node_entry("bad", "127.0.0.1") + "port = 1\n" + node_entry("n1"))
    found = examined(person, "--quick", status=1)
    assert [item["check"] for item in found if item["node"] == "bad"] == ["ssh"]
    assert [item["check"] for item in found if item["node"] == "n1"] == SSH + NODE[:-1]
    assert [item["state"] for item in found].count("fails") == 1


def test_without_a_node_this_machine_is_examined_as_one(person: Person) -> None:
    found = examined(person)
    assert [item["check"] for item in found if item["node"] == "local"] == NODE
    assert {item["node"] for item in found} == {"home", "local"}


def test_lines_fit_a_terminal_of_80_columns(person: Person) -> None:
    person.config(node_entry("n1"))
    place = (f"HOME={person.folder}", f"XDG_RUNTIME_DIR={person.folder}/run", "TERM=xterm")
    done = person.home.run(("env", *place, "mlaunch", "doctor", "--quick"), tty=True)
    text = re.sub(r"\x1b\[[\d;]*m", "", done.stdout.decode())
    assert "n1" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_speed_is_that_of_the_link(cluster: Cluster, person: Person) -> None:
    cluster.node("n2").set_link(rtt_ms=20, mbit=8)
    person.config(node_entry("n2"))
    values = examined(person, "n2")[-1]["values"]
    assert isinstance(values, dict)
    assert values["rtt_ms"] >= 20
    for direction in ("to_node_bytes_per_s", "to_home_bytes_per_s"):
        assert 100_000 < values[direction] < 1_100_000
    assert values["speed"] > 0
    assert values["home_speed"] > 0


def test_the_daemon_is_told_of_but_not_started(person: Person) -> None:
    assert told(person, "daemon") == ["does not run; the next mrun starts it"]
    person.nodes()
    (running,) = told(person, "daemon")
    assert re.match(r"mlaunch \S+, protocol \d+, since .*, 0 guests$", running)


def test_the_export_policy_is_told_in_words(person: Person) -> None:
    person.write(".aws/credentials", "key")
    person.write(".netrc", "key")
    person.config(
        '[export]\nhidden = ["~/diary", "~/gone"]\n'
        'visible = ["~/.ssh", "~/x"]\nreadonly = ["/usr"]\n'
    )
    person.write("diary/today", "dear")
    words = told(person, "export")
    assert words[0].startswith("hidden: ~/.aws/, ~/.netrc, ~/diary/ (and ")
    assert words[1] == "node's own: /proc, /sys, /dev"
    assert words[2] == "read-only: /usr/"
    mistakes = [word.partition(" see ")[0] for word in words[4:]]
    assert mistakes == [
        f"hidden {person.folder}/gone does not exist",
        "~/.ssh/ is shown to nodes, since it is in visible",
        f"visible {person.folder}/x is not on the list of hidden paths",
    ]


def test_few_open_files_are_noted(person: Person) -> None:
    done = person.run("prlimit", "--nofile=512:512", "mlaunch", "doctor", "home")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.decode().splitlines() if "open files" in line]
    assert "note " in line
    assert "limits.conf" in line


def test_a_damaged_profile_is_noted_and_sizes_are_told(person: Person) -> None:
    person.write(".local/state/mlaunch/profiles.sqlite", "x" * 2048)
    person.write(".local/state/mlaunch/profiles.sqlite.corrupt-1", "x")
    sizes, damaged = told(person, "profiles")
    assert "profiles 2 KiB" in sizes
    assert "rm " in damaged
    assert "profiles.sqlite.corrupt-1" in damaged


def test_a_name_that_is_nearly_right_is_suggested(person: Person) -> None:
    person.config(node_entry("n1"))
    assert "no node n3 (did you mean n1?)" in person.refused("mlaunch", "doctor", "n3")
    assert "(did you mean n1?)" in person.refused("mlaunch", "nodes", "remove", "nn1")
    done = person.run("mrun", "-n", "n3", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"mrun: no node n3 (did you mean n1?)\n"
