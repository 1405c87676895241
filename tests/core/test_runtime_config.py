"""Reading a template's configuration, and quantities: what is understood, what is refused."""

import json
import sys
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.world import MIB

from dory_orchestrator.core.model import Probes, Resources, TaintEffect, Toleration
from dory_orchestrator.core.quantity import millicores, quantity, whole
from dory_orchestrator.core.runtime_config import RuntimeConfig, UnreadableConfig, digest, read

# The whole example of the platform (platform facts 5.6).
EXAMPLE: dict[str, dict[str, Any]] = {
    "resources": {
        "cpu_request": "500m",
        "memory_request": "512Mi",
        "cpu_limit": "2000m",
        "memory_limit": "2Gi",
        "gpu_required": False,
        "gpu_limit": "",
    },
    "container": {"port": 8080, "command": [], "args": [], "image_pull_policy": "Always"},
    "health_probes": {
        "initial_delay_sec": 60,
        "period_sec": 10,
        "timeout_sec": 3,
        "failure_threshold": 3,
    },
    "env_vars": {
        "DORY_LOG_LEVEL": "INFO",
        "DORY_LOG_FORMAT": "json",
        "DORY_PRESET": "production",
        "DORY_HEALTH_PORT": "8080",
        "DORY_HEALTH_PATH": "/healthz",
        "DORY_READY_PATH": "/ready",
        "DORY_METRICS_PATH": "/metrics",
        "DORY_HEALTH_CHECK_INTERVAL_SEC": "10",
        "DORY_STARTUP_TIMEOUT_SEC": "120",
        "DORY_SHUTDOWN_TIMEOUT_SEC": "10",
        "DORY_STATE_BACKEND": "configmap",
        "DORY_STATE_PVC_MOUNT": "/data",
        "DORY_STATE_S3_BUCKET": "",
        "DORY_STATE_S3_PREFIX": "dory-state",
        "DORY_STATE_CAPTURE_TIMEOUT_SEC": "25",
        "DORY_STATE_RESTORE_TIMEOUT_SEC": "25",
        "DORY_STATE_MAX_SIZE_BYTES": "8388608",
        "DORY_STATE_SIZE_WARN_THRESHOLD": "0.75",
        "DORY_MAX_RESTART_ATTEMPTS": "3",
        "DORY_RESTART_BACKOFF_SEC": "10",
        "DORY_GOLDEN_IMAGE_THRESHOLD": "3",
    },
}


def said(**content) -> RuntimeConfig:
    return read(json.dumps(content))


def test_the_platform_s_example():
    config = read(json.dumps(EXAMPLE, indent=4))
    assert config.requests == Resources(500, 512 * MIB, 0)
    assert config.limits == Resources(2000, 2048 * MIB, 0)
    assert (config.port, config.command, config.args) == (8080, (), ())
    assert config.image_pull_policy == "Always"
    assert config.probes == Probes(60, 10, 3, 3, 120)
    assert config.environment == EXAMPLE["env_vars"]
    assert config.grace_seconds == 25
    assert config.priority == 0


@pytest.mark.parametrize("text", ["", "  ", "{}", "null", '{"unknown": [1, {"a": null}]}'])
def test_nothing_said_is_the_usual(text):
    config = read(text)
    usual = RuntimeConfig(canonical=config.canonical)
    assert config == usual
    assert (usual.grace_seconds, usual.port) == (45, 8080)


@pytest.mark.parametrize(
    ("resources", "requests", "limits"),
    [
        ({}, Resources(), Resources()),
        ({"cpu_request": 2, "memory_request": 1.5}, Resources(2000, 2), Resources()),
        ({"cpu_request": "0.1", "memory_request": "1k"}, Resources(100, 1000), Resources()),
        ({"cpu_limit": "1", "memory_limit": "1Ki"}, Resources(1000, 1024), Resources(1000, 1024)),
        ({"cpu_request": "", "memory_limit": None}, Resources(), Resources()),
        ({"gpu_limit": 2}, Resources(0, 0, 2), Resources(0, 0, 2)),
        ({"gpu_limit": "2", "gpu_required": True}, Resources(0, 0, 2), Resources(0, 0, 2)),
        ({"gpu_required": True}, Resources(0, 0, 1), Resources(0, 0, 1)),
        ({"gpu_required": True, "gpu_limit": ""}, Resources(0, 0, 1), Resources(0, 0, 1)),
        ({"gpu_required": None, "gpu_limit": None}, Resources(), Resources()),
    ],
)
def test_resources(resources, requests, limits):
    config = said(resources=resources)
    assert (config.requests, config.limits) == (requests, limits)


