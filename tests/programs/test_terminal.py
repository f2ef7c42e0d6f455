"""Interactive programs in a terminal, natively and on a node: the same keys, the same screen."""

import itertools
import re
from collections.abc import Iterator

import pytest

from tests.cluster import Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on

NATIVE = ""
ON_NODE = " ".join(on("n1")) + " "

# tmux shows no blanks at the end of a line.
PROMPT = r"\$"

BASH = "env PS1='$ ' HISTFILE= bash --norc --noprofile"

_names = itertools.count(1)


class Screen:
    """A shell in a terminal of 24 by 80, as its user sees it."""

    def __init__(self, home: Host, directory: str, shell: str = BASH) -> None:
        self._home = home
        self._tmux = ("tmux", "-L", f"screen-{next(_names)}", "-f", "/dev/null")
        size = ("-x", "80", "-y", "24")
        self.tmux("new-session", "-d", *size, "-c", directory, shell)
        self.wait_for(PROMPT)

    def tmux(self, *words: str) -> str:
        done = self._home.run((*self._tmux, *words), check=True)
        return done.stdout.decode(errors="replace")

    def text(self) -> str:
        """Return what is on the screen, without empty lines at its end."""
        return self.tmux("capture-pane", "-p").rstrip()

    def type(self, *keys: str) -> None:
        """Press keys: names as tmux has them (C-c, Enter, Escape), or text."""
        self.tmux("send-keys", *keys)

    def enter(self, line: str) -> None:
        """Type a line of text, whatever is in it."""
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def wait_for(self, pattern: str) -> str:
        """Return the screen once `pattern` (a regular expression for a line) is on it."""
        found = re.compile(f"^(?:{pattern})$", re.MULTILINE)
        seen = [""]

        def look() -> bool:
            seen[0] = self.tmux("capture-pane", "-p")
            return found.search(seen[0]) is not None

        try:
            wait_until(look, 20, pattern)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} on the screen:\n{seen[0]}") from None
        return seen[0].rstrip()

    def status(self) -> str:
        """Return what `$?` is."""
        mark = f"status-{next(_names)}"
        self.enter(f"echo {mark}=$?")
        return self.wait_for(rf"{mark}=\d+").rpartition("=")[2].split()[0]

    def modes(self) -> str:
        """Return the terminal's modes as stty(1) spells them."""
        name = self.tmux("display-message", "-p", "#{pane_tty}").strip()
        return self._home.run(("stty", "-F", name, "-g"), check=True).stdout.decode()

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def screen(ready_home: Host, work: str) -> Iterator[Screen]:
    screen = Screen(ready_home, work)
    yield screen
    screen.close()


@pytest.fixture(params=[NATIVE, ON_NODE], ids=["natively", "on-a-node"])
def mrun(request: pytest.FixtureRequest) -> str:
    """Return what to put before a program."""
    prefix: str = request.param
    return prefix


def test_lines_are_echoed_once_and_control_c_ends(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}cat")
    screen.wait_for(r".*cat")
    screen.enter("hello")
    screen.wait_for(r"hello\nhello")
    screen.type("par")
    screen.wait_for("par")
    screen.type("C-c")
    screen.wait_for(r"par\^C\n\$")
    assert screen.status() == "130"


def test_control_backslash_ends_with_its_signal(screen: Screen, mrun: str) -> None:
    screen.enter("ulimit -c 0")
    screen.enter(f"{mrun}cat")
    screen.enter("there")
    screen.wait_for(r"there\nthere")
    screen.type("C-\\")
    screen.wait_for(r"\^\\.*")
    assert screen.status() == "131"


def test_a_job_is_stopped_listed_and_continued(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}cat")
    screen.enter("one")
    screen.wait_for(r"one\none")
    screen.type("C-z")
    screen.wait_for(r"\[1\]\+  Stopped .*cat")
    screen.enter("jobs")
    screen.wait_for(r"\$ jobs\n\[1\]\+  Stopped .*cat")
    screen.enter("fg")
    screen.wait_for(r"\$ fg\n.*cat")
    screen.enter("two")
    screen.wait_for(r"two\ntwo")
    screen.type("C-d")
    assert screen.status() == "0"


def test_a_background_reader_is_stopped_until_it_is_in_front(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}cat &")
    screen.wait_for(r"\[1\] \d+")
    wait_until(lambda: _stopped(screen), 20, "stopped by the terminal")
    screen.enter("fg")
    screen.enter("now")
    screen.wait_for(r"now\nnow")
    screen.type("C-d")
    assert screen.status() == "0"


def _stopped(screen: Screen) -> bool:
    screen.enter("jobs; echo listed-$((1+1))")
    return "Stopped" in screen.wait_for(r"listed-2").rpartition("jobs;")[2]


