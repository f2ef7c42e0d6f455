"""`mlaunch why`: why a program runs where it does, or where one would run now."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import click

from mlaunch import client, completing
from mlaunch.columns import Column, clock, lines, printable, size
from mlaunch.errors import LaunchError
from mlaunch.script import interpreted
from mlaunch.states import in_words

# How long nodes that are just being connected are waited for.
WAIT_S = 3.0
# Places shown; the others are counted.
MOST_PLACES = 20

COLUMNS = (
    Column("NODE"),
    Column("FINISH", True),
    Column("IDLE", True),
    Column("CPUS", True),
    Column("SPEED", True),
    Column("RTT", True),
    Column("OURS", True),
    Column("QUEUED", True),
    Column("MEMORY", True),
)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--json", "as_json", is_flag=True, help="Print an object instead.")
@click.argument("target", metavar="PID|PROGRAM", shell_complete=completing.pids_and_programs)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def why(as_json: bool, target: str, arguments: tuple[str, ...]) -> None:
    """Say why a program runs where it does, or where PROGRAM would run now.

    PID is that of a program under mrun, or of an mrun. FINISH is when the program was thought to
    end there, OURS how many programs of ours ran there then, QUEUED how much they had still to do.
    """
    if target.isdigit() and not arguments:
        answer = client.ask_if_running({"do": "why", "pid": int(target)})
        if answer is None:
            text = f"nothing is known of a process {target}: there is no home daemon"
            raise LaunchError(text, "what runs: mlaunch ps", 1)
    else:
        exe, argv = _program(target, arguments)
        question = {"do": "why", "exe": exe, "argv": argv, "cwd": os.getcwd(), "wait": WAIT_S}
        answer = client.ask(question)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for line in process_lines(answer) if answer["pid"] else _would(answer):
        click.echo(line)


def _program(name: str, arguments: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return executable and command line as they are once the kernel has looked at the file."""
    path = name if "/" in name else shutil.which(name)
    if not path or not os.path.isfile(path):
        raise LaunchError(f"{name}: there is no such program", "PID|PROGRAM [ARGS]...", 1)
    return interpreted(path, [name, *arguments])


# in words


def process_lines(answer: dict[str, Any]) -> list[str]:
    """Return what is known of a program that runs, or has run."""
    running = answer["state"] == "running"
    at = time.strftime(" since %H:%M:%S", time.localtime(answer["at"])) if answer["at"] else ""
    verb = "runs" if running else "ran"
    found = [
        f"{answer['pid']}: {printable(' '.join(answer['argv']))}",
        f"{verb} {_where(answer['node'])}{at if running else ''}, under mrun {answer['mrun']}",
        f"because: {printable(answer['reason'])}",
    ]
    if answer["restarts"]:
        found.append(f"restarted: {answer['restarts']} times, its node having been lost")
    if answer.get("lost"):
        found.append(f"lost: {printable(answer['lost'])}")
    if "bodies" in answer:
        found.append(f"bodies of this mrun: {answer['bodies']} (mlaunch ps)")
    found.append(f"expected: {_expected(answer['expected'])}")
    if answer["measured"]:
        found.append(f"measured: {_measured(answer['measured'])}")
    found += [f"moved: {_migration(each)}" for each in answer["migrations"]]
    if running and answer["keeps"] != answer["reason"]:
        found.append(f"moving: {printable(answer['keeps']) or 'nothing keeps it from that'}")
    return found + _ranking(answer)


def _migration(told: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(told["at"]))
    return (
        f"from {printable(told['from'])} to {printable(told['to'])} at {at}, "
        f"{told['frozen_ms']:.0f} ms frozen, {size(told['bytes'])}: {printable(told['why'])}"
    )


