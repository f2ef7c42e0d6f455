"""`mlaunch nodes`: show, add and remove nodes."""

from __future__ import annotations

import json
from typing import Any

import click

from mlaunch import client, completing, config, sshconfig
from mlaunch.errors import LaunchError
from stubs.link import runtime

# What `nodes --json` prints of a node; scripts rely on it.
KEYS = (
    "name",
    "host",
    "state",
    "cpus",
    "idle_cpus",
    "load1",
    "memory_available_bytes",
    "rtt_ms",
    "guests",
    "reason",
)

# How long nodes that are just being connected are waited for.
SHOW_WAIT_S = 5.0
ADD_WAIT_S = 12.0


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead.")
@click.pass_context
def nodes(context: click.Context, as_json: bool) -> None:
    """Show every node: state, CPUs, load, memory, distance, guests, reason."""
    if context.invoked_subcommand:
        return
    found = client.ask({"do": "nodes", "wait": SHOW_WAIT_S})["nodes"]
    if as_json:
        for node in found:
            node["reason"] = str(LaunchError(node["reason"], node["remedy"]))
        click.echo(json.dumps([{key: node[key] for key in KEYS} for node in found], indent=2))
        return
    from mlaunch.display import show_nodes

    show_nodes(found)
    if not config.load(runtime.config_path()).nodes:
        click.echo(
            "no node is configured: programs run on the embedded node local\n"
            "to add one: mlaunch nodes add NAME [USER@]HOST[:PORT]"
        )


@nodes.command()
@click.argument("name")
@click.argument("address", metavar="[USER@]HOST[:PORT]")
def add(name: str, address: str) -> int:
    """Write a node into the configuration and try to reach it.

    The exit status is 0 when the node can be used, 1 when it was added but cannot.
    """
    problem = config.name_problem(name)
    if problem:
        raise LaunchError(problem)
    node = _parse(name, address)
    config.add_node(runtime.config_path(), node)
    found = client.ask({"do": "nodes", "name": name, "wait": ADD_WAIT_S})["nodes"][0]
    if found["state"] == "ready":
        click.echo(f"{name} is ready: {_facts(found)}")
        return 0
    reason = found["reason"] or found["state"]
    click.echo(f"{name} is added, but cannot be used yet: {reason}")
    if found["remedy"]:
        click.echo(f"remedy: {found['remedy']}")
    return 1


@nodes.command()
@click.argument("name", shell_complete=completing.configured)
def remove(name: str) -> None:
    """Take a node out of the configuration; bodies that run there are not disturbed."""
    config.remove_node(runtime.config_path(), name)
    client.ask_if_running({"do": "status"})  # makes it look at the configuration
    click.echo(f"{name} is removed")


def _parse(name: str, address: str) -> config.Node:
    user, at, place = address.rpartition("@")
    host, port = sshconfig.split_port(place)
    problem = config.host_problem(host)
    if problem or (at and not user):
        raise LaunchError(problem or f"{address!r}: the user is missing", "[USER@]HOST[:PORT]")
    if port is None and ":" in host and host.count(":") == 1:
        raise LaunchError(f"{address!r}: the port is no number", "[USER@]HOST[:PORT]")
    if port is not None and not 0 < port < 65536:
        raise LaunchError(f"{address!r}: there is no port {port}")
    return config.Node(name, host, user or None, port)


def _facts(node: dict[str, Any]) -> str:
    facts = node["facts"]
    parts = [f"{node['cpus']:g} CPUs", f"python {facts['python']}", f"Linux {facts['release']}"]
    if node["rtt_ms"] is not None:
        parts.append(f"{node['rtt_ms']:.1f} ms away")
    return ", ".join(parts)