def test_a_background_job_goes_on_and_may_write(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}sh -c 'while [ ! -e go ]; do sleep 0.1; done; echo written; exit 3'")
    screen.wait_for(r".*exit 3'")
    # It must run before it can be stopped.
    screen.type("C-z")
    screen.wait_for(r"\[1\]\+  Stopped.*(\n.*)*")
    screen.enter("bg")
    screen.wait_for(r"\[1\]\+ mrun.*(\n.*)* &|\[1\]\+ sh.* &")
    screen.enter("touch go")
    screen.wait_for(r"(\$ )?written")
    # By its pid: once its end has been told, bash knows no job of that number.
    screen.enter("wait $!")
    assert screen.status() == "3"


def test_a_password_is_not_shown(screen: Screen, mrun: str) -> None:
    before = screen.modes()
    screen.enter(f"""{mrun}bash -c 'read -s -p "Password: " x; echo; echo "${{#x}} keys"'""")
    screen.wait_for("Password:")
    screen.enter("secret")
    text = screen.wait_for("6 keys")
    assert "secret" not in text
    assert screen.modes() == before


def test_a_password_is_read_from_the_terminal_when_input_is_a_file(
    screen: Screen, mrun: str
) -> None:
    screen.enter(
        f"""{mrun}bash -c 'read -s -p "Key: " x < /dev/tty 2> /dev/tty; echo "${{#x}} keys"' """
        "< /dev/null 2> /dev/null"
    )
    screen.wait_for("Key:")
    screen.enter("secret")
    text = screen.wait_for("(Key: +)?6 keys")
    assert "secret" not in text


def test_what_is_typed_ahead_is_shown_and_read_once(screen: Screen, mrun: str) -> None:
    script = 'until [ -e go ]; do sleep 0.05; done; read a; read b; echo "[$a|$b]"'
    screen.enter(f"{mrun}sh -c '{script}'")
    screen.wait_for(r".*\]\"'")
    screen.enter("fiirst")
    screen.type("seconx", "BSpace", "d")
    text = screen.wait_for("fiirst\nsecond")
    screen._home.run(("touch", _here(screen) + "/go"), check=True)
    screen.type("Enter")
    text = screen.wait_for(r"\[fiirst\|second\]")
    assert text.count("fiirst") == 2


def _here(screen: Screen) -> str:
    return screen.tmux("display-message", "-p", "#{pane_current_path}").strip()


def test_what_a_program_leaves_unread_is_there_for_the_shell(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}head -n 1")
    screen.wait_for(r".*head -n 1")
    screen.tmux("send-keys", "-l", "for head\recho for the shell\r")
    screen.wait_for(r"for the shell\n\$")


def test_size_and_changes_of_it_arrive(screen: Screen, mrun: str) -> None:
    script = 'trap "stty size" WINCH; stty size; while :; do read -t 0.1 x; done'
    screen.enter(f"{mrun}bash -c '{script}'")
    screen.wait_for("24 80")
    screen.tmux("resize-window", "-x", "100", "-y", "30")
    screen.wait_for("30 100")
    screen.type("C-c")
    screen.wait_for(r"\^C\n\$")


def test_an_editor_is_stopped_continued_and_saves(screen: Screen, mrun: str) -> None:
    before = screen.modes()
    screen.enter(f"{mrun}vim -u NONE -N text")
    screen.wait_for(r'"text" \[New\].*')
    screen.type("i")
    screen.enter("first line")
    screen.type("second line", "Escape")
    screen.wait_for("second line")
    screen.type("C-z")
    screen.wait_for(r"\[1\]\+  Stopped.*")
    assert screen.modes() == before
    screen.enter("fg")
    screen.wait_for("second line\n~(.*\n)*")
    screen.enter(":wq")
    screen.enter("cat text; echo end-$((1+1))")
    text = screen.wait_for("end-2")
    assert "first line\nsecond line" in text.rpartition("cat text")[2]
    assert screen.modes() == before


def test_a_pager_reads_keys_from_the_terminal_and_text_from_a_pipe(
    screen: Screen, mrun: str
) -> None:
    before = screen.modes()
    screen.enter(f"seq 1000 | {mrun}less")
    screen.wait_for(r":")
    screen.type("G")
    screen.wait_for(r"1000\n.*END.*")
    screen.enter("?^50$")
    screen.wait_for("50\n51(\n.*)*")
    screen.tmux("resize-window", "-x", "90", "-y", "12")
    screen.type("g")
    screen.wait_for("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n:")
    screen.type("q")
    assert screen.status() == "0"
    assert screen.modes() == before


def test_a_full_screen_program_starts_and_quits(screen: Screen, mrun: str) -> None:
    before = screen.modes()
    screen.enter(f"{mrun}htop")
    screen.wait_for(r".*F10.*Quit.*")
    screen.type("q")
    assert screen.status() == "0"
    assert screen.modes() == before


