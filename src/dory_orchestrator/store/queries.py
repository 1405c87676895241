"""The named statements of the `.sql` files beside this module."""

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load(name: str) -> dict[str, str]:
    """Every statement of a file, by name. Raises ValueError when a name stands twice."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    _, *parts = _HEADING.split(text)
    names, statements = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a statement name stands twice in {name}")
    return {name: body.strip() for name, body in zip(names, statements, strict=True)}


QUERIES = load("queries.sql")
