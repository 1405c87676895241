"""`promtool`, where there is one: Debian's package `prometheus` brings it."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from tests.patience import patient

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="there is no promtool here (Debian: apt-get install prometheus)",
)


def promtool(*arguments: str, within: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a folder; what it says stands in `stdout`."""
    return subprocess.run(
        ["promtool", *arguments],
        cwd=within,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patient(60),
    )


def parse(expressions: Mapping[str, str], within: Path) -> subprocess.CompletedProcess[str]:
    """Have expressions parsed, as recording rules; `within` is a folder to write to."""
    rules = [{"record": name, "expr": expression} for name, expression in expressions.items()]
    content = {"groups": [{"name": "expressions", "rules": rules}]}
    (within / "expressions.yaml").write_text(yaml.safe_dump(content))
    return promtool("check", "rules", "expressions.yaml", within=within)
