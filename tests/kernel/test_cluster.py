"""The test cluster itself: what is tested on it can be no better than it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterError, Host, HostError, wait_until
from tests.cluster.cgroup import clusters_with_groups
from tests.cluster.cluster import CHECKOUT
from tests.cluster.spec import STATE_ROOT

CONNECT = """
import socket, sys, time
begin = time.monotonic()
socket.create_connection((sys.argv[1], 22), timeout=5).close()
print(time.monotonic() - begin)
"""
BURN = ("python3", "-c", "while True: pass")


def connect_seconds(home: Host, node: str) -> float:
    times = [float(home.run(("python3", "-c", CONNECT, node), check=True).stdout) for _ in range(3)]
    return min(times)


def load(host: Host) -> float:
    return float(host.read("/proc/loadavg").split()[0])


def busy_ticks(host: Host) -> tuple[int, int]:
    """Return (busy, all) of /proc/stat's first line."""
    ticks = [int(word) for word in host.read("/proc/stat").split(b"\n")[0].split()[1:]]
    return ticks[0] + ticks[2], sum(ticks)


@pytest.mark.parametrize("user", ["alice", "bob", "root"])
def test_ssh_leads_from_home_to_a_node_as_the_same_user(home: Host, user: str) -> None:
    said = home.run(("ssh", "n1", "whoami; hostname"), user=user, check=True).stdout
    assert said.split() == [user.encode(), b"n1"]


def test_a_user_has_another_number_on_a_node(cluster: Cluster) -> None:
    numbers = [int(host.run(("id", "-u")).stdout) for host in (cluster.home, cluster.node("n1"))]
    assert numbers == [2000, 3001]


def test_another_user_is_kept_out(cluster: Cluster) -> None:
    for host in (cluster.home, cluster.node("n1")):
        host.write("/tmp/secret", b"alice's")
        host.run(("chmod", "600", "/tmp/secret"), check=True)
        assert host.run(("cat", "/tmp/secret"), user="bob").returncode == 1
        assert host.read("/tmp/secret", user="alice") == b"alice's"
        host.run(("rm", "/tmp/secret"), check=True)


def test_nothing_written_at_home_reaches_the_machine(home: Host, tmp_path: Path) -> None:
    mine = tmp_path / "file"
    mine.write_text("the machine's")
    home.run(
        ("sh", "-c", f"rm -rf {tmp_path} && echo x > /etc/left-by-test"), user="root", check=True
    )
    assert home.run(("test", "-e", str(mine)), user="root").returncode == 1
    assert mine.read_text() == "the machine's"
    assert not Path("/etc/left-by-test").exists()
    home.run(("rm", "/etc/left-by-test"), user="root", check=True)


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > /proc/sys/vm/drop_caches",
        "mknod /tmp/disk b $(stat -c '0x%Hd 0x%Ld' /) 2>&1 && head -c 1 /tmp/disk",
        "touch /opt/mlaunch/stubs/x",
        "date -s 2000-01-01",
    ],
)
def test_root_in_a_host_has_no_power_over_the_machine(home: Host, command: str) -> None:
    assert home.run(("sh", "-c", command), user="root").returncode != 0


def test_a_node_has_none_of_homes_programs(cluster: Cluster) -> None:
    for program in ("gcc", "git", "make", "vim", "mrun"):
        look = ("sh", "-c", f"command -v {program}")
        assert cluster.node("n1").run(look).returncode != 0
    assert cluster.node("n1").run(("python3", "-c", "import paramiko")).returncode == 1


def test_home_runs_the_checkout_as_installed(home: Host) -> None:
    code = "import mlaunch, paramiko, click; print(mlaunch.__file__)"
    said = home.run(("/opt/mlaunch-venv/bin/python3", "-c", code), cwd="/", check=True).stdout
    assert said == b"/opt/mlaunch/mlaunch/__init__.py\n"
    assert home.run(("sh", "-c", "command -v mrun && command -v mlaunch")).returncode == 0


def test_an_ordinary_user_can_have_namespaces_and_fuse_on_a_node(cluster: Cluster) -> None:
    script = "mount -t tmpfs t /mnt && echo 300 > /proc/sys/kernel/ns_last_pid && : <> /dev/fuse"
    command = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc")
    cluster.node("n1").run((*command, "sh", "-c", script), check=True)


def test_a_node_can_be_without_user_namespaces(cluster: Cluster) -> None:
    node = cluster.node("n2")
    node.reboot(userns=False)
    for user in ("alice", "root"):
        refused = node.run(("unshare", "--user", "true"), user=user)
        assert (refused.returncode, b"not permitted" in refused.stderr) == (1, True)
    assert node.run(("unshare", "--mount", "true"), user="root").returncode == 0
    assert cluster.home.run(("ssh", "n2", "true")).returncode == 0
    node.reboot()
    assert node.run(("unshare", "--user", "true")).returncode == 0


