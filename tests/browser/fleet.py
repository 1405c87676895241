"""`dev` with the example fleet, and how to hurt it; without an event loop, as the browser's driver
has its own."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.acceptance.real import COMMAND, clean_environment, clear
from tests.acceptance.test_fleet import EXAMPLES
from tests.patience import patient

CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "operators-know-this"
_SHORT = (
    *("--heartbeat-stale", "3s", "--node-failure-grace", "2s"),
    # It stays away for the whole run.
    *("--failback-stable", "10m"),
    *("--health-poll-interval", "500ms", "--checkpoint-interval", "1s"),
)
_START_SECONDS = 40.0
_END_SECONDS = patient(12.0)


class Fleet:
    """A running `dev`."""

    def __init__(self, process: "subprocess.Popen[bytes]", data_dir: Path, url: str) -> None:
        self.process = process
        self.data_dir = data_dir
        self.url = url

    def get(self, path: str) -> Any:
        """What the fleet API answers."""
        with urlopen(self.url + path, timeout=patient(5)) as answer:
            return json.load(answer)

    def processors(self) -> dict[str, dict[str, Any]]:
        """By name."""
        found = self.get("/api/v1/fleet/processors")["processors"]
        return {one["name"]: one for one in found}

    def all_run(self) -> bool:
        """With a state that was saved, so that it can be carried over."""
        summary = self.get("/api/v1/fleet/summary")
        return bool(summary["ready"] == summary["desired"] == 8)

    def have_beaten(self) -> bool:
        nodes = self.get("/api/v1/fleet/nodes?kind=edge")["nodes"]
        return all(node["last_heartbeat_at"] for node in nodes)

    def hurt(self, command: str, target: str) -> None:
        """`crash-node`, `crash-pod` and the like."""
        call = [*COMMAND, "local", command, target, "--data-dir", str(self.data_dir)]
        subprocess.run(
            call, check=True, capture_output=True, env=clean_environment(), timeout=patient(20)
        )

    def stop(self) -> float:
        """End it in order; how many seconds that took."""
        began_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(_END_SECONDS)
        return time.monotonic() - began_at

    def signal_api(self, number: int) -> None:
        """Of the process that serves the page."""
        import psutil

        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.cmdline()[-1:] == ["api"]:
                os.kill(child.pid, number)


@contextmanager
def running(folder: Path, **environment: str) -> Iterator[Fleet]:
    """A fleet whose processors all run, and have beaten and saved. Nothing of it is left."""
    data_dir = folder / "dory"
    fleet = _fleet_file(folder / "fleet")
    call = ["dev", "--data-dir", str(data_dir), "--port", "0", "--log-format", "json"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *call, "--fleet", str(fleet), *_SHORT],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment() | environment,
        )
    try:
        endpoints = data_dir / "endpoints.json"
        wait_for(endpoints.exists, _START_SECONDS)
        started = Fleet(process, data_dir, json.loads(endpoints.read_text())["http"])
        wait_for(lambda: started.all_run() and started.have_beaten(), _START_SECONDS)
        yield started
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        clear(data_dir)


def wait_for(condition: Callable[[], object], limit_seconds: float) -> None:
    """Look until it is true. Raises TimeoutError."""
    deadline = time.monotonic() + patient(limit_seconds)
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_seconds:g} s")
        time.sleep(0.05)


def _fleet_file(folder: Path) -> Path:
    """The example, whose programs beat each second."""
    shutil.copytree(EXAMPLES, folder)
    beats = folder / "heartbeats.py"
    beats.write_text(beats.read_text().replace("interval_sec=5.0", "interval_sec=1.0"))
    return folder / "fleet.yaml"
