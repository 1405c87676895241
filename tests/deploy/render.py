"""Renders the chart with Helm, into the files that the tests look at where there is no Helm.

    python -m tests.deploy.render

Once for each file of values in `tests/deploy/values`. Each result bears a seal, so that it is noticed
when the chart was changed since, or the result by hand. Needs `helm`, version 3 or 4.
"""

import hashlib
import subprocess
from pathlib import Path

from tests.patience import patient

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "deploy/helm/dory-orchestrator"
VALUES = {path.stem: path for path in sorted((HERE / "values").glob("*.yaml"))}
GOLDEN = HERE / "golden/helm"
NAMESPACE = "dory-system"

_HEADER = """\
# Rendered by Helm {version} from deploy/helm/dory-orchestrator with tests/deploy/values/{case}.yaml.
# Do not edit: python -m tests.deploy.render
# Seal: {seal}
"""


def golden(case: str) -> Path:
    """What Helm made of the chart with these values."""
    return GOLDEN / f"{case}.yaml"


def seal(case: str, result: str) -> str:
    """Of the chart, the values and the result: another when any of them is."""
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    parts = [result.encode()]
    for path in (*files, VALUES[case]):
        parts += [path.relative_to(HERE.parents[1]).as_posix().encode(), path.read_bytes()]
    # Lengths, so that no text can be moved from one file to the next unnoticed.
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def is_sealed(case: str) -> bool:
    """Whether this is what was made of the chart and the values as they are."""
    lines = golden(case).read_text().splitlines(keepends=True)
    end = len(_HEADER.splitlines())
    return lines[end - 1] == f"# Seal: {seal(case, ''.join(lines[end:]))}\n"


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Helm to its end. Raises FileNotFoundError without it."""
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, timeout=patient(60))


def rendered(case: str) -> str:
    """What Helm makes of the chart with these values. Raises RuntimeError if it refuses."""
    done = helm(
        *("template", "dory-orchestrator", CHART),
        *("--namespace", NAMESPACE, "--values", VALUES[case]),
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def main() -> None:
    version = helm("version", "--template", "{{.Version}}").stdout.strip()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for case in VALUES:
        result = rendered(case)
        header = _HEADER.format(version=version, case=case, seal=seal(case, result))
        golden(case).write_text(header + result)


if __name__ == "__main__":
    main()
