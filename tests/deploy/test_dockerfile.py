"""What the image is made of: it cannot be built everywhere, its parts can be looked at."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[a-z0-9._-]+==[^ ;]+", path.read_text(), re.MULTILINE))


def test_what_runs_is_what_was_tested_and_no_test_is_in_it() -> None:
    runs, everything = pins(ROOT / "deploy/requirements.lock"), pins(ROOT / "requirements.lock")
    assert runs < everything
    assert not [pin for pin in runs if pin.startswith(("pytest", "ruff", "mypy", "hypothesis"))]


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/requirements.lock"])
def test_a_lock_names_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(pins(ROOT / lock))


def test_everything_that_is_copied_is_there() -> None:
    for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source


def test_it_runs_as_nobody_and_without_a_tag_that_moves() -> None:
    *_, last = DOCKERFILE.split("\nFROM ")
    assert re.search(r"^USER 65534:65534$", last, re.MULTILINE)
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert image.partition(":")[2] not in ("", "latest"), image
    assert "curl" not in re.sub(r"#.*", "", DOCKERFILE)