def test_a_wiped_node_is_as_new(cluster: Cluster) -> None:
    node = cluster.node("n2")
    node.run(("rm", "/usr/bin/python3"), user="root", check=True)
    node.reboot()
    with pytest.raises(FileNotFoundError):
        node.run(("python3", "-c", ""))
    node.reboot(wipe=True)
    assert node.run(("python3", "-c", "")).returncode == 0


def test_commands_get_what_was_asked_for(home: Host) -> None:
    done = home.run(("sh", "-c", "cat; echo err >&2; exit 3"), input=b"x" * 300_000)
    assert (done.stdout, done.stderr, done.returncode) == (b"x" * 300_000, b"err\n", 3)
    assert home.run(("sh", "-c", "kill -TERM $$")).returncode == -signal.SIGTERM
    assert home.run(("pwd",), cwd="/usr").stdout == b"/usr\n"
    said = home.run(("sh", "-c", "echo $HOME $LANG $EXTRA"), env={"EXTRA": "e"}, user="bob").stdout
    assert said == b"/home/bob C.UTF-8 e\n"
    assert home.run((b"printf", b"%s", b"\xff\n")).stdout == b"\xff\n"
    assert home.run(("sh", "-c", "trap")).stdout == b""
    with pytest.raises(FileNotFoundError):
        home.run(("no-such-program",))
    with pytest.raises(NotADirectoryError):
        home.run(("true",), cwd="/etc/passwd")


def test_a_command_can_have_a_terminal(home: Host) -> None:
    done = home.run(("sh", "-c", "tty; stty size; read x; echo got $x"), tty=True, input=b"word\n")
    said = done.stdout.split(b"\r\n")
    # The echo of what is typed comes whenever it is typed.
    assert said.index(b"word") < said.index(b"got word")
    said.remove(b"word")
    assert said == [b"/dev/pts/0", b"24 80", b"got word", b""]


def test_a_command_inherits_its_three_streams_and_nothing_else(home: Host) -> None:
    for tty in (False, True):
        done = home.run(("sh", "-c", "ls /proc/$$/fd"), tty=tty)
        assert [word for word in done.stdout.split() if int(word) < 10] == [b"0", b"1", b"2"]


def test_a_command_past_its_time_is_killed_with_its_group(home: Host) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        home.run(("sh", "-c", "echo begun; sleep 1000 & sleep 1000"), timeout=0.5)
    assert caught.value.output == b"begun\n"
    wait_until(lambda: not [p for p in home.processes() if "sleep" in p[1]])


def test_signals_reach_a_command(home: Host) -> None:
    with home.popen(
        ("sh", "-c", "trap 'echo caught; exit 7' USR1; echo ready; sleep 60 & wait")
    ) as p:
        assert p.stdout is not None
        assert p.stdout.read(6) == b"ready\n"
        assert (p.pid, "sh") in [(pid, line.split()[0]) for pid, line in home.processes("alice")]
        p.send_signal(signal.SIGUSR1)
        assert p.wait(10) == 7
        assert p.stdout.read(7) == b"caught\n"


def test_a_killed_node_refuses_until_it_is_rebooted(cluster: Cluster) -> None:
    node = cluster.node("n1")
    with cluster.home.popen(("ssh", "n1", "echo begun; exec sleep 1000")) as session:
        assert session.stdout is not None
        assert session.stdout.read(6) == b"begun\n"
        node.kill()
        assert session.wait(10) == 255
    assert node.processes() == []
    refused = cluster.home.run(("ssh", "n1", "true"))
    assert (refused.returncode, b"refused" in refused.stderr) == (255, True)
    node.reboot()
    assert cluster.home.run(("ssh", "n1", "true")).returncode == 0


def test_a_crashed_node_is_silent_and_keeps_its_disk(cluster: Cluster) -> None:
    node = cluster.node("n1")
    node.write("/home/alice/kept", b"on disk")
    with cluster.home.popen(("ssh", "n1", "echo begun; exec sleep 1000")) as session:
        assert session.stdout is not None
        assert session.stdout.read(6) == b"begun\n"
        node.crash()
        late = cluster.home.run(("ssh", "-o", "ConnectTimeout=1", "n1", "true"))
        assert b"timed out" in late.stderr
        # Neither an end nor a reset has come.
        assert session.poll() is None
    with pytest.raises(HostError):
        node.run(("true",))
    with pytest.raises(ClusterError):
        node.freeze()
    node.reboot()
    assert node.read("/home/alice/kept") == b"on disk"
    node.reboot(wipe=True)
    assert node.run(("test", "-e", "/home/alice/kept")).returncode == 1


