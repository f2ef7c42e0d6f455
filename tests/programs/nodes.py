"""What alice has to do so that her home knows nodes, and the words that put a program on one."""

from tests.cluster import Cluster, Host

CONFIG = "/home/alice/.config/mlaunch/config.toml"


def on(node: str) -> tuple[str, ...]:
    """Return the words before a program that put its body on a node, or fail."""
    return ("mrun", "-n", node, "--no-fallback")


def node_entry(name: str, host: str = "") -> str:
    """Return the lines of the configuration that make a node known."""
    return f'[[node]]\nname = "{name}"\nhost = "{host or name}"\n'


def configure(home: Host, text: str) -> None:
    """Replace alice's configuration."""
    home.run(("mkdir", "-p", CONFIG.rpartition("/")[0]), check=True)
    home.write(CONFIG, text.encode())


def add_nodes(home: Host, *names: str) -> None:
    """Configure just these nodes of the cluster."""
    configure(home, "\n".join(node_entry(name) for name in names))


def connect(cluster: Cluster) -> None:
    """Have a link with each node: while nodes connect, others are chosen among those there."""
    started = [cluster.home.popen((*on(node.name), "true")) for node in cluster.nodes]
    for process in started:
        with process:
            assert process.wait(60) == 0
