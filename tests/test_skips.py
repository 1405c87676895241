"""What is skipped in CI is known to somebody."""

import pytest
from tests.skips import REVIEWED, complaints, reviewed

LIST = reviewed("# why\n\ntests/a | no tool\n? tests/b.py::test_x | * cannot\n")


@pytest.mark.parametrize(
    "skipped",
    [
        {"tests/a/test_1.py::test_y[z]": "no tool"},
        {"tests/a/test_1.py": "no tool", "tests/b.py::test_x[1]": "nobody cannot"},
    ],
)
def test_what_is_reviewed_is_no_complaint(skipped: dict[str, str]) -> None:
    assert complaints(skipped, LIST) == []


@pytest.mark.parametrize(
    ("test", "reason", "complaint"),
    [
        ("tests/ab.py::test_y", "no tool", "does not stand in skips.txt: no tool"),
        ("tests/b.py::test_xy", "nobody cannot", "does not stand in skips.txt: nobody cannot"),
        ("tests/a/test_1.py::test_z", "no time", "another reason than skips.txt says: no time"),
        ("tests/b.py::test_x", "cannot say", "another reason than skips.txt says: cannot say"),
    ],
)
def test_what_nobody_reviewed_is_one(test: str, reason: str, complaint: str) -> None:
    (found,) = complaints({"tests/a/test_1.py::test_y": "no tool", test: reason}, LIST)
    assert found.startswith(f"{test} is skipped")
    assert found.endswith(complaint)


def test_what_is_not_skipped_any_more_is_struck() -> None:
    assert complaints({}, LIST) == ["tests/a stands in skips.txt, and is not skipped"]


def test_each_has_its_reason() -> None:
    found = reviewed(REVIEWED.read_text())
    assert found
    assert all(one.reason for one in found)
