"""Which changes of the API break a client: a table of good ones and bad ones."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from tests.api.openapi_changes import breaking, compare

Json = dict[str, Any]
NULLABLE = [{"type": "string"}, {"type": "null"}]


def document() -> Json:
    """Two operations, and something of everything that ours has."""
    return {
        "paths": {
            "/nodes": {
                "get": {
                    "operationId": "list_nodes",
                    "parameters": [
                        {
                            "name": "limit",
                            "in": "query",
                            "required": False,
                            "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
                        },
                        {
                            "name": "kind",
                            "in": "query",
                            "required": False,
                            "style": "form",
                            "explode": False,
                            "schema": {"type": "array", "items": {"enum": ["edge", "cloud"]}},
                        },
                    ],
                    "responses": {
                        "200": answer({"$ref": "#/components/schemas/Nodes"}),
                        "503": answer({"$ref": "#/components/schemas/Error"}),
                    },
                },
                "post": {
                    "operationId": "cordon",
                    "security": [{"token": []}, {}],
                    "requestBody": {
                        "required": True,
                        **answer({"$ref": "#/components/schemas/Request"}),
                    },
                    "responses": {"200": answer({"$ref": "#/components/schemas/Node"})},
                },
            }
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Nodes": {
                    "type": "object",
                    "required": ["nodes"],
                    "properties": {
                        "nodes": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}
                    },
                },
                "Node": {
                    "type": "object",
                    "required": ["name", "state", "pods", "parts"],
                    "properties": {
                        "name": {"type": "string"},
                        "state": {"enum": ["online", "offline"]},
                        "detail": {"anyOf": NULLABLE},
                        "pods": {"type": "integer"},
                        "at": {"type": "string", "format": "date-time"},
                        "parts": {
                            "type": "object",
                            "additionalProperties": {"$ref": "#/components/schemas/Node"},
                        },
                    },
                },
                "Request": {
                    "type": "object",
                    "required": ["node"],
                    "additionalProperties": {"type": "string"},
                    "properties": {
                        "node": {"type": "string", "maxLength": 253, "pattern": "^a*$"},
                        "seconds": {"type": "number", "minimum": 1},
                        "by": {"type": "string", "default": "an operator"},
                        "mode": {"enum": ["soft", "hard"]},
                        "ids": {"anyOf": [{"type": "array", "minItems": 1}, {"enum": ["all"]}]},
                        "reason": {"anyOf": NULLABLE},
                    },
                },
                "Error": {"type": "object", "properties": {"error": {"type": "string"}}},
            },
        },
    }


def answer(schema: Json) -> Json:
    return {"content": {"application/json": {"schema": schema}}}


class Edit:
    """A document that is being changed."""

    def __init__(self) -> None:
        self.document = document()
        self.path: Json = self.document["paths"]["/nodes"]
        self.get, self.post = self.path["get"], self.path["post"]
        self.schemas: Json = self.document["components"]["schemas"]
        self.node, self.request = self.schemas["Node"], self.schemas["Request"]
        self.fields, self.sent = self.node["properties"], self.request["properties"]


def put(where: str, key: Any, value: Any) -> Callable[[Edit], None]:
    """Set `value` under `key` of what `where` names, with dots between attribute and keys."""

    def change(edit: Edit) -> None:
        _find(edit, where)[key] = value

    return change


def drop(where: str, key: Any) -> Callable[[Edit], None]:
    """Take away what stands under `key`."""

    def change(edit: Edit) -> None:
        del _find(edit, where)[key]

    return change


def add(where: str, value: Any) -> Callable[[Edit], None]:
    """Append to a list."""

    def change(edit: Edit) -> None:
        _find(edit, where).append(value)

    return change


def _find(edit: Edit, where: str) -> Any:
    first, *keys = where.split(".")
    found = getattr(edit, first)
    for key in keys:
        found = found[int(key) if key.isdigit() and isinstance(found, list) else key]
    return found


SENT, BODY = "POST /nodes, request", "POST /nodes, 200"
BAD: dict[str, tuple[Callable[[Edit], None], str]] = {
    "path": (put("document", "paths", {}), "/nodes: the path is gone"),
    "operation": (drop("path", "post"), "POST /nodes: the operation is gone"),
    "status": (drop("get.responses", "503"), "GET /nodes, 503: the status is gone"),
    "media type": (
        put("post.responses.200", "content", {"text/csv": {"schema": {"type": "string"}}}),
        f"{BODY}: application/json is gone",
    ),
    # Parameters
    "parameter": (drop("get.parameters", 0), "GET /nodes, query limit: the parameter is gone"),
    "parameter needed": (
        put("get.parameters.0", "required", True),
        "GET /nodes, query limit: the parameter is needed now",
    ),
    "new parameter needed": (
        add(
            "get.parameters",
            {"name": "a", "in": "query", "required": True, "schema": {"type": "string"}},
        ),
        "GET /nodes, query a: a new parameter is needed",
    ),
    "parameter narrowed": (
        put("get.parameters.0.schema", "maximum", 100),
        "GET /nodes, query limit: maximum is 100 now",
    ),
    "parameter's words": (
        put("get.parameters.1.schema.items", "enum", ["edge"]),
        "GET /nodes, query kind[]: 'cloud' is not taken any more",
    ),
    "parameter written otherwise": (
        put("get.parameters.1", "explode", True),
        "GET /nodes, query kind: the parameter is written in another way",
    ),
    # Requests
    "body gone": (drop("post", "requestBody"), f"{SENT}: it has no body any more"),
    "body needed": (
        put("get", "requestBody", {"required": True, "content": {}}),
        "GET /nodes, request: a body is needed now",
    ),
    "field needed": (add("request.required", "by"), f"{SENT}.by: the field is needed now"),
    "new field needed": (
        add("request.required", "token"),
        f"{SENT}.token: the field is needed now",
    ),
    "field of a request": (drop("sent", "mode"), f"{SENT}.mode: the field is gone"),
    "type": (put("sent", "by", {"type": "integer"}), f"{SENT}.by: string is not taken any more"),
    "whole numbers only": (
        put("sent.seconds", "type", "integer"),
        f"{SENT}.seconds: number is not taken any more",
    ),
    "null": (
        put("sent", "reason", {"type": "string"}),
        f"{SENT}.reason: null is not taken any more",
    ),
    "word": (put("sent.mode", "enum", ["soft"]), f"{SENT}.mode: 'hard' is not taken any more"),
    "words only": (
        put("sent.by", "enum", ["eva"]),
        f"{SENT}.by: only some words are taken now",
    ),
    "one of several kinds": (
        put("sent", "ids", {"enum": ["all"]}),
        f"{SENT}.ids: array is not taken any more",
    ),
    "longest": (put("sent.node", "maxLength", 63), f"{SENT}.node: maxLength is 63 now"),
    "least": (put("sent.seconds", "minimum", 2), f"{SENT}.seconds: minimum is 2 now"),
    "limit where none was": (
        put("sent.by", "minLength", 1),
        f"{SENT}.by: minLength is 1 now",
    ),
    "pattern": (put("sent.node", "pattern", "^b*$"), f"{SENT}.node: another pattern"),
    "format": (put("sent.by", "format", "uuid"), f"{SENT}.by: another format"),
    "unknown fields": (
        put("request", "additionalProperties", False),
        f"{SENT}: fields that it does not know are refused now",
    ),
    "values of unknown fields": (
        put("request", "additionalProperties", {"type": "number"}),
        f"{SENT}{{}}: string is not taken any more",
    ),
    # Answers
    "field of an answer": (drop("fields", "at"), f"{BODY}.at: the field is gone"),
    "field not always": (
        put("node", "required", ["name", "state", "parts"]),
        f"{BODY}.pods: the field may be missing now",
    ),
    "null in an answer": (
        put("fields", "name", {"anyOf": NULLABLE}),
        f"{BODY}.name: null may be answered now",
    ),
    "null in another way": (
        put("fields.name", "type", ["string", "null"]),
        f"{BODY}.name: null may be answered now",
    ),
    "type of an answer": (
        put("fields.pods", "type", "number"),
        f"{BODY}.pods: number may be answered now",
    ),
    "format of an answer": (drop("fields.at", "format"), f"{BODY}.at: another format"),
    "list of an answer": (
        put("schemas.Nodes.properties.nodes", "items", {"type": "string"}),
        "GET /nodes, 200.nodes[]: string may be answered now",
    ),
    # Tokens
    "token needed": (
        put("post", "security", [{"token": []}]),
        "POST /nodes: another token is asked for",
    ),
    "token where none was": (
        put("get", "security", [{"token": []}, {}]),
        "GET /nodes: another token is asked for",
    ),
    "another token": (
        put("post", "security", [{"other": []}, {}]),
        "POST /nodes: another token is asked for",
    ),
    "another scheme": (
        put("document.components.securitySchemes.token", "scheme", "basic"),
        "POST /nodes: another token is asked for",
    ),
}
GOOD: dict[str, Callable[[Edit], None]] = {
    "nothing": lambda _edit: None,
    "path": put("document.paths", "/pods", {"get": {"responses": {}}}),
    "operation": put("path", "delete", {"responses": {}}),
    "parameter": add(
        "get.parameters",
        {"name": "a", "in": "query", "required": False, "schema": {"type": "string"}},
    ),
    "parameter widened": put("get.parameters.0.schema", "maximum", 5000),
    "word of a parameter": add("get.parameters.1.schema.items.enum", "other"),
    "field of a request": put("sent", "note", {"type": "string"}),
    "field not needed any more": put("request", "required", []),
    "type of a request": put("sent", "seconds", {"type": ["number", "string"]}),
    "null in a request": put("sent", "by", {"anyOf": [*NULLABLE], "default": "an operator"}),
    "word of a request": add("sent.mode.enum", "gentle"),
    "any word": put("sent", "mode", {"type": "string"}),
    "limit of a request": put("sent.node", "maxLength", 1000),
    "no limit": drop("sent.seconds", "minimum"),
    "no pattern": drop("sent.node", "pattern"),
    "body not needed any more": put("post.requestBody", "required", False),
    "field of an answer": put("fields", "kind", {"type": "string"}),
    "field always there": add("node.required", "detail"),
    "no null any more": put("fields", "detail", {"type": "string"}),
    "fewer words": put("fields.state", "enum", ["online"]),
    "format in an answer": put("fields.name", "format", "hostname"),
    "limit of an answer": put("fields.pods", "maximum", 10),
    "description": put("fields.name", "description", "What it is called."),
    "no token any more": drop("post", "security"),
    "unused schema": put("schemas", "New", {}),
    "media type": put("post.responses.200.content", "text/csv", {"schema": {"type": "string"}}),
}
DOUBTFUL: dict[str, tuple[Callable[[Edit], None], str]] = {
    "word of an answer": (
        add("fields.state.enum", "suspect"),
        f"{BODY}.state: 'suspect' may be answered now",
    ),
    "any word of an answer": (
        put("fields", "state", {"type": "string"}),
        f"{BODY}.state: any word may be answered now",
    ),
    "status": (
        put("get.responses", "429", {"description": ""}),
        "GET /nodes, 429: the status is new",
    ),
    "default": (put("sent.by", "default", "nobody"), f"{SENT}.by: another default"),
    "name for programs": (
        put("get", "operationId", "nodes"),
        "GET /nodes: it has another operationId",
    ),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD.keys())
def test_it_breaks(change: Callable[[Edit], None], said: str):
    edit = Edit()
    change(edit)
    found = breaking(document(), edit.document)
    assert said in found
    # Of what both an answer and a list of answers hold, each place is told.
    field = said.rpartition(":")[0].rpartition(".")[2]
    assert all(field in one for one in found), found


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_it_breaks_nothing(change: Callable[[Edit], None]):
    edit = Edit()
    change(edit)
    assert compare(document(), edit.document) == []


@pytest.mark.parametrize(("change", "said"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_it_is_worth_a_look(change: Callable[[Edit], None], said: str):
    edit = Edit()
    change(edit)
    assert breaking(document(), edit.document) == []
    assert said in [str(one) for one in compare(document(), edit.document)]


def test_a_field_by_another_name_for_its_schema_is_the_same():
    edit = Edit()
    edit.schemas["Renamed"] = edit.schemas.pop("Node")
    renamed = "#/components/schemas/Renamed"
    edit.schemas["Nodes"]["properties"]["nodes"]["items"]["$ref"] = renamed
    edit.schemas["Renamed"]["properties"]["parts"]["additionalProperties"]["$ref"] = renamed
    edit.post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"] = renamed
    assert compare(document(), edit.document) == []


def test_what_changes_within_a_schema_that_holds_itself_is_told_once():
    edit = Edit()
    del edit.fields["pods"]
    found = breaking(document(), edit.document)
    assert f"{BODY}.pods: the field is gone" in found
    assert len(found) == len(set(found)) == 2


def test_the_documents_are_left_as_they_are():
    old, new = document(), document()
    before = deepcopy((old, new))
    compare(old, new)
    assert (old, new) == before