def _would(answer: dict[str, Any]) -> list[str]:
    """Return what would become of a program that does not run."""
    found = [printable(" ".join(answer["argv"]))]
    for what, case in (("mrun would run it", answer), ("as a child it runs", answer["child"])):
        found += [
            f"{what} {_where(case['node'])}: {printable(case['reason'])}",
            f"expected: {_expected(case['expected'])}",
            *_ranking(case),
        ]
    return found + _history(answer["history"])


def _history(history: dict[str, Any] | None) -> list[str]:
    if history is None:
        return ["history: it has never run under mrun"]
    shape = "with any arguments" if history["pooled"] else "like this"
    runs = history["runs"]
    found = [
        f"history: {runs} run{'s' * (runs != 1)} {shape}, {history['node_runs']} of them on nodes"
        f" that had its files; {in_words(history['cpu_s'])} of CPU in"
        f" {in_words(history['wall_s'])}, {size(history['memory_bytes'])} of memory"
    ]
    if history["node_runs"]:
        found.append(f"on nodes: {_traffic(history)}")
    last = history["last"]
    if last:
        at = time.strftime("%H:%M:%S", time.localtime(last["at"]))
        found.append(f"last: {_where(last['node'])} at {at}: {printable(last['reason'])}")
    return found


def _where(node: str) -> str:
    return "at home" if node == "home" else f"on {printable(node)}"


def _expected(expected: dict[str, Any]) -> str:
    if expected["stays"]:
        return f"at home, whatever the load: {printable(expected['stays'])}"
    text = f"{in_words(expected['cpu_s'])} of CPU"
    if expected["memory_bytes"]:
        text += f", {size(expected['memory_bytes'])} of memory"
    return f"{text}, {_traffic(expected)} ({printable(expected['why'])})"


def _measured(measured: dict[str, Any]) -> str:
    return (
        f"{measured['cpu_s']:.2f} s of CPU in {clock(measured['wall_s'])},"
        f" {size(measured['rss_bytes'])} of memory, {_traffic(measured)}"
    )


def _traffic(numbers: dict[str, Any]) -> str:
    text = f"{numbers['round_trips']:.0f} round trips"
    for key, where in (("bytes_to_node", "to the node"), ("bytes_to_home", "to home")):
        if numbers[key]:
            text += f", {size(numbers[key])} {where}"
    return text


def _ranking(answer: dict[str, Any]) -> list[str]:
    """Return the places that came into question as a table, and those that did not."""
    places = [place for place in answer["ranking"] if "cpus" in place]
    found = []
    # What stays whatever the load, or was sent to a node by name, was compared with nothing.
    if len(places) > 1 or (places and places[0]["finish_s"] and places[0]["name"] != "home"):
        rows = [_cells(place) for place in places[:MOST_PLACES]]
        found += [f"  {line}" for line in lines(COLUMNS, rows, None)]
        if len(places) > MOST_PLACES:
            found.append(f"  and {len(places) - MOST_PLACES} more")
    if answer["rejected"]:
        found.append(f"out of the question: {rejected(answer['rejected'])}")
    return found


def rejected(groups: list[dict[str, Any]]) -> str:
    """Return who was rejected, by reason: 2 nodes: no /dev/fuse (n3, n4); 1: still connecting."""
    parts = []
    for number, group in enumerate(groups):
        names = group["nodes"]
        count = f"{len(names)} node{'s' * (len(names) != 1)}" if not number else str(len(names))
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        parts.append(printable(f"{count}: {group['reason']} ({shown})"))
    return "; ".join(parts)


def _cells(place: dict[str, Any]) -> list[str]:
    return [
        printable(place["name"]),
        in_words(place["finish_s"]).replace(" ", ""),
        f"{place['idle_cpus']:.1f}",
        f"{place['cpus']:.1f}",
        f"{place['speed']:.2f}",
        f"{place['rtt_ms']:.1f}ms",
        str(place["slots_used"]),
        in_words(place["queued_s"]).replace(" ", ""),
        size(place["memory_available_bytes"]),
    ]