def test_the_other_keys():
    config = said(
        container={
            "port": 1,
            "command": ["python", ""],
            "args": ["-m", "x"],
            "image_pull_policy": "Never",
        },
        env_vars={"A": "b", "N": 1, "F": 1.5, "B": True, "E": ""},
        node_selector={"disk": "ssd", "gen": 2},
        tolerations=[
            {"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 3},
            {"operator": "Exists"},
            {"key": None, "operator": None, "value": None, "effect": ""},
        ],
        orchestrator={"priority": -3, "failback": "manual", "proof": ["/count"]},
        health_probes={"initial_delay_sec": 0, "period_sec": None, "timeout_sec": ""},
    )
    assert config.port == 1
    assert config.command == ("python", "")
    assert config.args == ("-m", "x")
    assert config.image_pull_policy == "Never"
    assert config.environment == {"A": "b", "N": "1", "F": "1.5", "B": "true", "E": ""}
    assert config.node_selector == {"disk": "ssd", "gen": "2"}
    assert config.tolerations == (
        Toleration("k", "Equal", "v", TaintEffect.NO_EXECUTE),
        Toleration("", "Exists"),
        Toleration(),
    )
    assert config.priority == -3
    assert config.probes == Probes()


@pytest.mark.parametrize(
    ("environment", "grace", "startup"),
    [
        ({}, 45, 120),
        ({"DORY_SHUTDOWN_TIMEOUT_SEC": "10", "DORY_STARTUP_TIMEOUT_SEC": "600"}, 25, 600),
        ({"DORY_SHUTDOWN_TIMEOUT_SEC": 0.5, "DORY_STARTUP_TIMEOUT_SEC": 1.5}, 16, 2),
        ({"DORY_SHUTDOWN_TIMEOUT_SEC": "", "DORY_STARTUP_TIMEOUT_SEC": ""}, 45, 120),
    ],
)
def test_the_client_library_s_times(environment, grace, startup):
    config = said(env_vars=environment)
    assert (config.grace_seconds, config.probes.startup_seconds) == (grace, startup)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ({}, "checkpoint_interval_seconds", None),
        ({"checkpoint_interval_seconds": None}, "checkpoint_interval_seconds", None),
        ({"checkpoint_interval_seconds": 0}, "checkpoint_interval_seconds", 0.0),
        ({"checkpoint_interval_seconds": 2.5}, "checkpoint_interval_seconds", 2.5),
        ({"checkpoint_interval_seconds": 3600}, "checkpoint_interval_seconds", 3600.0),
        ({}, "proof", ()),
        ({"proof": ["/count", "/a~1b/0", "/"]}, "proof", ("/count", "/a~1b/0", "/")),
        ({}, "failback_manual", False),
        ({"failback": "auto"}, "failback_manual", False),
        ({"failback": "manual"}, "failback_manual", True),
        ({}, "fencing", True),
        ({"fencing": False}, "fencing", False),
        ({"fencing": "off"}, "fencing", False),
        ({"fencing": "on"}, "fencing", True),
    ],
)
def test_what_concerns_state_and_moves(section, field, value):
    assert getattr(read(json.dumps({"orchestrator": section})), field) == value


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"resources": []}, "resources: is no object"),
        ({"resources": {"cpu_request": "a lot"}}, "resources.cpu_request: 'a lot'"),
        ({"resources": {"cpu_request": "-1"}}, "resources.cpu_request"),
        ({"resources": {"cpu_request": -1}}, "resources.cpu_request"),
        ({"resources": {"cpu_limit": True}}, "resources.cpu_limit: is no quantity"),
        ({"resources": {"memory_request": "1GB"}}, "resources.memory_request"),
        ({"resources": {"memory_request": "512 Mi"}}, "resources.memory_request"),
        ({"resources": {"memory_limit": ["1Gi"]}}, "resources.memory_limit: is no quantity"),
        ({"resources": {"memory_limit": "9e99"}}, "resources.memory_limit: is too large"),
        ({"resources": {"memory_limit": "9" * 5000}}, "resources.memory_limit: is too large"),
        ({"resources": {"memory_limit": "8388608Ei"}}, "resources.memory_limit: is too large"),
        ({"resources": {"gpu_limit": "many"}}, "resources.gpu_limit"),
        ({"resources": {"gpu_required": "yes"}}, "resources.gpu_required: is neither"),
        ({"container": "x"}, "container: is no object"),
        ({"container": {"port": 0}}, "container.port: is no whole number from 1 to 65535"),
        ({"container": {"port": 65536}}, "container.port"),
        ({"container": {"port": 80.5}}, "container.port"),
        ({"container": {"port": True}}, "container.port"),
        ({"container": {"command": "run me"}}, "container.command: is no list of strings"),
        ({"container": {"args": [1]}}, "container.args: is no list of strings"),
        ({"container": {"args": ["a\0b"]}}, "container.args"),
        ({"container": {"image_pull_policy": "always"}}, "container.image_pull_policy"),
        ({"container": {"image_pull_policy": ["Always"]}}, "container.image_pull_policy"),
        ({"health_probes": 5}, "health_probes: is no object"),
        ({"health_probes": {"period_sec": 0}}, "health_probes.period_sec"),
        ({"health_probes": {"timeout_sec": 0}}, "health_probes.timeout_sec"),
        ({"health_probes": {"failure_threshold": 0}}, "health_probes.failure_threshold"),
        ({"health_probes": {"initial_delay_sec": -1}}, "health_probes.initial_delay_sec"),
        ({"health_probes": {"initial_delay_sec": 86_401}}, "health_probes.initial_delay_sec"),
        ({"env_vars": []}, "env_vars: is no object"),
        ({"env_vars": {"A": None}}, "env_vars.A: is no string"),
        ({"env_vars": {"A": {}}}, "env_vars.A: is no string"),
        ({"env_vars": {"A=B": "c"}}, "env_vars: 'A=B' is no name"),
        ({"env_vars": {"": "c"}}, "env_vars: '' is no name"),
        ({"env_vars": {"A": "b\0"}}, "env_vars.A: holds a NUL"),
        ({"env_vars": {"DORY_SHUTDOWN_TIMEOUT_SEC": "soon"}}, "env_vars.DORY_SHUTDOWN_TIMEOUT_SEC"),
        ({"env_vars": {"DORY_SHUTDOWN_TIMEOUT_SEC": "0"}}, "env_vars.DORY_SHUTDOWN_TIMEOUT_SEC"),
        ({"env_vars": {"DORY_SHUTDOWN_TIMEOUT_SEC": "nan"}}, "env_vars.DORY_SHUTDOWN_TIMEOUT_SEC"),
        ({"env_vars": {"DORY_STARTUP_TIMEOUT_SEC": "inf"}}, "env_vars.DORY_STARTUP_TIMEOUT_SEC"),
        ({"env_vars": {"DORY_STARTUP_TIMEOUT_SEC": -1}}, "env_vars.DORY_STARTUP_TIMEOUT_SEC"),
        ({"node_selector": {"a": []}}, "node_selector.a: is no string"),
        ({"tolerations": {}}, "tolerations: is no list"),
        ({"tolerations": ["all"]}, "tolerations: an entry is no object"),
        ({"tolerations": [{"key": 1}]}, "tolerations: an entry needs"),
        ({"tolerations": [{"value": {"a": 1}}]}, "tolerations: an entry needs"),
        ({"tolerations": [{"operator": "Like"}]}, "tolerations: an entry needs"),
        ({"tolerations": [{"operator": ["Equal"]}]}, "tolerations: an entry needs"),
        ({"tolerations": [{"effect": "NoRun"}]}, "tolerations: 'NoRun' is no effect"),
        ({"tolerations": [{"effect": ["NoExecute"]}]}, "tolerations: ['NoExecute'] is no effect"),
        ({"orchestrator": "fast"}, "orchestrator: is no object"),
        ({"orchestrator": {"priority": "high"}}, "orchestrator.priority"),
        ({"orchestrator": {"priority": 1_000_001}}, "orchestrator.priority"),
        ({"orchestrator": {"checkpoint_interval_seconds": -1}}, "is no number from 0 to 3600"),
        ({"orchestrator": {"checkpoint_interval_seconds": 3601}}, "checkpoint_interval_seconds"),
        ({"orchestrator": {"checkpoint_interval_seconds": True}}, "checkpoint_interval_seconds"),
        ({"orchestrator": {"checkpoint_interval_seconds": "10s"}}, "checkpoint_interval_seconds"),
        ({"orchestrator": {"proof": "/count"}}, "orchestrator.proof: is no list"),
        ({"orchestrator": {"proof": [1]}}, "orchestrator.proof: is no list"),
        ({"orchestrator": {"proof": ["count"]}}, "'count' is no JSON pointer"),
        ({"orchestrator": {"proof": [""]}}, "orchestrator.proof"),
        ({"orchestrator": {"proof": ["/a~2"]}}, "orchestrator.proof"),
        ({"orchestrator": {"failback": "never"}}, "orchestrator.failback: is neither"),
        ({"orchestrator": {"failback": ["auto"]}}, "orchestrator.failback"),
        ({"orchestrator": {"fencing": "yes"}}, "orchestrator.fencing: is neither"),
        ({"orchestrator": {"fencing": 1}}, "orchestrator.fencing"),
        ([], "is no object"),
        ("text", "is no object"),
        (7, "is no object"),
    ],
)
def test_each_mistake_names_its_place(content, place):
    with pytest.raises(UnreadableConfig) as told:
        read(json.dumps(content))
    assert place in str(told.value)


