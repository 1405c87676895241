"""The document that is committed: it is the served one, its examples are right, and it breaks no
client of the last release without somebody saying so."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from tests.api.openapi_changes import breaking, compare
from tests.api.openapi_page import ACCEPTED, BASELINE, DOCS, PAGE, accepted, served, text

from dory_orchestrator.api.examples import EXAMPLES

DOCUMENT = json.loads(PAGE.read_text())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
CHANGELOG = (DOCS.parent / "CHANGELOG.md").read_text()
each = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is sent and answered when all is well, each with its schema and example."""
    if "requestBody" in operation:
        yield from operation["requestBody"]["content"].items()
    well = next(iter(operation["responses"].values()))
    yield from well["content"].items()


def valid(schema: dict[str, Any], value: Any) -> None:
    """Raises if it is not."""
    whole = schema | {"components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(value)


async def test_it_is_what_is_served():
    assert PAGE.read_text() == text(await served()), "run: python -m tests.api.openapi_page"


@each
def test_each_body_has_a_schema_and_a_valid_example(operation: dict[str, Any]):
    found = list(bodies(operation))
    assert found
    for _, content in found:
        assert content["schema"]
        assert "example" in content, "add one to api/examples.py"
        valid(content["schema"], content["example"])


def test_each_error_says_what_is_wrong():
    for place, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            if "/api/" in place and int(status) >= 400:
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (place, status)


def test_each_example_is_of_an_operation():
    assert {f"{method} {path}" for method, path in EXAMPLES} == OPERATIONS.keys()


def test_examples_hold_whole_rows():
    """Else a field could be misspelt: what is not known is no error."""
    for operation in OPERATIONS.values():
        for _, content in bodies(operation):
            if "$ref" in content["schema"]:
                name = content["schema"]["$ref"].rsplit("/", 1)[-1]
                known = DOCUMENT["components"]["schemas"][name]["properties"]
                assert content["example"].keys() <= known.keys()


@each
def test_an_example_that_is_wrong_would_be_noticed(operation: dict[str, Any]):
    for media_type, content in bodies(operation):
        if media_type == "application/json":
            with pytest.raises(jsonschema_rs.ValidationError):
                valid(content["schema"], "no object")


# What clients of the last release notice


def test_nothing_breaks_but_what_is_meant_to():
    baseline = json.loads(BASELINE.read_text())
    found = breaking(baseline, DOCUMENT)
    meant = accepted()
    assert sorted(found) == sorted(meant), (
        f"if it is meant, write it to {ACCEPTED.name}; else take it back"
    )


def test_what_is_broken_on_purpose_is_told_in_the_changelog():
    unreleased = CHANGELOG.split("## [Unreleased]", 1)[1].split("\n## [", 1)[0]
    assert bool(accepted()) == bool(re.search(r"^- \*\*Breaking:\*\* ", unreleased, re.MULTILINE))


def test_a_baseline_breaks_nothing_of_itself():
    assert compare(DOCUMENT, msgspec.json.decode(PAGE.read_bytes())) == []
