"""`mlaunch doctor`: what works at home and on each node, and if not, why and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mlaunch import completing

if TYPE_CHECKING:
    from mlaunch.findings import Finding


@click.command()
@click.argument("node", required=False, shell_complete=completing.nodes)
@click.option("--quick", is_flag=True, help="Do not measure the links.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead.")
def doctor(node: str | None, quick: bool, as_json: bool) -> int:
    """Examine home and every node, or just NODE (home: this machine as home).

    Says what works (ok), what works not as well as it could (note), what fails, and the remedy; how
    far each node is and how fast; what nodes see of home. The exit status is 0 when nothing fails,
    1 otherwise.
    """
    # Not before: who completes a word has no use for them.
    from mlaunch.doctor import Doctor

    examination = Doctor(node, quick=quick)
    width = max(map(len, examination.names))
    found: list[Finding] = []
    for of_one in examination.examine():
        found += of_one
        if not as_json:
            from mlaunch.display import show_findings

            show_findings(of_one, width)
    if as_json:
        click.echo(json.dumps([finding.as_json() for finding in found], indent=2))
    return 0 if all(finding.good for finding in found) else 1
