"""`mlaunch completion`: the script that makes a shell complete mrun and mlaunch."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete the words of mrun and mlaunch.

    In ~/.bashrc or ~/.zshrc: source <(mlaunch completion bash), or zsh for bash; in fish: mlaunch
    completion fish | source.
    """
    from mlaunch import completion as scripts

    click.echo(scripts.script(shell, context.find_root().command), nl=False)
