"""`completion`: the script that has a shell complete commands, options and names."""

import click
from click.shell_completion import get_completion_class

from dory_orchestrator.commands.asking import PROGRAM

_VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands, options, and names of nodes and processors.

    Names are asked of the running orchestrator, for a second at most.

    \b
    Examples:
      dory-orchestrator completion bash > ~/.local/share/bash-completion/completions/dory-orchestrator
      dory-orchestrator completion zsh > ~/.zfunc/_dory-orchestrator
      dory-orchestrator completion fish > ~/.config/fish/completions/dory-orchestrator.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choices are click's own
    click.echo(found(ctx.find_root().command, {}, PROGRAM, _VARIABLE).source())