def test_a_connection_outlives_a_short_cut(cluster: Cluster) -> None:
    with cluster.home.popen(("ssh", "n1", "cat"), stdin=subprocess.PIPE) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write(b"1")
        assert session.stdout.read(1) == b"1"
        cluster.node("n1").cut()
        late = cluster.home.run(("ssh", "-o", "ConnectTimeout=1", "n1", "true"))
        assert b"timed out" in late.stderr
        session.stdin.write(b"2")
        cluster.node("n1").heal()
        assert session.stdout.read(1) == b"2"


def test_a_frozen_node_takes_connections_and_does_nothing(cluster: Cluster) -> None:
    node = cluster.node("n1")
    with node.popen(BURN):
        node.freeze()
        before = node.cpu_seconds()
        assert connect_seconds(cluster.home, "n1") >= 0
        late = cluster.home.run(("ssh", "-o", "ConnectTimeout=1", "n1", "true"))
        assert b"banner exchange" in late.stderr
        assert node.cpu_seconds() == before
        assert " ".join(BURN) in [line for _, line in node.processes("alice")]
        node.thaw()
        wait_until(lambda: node.cpu_seconds() > before)
    assert cluster.home.run(("ssh", "n1", "true")).returncode == 0


def test_a_slow_node_gets_the_share_that_it_was_given(cluster: Cluster) -> None:
    node = cluster.node("n1")
    node.set_cpu(0.1)
    code = "import time\nb = time.monotonic()\nwhile time.process_time() < 0.2: pass\n"
    said = node.run(("python3", "-c", code + "print(time.monotonic() - b)"), check=True).stdout
    assert float(said) > 1.5


def test_a_link_gets_the_round_trip_that_it_was_given(cluster: Cluster) -> None:
    node = cluster.node("n1")
    assert connect_seconds(cluster.home, "n1") < 0.015
    node.set_link(rtt_ms=30)
    assert 0.030 <= connect_seconds(cluster.home, "n1") < 0.045
    assert connect_seconds(cluster.home, "n2") < 0.015
    node.set_link()
    assert connect_seconds(cluster.home, "n1") < 0.015


@pytest.mark.parametrize("rtt_ms", [0, 10])
def test_a_link_gets_the_bandwidth_that_it_was_given(cluster: Cluster, rtt_ms: float) -> None:
    cluster.node("n1").set_link(rtt_ms=rtt_ms, mbit=40)
    code = "head -c 4000000 /dev/zero | ssh n1 'cat > /dev/null'"
    timed = (
        f"import subprocess, time\nb = time.monotonic()\nsubprocess.run([{code!r}], shell=True)\n"
    )
    said = cluster.home.run(("python3", "-c", timed + "print(time.monotonic() - b)"), check=True)
    # 32 Mbit at 40 Mbit/s; what the sockets and queues hold back is allowed for.
    assert 0.6 < float(said.stdout) < 5


def test_each_node_tells_its_own_load(cluster: Cluster) -> None:
    busy, idle = cluster.node("n1"), cluster.node("n2")
    begin = busy_ticks(busy), busy_ticks(idle)
    with busy.popen(BURN):
        wait_until(lambda: load(busy) > load(idle) + 0.05)
        wait_until(lambda: busy_ticks(busy)[0] > begin[0][0] + 200)
    end = busy_ticks(busy), busy_ticks(idle)
    used = [(e[0] - b[0]) / (e[1] - b[1]) for b, e in zip(begin, end, strict=True)]
    # A node that uses all that it may is busy, whatever part of a CPU that is.
    assert used[0] > 0.6
    assert used[1] < 0.2
    assert b"avg10=" in busy.read("/proc/pressure/cpu")


def test_a_node_tells_its_own_memory(cluster: Cluster) -> None:
    node = cluster.node("n1")

    def available() -> int:
        lines = node.read("/proc/meminfo").decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))

    node.set_memory(1 << 30)
    wait_until(lambda: available() < 1 << 20)
    before = available()
    hold = "x = bytearray(200_000_000)\nprint(1, flush=True)\ninput()"
    with node.popen(("python3", "-c", hold), stdin=subprocess.PIPE):
        wait_until(lambda: available() < before - 150_000)


