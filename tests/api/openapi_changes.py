"""What changed between two OpenAPI documents, and whether a client of the old one notices.

Pure. A client may send whatever the old document allows, and must understand whatever the new one
may answer. It ignores fields and statuses that it does not know.

Breaking: a path, an operation, a parameter, a field, a status or a media type is gone; more is
needed of a request, or less is allowed in it; an answer may lack a field, or hold another type;
another token is asked for.

Worth a look, not breaking: a word that is new where answers hold one of several (a client that
switches on it must have had a rule for others: the document says nowhere that there will be none),
a new status, another default, another `operationId` (generated programs are named after it).

Limits of answers may change: nobody is refused for them. Patterns cannot be compared: any other
one may refuse what the old one allowed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Document = Mapping[str, Any]
Schema = Mapping[str, Any]
Direction = Literal["request", "answer"]

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_FORMS = ("pattern", "format", "multipleOf", "contentEncoding")
_ANY = ("null", "boolean", "number", "string", "array", "object")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `place` leads to it from the operation."""

    place: str
    what: str
    is_breaking: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def compare(old: Document, new: Document) -> list[Change]:
    """All that a client of the old document could notice, in the order of the old one."""
    return list(dict.fromkeys(_Comparison(old, new).changes()))


def breaking(old: Document, new: Document) -> list[str]:
    """What breaks clients, one sentence each."""
    return [str(change) for change in compare(old, new) if change.is_breaking]


