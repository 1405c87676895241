"""`/openapi.json` and `/docs`, generated from the types that the handlers use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from dory_orchestrator import __version__
from dory_orchestrator.api.asgi import encode
from dory_orchestrator.api.bodies import ErrorAnswer
from dory_orchestrator.api.examples import EXAMPLES, Example
from dory_orchestrator.api.parameters import described as describe_parameters

_ERROR_TEXT = {
    400: "The body or a parameter is not what it must be; the error names it.",
    401: "A bearer token is needed, and this is none.",
    403: "A page of another site may not do this.",
    404: "It is not known.",
    408: "The request took too long to arrive.",
    409: "It contradicts what is stored; the error says how.",
    413: "The body is larger than 64 KiB.",
    431: "The headers are larger than 32 KiB.",
    500: "No edge node has this name.",
    503: "The database or the leader does not answer; try again.",
}
# Unknown fields are ignored, but a NUL is refused wherever it stands.
_NO_NUL = {"pattern": r"^[^\x00]*$"}
_NO_EXAMPLE = Example(None)
_UNKNOWN_FIELDS = {
    "propertyNames": _NO_NUL,
    "additionalProperties": {"$ref": "#/components/schemas/Unknown"},
}
_UNKNOWN = {
    "title": "Unknown",
    "description": "The value of a field that we do not know. No string holds a NUL character.",
    "properties": {},  # what the page lists
    "anyOf": [
        {"type": ["null", "boolean", "number"]},
        {"type": "string", **_NO_NUL},
        {"type": "array", "items": {"$ref": "#/components/schemas/Unknown"}},
        {"type": "object", **_UNKNOWN_FIELDS},
    ],
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What one path does with one method, as far as it is described."""

    method: str
    path: str
    summary: str
    description: str
    answers: dict[int, Any]
    request: Any = None
    errors: Sequence[int] = ()
    media_type: str = "application/json"
    security: str | None = None
    """The scheme of the token that it needs, when one is set."""
    path_type: Any = None
    query_type: Any = None


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = [ErrorAnswer]
    for operation in operations:
        types += [t for t in (operation.request, *operation.answers.values()) if _is_type(t)]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(unique, schemas, strict=True))
    for operation in operations:
        if operation.request is not None:
            components[operation.request.__name__] |= _UNKNOWN_FIELDS
    components["Unknown"] = _UNKNOWN
    paths: dict[str, Any] = {}
    for operation in operations:
        described = _operation(operation, by_type)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dory Orchestrator",
            "version": __version__,
            "description": "Keeps stateful processors alive across edge and cloud.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "stateToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "DORY_STATE_TOKEN, when one is set.",
                },
                "operatorToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "DORY_OPERATOR_TOKEN, when one is set.",
                },
            },
        },
    }


def _is_type(value: Any) -> bool:
    return isinstance(value, type) and value is not str


def _operation(operation: Operation, by_type: dict[Any, Any]) -> dict[str, Any]:
    example = EXAMPLES.get((operation.method, operation.path), _NO_EXAMPLE)
    # Of several answers the first is that of a good day.
    well = next(iter(operation.answers))
    described: dict[str, Any] = {
        "summary": operation.summary,
        "description": operation.description,
        "operationId": operation.summary.lower().replace(" ", "_"),
        "responses": {
            str(status): {
                "description": "The answer.",
                "content": _content(
                    operation.media_type,
                    by_type.get(type_, {"type": "string"}),
                    example.answer if status == well else None,
                ),
            }
            for status, type_ in operation.answers.items()
        },
    }
    for status in operation.errors:
        described["responses"][str(status)] = {
            "description": _ERROR_TEXT[status],
            "content": _content("application/json", by_type[ErrorAnswer]),
        }
    if operation.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": _content("application/json", by_type[operation.request], example.request),
        }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.security is not None:
        # Either with the token or, when none is set, without.
        described["security"] = [{operation.security: []}, {}]
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    of_path, of_query = operation.path_type, operation.query_type
    return [
        *(describe_parameters(of_path, "path") if of_path else []),
        *(describe_parameters(of_query, "query") if of_query else []),
    ]


def _content(media_type: str, schema: Any, example: Any = None) -> dict[str, Any]:
    return {media_type: {"schema": schema} | ({} if example is None else {"example": example})}


# Nothing on the page comes from elsewhere, and nothing may.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document_response(document: dict[str, Any]) -> Response:
    """`/openapi.json`."""
    return Response(encode(document), media_type="application/json")


def page_response(document: dict[str, Any]) -> Response:
    """`/docs`: the document as a page to read, without scripts or a network."""
    environment = Environment(
        loader=PackageLoader("dory_orchestrator.api"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["name"] = lambda ref: ref.rsplit("/", 1)[-1]
    environment.filters["kind"] = _kind
    page = environment.get_template("docs.html").render(document=document)
    return Response(page, media_type="text/html", headers={"content-security-policy": _POLICY})


def _kind(schema: dict[str, Any]) -> str:
    """A property's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    kind = str(schema.get("format") or schema.get("type", "any"))
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return kind
