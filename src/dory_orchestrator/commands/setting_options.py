"""Settings as options of commands."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from dory_orchestrator.settings import (
    SHARES,
    Settings,
    choices,
    environment_name,
    flag_name,
    shown,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])

config_option = click.option(
    "--config", "config", metavar="FILE", default=None, help="YAML file of settings."
)


def setting_options(names: Iterable[str]) -> Callable[[_Command], _Command]:
    """An option for each of these settings. Not given is None; `settings` validates the rest."""
    options = [_setting_option(name) for name in names]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _setting_option(name: str) -> Callable[[_Command], _Command]:
    field = Settings.model_fields[name]
    text = f"{field.description}  [{environment_name(name)}; {shown(name, field.default)}]"
    if field.annotation is bool:
        flags = f"{flag_name(name)}/{flag_name(name, False)}"
        return click.option(flags, name, default=None, help=text)
    return click.option(flag_name(name), name, default=None, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    if name in SHARES:
        return "NUMBER"
    words: dict[object, str] = {float: "DURATION", int: "NUMBER"}
    return "|".join(choices(name)) or words.get(Settings.model_fields[name].annotation, "TEXT")
