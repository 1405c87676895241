"""What the docs tell whoever is woken: each alert says what to look at and what to do, with
commands, metrics, reasons and places that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest
from tests.deploy.promtool import needs_promtool, parse
from tests.deploy.test_alerts import RULES, known

from dory_orchestrator.cli import main

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
ALERTS = OPERATIONS.split("\n## Alerts\n", 1)[1].split("\n## ", 1)[0]
SECTIONS = dict(
    re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", ALERTS, flags=re.MULTILINE | re.DOTALL)
)


def blocks(text: str) -> list[str]:
    """What stands between fences."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Calls of ours, in blocks and in sentences."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    found = [*lines, *re.findall(r"`(dory-orchestrator [^`]+)`", text)]
    return [line.partition(" #")[0] for line in found if line.startswith("dory-orchestrator ")]


def places(markdown: str) -> set[str]:
    """Names by which headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", markdown, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_it_says_what_it_means_what_to_look_at_and_what_to_do(rule: dict[str, Any]):
    section = SECTIONS[rule["alert"]]
    meaning = section.split(f"For {rule['for']}, {rule['labels']['severity']}. ", 1)[1]
    assert len(meaning.split("\n", 1)[0]) > 30
    assert len(blocks(section)) >= 2, "the rule, and what to look at"
    assert len(re.findall(r"^- ", section, flags=re.MULTILINE)) >= 2, "what was found, what to do"


@pytest.mark.parametrize("line", sorted(set(commands(ALERTS))))
def test_its_commands_can_be_called(line: str):
    command: click.Command = main
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None, line
        command = found
    # Options and arguments are parsed; nothing is called.
    command.make_context(command.name, arguments)


@pytest.mark.real
@needs_promtool
@pytest.mark.timeout(60)
def test_its_queries_parse(tmp_path: Path):
    queries = re.findall(r"^```promql\n(.*?)^```$", ALERTS, flags=re.MULTILINE | re.DOTALL)
    queries += re.findall(r"`(sum by [^`]*)`", ALERTS)
    assert len(queries) > len(RULES)
    done = parse({f"q{i}": query for i, query in enumerate(queries)}, tmp_path)
    assert done.returncode == 0, done.stdout


async def test_its_statements_are_understood(database_url: str):
    statements = re.findall(r"^```sql\n(.*?)^```$", ALERTS, flags=re.MULTILINE | re.DOTALL)
    statements += re.findall(r"""-c '(SELECT [^']*)'""", ALERTS)
    assert len(statements) >= 3
    connection = await asyncpg.connect(database_url)
    try:
        for statement in statements:
            assert await connection.fetch(statement)
    finally:
        await connection.close()


def test_its_metrics_are_there():
    for name in set(re.findall(r"\bdory_[a-z_]+", ALERTS)):
        assert any(name in (series, series.removesuffix("_count")) for series in known()), name


@pytest.mark.parametrize(
    ("file", "place"), sorted(set(re.findall(r"\]\(([\w.\-/]*)#([\w\-]+)\)", ALERTS)))
)
def test_its_links_lead_somewhere(file: str, place: str):
    text = (DOCS / file).read_text() if file else OPERATIONS
    assert place in places(text)
