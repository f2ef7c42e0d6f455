"""What a native build gives: built once on this machine, in a home of its own, and kept.

The key holds all that goes into a build, so that another compiler or source makes another oracle.
"""

from __future__ import annotations

import inspect
import os
import subprocess

from tests.cluster import Cluster, images
from tests.projects import builds
from tests.projects.builds import Outcome
from tests.projects.catalog import Project

TOOLS = ("gcc", "g++", "cpp", "binutils", "libc6-dev", "make", "cmake", "ninja-build", "bash")


def _versions() -> str:
    query = ("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *TOOLS)
    return subprocess.run(query, stdout=subprocess.PIPE, check=True, text=True).stdout


def native(project: Project) -> Outcome:
    """Return the outcome of the native build."""

    def make(path: str) -> None:
        with Cluster(f"oracle-{os.getpid()}", nodes=0) as cluster:
            cpus = sorted(os.sched_getaffinity(0))
            cluster.home.set_cpus(cpus)
            builds.lay(cluster.home, project)
            outcome, _ = builds.build(cluster.home, project, len(cpus), under_mrun=False)
        if any(outcome.statuses):
            raise RuntimeError(f"{project.name} cannot be built natively: {outcome.outputs[-1]}")
        with open(f"{path}/outcome.json", "w") as file:
            file.write(outcome.dump())

    recipe = (project.steps, project.environment, project.unsteady, project.unordered)
    how = (repr(recipe), builds.SNAPSHOT, inspect.getsource(builds.steady_lines))
    inputs = (project.source(), _versions(), *how)
    folder = images.built(f"projects/{project.name}-oracle", inputs, make)
    with open(f"{folder}/outcome.json") as file:
        return Outcome.load(file.read())
