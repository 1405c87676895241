"""What tests of the real thing share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.real import clear


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory. None of its processes outlives the test, whatever that did to them."""
    folder = tmp_path / "dory"
    yield folder
    clear(folder)


@pytest.fixture(params=["local", "kubernetes"])
def database_of_run(request: pytest.FixtureRequest) -> str | None:
    """For tests that are run on both: the database of a `run` on Kubernetes, else None."""
    if request.param == "local":
        return None
    return str(request.getfixturevalue("database_url"))
