"""What the terminal of `dev` says of a fleet."""

from typing import Any

import pytest

from dory_orchestrator.app.dev_fleet import in_words

WELL: dict[str, Any] = {
    "current": True,
    "desired": 8,
    "ready": 8,
    "states": {"running": 8},
    "nodes": 4,
    "nodes_ready": 4,
    "guard_held": False,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "all 8 processors are ready, 4 of 4 nodes ready"),
        (
            {"desired": 1, "ready": 1, "states": {"running": 1}},
            "the only processor is ready, 4 of 4 nodes ready",
        ),
        ({"current": False}, "nobody looks at it yet"),
        (
            {"ready": 5, "states": {"running": 5, "starting": 2, "error": 1, "held": 0}},
            "5 of 8 processors are ready, 1 error, 2 starting, 4 of 4 nodes ready",
        ),
        (
            {"desired": 0, "ready": 0, "states": {}, "nodes_ready": 3},
            "no processors, 3 of 4 nodes ready",
        ),
        (
            {"guard_held": True, "desired": 0, "ready": 0, "states": {"held": 7}},
            "no processors, 7 held, 4 of 4 nodes ready, THE DELETION GUARD HOLDS: 7 pods run on,"
            " 0 desired: put the rows back, or: dory-orchestrator guard confirm",
        ),
    ],
)
def test_a_fleet_in_a_line(changes, line):
    assert in_words({**WELL, **changes}) == f"fleet: {line}"
