"""Which tests were skipped, held against the list of those that may be.

    python -m tests.skips FILE

Each pytest that finds `DORY_SKIPS_FILE` set adds a line to that file for each test that it skipped.
This prints them, and fails if one does not stand in `skips.txt` with the reason that it gave, or if
one stands there that was not skipped.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

VARIABLE = "DORY_SKIPS_FILE"
REVIEWED = Path(__file__).with_name("skips.txt")
_SEPARATOR = " | "
_SOMETIMES = "? "


@dataclass(frozen=True)
class Reviewed:
    """A test, file or folder that may be skipped."""

    what: str
    reason: str
    """A `*` stands for anything."""
    always: bool
    """Else it depends on the place where the tests run."""

    def holds(self, test: str) -> bool:
        """Whether this is about the test."""
        return test == self.what or test.startswith(tuple(f"{self.what}{end}" for end in "/:["))


def reviewed(text: str) -> list[Reviewed]:
    """The list: one on each line that is neither empty nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    told = (line.partition(_SEPARATOR) for line in lines if line and not line.startswith("#"))
    return [
        Reviewed(what.removeprefix(_SOMETIMES), reason, not what.startswith(_SOMETIMES))
        for what, _, reason in told
    ]


def collected(lines: Iterable[str]) -> dict[str, str]:
    """By test, the reason that it gave: what the processes of pytest wrote."""
    return dict(json.loads(line) for line in lines)


def complaints(skipped: Mapping[str, str], allowed: Sequence[Reviewed]) -> list[str]:
    """What is wrong with them; empty when each is known."""
    name, found, met = REVIEWED.name, [], set()
    for test, reason in skipped.items():
        entry = next((one for one in allowed if one.holds(test)), None)
        if entry is None:
            found.append(f"{test} is skipped, and does not stand in {name}: {reason}")
        elif not fnmatchcase(reason, entry.reason):
            found.append(f"{test} is skipped for another reason than {name} says: {reason}")
        else:
            met.add(entry)
    stale = [one.what for one in allowed if one.always and one not in met]
    return found + [f"{what} stands in {name}, and is not skipped" for what in stale]


def note(file: str, test: str, reason: str) -> None:
    """Add one to the file; several processes may."""
    with Path(file).open("a") as stream:
        stream.write(json.dumps([test, reason]) + "\n")


def main() -> int:
    skipped = collected(Path(sys.argv[1]).read_text().splitlines())
    by_reason = defaultdict(list)
    for test, reason in sorted(skipped.items()):
        by_reason[reason].append(test)
    told = [f"{len(skipped)} skipped"]
    for reason, tests in by_reason.items():
        told += [f"  {reason}", *(f"    {test}" for test in tests)]
    found = complaints(skipped, reviewed(REVIEWED.read_text()))
    told += [f"WRONG: {one}" for one in found]
    sys.stdout.write("\n".join(told) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
