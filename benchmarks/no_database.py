"""The real command, but the recorder answers at once: what the database costs is what lacks.

The same processes, started by the same supervisor, with the same parsing, authorization,
routing, limits and canary. `python -m benchmarks.no_database run ...` is the command;
`python -m benchmarks.no_database api` the process that it supervises.
"""

import asyncio
import sys
from unittest.mock import patch

from dory_orchestrator import cli
from dory_orchestrator.api.group_commit import Answer, HeartbeatRecorder
from dory_orchestrator.app import child, run
from dory_orchestrator.core.model import Directive
from dory_orchestrator.ports import Beat

_ANSWER = Answer(True, Directive.CONTINUE, "recorded", "desired")


def _submit(_recorder: HeartbeatRecorder, _beat: Beat | None) -> "asyncio.Future[Answer]":
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    future.set_result(_ANSWER)
    return future


def main() -> int:
    """Be the command or its process, as the first argument says."""
    if sys.argv[1] == "api":
        with patch.object(HeartbeatRecorder, "submit", _submit):
            return child.main()
    with patch.object(run, "_MODULE", "benchmarks.no_database"):
        cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
