"""Environment, flags, file and defaults become one frozen `Settings`.

Each setting has one name in all four sources: the field `poll_interval` is the file key
`poll_interval`, the flag `--poll-interval` and the variable `DORY_POLL_INTERVAL`. The two
variables that the platform names otherwise stand in `_ENVIRONMENT_NAMES`.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args
from urllib.parse import unquote_plus, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

from dory_orchestrator.core.database_url import read

SECRETS = frozenset(
    {"config_db", "state_token", "state_token_previous", "operator_token", "webhooks"}
)
"""Settings whose values, or parts of them, appear nowhere in clear."""

SHARES = frozenset({"tracing_share"})
"""Settings that are numbers; those of the others with a fraction are seconds."""

_ENVIRONMENT_NAMES = {"config_db": "DORY_DATABASE_URL", "kubeconfig": "KUBECONFIG"}
_MASK = "***"
_SHOWN_CHARACTERS_MAX = 100

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")
_UNIT_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}

# User and password, then hosts with optional ports: `host`, `host:5432`, `[::1]:5432`, `a,b:1`.
_HOST = r"(?:\[[^\[\]@]+\]|[^:\[\]@,]*)(?::[0-9]*)?"
_DATABASE_AUTHORITY = re.compile(rf"(?:.*@)?{_HOST}(?:,{_HOST})*")


class SettingsError(Exception):
    """Settings cannot be used. `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def duration_seconds(text: str) -> float:
    """Seconds of `30s`, `500ms`, `2m`, `1h`, `7d`, `1m30s` or a plain number of seconds.

    Raises ValueError. May return infinity for absurdly long numbers.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError("expected a duration such as 30s, 500ms or 2m")
    # In decimals, so that 700ms is 0.7 and not 0.7000000000000001.
    parts = _DURATION_PART.findall(text)
    return float(sum((Decimal(number) * _UNIT_SECONDS[unit] for number, unit in parts), Decimal(0)))


def _duration(least_seconds: float, most_seconds: float) -> BeforeValidator:
    """A field of float seconds, given as a duration, within these bounds."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("expected a duration such as 30s, 500ms or 2m")
        seconds = duration_seconds(value.strip()) if isinstance(value, str) else value
        # Written so that NaN fails as well; and before float(), which refuses huge integers.
        if not least_seconds <= seconds <= most_seconds:
            raise ValueError(f"expected a duration from {least_seconds:g}s to {most_seconds:g}s")
        return float(seconds)

    return BeforeValidator(parse)


def _share(value: object) -> float:
    """A part of a whole."""
    expected = "expected a number from 0 to 1"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(expected)
    text = value.strip() if isinstance(value, str) else str(value)
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= 1:
        raise ValueError(expected)
    return float(text)


def _matching(pattern: str, expected: str) -> AfterValidator:
    """A text that matches `pattern` as a whole. `expected` ends the sentence "expected …"."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _not_a_bool(value: object) -> object:
    # To Python, and so to pydantic, `true` is the number 1.
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _level(value: object) -> object:
    text = value.lower() if isinstance(value, str) else value
    return "warn" if text == "warning" else text


def _database_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    expected = "expected a URL such as postgresql://user:password@host:5432/database"
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError(expected)
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("expected no spaces and control characters (write them as %20)")
    # What stands in the place of the host is printed, and must not be the half of a password.
    authority = re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]
    if not _DATABASE_AUTHORITY.fullmatch(authority) or "#" in text:
        raise ValueError(f"{expected}, with / ? # @ in the password written as %2F %3F %23 %40")
    read(text)
    return url


def _header_safe(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", token.get_secret_value()):
        raise ValueError("expected printable ASCII without spaces and line ends")
    return token


_Path = Annotated[str, _matching(r"[^\x00-\x1f\x7f]+", "a path without control characters")]
_Label = Annotated[
    str,
    _matching(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "a DNS label: at most 63 of a-z, 0-9 and -, a letter or digit at both ends",
    ),
]
_Address = Annotated[
    str, _matching(r"[0-9A-Za-z_.:%-]+", "an address such as 0.0.0.0, :: or a host name")
]
_Name = Annotated[
    str,
    _matching(
        r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
        "a name: at most 253 of a-z, 0-9, - and ., a letter or digit at both ends",
    ),
]
_Url = Annotated[
    str, _matching(r"https?://[^\s/?#]+(/[^\s?#]*)?", "a URL such as http://dory-orchestrator:8080")
]
_Collector = Annotated[
    str,
    _matching(
        r"https?://[^\s/?#@]+(/[^\s?#@]*)?",
        "a URL such as http://collector:4318, without user and password",
    ),
]
_Integer = Annotated[int, BeforeValidator(_not_a_bool)]
_Token = Annotated[SecretStr, AfterValidator(_header_safe)]

_WEBHOOKS_MAX = 20
_WEBHOOK_SECRET_CHARACTERS_MIN = 16
_WEBHOOK_URL = re.compile(r"https?://[^\s/?#@\\\x00-\x1f\x7f]+(?:[/?][^\s#\x00-\x1f\x7f]*)?")


def _webhook_url(url: str) -> str:
    try:
        valid = _WEBHOOK_URL.fullmatch(url) and urlsplit(url).hostname and urlsplit(url).port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        valid = None
    if not valid:
        raise ValueError(
            "expected a URL such as https://host/path, without user, password and fragment"
        )
    return url


def _hard_to_guess(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < _WEBHOOK_SECRET_CHARACTERS_MIN:
        raise ValueError(f"expected at least {_WEBHOOK_SECRET_CHARACTERS_MIN} characters")
    return secret


_KindPattern = Annotated[
    str, _matching(r"[a-z0-9_*?]{1,100}", "a kind of event such as failover, node_* or *")
]


class Webhook(BaseModel):
    """Where events are sent to. `kinds` are kinds of events, with `*` and `?` as in file names;
    `timeout` is seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Label
    url: Annotated[str, AfterValidator(_webhook_url)]
    secret: Annotated[_Token, AfterValidator(_hard_to_guess)]
    kinds: Annotated[tuple[_KindPattern, ...], Field(min_length=1, max_length=100)] = ("*",)
    timeout: Annotated[float, _duration(0.1, 30)] = 5.0

    @property
    def shown_url(self) -> str:
        """Without its query, in which there may be a key."""
        return self.url.partition("?")[0]


def _json_list(value: object) -> object:
    """A flag and a variable hold JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        # Not chained: the text holds secrets.
        raise ValueError("expected a list of webhooks, as JSON") from None


def _unique_names(webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
    twice = [name for name, n in Counter(hook.name for hook in webhooks).items() if n > 1]
    if twice:
        raise ValueError(f"expected each name once: {', '.join(sorted(twice))}")
    return webhooks


_Webhooks = Annotated[
    tuple[Webhook, ...],
    BeforeValidator(_json_list),
    AfterValidator(_unique_names),
    Field(max_length=_WEBHOOKS_MAX),
]


class Settings(BaseModel):
    """Every setting, validated. Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    config_db: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None, description="PostgreSQL URL of the platform's database."
    )
    kubeconfig: _Path | None = Field(
        default=None, description="Path of a kubeconfig. Without it: the configuration of the pod."
    )
    kube_context: _Path | None = Field(
        default=None, description="Context of the kubeconfig. Without it: its current one."
    )
    namespace: _Label = Field(
        default="default", description="Kubernetes namespace of processors that name none."
    )
    poll_interval: Annotated[float, _duration(0.1, 3600)] = Field(
        default=30.0, description="Longest time between two looks at everything (100ms to 1h)."
    )
    log_level: Annotated[Literal["debug", "info", "warn", "error"], BeforeValidator(_level)] = (
        Field(default="info", description="Least level that is logged: debug, info, warn, error.")
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json, text, or auto: text on a terminal, else json."
    )
    enable_monitor: bool = Field(default=False, description="Watch the events of the cluster too.")
    metrics_address: _Address = Field(
        default="0.0.0.0",  # noqa: S104 - pods and probes come from outside; `dev` listens on 127.0.0.1
        description="Address on which HTTP is served: edge API, probes, metrics.",
    )
    metrics_port: _Integer = Field(
        default=8080,
        ge=0,
        le=65535,
        description="Port on which HTTP is served (0 to 65535; 0: any free port).",
    )
    cluster: Literal["kubernetes", "local"] = Field(
        default="kubernetes", description="Where pods run: kubernetes, or local (child processes)."
    )
    role: Literal["all", "api", "control"] = Field(
        default="all", description="What this command runs: api, control, or all (both)."
    )
    state_token: _Token | None = Field(
        default=None,
        description="Bearer token of edge pods, in both directions. Without it: open to all.",
    )
    state_token_previous: _Token | None = Field(
        default=None, description="Also accepted while the state token is rotated."
    )
    operator_token: _Token | None = Field(
        default=None,
        description="Bearer token of operators, to change the fleet. Without it: open to all.",
    )
    require_state_token: bool = Field(
        default=True,
        description="Demand the state token on the edge API. Off: pods have it, and it is open.",
    )
    local_dir: _Path = Field(
        default=".dory", description="Data directory of the local cluster (cluster local)."
    )
    orchestrator_url: _Url | None = Field(
        default=None,
        description="Where pods find the orchestrator (cluster kubernetes). Without it: the service `dory-orchestrator` of its namespace.",
    )
    pod_service_account: _Name = Field(
        default="dory-processor",
        description="ServiceAccount of pods (cluster kubernetes): it may keep their states.",
    )
    image_pull_secret: _Name = Field(
        default="ecr-registry-secret",
        description="Secret of each namespace that images are pulled with (cluster kubernetes).",
    )
    state_token_secret: _Name = Field(
        default="dory-state-token",
        description="Secret of each namespace with the state token, in the key `token` (cluster kubernetes).",
    )
    sentinel: _Name | None = Field(
        default=None,
        description="ConfigMap that owns all pods of its namespace: who deletes it deletes them (cluster kubernetes).",
    )
    deletion_guard_seconds: Annotated[float, _duration(10, 86_400)] | None = Field(
        default=None,
        description="Longest hold of the deletion guard, if not to nothing (10s to 24h).",
    )
    checkpoint_interval: Annotated[float, _duration(0, 3600)] = Field(
        default=10.0,
        description="Time between two checkpoints of a processor; 0: none (0s to 1h).",
    )
    seed_every: Annotated[float, _duration(5, 3600)] = Field(
        default=60.0,
        description=(
            "Age of the state that a container may begin with while we are away (cluster"
            " kubernetes; local: each checkpoint; 5s to 1h)."
        ),
    )
    health_poll_interval: Annotated[float, _duration(0.5, 600)] = Field(
        default=10.0, description="How often each pod is asked for its probes (500ms to 10m)."
    )
    heartbeat_stale: Annotated[float, _duration(2, 3600)] = Field(
        default=60.0,
        description="Silence of an edge node from which it is suspect (2s to 1h).",
    )
    node_failure_grace: Annotated[float, _duration(1, 3600)] = Field(
        default=30.0,
        description="How long a node is suspect before it is dead (1s to 1h).",
    )
    failback_stable: Annotated[float, _duration(1, 1800)] = Field(
        default=120.0,
        description="Health of an edge node until processors come home; doubles with each fall (1s to 30m).",
    )
    moves_max: _Integer = Field(
        default=10,
        ge=1,
        le=1_000,
        description="Failovers that are begun at once (1 to 1000).",
    )
    planned_moves_max: _Integer = Field(
        default=10,
        ge=1,
        le=1_000,
        description="Planned moves at once: failback, decommissioning, orders (1 to 1000).",
    )
    planned_move_timeout: Annotated[float, _duration(10, 3600)] = Field(
        default=60.0,
        description="After so long a planned move is given up whose state cannot be taken (10s to 1h).",
    )
    event_retention: Annotated[float, _duration(3600, 3650 * 86_400)] = Field(
        default=30 * 86_400.0,
        description="How long events, ended moves and dead letters of webhooks are kept (1h to 3650d).",
    )
    webhooks: _Webhooks | None = Field(
        default=None,
        description="Where events are sent to: a list; as JSON in a flag and in the environment.",
    )
    tracing_endpoint: _Collector | None = Field(
        default=None,
        description="Collector of traces, OTLP over HTTP, such as http://collector:4318. Needs the extra `tracing`.",
    )
    tracing_share: Annotated[float, BeforeValidator(_share)] = Field(
        default=1.0, description="Share of traces that are kept (0 to 1); moves are always."
    )
    database_pool_size: _Integer = Field(
        default=5,
        ge=2,
        le=100,
        description="Connections of each process, besides that of the heartbeats (2 to 100).",
    )
    database_timeout: Annotated[float, _duration(0.1, 60)] = Field(
        default=2.0, description="Longest wait for one statement, heartbeats apart (100ms to 1m)."
    )
    heartbeat_timeout: Annotated[float, _duration(0.2, 4)] = Field(
        default=2.0, description="A heartbeat is answered after this at the latest (200ms to 4s)."
    )
    heartbeat_queue_size: _Integer = Field(
        default=20_000,
        ge=64,
        le=1_000_000,
        description="Heartbeats that may wait for the database; more are shed (64 to 1000000).",
    )
    heartbeat_batch_size: _Integer = Field(
        default=1_000,
        ge=1,
        le=10_000,
        description="Heartbeats written together at most (1 to 10000).",
    )
    http_connections: _Integer = Field(
        default=20_000,
        ge=16,
        le=1_000_000,
        description="Open HTTP connections at most (16 to 1000000).",
    )
    http_keep_alive: Annotated[float, _duration(75, 3600)] = Field(
        default=90.0, description="How long an idle HTTP connection is kept (75s to 1h)."
    )
    http_read_timeout: Annotated[float, _duration(0.1, 60)] = Field(
        default=10.0,
        description="Longest wait for the headers of a request, and again for its body (100ms to 1m).",
    )
    shutdown_delay: Annotated[float, _duration(0, 30)] = Field(
        default=1.0,
        description="How long after SIGTERM requests are still answered, while not ready (0s to 30s).",
    )

    def to_json(self) -> str:
        """All settings, with secrets in clear: for a pipe to a child process and nothing else."""
        return json.dumps(dict(self), default=_in_clear)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The settings that `to_json` wrote. Raises pydantic's ValidationError."""
        return cls.model_validate_json(text)


def _in_clear(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return dict(value)
    raise TypeError(type(value).__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each field in words where its value comes from."""

    settings: Settings
    origins: Mapping[str, str]


def environment_name(name: str) -> str:
    """The environment variable of a setting."""
    return _ENVIRONMENT_NAMES.get(name, f"DORY_{name.upper()}")


def flag_name(name: str, value: object = None) -> str:
    """The flag of a setting; for False the flag that says so."""
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], config_file: Path | None
) -> Loaded:
    """Take each setting from the strongest source that has it: environment, flag, file, default.

    Flags are named like the fields. None and the empty text count as not given, everywhere.
    Raises SettingsError with all that is wrong, in whatever source.
    """
    in_file, problems = _read(config_file) if config_file else ({}, [])
    values: dict[str, object] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for name in origins:
        for value, origin in _offers(name, flags, environ, in_file, config_file):
            if value is not None and value != "":
                values[name], origins[name] = value, origin
                break
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_problem(details, values, origins) for details in error.errors()]
    else:
        if not problems:
            return Loaded(settings, MappingProxyType(origins))
    # Not chained to pydantic's error, which holds the values that must not be seen.
    raise SettingsError(problems) from None


def printed(loaded: Loaded) -> str:
    """A table of name, value and source. Secrets are masked."""
    rows = [("setting", "value", "source")] + [
        (name, shown(name, value), loaded.origins[name]) for name, value in loaded.settings
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)


def shown(name: str, value: object) -> str:
    """A valid value as people write it; a secret is masked, of a URL only its password."""
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return _masked_url(value.get_secret_value()) if name == "config_db" else _MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps([_shown_webhook(hook) for hook in value], separators=(",", ":"))
    unit = "" if name in SHARES else "s"
    return f"{value:.15g}{unit}" if isinstance(value, float) else str(value)


def _shown_webhook(hook: Webhook) -> dict[str, object]:
    query = f"?{_MASK}" if "?" in hook.url else ""
    return {
        **dict(hook),
        "url": hook.shown_url + query,
        "secret": _MASK,
        "timeout": f"{hook.timeout:.15g}s",
    }


def choices(name: str) -> tuple[str, ...]:
    """The words that a setting is chosen from; none if it is no choice."""
    words = get_args(Settings.model_fields[name].annotation)
    return tuple(word for word in words if isinstance(word, str))


def _offers(
    name: str,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    in_file: Mapping[str, object],
    config_file: Path | None,
) -> Iterator[tuple[object, str]]:
    """What the sources say of a setting, the strongest first."""
    variable, flag = environment_name(name), flags.get(name)
    of_environment = (environ.get(variable), f"environment {variable}")
    of_flag = (flag, f"flag {flag_name(name, flag)}")
    # KUBECONFIG is set in many shells for other tools, so here the flag is the clearer wish.
    yield from (of_flag, of_environment) if name == "kubeconfig" else (of_environment, of_flag)
    yield in_file.get(name), f"file {config_file}"


def _problem(
    details: ErrorDetails, values: Mapping[str, object], origins: Mapping[str, str]
) -> str:
    name = str(details["loc"][0])
    value = _MASK if name in SECRETS else repr(values[name])
    if len(value) > _SHOWN_CHARACTERS_MAX:
        value = f"{value[:_SHOWN_CHARACTERS_MAX]}…"
    if details["type"] == "value_error":
        reason = str(details["ctx"]["error"])
    else:
        reason = details["msg"].replace("Input should be", "must be")
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"])
    within = place.removeprefix(f".{name}")
    return f"{name}: {value} (from {origins[name]}): {f'{within}: ' if within else ''}{reason}"


def _read(config_file: Path) -> tuple[dict[str, object], list[str]]:
    """The file's known settings, and what is wrong with the file."""
    where = f"file {config_file}"
    try:
        text = config_file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        repeated = _repeated_keys(text)
    except OSError as error:
        return {}, [f"{where}: cannot be read: {error.strerror or type(error).__name__}"]
    except UnicodeDecodeError:
        return {}, [f"{where}: is not UTF-8"]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return {}, [f"{where}: is not valid YAML{_place(error)}"]
    if content is None:
        return {}, []
    if not isinstance(content, dict):
        return {}, [f"{where}: expected a mapping of settings to values"]
    unknown = [key for key in content if key not in Settings.model_fields]
    problems = [f"{key} (from {where}): no such setting{_hint(key)}" for key in unknown]
    problems += [f"{key} (from {where}): stands there more than once" for key in repeated]
    return {key: value for key, value in content.items() if key not in unknown}, problems


def _repeated_keys(text: str) -> list[str]:
    # PyYAML lets the last one win without a word.
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return []
    return [key for key, n in Counter(str(key.value) for key, _ in node.value).items() if n > 1]


def _place(error: Exception) -> str:
    # Only the place: PyYAML's own words quote the line, which may hold a secret.
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def _hint(key: object) -> str:
    name = str(key).lower().replace("-", "_")
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def _masked_url(url: str) -> str:
    """The URL without its password; when in doubt, rather less of it than too much."""
    base, mark, query = re.sub(r"(://[^:]*):.*@", rf"\1:{_MASK}@", url).partition("?")
    return base + mark + "&".join(_masked_parameter(pair) for pair in query.split("&"))


def _masked_parameter(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={_MASK}" if equals and "password" in unquote_plus(name).lower() else pair
