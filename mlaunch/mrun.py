"""mrun: run one program so that its body computes on an idle machine.

Parses its options itself: this must start fast, and on a bare checkout where nothing but python3
is installed; the module getopt alone takes as long to import as all of this. What is done then is
stubs.home.run.session.
"""

from __future__ import annotations

import os
import signal
import sys

from mlaunch import __version__
from stubs.home.run.errors import FAILED, MrunError, say
from stubs.home.run.options import Options

# The module typing takes 5 ms to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

USAGE = """\
Usage: mrun [options] PROGRAM [ARGS...]
       mrun [options] --recover FILE

Run PROGRAM so that its body computes on an idle machine; files, terminal, signals
and exit status stay at home. Options end at PROGRAM. A program that starts others
stays at home, and each of those is placed on its own: mrun make -j8 spreads a build.

  -n, --node NAME        run the body of PROGRAM on that node (home: at home)
      --only NAME[,...]  consider these nodes only
      --stay             no automatic migration
      --recover FILE     go on from a checkpoint, which mlaunch checkpoint has written
      --checkpoint-every MINUTES  write a checkpoint of PROGRAM so often;
                         if its node is lost it goes on from the last, where that is sound
      --no-fallback      exit with 125 rather than run at home for want of a node
      --stats FILE       write a receipt of the run as JSON when done
      --trace FILE       write the story of the run when done: what ran where and when,
                         for mlaunch report and for Perfetto
      --progress         show on the terminal how PROGRAM comes along on its node
  -v, --verbose          say what is decided and why
  -h, --help             show this and exit
      --version          show the version and exit
"""

MOST_MINUTES = 1e6  # two years

TRY = "try: mrun --help"


class Show(Exception):  # noqa: N818  # not an error
    """The user asked for a text, not for a run."""


def _set_node(options: Options, value: str) -> None:
    if not value:
        raise MrunError("option --node: the name is empty", TRY)
    options.node = value


def _set_only(options: Options, value: str) -> None:
    names = value.split(",")
    if not all(names):
        raise MrunError("option --only: a name is empty", TRY)
    options.only += names


def _set_stats(options: Options, value: str) -> None:
    if not value:
        raise MrunError("option --stats: the name is empty", TRY)
    options.stats = value


def _set_trace(options: Options, value: str) -> None:
    if not value:
        raise MrunError("option --trace: the name is empty", TRY)
    options.trace = value


def _set_recover(options: Options, value: str) -> None:
    if not value:
        raise MrunError("option --recover: the name is empty", TRY)
    options.recover = value


def _set_checkpoint_every(options: Options, value: str) -> None:
    try:
        minutes = float(value)
    except ValueError:
        minutes = 0.0
    # Neither nothing nor what never comes (inf, nan).
    if not 0 < minutes < MOST_MINUTES:
        raise MrunError(f"option --checkpoint-every: {value} is no number of minutes", TRY)
    options.checkpoint_s = 60 * minutes


def _set_no_fallback(options: Options) -> None:
    options.fallback = False


def _set_stay(options: Options) -> None:
    options.stay = True


def _set_progress(options: Options) -> None:
    options.progress = True


def _set_verbose(options: Options) -> None:
    options.verbose = True


def _show_help(options: Options) -> None:
    raise Show(USAGE)


def _show_version(options: Options) -> None:
    raise Show(f"mrun (mlaunch) {__version__}\n")


VALUED: dict[str, Callable[[Options, str], None]] = {
    "--checkpoint-every": _set_checkpoint_every,
    "--node": _set_node,
    "--only": _set_only,
    "--recover": _set_recover,
    "--stats": _set_stats,
    "--trace": _set_trace,
}
FLAGS: dict[str, Callable[[Options], None]] = {
    "--stay": _set_stay,
    "--no-fallback": _set_no_fallback,
    "--progress": _set_progress,
    "--verbose": _set_verbose,
    "--help": _show_help,
    "--version": _show_version,
}
SHORT = {"n": "--node", "v": "--verbose", "h": "--help"}


def parse(words: list[str]) -> Options:
    """Return what the command line asks for; raise MrunError when it is wrong, or Show."""
    options = Options([])
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            _apply(options, name, value if equals else None, rest)
        else:
            _apply_short(options, word, rest)
    if options.recover is not None and rest:
        raise MrunError("option --recover takes no program: the checkpoint has one", TRY)
    if not rest and options.recover is None:
        raise MrunError("no program given", TRY)
    options.argv = [os.fsencode(word) for word in rest]
    return options


def _apply_short(options: Options, word: str, rest: list[str]) -> None:
    """Apply the letters of one word; the rest of it is the value of a letter that takes one."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = SHORT.get(letter)
        if name is None:
            raise MrunError(f"unknown option -{letter}", TRY)
        if name in VALUED:
            _apply(options, name, letters or None, rest)
            return
        _apply(options, name, None, rest)


def _apply(options: Options, name: str, value: str | None, rest: list[str]) -> None:
    if name in FLAGS:
        if value is not None:
            raise MrunError(f"option {name} takes no value", TRY)
        FLAGS[name](options)
    elif name in VALUED:
        if value is None:
            if not rest:
                raise MrunError(f"option {name} needs a value", TRY)
            value = rest.pop(0)
        VALUED[name](options, value)
    else:
        raise _unknown(name)


def _unknown(name: str) -> MrunError:
    from mlaunch import suggest

    return MrunError(f"unknown option {name}", suggest.meant(name, [*VALUED, *FLAGS]) or TRY)


def main() -> NoReturn:
    """Be mrun."""
    # Ctrl-C ends us without Python's traceback; ignored, as in a background job, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options = parse(sys.argv[1:])
    except Show as text:
        _show(str(text))
    except MrunError as error:
        say(f"{error.text} ({error.hint})")
        os._exit(error.status)
    # Not before: most of the time until the program starts goes into this import.
    from stubs.home.run.session import run

    run(options)


def _show(text: str) -> NoReturn:
    try:
        os.write(1, text.encode())
    except OSError as error:
        say(f"standard output: {error.strerror}")
        os._exit(FAILED)
    os._exit(0)


if __name__ == "__main__":
    main()
