"""How the command line looks. A change of it is seen in review: see `cli_golden`."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.cli_golden import FOLDER, WIDTHS, golden

RENEW = "it looks otherwise now: if that is meant, run python -m tests.cli_golden"


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    """In a thread, where pytest-asyncio's event loop is not taken away."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(golden).result()


def test_there_is_a_file_for_each_view(drawn):
    assert {file.name for file in FOLDER.glob("*.txt")} == set(drawn), RENEW


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.glob("*.txt")))
def test_it_looks_as_before(drawn, name):
    assert drawn[name] == (FOLDER / name).read_text(encoding="utf-8"), RENEW


def test_nothing_is_wider_than_it_may_be(drawn):
    for text in drawn.values():
        sections = text.split("=== ")
        for width in WIDTHS:
            (section,) = (one for one in sections if one.startswith(f"{width} columns"))
            assert max(map(len, section.splitlines())) <= width


def test_top_fits_a_small_terminal(drawn):
    (section,) = (one for one in drawn["top.txt"].split("=== ") if one.startswith("80 columns"))
    assert len(section.strip().splitlines()) - 1 <= 23