def test_ordinary_work_counts_on_the_host_that_does_it(cluster: Cluster) -> None:
    before = [host.cpu_seconds() for host in (cluster.home, cluster.node("n1"))]
    code = "import time\nwhile time.process_time() < 0.3: pass"
    cluster.home.run(("ssh", "n1", f"python3 -c '{code}'"), check=True)
    after = [host.cpu_seconds() for host in (cluster.home, cluster.node("n1"))]
    assert after[1] - before[1] >= 0.3
    assert after[0] - before[0] < 0.2


def test_inode_numbers_stay_when_a_file_of_the_machine_is_changed_at_home(home: Host) -> None:
    look = ("stat", "-c", "%d %i", "/etc/fstab")
    home.run(("touch", "/etc/fstab"), user="root", check=True)
    before = home.run(look, check=True).stdout
    home.run(("chmod", "600", "/etc/fstab"), user="root", check=True)
    assert home.run(look, check=True).stdout == before


def remains(name: str) -> list[str]:
    """Return what can be seen of a cluster from outside."""
    found = [path for path in clusters_with_groups() if path == f"mlaunch-{name}"]
    if os.path.exists(f"{STATE_ROOT}/{name}"):
        found.append("state")
    with open("/proc/self/mounts") as table:
        found += [line for line in table if name in line]
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/cmdline") as file:
                    line = file.read()
                with open(f"/proc/{entry.name}/cgroup") as file:
                    groups = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"{STATE_ROOT}/{name}\0" in line or f"mlaunch-{name}/" in groups:
                found.append(line)
    return found


def test_down_leaves_nothing_of_a_cluster_in_any_state(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes=3)
    one, two, three = cluster.nodes
    one.run(("sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"), check=True)
    cluster.home.run(("sh", "-c", "mkdir /tmp/m; mount -t tmpfs t /tmp/m"), user="root", check=True)
    one.set_link(rtt_ms=10)
    one.freeze()
    two.crash()
    three.cut()
    assert remains(cluster.name) != []
    cluster.down()
    assert remains(cluster.name) == []


def test_down_clears_up_after_a_supervisor_that_was_killed(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes=1)
    cluster.node("n1").run(("sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"), check=True)
    cluster.node("n1").freeze()
    with open(f"{STATE_ROOT}/{cluster.name}/pid") as file:
        os.kill(int(file.read().split()[0]), signal.SIGKILL)
    with pytest.raises(ClusterError):
        cluster.node("n1").thaw()
    cluster.down()
    # The hosts' first processes are the machine's to reap now, which it does when it gets to it.
    wait_until(lambda: not remains(cluster.name))


def test_a_cluster_ends_with_the_process_that_made_it() -> None:
    name = f"t{os.getpid()}-owner"
    code = (
        "import os, signal, sys\nfrom tests.cluster import Cluster\n"
        f"c = Cluster({name!r}, 1)\nc.up()\nprint('up', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    owner = subprocess.run(
        (sys.executable, "-c", code), cwd=CHECKOUT, stdout=subprocess.PIPE, check=False, timeout=120
    )
    assert (owner.stdout, owner.returncode) == (b"up\n", -signal.SIGKILL)
    wait_until(lambda: not remains(name))


def test_clusters_are_independent_and_have_one_name_each(
    cluster: Cluster, make_cluster: Callable[..., Cluster]
) -> None:
    other = make_cluster(nodes=1)
    other.node("n1").kill()
    assert cluster.home.run(("ssh", "n1", "true")).returncode == 0
    with pytest.raises(ClusterError, match="up already"):
        Cluster(other.name, 1).up()
    other.node("n1").reboot()
    assert other.home.run(("ssh", "n1", "hostname"), check=True).stdout == b"n1\n"


def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    name = f"t{os.getpid()}-cli"

    def cli(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (sys.executable, "-m", "tests.cluster", "--name", name, *words),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    try:
        up = cli("up", "--nodes", "1", "--cpu", "home=0.5")
        assert (up.returncode, up.stdout) == (0, "home 10.77.0.1\nn1 10.77.0.11\n")
        assert cli("sh", "home", "--", "ssh", "n1", "hostname; exit 9").stdout == "n1\n"
        assert cli("sh", "n1", "--user", "bob", "--", "sh", "-c", "exit 9").returncode == 9
        assert cli("fault", "n1", "kill").returncode == 0
        assert cli("sh", "home", "--", "ssh", "n1", "true").returncode == 255
        assert cli("fault", "n1", "reboot").returncode == 0
        assert cli("link", "n1", "--rtt", "5", "--mbit", "100").returncode == 0
        assert cli("sh", "home", "--", "ssh", "n1", "true").returncode == 0
        wrong = cli("fault", "n7", "kill")
        assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    finally:
        assert cli("down").returncode == 0
    assert remains(name) == []
