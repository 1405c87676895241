"""What docs/operations.md tells receivers of webhooks is true."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dory_orchestrator.core.webhook import DeliveryLimits, signature

DOCUMENT = (Path(__file__).parents[1] / "docs/operations.md").read_text(encoding="utf-8")
SECRET, BODY = "s" * 32, b'{"id":17}'


@pytest.fixture
def is_genuine() -> Callable[..., bool]:
    """The example, as it stands."""
    (example,) = re.findall(r"```python\n(def is_genuine.*?)```", DOCUMENT, re.DOTALL)
    assert len(example.splitlines()) == 6
    names: dict[str, Any] = {"hashlib": hashlib, "hmac": hmac, "time": time}
    exec(compile(example, "docs/operations.md", "exec"), names)
    found: Callable[..., bool] = names["is_genuine"]
    return found


def headers(age_seconds: int = 0, **others: str) -> dict[str, str]:
    moment = int(time.time()) - age_seconds
    return {
        "dory-webhook-id": "17",
        "dory-webhook-timestamp": str(moment),
        "dory-webhook-signature": signature(SECRET, 17, moment, BODY),
    } | {name.replace("_", "-"): value for name, value in others.items()}


def test_what_we_send_passes(is_genuine):
    assert is_genuine(headers(), BODY, SECRET)
    assert is_genuine(headers(200), BODY, SECRET)


def test_nothing_else_does(is_genuine):
    assert not is_genuine(headers(), BODY + b" ", SECRET)
    assert not is_genuine(headers(), BODY, "another")
    assert not is_genuine(headers(400), BODY, SECRET)
    assert not is_genuine(headers(-400), BODY, SECRET)
    assert not is_genuine(headers(dory_webhook_id="18"), BODY, SECRET)
    moment = str(int(time.time()) - 1)
    assert not is_genuine(headers(dory_webhook_timestamp=moment), BODY, SECRET)
    assert not is_genuine(headers(dory_webhook_signature="v1="), BODY, SECRET)


def test_how_long_it_is_tried():
    limits = DeliveryLimits()
    waits = [limits.delay_seconds(tries) for tries in range(1, limits.tries_max)]
    written = ", ".join(f"{wait:g}" for wait in waits[:-1]) + f" and {waits[-1]:g} s"
    assert f"tried again after {written}" in DOCUMENT
    assert f"{round(sum(waits) / 60)} minutes later" in DOCUMENT
