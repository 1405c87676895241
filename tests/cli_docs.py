"""`docs/command-line.md`, made of what `--help` says.

`python -m tests.cli_docs` writes it anew.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from dory_orchestrator.cli import main

PROGRAM = "dory-orchestrator"
FILE = Path(__file__).parent.parent / "docs" / "command-line.md"
_WIDTH = 100
_BEGINNING = """# The command line

Made of what `--help` says, by `python -m tests.cli_docs`.

"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, and every group, by its name."""

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for sub in command.list_commands(ctx):
                found = command.get_command(ctx, sub)
                assert found is not None
                yield from walk(f"{name} {sub}", found)

    yield from walk(PROGRAM, main)


def examples(command: click.Command) -> list[str]:
    """Lines of the examples in its help."""
    _, _, found = _help(command).partition("Examples:\n")
    return [line.strip() for line in found.partition("\n\n")[0].splitlines()]


def page() -> str:
    """The whole text."""
    return _BEGINNING + "\n".join(_section(name, command) for name, command in commands())


def _section(name: str, command: click.Command) -> str:
    prose, marked = _split(_help(command))
    parts = [f"## {name}", prose, f"```\n{_synopsis(name, command)}\n```"]
    for heading, block in marked:
        parts.append(f"{heading}:\n\n```\n{block}\n```")
    if options := list(_options(command)):
        parts.append("\n".join(("| Option | |", "|---|---|", *options)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Paragraphs, and what stands below a heading such as `Examples:`."""
    prose, marked = [], []
    for paragraph in re.split(r"\n\n+", text.replace("\b\n", "")):
        heading, _, block = paragraph.partition(":\n")
        if heading in ("Examples", "Exit codes"):
            marked.append((heading, inspect.cleandoc(block)))
        else:
            prose.append(" ".join(paragraph.split()))
    return "\n\n".join(prose), marked


def _synopsis(name: str, command: click.Command) -> str:
    ctx = click.Context(command, info_name=name, max_content_width=_WIDTH, terminal_width=_WIDTH)
    pieces = command.collect_usage_pieces(ctx)
    return " ".join((name, *pieces))


def _options(command: click.Command) -> Iterator[str]:
    ctx = click.Context(command)
    for option in command.params:
        record = option.get_help_record(ctx)
        if record is not None and option.name != "help":
            names, text = record
            shown = names.replace("|", "\\|")
            yield f"| `{shown}` | {text} |"


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\r", "")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
