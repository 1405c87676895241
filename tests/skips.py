"""Which tests were skipped, held against the list of those that may be.

    python -m tests.skips FILE

Each pytest that finds `DORY_SKIPS_FILE` set adds a line to that file for each test that it skipped.
This prints them, and fails if one does not stand in `skips.txt` with the reason that it gave, or if
one stands there that was not skipped.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

VARIABLE = "DORY_SKIPS_FILE"
REVIEWED = Path(__file__).with_name("skips.txt")
_SEPARATOR = " | "

Skips = dict[str, str]
"""By test, the reason that it gave."""


def reviewed(text: str) -> Skips:
    """The list: a test, file or folder, and the reason, on each line that is no comment."""
    lines = (line.strip() for line in text.splitlines())
    told = (line.partition(_SEPARATOR) for line in lines if line and not line.startswith("#"))
    return {what.strip(): reason.strip() for what, _, reason in told}


def collected(lines: Iterable[str]) -> Skips:
    """What the processes of pytest wrote."""
    return dict(json.loads(line) for line in lines)


def complaints(skipped: Mapping[str, str], allowed: Mapping[str, str]) -> list[str]:
    """What is wrong with them; empty when each is known."""
    found, met = [], set()
    for test, reason in skipped.items():
        entry = next((what for what in allowed if _holds(what, test)), None)
        if entry is None:
            found.append(f"{test} is skipped, and stands not in {REVIEWED.name}: {reason}")
        elif allowed[entry] != reason:
            found.append(
                f"{test} is skipped for another reason than {REVIEWED.name} says: {reason}"
            )
        else:
            met.add(entry)
    stale = (what for what in allowed if what not in met)
    return found + [f"{what} stands in {REVIEWED.name}, and is not skipped" for what in stale]


def _holds(what: str, test: str) -> bool:
    return test == what or test.startswith((f"{what}/", f"{what}::", f"{what}["))


def note(file: str, test: str, reason: str) -> None:
    """Add one to the file; several processes may."""
    with Path(file).open("a") as stream:
        stream.write(json.dumps([test, reason]) + "\n")


def main() -> int:
    file = Path(sys.argv[1])
    skipped = collected(file.read_text().splitlines() if file.exists() else ())
    by_reason = defaultdict(list)
    for test, reason in sorted(skipped.items()):
        by_reason[reason].append(test)
    sys.stdout.write(f"{len(skipped)} tests were skipped\n")
    for reason, tests in by_reason.items():
        sys.stdout.write("".join(f"  {line}\n" for line in (reason, *(f"  {x}" for x in tests))))
    found = complaints(skipped, reviewed(REVIEWED.read_text()))
    sys.stdout.write("".join(f"WRONG: {one}\n" for one in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