@pytest.mark.parametrize("text", ["{", "nothing", "{'a': 1}", "{}}", "[" * 100_000, '{"a": 1e999}'])
def test_what_is_no_json(text):
    with pytest.raises(UnreadableConfig):
        read(text)


def test_no_depth_is_too_deep_for_an_answer():
    """Also where reading just succeeds, and writing it anew would not."""
    most = sys.getrecursionlimit()
    for depth in range(most - 150, most + 10):
        with suppress(UnreadableConfig):
            read('{"a":' + "[" * depth + "]" * depth + "}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted({key for part in EXAMPLE.values() for key in part} | {"priority", "effect", "key"})
SECTIONS = [*EXAMPLE, "node_selector", "tolerations", "orchestrator"]


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(SECTIONS),
        JSON
        | st.dictionaries(st.sampled_from(KEYS), JSON)
        | st.lists(st.dictionaries(st.sampled_from(KEYS), JSON)),
        max_size=3,
    )
)
def test_whatever_it_says_it_is_read_or_refused(content):
    with suppress(UnreadableConfig):
        config = read(json.dumps(content))
        assert all(isinstance(value, str) for value in config.environment.values())
        assert config.requests.cpu_millicores >= 0
        assert config.grace_seconds > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": 2}', '{ "b":2,\n "a":1 }', True),
        ('{"a": {"c": 1, "b": 2}}', '{"a": {"b": 2, "c": 1}}', True),
        ('{"orchestrator": {"priority": 1}}', "{}", True),
        ('{"orchestrator": {"priority": 1}}', '{"orchestrator": {"priority": 2}}', True),
        ("", "null", True),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": {"orchestrator": 1}}', '{"a": {}}', False),
        ('{"unknown": 1}', "{}", False),
    ],
)
def test_what_counts_as_a_change(one, other, same):
    assert (read(one).canonical == read(other).canonical) is same


