"""Somebody with a home directory of his own, who has mlaunch for himself."""

import itertools
import json
import subprocess

from tests.cluster import Host

_numbers = itertools.count(1)


class Person:
    """Somebody at home, by an own HOME."""

    def __init__(self, home: Host) -> None:
        self.home = home
        self.folder = f"/home/alice/person-{next(_numbers)}"
        script = f"mkdir -p {self.folder}/run; cp -r /home/alice/.ssh {self.folder}/.ssh"
        home.run(("sh", "-ec", script), check=True)
        self.ssh_config("")

    def close(self) -> None:
        """Leave nothing."""
        self.run("mlaunch", "daemon", "stop")
        self.home.run(("rm", "-rf", self.folder), user="root", check=True)

    def run(self, *argv: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        named = [f"{name}={value}" for name, value in more.items()]
        place = (f"HOME={self.folder}", f"XDG_RUNTIME_DIR={self.folder}/run")
        return self.home.run(("env", *place, *named, *argv), timeout=60)

    def shell(self, script: str) -> bytes:
        done = self.run("bash", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, path: str, text: str, mode: str = "600") -> None:
        full = f"{self.folder}/{path}"
        self.home.run(("mkdir", "-p", full.rpartition("/")[0]), check=True)
        self.home.write(full, text.encode())
        self.home.run(("chmod", mode, full), check=True)

    def ssh_config(self, text: str) -> None:
        """Write ~/.ssh/config; the key that nodes accept is where ssh looks by itself."""
        self.write(".ssh/config", text)

    def config(self, text: str) -> None:
        self.write(".config/mlaunch/config.toml", text)

    def nodes(self) -> dict[str, dict[str, object]]:
        done = self.run("mlaunch", "nodes", "--json")
        assert done.returncode == 0, done.stderr
        return {node["name"]: node for node in json.loads(done.stdout)}

    def refused(self, *argv: str) -> str:
        """Run what must fail with 125; return the one line that it says."""
        done = self.run(*argv)
        assert (done.returncode, done.stdout) == (125, b"")
        said = done.stderr.decode()
        assert said.startswith("mlaunch: ")
        assert said.count("\n") == 1
        return said

    def assert_usable(self, name: str) -> None:
        node = self.nodes()[name]
        assert (node["state"], node["reason"]) == ("ready", "")

    def reason(self, name: str) -> str:
        node = self.nodes()[name]
        assert node["state"] == "unusable"
        return str(node["reason"])
