"""Parameters of paths and queries, by types: what is refused and what is described agree.

A field of such a type is a text, a whole number, a UUID, a moment, a choice, or a list of
choices, which stands in the query with commas.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import UnsetType

from dory_orchestrator.api.bodies import BodyError, named

T = TypeVar("T")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FIELDS_MAX = 100


class ParameterError(BodyError):
    """A parameter that is not what it must be; the text names it. Answered with 400."""


def query_of(type_: type[T], query_string: bytes) -> T:
    """The query as a value of `type_`. Raises ParameterError."""
    return _convert(type_, _pairs(query_string))


def path_of(type_: type[T], values: Mapping[str, str]) -> T:
    """The path's parameters as a value of `type_`. Raises ParameterError."""
    return _convert(type_, values)


def given(value: T | UnsetType) -> T | None:
    """The value; None when there is none."""
    return None if isinstance(value, UnsetType) else value


def moment(value: datetime | UnsetType, name: str = "since") -> datetime | None:
    """In UTC, where the first and the last day of all cannot be left. Raises ParameterError."""
    if isinstance(value, UnsetType):
        return None
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ParameterError(f"{name}: out of range") from error


def described(type_: type[Any], place: str) -> list[dict[str, Any]]:
    """The fields of `type_` as parameters of an OpenAPI operation, in "query" or "path"."""
    return [
        _parameter(name, dict(schema), place, required=name in _required(type_))
        for name, schema in _properties(type_).items()
    ]


def _parameter(name: str, schema: dict[str, Any], place: str, *, required: bool) -> dict[str, Any]:
    parameter = {
        "name": name,
        "in": place,
        "required": required,
        "description": schema.pop("description", ""),
        "schema": schema,
    }
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": False}
    return parameter


def _properties(type_: type[Any]) -> dict[str, Any]:
    properties: dict[str, Any] = _schema(type_)["properties"]
    return properties


def _required(type_: type[Any]) -> list[str]:
    required: list[str] = _schema(type_)["required"]
    return required


def _schema(type_: type[Any]) -> dict[str, Any]:
    (_,), components = msgspec.json.schema_components([type_])
    schema: dict[str, Any] = components[type_.__name__]
    return schema


def _pairs(query_string: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except UnicodeDecodeError as error:
        raise ParameterError("query: is not UTF-8") from error
    except ValueError as error:
        raise ParameterError("query: too many parameters") from error
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParameterError(f"{twice[:100]}: stands twice")
    return dict(pairs)


def _convert(type_: type[T], given: Mapping[str, str]) -> T:
    properties = _properties(type_)
    unknown = [name[:100] for name in given if name not in properties]
    if unknown:
        known = ", ".join(properties) or "none"
        raise ParameterError(f"{', '.join(unknown)}: no such parameter (known: {known})")
    values = {name: _value(text, properties[name]) for name, text in given.items()}
    try:
        return msgspec.convert(values, type_)
    except msgspec.ValidationError as error:
        raise ParameterError(_explained(named(str(error)), properties)) from error


def _explained(text: str, properties: Mapping[str, Any]) -> str:
    """`state[0]: Invalid enum value ...` with the parameter's name and its choices."""
    place, _, problem = text.partition(": ")
    name = place.partition("[")[0]
    schema = properties.get(name, {})
    choices = schema.get("items", schema).get("enum")
    known = f" (known: {', '.join(choices)})" if choices else ""
    return f"{name}: {problem}{known}"


def _value(text: str, schema: Mapping[str, Any]) -> object:
    if schema.get("type") == "integer" and _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return text.split(",") if schema.get("type") == "array" else text


# Cursors -----------------------------------------------------------------------------------


def cursor_of(*parts: str) -> str:
    """An opaque text that `parts_of` reads."""
    text = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parts_of(cursor: str, order: str, count: int) -> Sequence[str]:
    """The parts of a cursor behind the first, which must be `order`. Raises ParameterError."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        parts = msgspec.json.decode(text, type=list[str])
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ParameterError("cursor: is none of ours") from error
    if len(parts) != count + 1 or any("\0" in part for part in parts):
        raise ParameterError("cursor: is none of ours")
    if parts[0] != order:
        raise ParameterError("cursor: belongs to another list or another sort")
    return parts[1:]