def test_a_digest_tells_its_parts_apart():
    told = {
        digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", None),
        digest("abc", ""), digest(None, "abc"), digest("1:a"), digest("1", "a"), digest(),
    }  # fmt: skip
    assert len(told) == 9
    assert digest("ä") == digest("ä".encode())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("2", 2),
        ("500m", "0.5"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("1.", 1),
        ("1k", 1000),
        ("1K", 1000),
        ("1Ki", 1024),
        ("512Mi", 512 * 1024**2),
        ("1.5G", 1_500_000_000),
        ("1Gi", 1024**3),
        ("1T", 10**12),
        ("1Ti", 1024**4),
        ("1P", 10**15),
        ("1Pi", 1024**5),
        ("1E", 10**18),
        ("1Ei", 1024**6),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1e-3", "0.001"),
        ("12E+2", 1200),
        (" 1Gi ", 1024**3),
    ],
)
def test_quantities(text, number):
    assert quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1 Gi", "1gi", "1GI", "1MB", "1Mib", "m", "Gi", "1..5", ".", "1e", "1e3Mi2",
     "0x10", "1_000", "nan", "inf", "1,5", "\u0661", "1\n2", "1e100", "1u", "1n"],
)  # fmt: skip
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


@pytest.mark.parametrize(
    ("text", "milli", "pieces"),
    [
        ("1", 1000, 1),
        ("1m", 1, 1),
        ("0.0001", 1, 1),
        ("1.5", 1500, 2),
        ("100.1m", 101, 1),
        ("0", 0, 0),
    ],
)
def test_they_are_rounded_up(text, milli, pieces):
    assert (millicores(text), whole(text)) == (milli, pieces)


@given(
    st.from_regex(
        r"[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,2})?(m|k|[KMGTPE]i?)?", fullmatch=True
    )
)
def test_every_quantity_has_an_amount(text):
    assert millicores(text) >= whole(text) >= 0
