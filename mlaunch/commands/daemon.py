"""`mlaunch daemon`: what the home daemon does, and its end."""

from __future__ import annotations

import time

import click

from mlaunch import client


@click.group()
def daemon() -> None:
    """Look after the home daemon, which mrun starts by itself."""


@daemon.command()
def status() -> int:
    """Say whether it runs, since when, and which links it has (exit status 1: it does not)."""
    answer = client.ask_if_running({"do": "status"})
    if answer is None:
        click.echo("the home daemon does not run; the next mrun starts it")
        return 1
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer["started"]))
    click.echo(f"mlaunch {answer['version']}, protocol {answer['protocol']}, since {since}")
    for key in ("socket", "log", "config"):
        click.echo(f"{key + ':':9}{answer[key]}")
    rows = [_usage("daemon", answer["pid"], f"{answer['guests']} guests")]
    for node in answer["nodes"]:
        if node["pid"]:
            remark = f"{node['state']}, {node['guests']} guests"
            rows.append(_usage(f"link {node['name']}", node["pid"], remark))
    from mlaunch.display import show_processes

    show_processes(rows)
    return 0


def _usage(name: str, pid: int, remark: str) -> tuple[str, int, float, int, str]:
    import psutil

    try:
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_info()
    except psutil.NoSuchProcess:
        return name, pid, 0.0, 0, "has just ended"
    return name, pid, times.user + times.system, memory.rss, remark


@daemon.command()
def stop() -> None:
    """End it. Programs that run on nodes are not disturbed: their links stay until they end."""
    answer = client.ask_if_running({"do": "stop"})
    if answer is None:
        click.echo("the home daemon does not run")
    elif answer["guests"]:
        click.echo(f"stopped; the links of {answer['guests']} guests stay until these end")
    else:
        click.echo("stopped")
