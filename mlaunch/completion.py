"""Completion of command lines in bash, zsh and fish: the scripts that a shell sources.

For mlaunch it is click's own. For mrun, which does without click, it is ours: options, made from
mrun's help; names of nodes; then PROGRAM and its arguments, which the shell completes as it does
for that program without mrun. Names of nodes are asked of mlaunch as click's script asks: what
could follow `mlaunch doctor`. Whatever fails is silent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from click.shell_completion import get_completion_class

from mlaunch.mrun import FLAGS, SHORT, USAGE, VALUED

if TYPE_CHECKING:
    import click

VARIABLE = "_MLAUNCH_COMPLETE"

# A line of the help: letter, name, what the value is called, what the option does.
_OPTION = re.compile(r" {2}(?:-(\w), | {4})(--[\w-]+)(?: (\S+))? {2,}(.*)")

# What values are called there.
NODE = "NAME"
NODES = "NAME[,...]"
MINUTES = "MINUTES"

_BASH = r"""
_mrun_nodes() {
    env COMP_WORDS='mlaunch doctor ' COMP_CWORD=2 @VARIABLE@=bash_complete mlaunch 2>/dev/null |
        while IFS=, read -r _ name; do echo "$name"; done
}

_mrun() {
    local cur=${COMP_WORDS[COMP_CWORD]} i=1 option= ended= before=
    COMPREPLY=()
    while (( i < COMP_CWORD )); do
        case ${COMP_WORDS[i]} in
        --) ended=1 ;;
        @VALUED@) option=${COMP_WORDS[i]} ;;
        -*) [[ ${COMP_WORDS[i]} =~ ^-[@FLAGS@]*([@LETTERS@])$ ]] && option=-${BASH_REMATCH[1]} ;;
        *) break ;;
        esac
        (( i++ ))
        [[ $ended ]] && break
        [[ $option ]] || continue
        # The = of --node=n1 is a word of its own.
        if [[ ${COMP_WORDS[i]} == '=' ]]; then
            (( i == COMP_CWORD )) && cur= || (( i++ ))
        fi
        (( i == COMP_CWORD )) && break
        (( i++ ))
        option=
    done
    case $option in
    @NODE@) COMPREPLY=($(compgen -W "$(_mrun_nodes)" -- "$cur")) ;;
    @NODES@)
        [[ $cur == *,* ]] && before=${cur%,*},
        COMPREPLY=($(compgen -P "$before" -W "$(_mrun_nodes)" -- "${cur##*,}"))
        compopt -o nospace
        ;;
    ?*) compopt -o default ;;
    *)
        if [[ $cur == -* && ! $ended ]] && (( i == COMP_CWORD )); then
            COMPREPLY=($(compgen -W '@OPTIONS@' -- "$cur"))
        elif declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "$i"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "$i"
        elif (( i == COMP_CWORD )); then
            COMPREPLY=($(compgen -c -- "$cur"))
            compopt -o default
        else
            compopt -o default
        fi
        ;;
    esac
}

