"""Reading `processor_template_versions.runtime_config_template` (platform facts 5.6).

The column is written by people: what can be understood is taken, unknown keys are left alone,
and what cannot be understood names its place.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dory_orchestrator.core.model import (
    NO_RESOURCES,
    USUAL_PROBES,
    Probes,
    Resources,
    TaintEffect,
    Toleration,
)
from dory_orchestrator.core.quantity import millicores, whole

OUR_KEY = "orchestrator"
"""Our own settings of a template: they change how we act, never the pod."""

_SHUTDOWN_SECONDS = 30
"""What the client library takes when DORY_SHUTDOWN_TIMEOUT_SEC is not set."""
_GRACE_MARGIN_SECONDS = 15
_STARTUP_SECONDS = 120
CHECKPOINT_INTERVAL_SECONDS_MAX = 3600
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+", re.DOTALL)


class UnreadableConfig(Exception):
    """The text cannot be understood. The message names the place."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What a template's configuration says of its pods. `canonical` is the text that counts
    for the change hash: keys sorted, our own settings left out."""

    canonical: bytes
    requests: Resources = NO_RESOURCES
    limits: Resources = NO_RESOURCES
    port: int = 8080
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    image_pull_policy: str = "IfNotPresent"
    probes: Probes = USUAL_PROBES
    environment: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    grace_seconds: int = _SHUTDOWN_SECONDS + _GRACE_MARGIN_SECONDS
    security_context: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    checkpoint_interval_seconds: float | None = None
    """None: the usual one; 0: no checkpoints."""
    proof: tuple[str, ...] = ()
    """JSON pointers into the state whose values show that it was restored."""
    failback_manual: bool = False
    fencing: bool = True


def read(text: str) -> RuntimeConfig:
    """Understand the JSON text of the column. Raises UnreadableConfig."""
    try:
        content = msgspec.json.decode(text) if text.strip() else {}
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise UnreadableConfig("is no object")
        return _read(content)
    except msgspec.DecodeError as error:
        raise UnreadableConfig(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise UnreadableConfig("is nested too deeply") from error


def _read(content: dict[str, Any]) -> RuntimeConfig:
    resources = _section(content, "resources")
    container = _section(content, "container")
    environment = _texts(content, "env_vars")
    return RuntimeConfig(
        canonical=canonical({key: value for key, value in content.items() if key != OUR_KEY}),
        requests=_requests(resources),
        limits=_resources(resources, "limit"),
        port=_number(container, "container", "port", 8080, 1, 65535),
        command=_words(container, "command"),
        args=_words(container, "args"),
        image_pull_policy=_pull_policy(container),
        probes=_probes(_section(content, "health_probes"), environment),
        environment=environment,
        node_selector=_texts(content, "node_selector"),
        tolerations=_tolerations(content),
        grace_seconds=_grace_seconds(environment),
        security_context=_section(content, "security_context"),
        **_ours(_section(content, OUR_KEY)),
    )


def canonical(value: object) -> bytes:
    """JSON with sorted keys: the same content is always the same bytes."""
    return msgspec.json.encode(value, order="sorted")


def digest(*parts: bytes | str | None) -> str:
    """A short hash over parts; None differs from empty."""
    framed = b"".join([b"-1:" if part is None else _framed(part) for part in parts])
    return hashlib.sha256(framed).hexdigest()[:32]


def _framed(part: bytes | str) -> bytes:
    data = part.encode() if isinstance(part, str) else part
    return b"%d:%b" % (len(data), data)


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise UnreadableConfig(f"{name}: is no object")
    return section


def _texts(content: Mapping[str, Any], name: str) -> dict[str, str]:
    """A mapping to strings; numbers and booleans are written as JSON does."""
    texts = {}
    for key, value in _section(content, name).items():
        if not key or "=" in key or "\0" in key:
            raise UnreadableConfig(f"{name}: {key!r} is no name")
        if isinstance(value, str):
            texts[key] = value
        elif isinstance(value, bool | int | float):
            texts[key] = msgspec.json.encode(value).decode()
        else:
            raise UnreadableConfig(f"{name}.{key}: is no string")
        if "\0" in texts[key]:
            raise UnreadableConfig(f"{name}.{key}: holds a NUL")
    return texts


def _words(container: Mapping[str, Any], name: str) -> tuple[str, ...]:
    words = container.get(name)
    if words is None:
        return ()
    if not isinstance(words, list) or not all(isinstance(w, str) and "\0" not in w for w in words):
        raise UnreadableConfig(f"container.{name}: is no list of strings")
    return tuple(words)


def _number(
    section: Mapping[str, Any], place: str, name: str, default: int, least: int, most: int
) -> int:
    value = section.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UnreadableConfig(f"{place}.{name}: is no whole number from {least} to {most}")
    return value


def _amount(resources: Mapping[str, Any], name: str, read_text: Any) -> int:
    value = resources.get(name)
    if value is None or value == "":
        return 0
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableConfig(f"resources.{name}: is no quantity")
    try:
        amount: int = read_text(str(value))
    except ValueError as error:
        raise UnreadableConfig(f"resources.{name}: {error}") from error
    if amount > 2**62:
        raise UnreadableConfig(f"resources.{name}: is too large")
    return amount


def _resources(resources: Mapping[str, Any], kind: str) -> Resources:
    return Resources(
        _amount(resources, f"cpu_{kind}", millicores),
        _amount(resources, f"memory_{kind}", whole),
        _gpus(resources),
    )


def _requests(resources: Mapping[str, Any]) -> Resources:
    """As in Kubernetes, a limit without a request is the request too."""
    asked, limits = _resources(resources, "request"), _resources(resources, "limit")
    return Resources(
        asked.cpu_millicores or limits.cpu_millicores,
        asked.memory_bytes or limits.memory_bytes,
        asked.gpu_count,
    )


def _gpus(resources: Mapping[str, Any]) -> int:
    """`gpu_limit` pieces; `gpu_required` without a number is one."""
    required = resources.get("gpu_required") or False
    if not isinstance(required, bool):
        raise UnreadableConfig("resources.gpu_required: is neither true nor false")
    count = _amount(resources, "gpu_limit", whole)
    return max(count, 1) if required else count


def _pull_policy(container: Mapping[str, Any]) -> str:
    policy = container.get("image_pull_policy") or "IfNotPresent"
    if policy not in ("Always", "IfNotPresent", "Never"):
        raise UnreadableConfig(
            "container.image_pull_policy: is none of Always, IfNotPresent, Never"
        )
    return str(policy)


def _probes(section: Mapping[str, Any], environment: Mapping[str, str]) -> Probes:
    def number(name: str, default: int, least: int) -> int:
        return _number(section, "health_probes", name, default, least, 86_400)

    return Probes(
        initial_delay_seconds=number("initial_delay_sec", 0, 0),
        period_seconds=number("period_sec", 10, 1),
        timeout_seconds=number("timeout_sec", 3, 1),
        failure_threshold=number("failure_threshold", 3, 1),
        startup_seconds=_seconds(environment, "DORY_STARTUP_TIMEOUT_SEC", _STARTUP_SECONDS),
    )


def _seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None or text == "":
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise UnreadableConfig(f"env_vars.{name}: {text!r} is no number of seconds")
    return int(-(-seconds // 1))


def _grace_seconds(environment: Mapping[str, str]) -> int:
    """The shutdown limit and a margin: pause, publisher and save come on top (12.2)."""
    shutdown = _seconds(environment, "DORY_SHUTDOWN_TIMEOUT_SEC", _SHUTDOWN_SECONDS)
    return shutdown + _GRACE_MARGIN_SECONDS


def _tolerations(content: Mapping[str, Any]) -> tuple[Toleration, ...]:
    entries = content.get("tolerations")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise UnreadableConfig("tolerations: is no list")
    return tuple(_toleration(entry) for entry in entries)


def _toleration(entry: object) -> Toleration:
    """As in a pod of Kubernetes."""
    if not isinstance(entry, dict):
        raise UnreadableConfig("tolerations: an entry is no object")
    key, value = entry.get("key") or "", entry.get("value") or ""
    operator, effect = entry.get("operator") or "Equal", entry.get("effect") or None
    if (
        operator not in ("Equal", "Exists")
        or not isinstance(key, str)
        or not isinstance(value, str)
    ):
        raise UnreadableConfig("tolerations: an entry needs key, operator Equal or Exists, value")
    if effect is not None and effect not in list(TaintEffect):
        raise UnreadableConfig(f"tolerations: {effect!r} is no effect of a taint")
    return Toleration(key, operator, value, TaintEffect(effect) if effect else None)


def _ours(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "priority": _number(section, OUR_KEY, "priority", 0, -1_000_000, 1_000_000),
        "checkpoint_interval_seconds": _checkpoint_interval_seconds(section),
        "proof": _proof(section),
        "failback_manual": _is_failback_manual(section),
        "fencing": _fencing(section),
    }


def _checkpoint_interval_seconds(section: Mapping[str, Any]) -> float | None:
    value = section.get("checkpoint_interval_seconds")
    if value is None or value == "":
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= CHECKPOINT_INTERVAL_SECONDS_MAX:
        raise UnreadableConfig(
            f"{OUR_KEY}.checkpoint_interval_seconds: is no number from 0 to"
            f" {CHECKPOINT_INTERVAL_SECONDS_MAX}"
        )
    return float(value)


def _proof(section: Mapping[str, Any]) -> tuple[str, ...]:
    pointers = section.get("proof")
    if pointers is None:
        return ()
    if not isinstance(pointers, list) or not all(isinstance(p, str) for p in pointers):
        raise UnreadableConfig(f"{OUR_KEY}.proof: is no list of JSON pointers")
    for pointer in pointers:
        if not _POINTER.fullmatch(pointer):
            raise UnreadableConfig(
                f"{OUR_KEY}.proof: {pointer!r} is no JSON pointer such as /count"
            )
    return tuple(pointers)


def _is_failback_manual(section: Mapping[str, Any]) -> bool:
    failback = section.get("failback") or "auto"
    if failback not in ("auto", "manual"):
        raise UnreadableConfig(f"{OUR_KEY}.failback: is neither auto nor manual")
    return bool(failback == "manual")


def _fencing(section: Mapping[str, Any]) -> bool:
    fencing = section.get("fencing")
    if fencing is None or fencing == "":
        return True
    if isinstance(fencing, bool):
        return fencing
    if fencing not in ("on", "off"):
        raise UnreadableConfig(f"{OUR_KEY}.fencing: is neither true nor false, on nor off")
    return bool(fencing == "on")
