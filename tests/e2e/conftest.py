"""Only with `--with-e2e`: what these tests make, they make in a real cluster."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--with-e2e"):
        return
    skip = pytest.mark.skip(reason="needs --with-e2e, and a cluster in KUBECONFIG")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
