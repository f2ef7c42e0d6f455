"""`mlaunch doctor`: for each node what works, and if not, why and what to do."""

from __future__ import annotations

import click

from mlaunch import doctor as examination


@click.command()
@click.argument("node", required=False)
def doctor(node: str | None) -> int:
    """Say for each node what works: ssh, key, python, kernel, namespaces, /dev/fuse, agent.

    The exit status is 0 when all is well, 1 otherwise.
    """
    findings = examination.examine(node)
    from mlaunch.display import show_findings

    show_findings([(f.node, f.check, f.good, f.text, f.remedy) for f in findings])
    return 0 if all(finding.good for finding in findings) else 1