class _Comparison:
    """Of two documents. `_open` are pairs of references that are being compared: schemas may hold
    themselves."""

    def __init__(self, old: Document, new: Document) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[str, str, Direction]] = set()

    def changes(self) -> Iterator[Change]:
        """See `compare`."""
        for path, methods in self._old.get("paths", {}).items():
            now = self._new.get("paths", {}).get(path)
            if now is None:
                yield Change(path, "the path is gone")
                continue
            for method in _METHODS:
                if method in methods:
                    yield from self._operation(path, method, methods[method], now.get(method))

    def _operation(
        self, path: str, method: str, old: Mapping[str, Any], new: Mapping[str, Any] | None
    ) -> Iterator[Change]:
        place = f"{method.upper()} {path}"
        if new is None:
            yield Change(place, "the operation is gone")
            return
        if old.get("operationId") != new.get("operationId"):
            yield Change(place, "it has another operationId", is_breaking=False)
        yield from self._security(place, old, new)
        yield from self._parameters(place, old, new)
        yield from self._body(place, old.get("requestBody"), new.get("requestBody"))
        yield from self._answers(place, old.get("responses", {}), new.get("responses", {}))

    # Tokens

    def _security(
        self, place: str, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Iterator[Change]:
        before, now = self._schemes(self._old, old), self._schemes(self._new, new)
        # To ask for nothing any more refuses nobody.
        if before != now and any(now):
            yield Change(place, "another token is asked for")

    @staticmethod
    def _schemes(document: Document, operation: Mapping[str, Any]) -> list[Any]:
        """The alternatives, each with what its schemes are; `{}` is none."""
        schemes = document.get("components", {}).get("securitySchemes", {})
        asked: Sequence[Mapping[str, Any]] = operation.get("security", document.get("security", []))
        return sorted(
            (
                sorted(
                    (name, schemes.get(name, {}).get("type"), schemes.get(name, {}).get("scheme"))
                    for name in alternative
                )
                for alternative in asked
            ),
            key=repr,
        )

    # Requests

    def _parameters(
        self, place: str, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Iterator[Change]:
        before = {(p["in"], p["name"]): p for p in old.get("parameters", ())}
        now = {(p["in"], p["name"]): p for p in new.get("parameters", ())}
        for (where, name), parameter in before.items():
            here = f"{place}, {where} {name}"
            found = now.get((where, name))
            if found is None:
                yield Change(here, "the parameter is gone")
                continue
            if found.get("required") and not parameter.get("required"):
                yield Change(here, "the parameter is needed now")
            if any(parameter.get(key) != found.get(key) for key in ("style", "explode")):
                yield Change(here, "the parameter is written in another way")
            yield from self._schema(here, parameter["schema"], found["schema"], "request")
        for where, name in sorted(now.keys() - before.keys()):
            if now[where, name].get("required"):
                yield Change(f"{place}, {where} {name}", "a new parameter is needed")

    def _body(
        self, place: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
    ) -> Iterator[Change]:
        here = f"{place}, request"
        if old is None:
            if new is not None and new.get("required"):
                yield Change(here, "a body is needed now")
            return
        if new is None:
            yield Change(here, "it has no body any more")
            return
        if new.get("required") and not old.get("required"):
            yield Change(here, "a body is needed now")
        yield from self._content(here, old["content"], new["content"], "request")

    # Answers

    def _answers(
        self, place: str, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Iterator[Change]:
        for status, answer in old.items():
            here = f"{place}, {status}"
            if status not in new:
                yield Change(here, "the status is gone")
                continue
            before, now = answer.get("content", {}), new[status].get("content", {})
            yield from self._content(here, before, now, "answer")
        for status in sorted(new.keys() - old.keys()):
            yield Change(f"{place}, {status}", "the status is new", is_breaking=False)

    def _content(
        self, place: str, old: Mapping[str, Any], new: Mapping[str, Any], direction: Direction
    ) -> Iterator[Change]:
        for media_type, content in old.items():
            if media_type not in new:
                yield Change(place, f"{media_type} is gone")
            else:
                now = new[media_type]["schema"]
                yield from self._schema(place, content["schema"], now, direction)

    # Schemas

    def _schema(
        self, place: str, old: Schema, new: Schema, direction: Direction
    ) -> Iterator[Change]:
        key = (str(old.get("$ref", id(old))), str(new.get("$ref", id(new))), direction)
        if key in self._open:
            return
        self._open.add(key)
        before, now = _by_type(self._old, old), _by_type(self._new, new)
        yield from _types(place, before, now, direction)
        for type_, one in before.items():
            other = now.get(type_) or (now.get("number") if type_ == "integer" else None)
            if other is not None:
                yield from self._same_type(place, one, other, direction)
        if old.get("default") != new.get("default"):
            yield Change(place, "another default", is_breaking=False)
        self._open.discard(key)

    def _same_type(
        self, place: str, old: Schema, new: Schema, direction: Direction
    ) -> Iterator[Change]:
        yield from _words(place, old, new, direction)
        yield from _limits(place, old, new, direction)
        yield from self._fields(place, old, new, direction)
        for key, within in (("items", "[]"), ("additionalProperties", "{}")):
            before, now = old.get(key), new.get(key)
            if isinstance(before, Mapping) and isinstance(now, Mapping):
                yield from self._schema(f"{place}{within}", before, now, direction)
            elif direction == "request" and before is not now and now is False:
                yield Change(place, "fields that it does not know are refused now")

    def _fields(
        self, place: str, old: Schema, new: Schema, direction: Direction
    ) -> Iterator[Change]:
        before, now = old.get("properties", {}), new.get("properties", {})
        was_there, is_there = set(old.get("required", ())), set(new.get("required", ()))
        for name, schema in before.items():
            here = f"{place}.{name}"
            if name not in now:
                yield Change(here, "the field is gone")
                continue
            if direction == "answer" and name in was_there - is_there:
                yield Change(here, "the field may be missing now")
            yield from self._schema(here, schema, now[name], direction)
        if direction == "request":
            for name in sorted(is_there - was_there):
                yield Change(f"{place}.{name}", "the field is needed now")


def _by_type(document: Document, schema: Schema) -> dict[str, Schema]:
    """The alternatives of a schema, one for each type; of several of one type the first."""
    found: dict[str, Schema] = {}
    for one in _alternatives(document, schema):
        types = one.get("type") or _types_of_words(one) or _ANY
        for type_ in [types] if isinstance(types, str) else types:
            known = found.get(type_)
            found[type_] = one if known is None else _either(known, one)
    return found


def _alternatives(document: Document, schema: Schema) -> Iterator[Schema]:
    while "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        schema = document["components"]["schemas"][name]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        for choice in choices:
            yield from _alternatives(document, choice)
    else:
        yield schema


def _either(one: Schema, other: Schema) -> Schema:
    """Two alternatives of one type: where both are lists of words, their words together."""
    if "enum" in one and "enum" in other:
        return {**one, "enum": [*one["enum"], *other["enum"]]}
    return other if "enum" in one else one


def _types_of_words(schema: Schema) -> list[str]:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return list(dict.fromkeys(names[type(word)] for word in _words_of(schema) or ()))


def _words_of(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    words = schema.get("enum")
    return None if words is None else list(words)


def _types(
    place: str, old: Mapping[str, Schema], new: Mapping[str, Schema], direction: Direction
) -> Iterator[Change]:
    taken, given = (old, new) if direction == "request" else (new, old)
    for type_ in taken:
        if type_ not in given and not (type_ == "integer" and "number" in given):
            said = "is not taken any more" if direction == "request" else "may be answered now"
            yield Change(place, f"{type_} {said}")


def _words(place: str, old: Schema, new: Schema, direction: Direction) -> Iterator[Change]:
    before, now = _words_of(old), _words_of(new)
    if direction == "request" and now is not None:
        if before is None:
            yield Change(place, "only some words are taken now")
        for word in before or ():
            if word not in now:
                yield Change(place, f"{word!r} is not taken any more")
    if direction == "answer" and before is not None:
        if now is None:
            yield Change(place, "any word may be answered now", is_breaking=False)
        for word in now or ():
            if word not in before:
                yield Change(place, f"{word!r} may be answered now", is_breaking=False)


def _limits(place: str, old: Schema, new: Schema, direction: Direction) -> Iterator[Change]:
    for key in _FORMS:
        before, now = old.get(key), new.get(key)
        narrowed = now is not None if direction == "request" else before is not None
        if before != now and narrowed and not (direction == "answer" and key == "pattern"):
            yield Change(place, f"another {key}")
    if direction == "answer":
        return
    for key in (*_LEAST, *_MOST):
        before, now = old.get(key), new.get(key)
        if now is None or before == now:
            continue
        if before is None or (now > before if key in _LEAST else now < before):
            yield Change(place, f"{key} is {now} now")