complete -F _mrun mrun
"""

_ZSH = r"""
_mrun_nodes() {
    local -a names
    names=(${(f)"$(COMP_WORDS='mlaunch doctor ' COMP_CWORD=2 @VARIABLE@=bash_complete \
        mlaunch 2>/dev/null)"})
    compadd "$@" - ${names#plain,}
}

_mrun_node_list() {
    _sequence _mrun_nodes "$@"
}

_mrun() {
    _arguments -s -S -A '-*' : \
@ARGUMENTS@
        '(-)1:program: _command_names -e' \
        '*::arguments: _normal'
}

compdef _mrun mrun
"""

_FISH = r"""
function __mrun_nodes
    env COMP_WORDS='mlaunch doctor ' COMP_CWORD=2 @VARIABLE@=bash_complete mlaunch 2>/dev/null |
        string replace -f plain, ''
end

# What is before the cursor ends with an option whose value is missing: then it cannot be parsed.
function __mrun_wants_value
    set -l tokens (commandline -opc)
    set -e tokens[1]
    not argparse -s @SPECS@ -- $tokens 2>/dev/null
end

function __mrun_no_program
    set -l tokens (commandline -opc)
    set -e tokens[1]
    argparse -s @SPECS@ -- $tokens 2>/dev/null
    or return 0
    test -z "$argv"
end

complete -c mrun -n 'not __mrun_wants_value' -x -a '(__fish_complete_subcommand @VALUE_WORDS@)'
@COMPLETES@
"""


class Option(NamedTuple):
    """One option of mrun, from its help."""

    letter: str
    name: str
    value: str
    text: str


def options() -> list[Option]:
    """Return what options mrun has, as its help tells."""
    found = map(_OPTION.match, USAGE.splitlines())
    return [Option(*match.groups(default="")) for match in found if match]


def script(shell: str, command: click.Command) -> str:
    """Return what `shell` has to source for mlaunch (`command`) and for mrun."""
    of_click = get_completion_class(shell)
    assert of_click is not None
    source = of_click(command, {}, "mlaunch", VARIABLE).source()
    return source + {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _filled(template: str, **values: str) -> str:
    for name, value in {"VARIABLE": VARIABLE, **values}.items():
        template = template.replace(f"@{name}@", value)
    return template


def _bash() -> str:
    return _filled(
        _BASH,
        VALUED=" | ".join(VALUED),
        FLAGS="".join(letter for letter, name in SHORT.items() if name in FLAGS),
        LETTERS="".join(letter for letter, name in SHORT.items() if name in VALUED),
        OPTIONS=" ".join([*(f"-{letter}" for letter in SHORT), *VALUED, *FLAGS]),
        NODE=_pattern(NODE),
        NODES=_pattern(NODES),
    )


def _pattern(value: str) -> str:
    """Return what matches the options, short or long, that take such a value."""
    names = [option.name for option in options() if option.value == value]
    return " | ".join([*(f"-{key}" for key, name in SHORT.items() if name in names), *names])


def _zsh() -> str:
    actions = {
        "": "",
        MINUTES: ":minutes:",
        NODE: ":node:_mrun_nodes",
        NODES: ":nodes:_mrun_node_list",
    }
    lines = []
    for letter, name, value, text in options():
        text = re.sub(r"([\\\[\]:])", r"\\\1", text).replace("'", r"'\''")
        about = f"[{text}]{actions.get(value, ':file:_files')}"
        long, short = (f"{name}=", f"-{letter}+") if value else (name, f"-{letter}")
        if letter:
            lines.append(f"        '(-{letter} {name})'{{{short},{long}}}'{about}' \\")
        else:
            lines.append(f"        '{long}{about}' \\")
    return _filled(_ZSH, ARGUMENTS="\n".join(lines))


def _fish() -> str:
    kinds = {
        "": "",
        MINUTES: " -x",
        NODE: " -x -a '(__mrun_nodes)'",
        NODES: " -x -a '(__fish_append , (__mrun_nodes))'",
    }
    specs, lines = [], []
    for letter, name, value, text in options():
        word = name.removeprefix("--")
        specs.append((f"{letter}/" if letter else "") + word + ("=" if value else ""))
        short = f" -s {letter}" if letter else ""
        text = text.replace("\\", r"\\").replace("'", r"\'")
        about = f"-l {word}{kinds.get(value, ' -r -F')} -d '{text}'"
        lines.append(f"complete -c mrun -n __mrun_no_program{short} {about}")
    letters = [f"-{letter}" for letter, name in SHORT.items() if name in VALUED]
    # A short one first: long ones at the beginning are for that function itself.
    words = " ".join([*letters, *VALUED])
    return _filled(_FISH, SPECS=" ".join(specs), VALUE_WORDS=words, COMPLETES="\n".join(lines))
