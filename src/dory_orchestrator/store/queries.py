"""The named statements of `queries.sql`."""

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load() -> dict[str, str]:
    """Every statement by name. Raises ValueError when a name stands twice."""
    text = files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _HEADING.split(text)
    names, statements = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError("a statement name stands twice in queries.sql")
    return {name: body.strip() for name, body in zip(names, statements, strict=True)}


QUERIES = load()
