"""One JSON object a line, whatever is logged; and no secret."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator import logs


@pytest.fixture
def logged() -> Iterator[Callable[[str], Callable[[], str]]]:
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def configure(style: str) -> Callable[[], str]:
        stream = io.StringIO()
        logs.configure("debug", style, stream)
        return stream.getvalue

    yield configure
    root.handlers[:], level = before
    root.setLevel(level)


NASTY = 'a\nb\r\x1b[31m\x00\u2028{"level":"forged"}'


def test_each_event_is_one_json_object(logged):
    written = logged("json")
    logs.get_logger("x").warning("something", name=NASTY, inner={"k\n": [NASTY]}, number=3)

    (line,) = written().splitlines()
    event = json.loads(line)
    assert event["event"] == "something"
    assert event["level"] == "warning"
    assert event["number"] == 3
    assert event["timestamp"].endswith("Z")


def test_libraries_logging_is_json_too(logged):
    written = logged("json")
    try:
        raise ValueError(NASTY)
    except ValueError:
        logging.getLogger("library").exception("broke on %s", NASTY)
    (line,) = written().splitlines()
    assert "ValueError" in json.loads(line)["exception"]


def test_text_is_one_line_too(logged):
    written = logged("text")
    logs.get_logger("x").info("something", name=NASTY)
    (line,) = written().splitlines()
    assert "\x1b" not in line


@given(st.text(), st.sampled_from(["json", "text"]))
def test_no_text_breaks_a_line(text, style):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", style, stream)
    logs.get_logger("x").info("e", value=text)
    root.handlers[:], level = before
    root.setLevel(level)
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"state_token": "s3cret"},
        {"Authorization": "Bearer s3cret"},
        {"error": "failed: postgresql://dory:s3cret@db/dory"},
        {"headers": {"authorization": "Bearer s3cret"}},
        {"message": "sent Authorization: Bearer s3cret"},
        {"password": "s3cret"},
    ],
)
@pytest.mark.parametrize("style", ["json", "text"])
def test_no_secret_is_logged(logged, values, style):
    written = logged(style)
    logs.get_logger("x").info("e", **values)
    assert "s3cret" not in written()


def test_a_huge_value_is_cut(logged):
    written = logged("json")
    logs.get_logger("x").info("e", value="x" * 1_000_000)
    assert len(written()) < 5_000
