"""The README's first command, on a machine with nothing but python3: a node of the cluster."""

import re
import subprocess
from pathlib import Path

from tests.cluster import Cluster, Host, wait_until

CHECKOUT = Path(__file__).parents[2]


def readme_command() -> str:
    """Return what the README tells a newcomer to type, without the clone."""
    text = (CHECKOUT / "README.md").read_text()
    match = re.search(r"^ +git clone \S+ mlaunch && cd mlaunch && (.+)$", text, re.MULTILINE)
    assert match is not None
    return match[1]


def ours(machine: Host) -> list[str]:
    """Return what runs there from the checkout; the machine may be a node of others, too."""
    marks = ("mlaunch: daemon", "mlaunch: link", "/checkout")
    return [words for _, words in machine.processes("alice") if any(m in words for m in marks)]


def end_daemon(machine: Host) -> None:
    """Ask the daemon to end as a user without the mlaunch command would."""
    for pid, words in machine.processes("alice"):
        if words == "mlaunch: daemon":
            machine.run(("kill", str(pid)), check=True)


def test_the_first_command_of_the_readme_runs_on_a_bare_checkout(cluster: Cluster) -> None:
    machine = cluster.node("n2")
    archive = subprocess.run(
        ("tar", "-C", CHECKOUT, "-c", "mlaunch", "stubs", "README.md"), stdout=-1, check=True
    ).stdout
    unpack = "rm -rf checkout && mkdir checkout && tar -C checkout -x"
    machine.run(("sh", "-c", unpack), input=archive, check=True)
    done = machine.run(("sh", "-c", readme_command()), cwd="/home/alice/checkout")
    try:
        assert done.returncode == 0, done.stderr
        assert b"mrun: gzip runs on local: " in done.stderr
        same = ("sh", "-c", "zcat README.md.gz | cmp - README.md")
        machine.run(same, cwd="/home/alice/checkout", check=True)
        missing = machine.run(("python3", "-m", "mlaunch", "nodes"), cwd="/home/alice/checkout")
        assert missing.returncode == 125
        assert b"click" in missing.stderr
    finally:
        end_daemon(machine)
    wait_until(lambda: not ours(machine), what="everything of mlaunch to end")
