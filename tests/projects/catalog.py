"""The projects: where each comes from, how it is built, and what differs between native builds.

What may differ is given by path and by line, each with its reason; everything else must be equal
to the last byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.projects import small, sources

Words = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One command of a build; with make's or ctest's `-j` where it can run in parallel."""

    argv: Words
    parallel: Words = ()  # put between argv[0] and the rest, {jobs} replaced
    # Of stdout, as regular expressions: lines that tell a time, or that come or not as parallel
    # commands happen to meet.
    unsteady_lines: Words = ()

    def command(self, jobs: int) -> Words:
        """Return the words to run."""
        parallel = (word.format(jobs=jobs) for word in self.parallel)
        return (self.argv[0], *parallel, *self.argv[1:])


@dataclass(frozen=True)
class Project:
    """What is built and how."""

    name: str
    source: Callable[[], str]
    steps: tuple[Step, ...]
    environment: dict[str, str] = field(default_factory=dict)
    # (pattern of paths, regular expression): matches are not compared; empty: the whole content.
    unsteady: tuple[tuple[str, str], ...] = ()
    unordered: Words = ()  # patterns of files whose lines come in the order of parallel commands

    @property
    def directory(self) -> str:
        """Where it is built, always: some write their path into what they make."""
        return f"/home/alice/build/{self.name}"


MAKE_JOBS = ("-j{jobs}",)
# make tells when it enters a directory whenever the output before came from elsewhere.
MAKE_CHATTER = (r"^make\[\d+\]: (Entering|Leaving) directory",)

KERNEL_ENVIRONMENT = {
    "KBUILD_BUILD_TIMESTAMP": "Mon Jan  1 00:00:00 UTC 2024",
    "KBUILD_BUILD_USER": "alice",
    "KBUILD_BUILD_HOST": "home",
    "KBUILD_BUILD_VERSION": "1",
}


def _kernel(name: str, *targets: str) -> Project:
    return Project(
        name=name,
        source=sources.kernel_source,
        steps=(Step(("make", *targets), MAKE_JOBS, MAKE_CHATTER),),
        environment=KERNEL_ENVIRONMENT,
    )


KERNEL = _kernel("linux", "vmlinux")
KERNEL_PART = _kernel("linux-mm", "prepare", "mm/")

JSONCPP = Project(
    name="jsoncpp",
    source=lambda: sources.debian_source("libjsoncpp"),
    steps=(
        Step(
            ("cmake", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-S", ".", "-B", "out"),
            # "(0.4s)" of newer releases
            unsteady_lines=(r"^-- (Configuring|Generating) done",),
        ),
        # It numbers its commands as they end, and runs the unit tests at the end of the build.
        Step(("ninja", "-C", "out"), MAKE_JOBS, (r"^\[\d+/\d+\]",)),
        # The one left out writes the same files as its neighbour: not to be run side by side.
        Step(
            ("ctest", "--test-dir", "out", "--exclude-regex", "json_checker"),
            MAKE_JOBS,
            (r"^ *\d+/\d+ Test|^ +Start ", r"^Total Test time"),
        ),
    ),
    unsteady=(
        ("out/CMakeFiles/CMake*.log", ""),  # names of temporary directories, by chance
        ("out/.ninja_log", ""),  # times
        ("out/.ninja_deps", ""),  # times, in the order in which commands ended
        ("out/Testing/Temporary/LastTest.log", ""),  # times
        ("out/Testing/Temporary/CTestCostData.txt", ""),  # times
    ),
)

GZIP = Project(
    name="gzip",
    source=lambda: sources.debian_source("gzip"),
    steps=(
        Step(("./configure",)),
        Step(("make",), MAKE_JOBS, MAKE_CHATTER),
        Step(("make", "check"), MAKE_JOBS, MAKE_CHATTER),
    ),
    unsteady=(
        # names of temporary files by chance, times
        ("config.log", r"/tmp/cc\w+|\bcc\w{6}\.[os]\b|^.*uptime.*$"),
        # Traces of shells ("set -x"), written by all processes of a pipeline into the middle of
        # each other's lines; the results are in the .trs files beside them.
        ("tests/*.log", ""),
    ),
)

SMALL = Project(
    name="small",
    source=lambda: sources.written("small", sorted(small.files().values()), small.write),
    steps=(Step(("make", "check"), MAKE_JOBS, MAKE_CHATTER),),
)