def test_python_takes_expressions_and_interrupts(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}python3 -q")
    screen.wait_for(">>>")
    screen.enter("40 + 2")
    screen.wait_for(r"42\n>>>")
    screen.enter("import time; print('asleep'); time.sleep(100)")
    screen.wait_for("asleep")
    screen.type("C-c")
    screen.wait_for(r"KeyboardInterrupt\n>>>")
    screen.type("C-d")
    # Python remembers an interrupt that nobody handled (Modules/main.c).
    assert screen.status() == "130"


def test_a_shell_on_the_node_has_jobs_of_its_own(screen: Screen, mrun: str) -> None:
    before = screen.modes()
    screen.enter(f"PS1='inner> ' {mrun}bash --norc --noprofile -i")
    screen.wait_for("inner>")
    screen.enter("sleep 100")
    screen.wait_for("inner> sleep 100")
    screen.type("C-c")
    screen.wait_for(r"\^C\ninner>")
    screen.enter("cat")
    screen.wait_for("inner> cat")
    screen.type("C-z")
    screen.wait_for(r"\[1\]\+  Stopped +cat\ninner>")
    screen.enter("fg")
    screen.wait_for(r"inner> fg\ncat")
    screen.enter("deep")
    screen.wait_for(r"deep\ndeep")
    screen.type("C-d")
    screen.enter("exit 7")
    screen.wait_for(PROMPT)
    assert screen.status() == "7"
    assert screen.modes() == before


def test_a_shell_for_lines_forgets_an_interrupted_one(screen: Screen, mrun: str) -> None:
    screen.enter(f"PS1='inner> ' {mrun}dash -i")
    screen.wait_for("inner>")
    screen.type("echo lost")
    screen.wait_for(r"inner> echo lost")
    screen.type("C-c")
    screen.wait_for(r"(inner> )?echo lost\^C(\n)+inner>")
    screen.enter("echo kept")
    screen.wait_for(r"kept\ninner>")
    screen.type("C-d")
    screen.wait_for(r"(inner> )?\$")


def test_pipelines_show_straight_lines(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}seq 3 | cat; seq 4 6 | {mrun}cat; {mrun}seq 7 9 | {mrun}tac")
    screen.wait_for("1\n2\n3\n4\n5\n6\n9\n8\n7\n\\$")


def test_control_c_ends_a_whole_pipeline(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}cat | tr a-z A-Z | {mrun}cat")
    screen.wait_for(r".*cat")
    screen.enter("through")
    screen.type("C-d")
    screen.wait_for(r"through\nTHROUGH")
    screen.enter(f"{mrun}sh -c 'echo running; sleep 100' | cat | {mrun}cat")
    screen.wait_for("running")
    screen.type("C-c")
    screen.wait_for(r"\^C\n\$")
    assert screen.status() == "130"


def test_modes_that_a_program_sets_stay(screen: Screen, mrun: str) -> None:
    screen.enter(f"{mrun}stty -echo; {mrun}stty -a | grep -o -- '-echo '")
    screen.wait_for("-echo ?")
    screen.enter(f"{mrun}stty echo")
    screen.enter("echo back")
    screen.wait_for(r"\$ echo back\nback")


VICTIMS = {
    "mrun": (("pkill", "-9", "-f", "^[^ ]*python3 .*mrun -n n1.*vim"), "137"),
    "body": (("pkill", "-9", "-x", "vim"), "137"),
    "link": (("pkill", "-f", "^mlaunch: link n1"), "125"),
    "link-9": (("pkill", "-9", "-f", "^mlaunch: link n1"), "125"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_terminal_is_sane_after_a_kill(ready_home: Host, screen: Screen, victim: str) -> None:
    before = screen.modes()
    screen.enter(f"{ON_NODE}vim -u NONE -N text")
    screen.wait_for(r'"text" \[New\].*')
    # What the terminal answers to vim's questions about it must not end up at the shell.
    screen.type("i", "text")
    screen.wait_for("text")
    assert screen.modes() != before
    argv, status = VICTIMS[victim]
    ready_home.run(argv, check=True)
    screen.wait_for(r".*(Killed|was lost).*(\n.*)*")
    wait_until(lambda: screen.modes() == before, 10, "the modes are back")
    assert screen.status() == status


@pytest.mark.parametrize(
    "program",
    [
        r"printf 'a\nb\r\nc\r\r\n50%%\r60%%\r\n\tend'",
        "ls --color=always /usr",
        "stty -a",
        "stty -onlcr; seq 3",
        "seq 20000",
        "tput clear; tput cup 5 5; tty; tput sgr0",
    ],
)
def test_the_terminal_gets_the_same_bytes(ready_home: Host, program: str) -> None:
    script = ("bash", "-c", program)
    native = ready_home.run(script, env={"TERM": "xterm"}, tty=True)
    remote = ready_home.run((*on("n1"), *script), env={"TERM": "xterm"}, tty=True)
    assert remote.stdout == native.stdout
    assert remote.returncode == native.returncode
