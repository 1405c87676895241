"""How an answer is shown: as tables for people, or as the API gives it."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import yaml
from rich.table import Table

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import Api, Target, run

Answer = Mapping[str, Any]
Parts = Sequence[Table | str]
"""What stands below each other."""

# What a terminal would obey, and what is no text.
_STEERING = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DUMPER: Any = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper
_UNFOLDED = 1_000_000


@dataclass(frozen=True, slots=True)
class Single:
    """One thing: how it is asked for, and how it looks."""

    fetch: Callable[[Api], Awaitable[Answer]]
    parts: Callable[[Answer, bool], Parts]
    """Of an answer, and whether it may be wide."""
    restless: Sequence[str] = ()
    """Fields that change all the time, and so are no change."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A list: how it is asked for, and how its rows look."""

    name: str
    fetch: Callable[[Api], Awaitable[Answer]]
    table: Callable[..., Table]
    """Of rows and `wide`."""
    key: Callable[[tables.Row], str]
    """What tells rows apart."""
    restless: Sequence[str] = ()
    newest_first: bool = False
    """The API's order; people see the newest last."""

    def rows(self, answer: Answer) -> list[tables.Row]:
        """In the order that people see."""
        return list(answer[self.name])[:: -1 if self.newest_first else 1]


watch_option = click.option(
    "-w", "--watch", is_flag=True, help="Go on, and show what changes, until Ctrl-C."
)


def show(target: Target, view: Single | Rows, *, watch: bool = False) -> None:
    """Ask, and print; with `watch` for ever. A Failure ends the command."""
    if watch:
        # Imported late: only who watches needs it.
        from dory_orchestrator.commands.watching import watch_view

        run(target, lambda api: watch_view(api, target, view))
        return
    answer = run(target, view.fetch)
    if target.as_data:
        print_data(target.output, answer)
    elif isinstance(view, Single):
        print_parts(view.parts(answer, target.wide), wide=target.wide)
    else:
        print_rows(target, view, answer)


def print_rows(target: Target, view: Rows, answer: Answer) -> None:
    """As a table, or the word that there are none."""
    rows = view.rows(answer)
    if not rows:
        click.echo(f"no {view.name.replace('_', ' ')}", err=True)
        return
    print_parts([view.table(rows, wide=target.wide)], wide=target.wide)
    if answer["next_cursor"] is not None and not view.newest_first:
        click.echo(f"there are more {view.name}: give a higher --limit", err=True)


def print_parts(parts: Parts, *, wide: bool = False, err: bool = False) -> None:
    """Below each other."""
    for part in parts:
        click.echo(part if isinstance(part, str) else tables.render(part, wide=wide), err=err)


def print_answer(target: Target, answer: Answer, said: str) -> None:
    """What a decision was answered: `said` for people."""
    if target.as_data:
        print_data(target.output, answer)
    else:
        click.echo(said)


def print_data(output: str, content: Answer) -> None:
    """As JSON, or as YAML, whole."""
    click.echo(as_yaml(content) if output == "yaml" else as_json(content, indent=2))


def print_document(target: Target, content: Answer) -> None:
    """One of many: a line of JSON, or a document of YAML."""
    click.echo(f"---\n{as_yaml(content)}" if target.output == "yaml" else as_json(content))


def as_json(content: Answer, indent: int | None = None) -> str:
    """As it is, but for what a terminal would obey."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_yaml(content: Answer) -> str:
    """What JSON would say. All that is not ASCII is escaped where a terminal would obey some."""
    as_json = json.dumps(content, ensure_ascii=False)
    steers = _STEERING.search(as_json) is not None
    text: str = yaml.dump(
        json.loads(as_json),
        Dumper=_DUMPER,
        sort_keys=False,
        allow_unicode=not steers,
        width=_UNFOLDED,
    )
    return text.rstrip("\n")
