"""The cluster by hand.

python3 -m tests.cluster --name NAME up [--nodes N] [--cpu SHARE | --cpu HOST=SHARE,…]
python3 -m tests.cluster --name NAME sh HOST [--user USER] [-- COMMAND…]
python3 -m tests.cluster --name NAME fault HOST kill|crash|cut|heal|freeze|thaw|reboot|slow
python3 -m tests.cluster --name NAME link HOST [--rtt MS] [--mbit M]
python3 -m tests.cluster --name NAME down
python3 -m tests.cluster list
"""

import argparse
import fcntl
import os
import selectors
import signal
import sys
import termios
import tty

from tests.cluster.cluster import Cluster, ClusterError
from tests.cluster.host import Host
from tests.cluster.process import HostError, Process
from tests.cluster.spec import STATE_ROOT

FAULTS = ("kill", "crash", "cut", "heal", "freeze", "thaw", "reboot", "slow")
SLOW = 0.1  # of a CPU


def _shares(text: str) -> dict[str, float] | float:
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.split("=") for part in text.split(","))
        return {host: float(share) for host, share in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"not SHARE or HOST=SHARE,…: {text}") from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="dev")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up")
    up.add_argument("--nodes", type=int, default=1)
    up.add_argument("--cpu", type=_shares)
    sh = actions.add_parser("sh")
    sh.add_argument("host")
    sh.add_argument("--user", default="alice")
    fault = actions.add_parser("fault")
    fault.add_argument("host")
    fault.add_argument("fault", choices=FAULTS)
    link = actions.add_parser("link")
    link.add_argument("host")
    link.add_argument("--rtt", type=float, default=0)
    link.add_argument("--mbit", type=float, default=0)
    actions.add_parser("down")
    actions.add_parser("list")
    # Whatever follows "--" is the command's; argparse would look for options in it.
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.command = words[end + 1 :]
    return options


def _copy_size(process: Process) -> None:
    assert process.stdin is not None
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(process.stdin, termios.TIOCSWINSZ, size)


def _on_terminal(host: Host, command: list[str], user: str) -> int:
    """Run a command on a terminal of the host that is shown on ours."""
    process = host.popen(command, user=user, tty=True)
    assert process.stdin is not None
    assert process.stdout is not None
    _copy_size(process)
    signal.signal(signal.SIGWINCH, lambda *_: _copy_size(process))
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, (0, process.stdin.fileno()))
            selector.register(process.stdout, selectors.EVENT_READ, (process.stdout.fileno(), 1))
            while True:
                for key, _ in selector.select():
                    source, target = key.data
                    try:
                        data = os.read(source, 65536)
                    except OSError:
                        data = b""  # EIO: the last user of the terminal has gone
                    if not data:
                        return process.wait()
                    os.write(target, data)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _shell(host: Host, command: list[str], user: str) -> int:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _on_terminal(host, command or ["bash", "-l"], user)
    with host.popen(command or ["bash", "-l"], user=user, stdin=0, stdout=1, stderr=2) as process:
        return process.wait()


def main() -> int:
    """Do what the command line says; return the exit status."""
    options = _arguments()
    if options.action == "list":
        if os.path.isdir(STATE_ROOT):
            print(*sorted(e.name for e in os.scandir(STATE_ROOT) if e.is_dir()), sep="\n")
        return 0
    if options.action == "up":
        cluster = Cluster(options.name, options.nodes, options.cpu)
        cluster.up(persist=True)
        print(*(f"{host.name} {host.address}" for host in (cluster.home, *cluster.nodes)), sep="\n")
        return 0
    if options.action == "down":
        Cluster(options.name).down()
        return 0
    host = Cluster.attach(options.name).node(options.host)
    if options.action == "sh":
        code = _shell(host, options.command, options.user)
        return code if code >= 0 else 128 - code
    if options.action == "link":
        host.set_link(rtt_ms=options.rtt, mbit=options.mbit)
    elif options.fault == "slow":
        host.set_cpu(SLOW)
    else:
        getattr(host, options.fault)()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ClusterError, HostError, OSError, ValueError) as error:
        sys.exit(f"tests.cluster: {error}")
