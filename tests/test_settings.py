"""Sources, their order, what is refused, and that no secret is shown."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from dory_orchestrator.settings import (
    SECRETS,
    Loaded,
    Settings,
    SettingsError,
    Webhook,
    choices,
    duration_seconds,
    environment_name,
    flag_name,
    load,
    printed,
    shown,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"
FIELDS = tuple(Settings.model_fields)


class Sample(NamedTuple):
    """Three good values that differ from each other and from the default, and a bad one."""

    environment: str
    flag: object
    file: object
    bad: str


DATABASE = "postgresql://user:geheim@{}/db"


def a_webhook(**values: object) -> dict[str, object]:
    return {"name": "a", "url": "https://a.example/in", "secret": "0123456789abcdef"} | values


SAMPLES = {
    "config_db": Sample(
        DATABASE.format("a"), DATABASE.format("b"), DATABASE.format("c"), "mysql://u:geheim@h/db"
    ),
    "kubeconfig": Sample("/env/kube", "/flag/kube", "/file/kube", "/with\nline"),
    "kube_context": Sample("of-env", "of-flag", "of-file", "with\nline"),
    "namespace": Sample("of-env", "of-flag", "of-file", "Not_A_Label"),
    "poll_interval": Sample("1s", "2s", "3s", "3 parsecs"),
    "log_level": Sample("debug", "warn", "error", "loud"),
    "log_format": Sample("json", "text", "json", "xml"),
    "enable_monitor": Sample("true", False, True, "perhaps"),
    "metrics_address": Sample("10.0.0.1", "10.0.0.2", "::", "not an address"),
    "metrics_port": Sample("1001", "1002", 1003, "65536"),
    "cluster": Sample("local", "kubernetes", "local", "nomad"),
    "role": Sample("api", "control", "api", "spectator"),
    "state_token": Sample("env-token", "flag-token", "file-token", "geheim with spaces"),
    "state_token_previous": Sample("env-old", "flag-old", "file-old", "geheim\n"),
    "operator_token": Sample("env-operator", "flag-operator", "file-operator", "geheim\t"),
    "require_state_token": Sample("true", False, True, "perhaps"),
    "local_dir": Sample("/env/dory", "/flag/dory", "/file/dory", "/with\nline"),
    "orchestrator_url": Sample("http://e:1", "https://f", "http://g/p", "ftp://h"),
    "pod_service_account": Sample("of-env", "of-flag", "of-file", "Not_A_Name"),
    "image_pull_secret": Sample("of-env", "of-flag", "of-file", "Not_A_Name"),
    "state_token_secret": Sample("of-env", "of-flag", "of-file", "Not_A_Name"),
    "sentinel": Sample("of-env", "of-flag", "of-file", "Not_A_Name"),
    "deletion_guard_seconds": Sample("11s", "12s", "13s", "9s"),
    "checkpoint_interval": Sample("11s", "12s", "0s", "3601s"),
    "seed_every": Sample("11s", "12s", "13s", "4s"),
    "health_poll_interval": Sample("1s", "2s", "3s", "400ms"),
    "heartbeat_stale": Sample("11s", "12s", "13s", "1s"),
    "node_failure_grace": Sample("11s", "12s", "13s", "999ms"),
    "failback_stable": Sample("11s", "12s", "13s", "31m"),
    "moves_max": Sample("11", "12", 13, "0"),
    "planned_moves_max": Sample("11", "12", 13, "0"),
    "planned_move_timeout": Sample("11s", "12s", "13s", "2h"),
    "event_retention": Sample("1h", "7d", "1d12h", "59m"),
    "webhooks": Sample(
        json.dumps([a_webhook(name="of-env", secret="geheim-geheim-geheim")]),
        json.dumps([a_webhook(name="of-flag"), a_webhook(name="another", kinds=["node_*"])]),
        [a_webhook(name="of-file", timeout="500ms")],
        json.dumps([a_webhook(url="ftp://geheim")]),
    ),
    "tracing_endpoint": Sample("http://e:4318", "https://f", "http://g/p", "ftp://h"),
    "tracing_share": Sample("0.1", "0.25", 0.5, "1.1"),
    "database_pool_size": Sample("11", "12", 13, "1"),
    "database_timeout": Sample("1s", "1.5s", "3s", "61s"),
    "heartbeat_timeout": Sample("1s", "1.5s", "3s", "5s"),
    "heartbeat_queue_size": Sample("101", "102", 103, "63"),
    "heartbeat_batch_size": Sample("101", "102", 103, "0"),
    "http_connections": Sample("101", "102", 103, "many"),
    "http_keep_alive": Sample("100s", "110s", "120s", "74s"),
    "http_read_timeout": Sample("1s", "2s", "3s", "0s"),
    "shutdown_delay": Sample("2s", "3s", "4s", "-1s"),
}

every_setting = pytest.mark.parametrize("name", FIELDS)


def in_file(folder: Path, **values: object) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def problems_of(
    *, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, **more: Any
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environ or {}, more.get("file"))
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert caught.value.__cause__ is None
    return caught.value.problems


def parsed(name: str, value: object) -> Any:
    return getattr(Settings.model_validate({name: value}), name)


def test_every_setting_has_a_sample() -> None:
    assert set(SAMPLES) == set(FIELDS)


@every_setting
def test_order_of_the_sources(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    variable = environment_name(name)
    of_environment: tuple[object, str] = (sample.environment, f"environment {variable}")
    of_flag: tuple[object, str] = (sample.flag, f"flag {flag_name(name, sample.flag)}")
    file = in_file(tmp_path, **{name: sample.file})
    best, second = of_environment, of_flag
    if name == "kubeconfig":  # the documented exception
        best, second = second, best

    def check(loaded: Loaded, value: object, origin: str) -> None:
        assert getattr(loaded.settings, name) == parsed(name, value)
        assert loaded.origins[name] == origin

    environ, flags = {variable: sample.environment}, {name: sample.flag}
    check(load(flags, environ, file), *best)
    check(
        load(flags if second is of_flag else {}, environ if second is not of_flag else {}, file),
        *second,
    )
    check(load({}, environ, file), *of_environment)
    check(load({}, {}, file), sample.file, f"file {file}")
    check(load({}, {}, None), Settings.model_fields[name].default, "default")


@every_setting
def test_empty_is_not_given(name: str, tmp_path: Path) -> None:
    file = in_file(tmp_path, **{name: None})
    loaded = load({name: ""}, {environment_name(name): ""}, file)
    assert loaded == load({name: None}, {}, None)
    assert loaded.origins[name] == "default"


@every_setting
def test_defaults_pass_their_own_validation(name: str) -> None:
    default = Settings.model_fields[name].default
    if default is not None:
        assert parsed(name, default) == default


@every_setting
def test_bad_value_names_setting_value_and_source(name: str, tmp_path: Path) -> None:
    bad = SAMPLES[name].bad
    value = "***" if name in SECRETS else repr(bad)
    file = in_file(tmp_path, **{name: bad})
    found = {
        f"environment {environment_name(name)}": problems_of(environ={environment_name(name): bad}),
        f"flag {flag_name(name)}": problems_of(flags={name: bad}),
        f"file {file}": problems_of(file=file),
    }
    for source, problems in found.items():
        assert len(problems) == 1
        assert problems[0].startswith(f"{name}: {value} (from {source}): ")
        assert "geheim" not in problems[0]


def test_wording_of_a_bad_value() -> None:
    assert problems_of(environ={"DORY_POLL_INTERVAL": "3 parsecs"}) == (
        "poll_interval: '3 parsecs' (from environment DORY_POLL_INTERVAL): "
        "expected a duration such as 30s, 500ms or 2m",
    )
    assert problems_of(flags={"metrics_port": "65536"}) == (
        "metrics_port: '65536' (from flag --metrics-port): must be less than or equal to 65535",
    )
    assert problems_of(flags={"role": "x"}) == (
        "role: 'x' (from flag --role): must be 'all', 'api' or 'control'",
    )


def test_all_problems_at_once(tmp_path: Path) -> None:
    file = in_file(tmp_path, role="spectator", colour="blue")
    problems = problems_of(
        flags={"log_level": "loud"}, environ={"DORY_POLL_INTERVAL": "0s"}, file=file
    )
    assert len(problems) == 4
    for name in ("role", "colour", "log_level", "poll_interval"):
        assert sum(problem.startswith(name) for problem in problems) == 1


def test_a_bad_value_that_a_stronger_source_overrides_is_no_problem() -> None:
    loaded = load({"role": "spectator"}, {"DORY_ROLE": "api"}, None)
    assert loaded.settings.role == "api"


def test_long_values_are_cut() -> None:
    assert len(problems_of(environ={"DORY_ROLE": "x" * 10_000})[0]) < 250


def test_the_environment_of_this_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        monkeypatch.setenv(environment_name(name), SAMPLES[name].bad)
    assert load({}, {}, None).settings == Settings()


class TestFile:
    def problem(self, folder: Path, content: bytes) -> str:
        path = folder / "settings.yaml"
        path.write_bytes(content)
        (problem,) = problems_of(file=path)
        assert f"file {path}" in problem
        assert "geheim" not in problem.replace(str(path), "")
        return problem

    @pytest.mark.parametrize("content", ["", "\n\n", "# nothing yet\n", "---\n", "{}"])
    def test_one_that_says_nothing_is_fine(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "settings.yaml"
        path.write_text(content, encoding="utf-8")
        assert load({}, {}, path).settings == Settings()

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("pol_interval", "; did you mean poll_interval?"),
            ("poll-interval", "; did you mean poll_interval?"),
            ("colour", ""),
            ("7", ""),
        ],
    )
    def test_unknown_key(self, tmp_path: Path, key: str, hint: str) -> None:
        problem = self.problem(tmp_path, f"{key}: geheim\n".encode())
        assert problem.startswith(f"{key} (from file ")
        assert problem.endswith(f": no such setting{hint}")

    def test_repeated_key(self, tmp_path: Path) -> None:
        problem = self.problem(tmp_path, b"role: api\nnamespace: x\nrole: all\n")
        assert problem.startswith("role (from file ")
        assert problem.endswith("stands there more than once")

    @pytest.mark.parametrize("content", [b"- role", b"api", b"7", b"state_token:geheim"])
    def test_not_a_mapping(self, tmp_path: Path, content: bytes) -> None:
        assert "expected a mapping" in self.problem(tmp_path, content)

    @pytest.mark.parametrize(
        "content",
        [
            b"role: [api",
            b"role: api\n---\nrole: all",
            b"state_token: *geheim",
            b"state_token: !geheim x",
            b"state_token: @geheim",
            b"? [geheim]\n: 1",
            b"namespace: 2024-99-99",
            b"role: \x00",
        ],
    )
    def test_not_yaml(self, tmp_path: Path, content: bytes) -> None:
        assert "is not valid YAML" in self.problem(tmp_path, content)

    def test_place_of_the_mistake(self, tmp_path: Path) -> None:
        assert "(line 2, column 14)" in self.problem(tmp_path, b"role: api\nstate_token: @x")

    def test_not_utf_8(self, tmp_path: Path) -> None:
        assert "is not UTF-8" in self.problem(tmp_path, b"role: \xff")

    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "none.yaml"
        assert problems_of(file=path) == (
            f"file {path}: cannot be read: No such file or directory",
        )

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "cannot be read" in problems_of(file=tmp_path)[0]

    @pytest.mark.parametrize(
        "values",
        [
            {"metrics_port": True},
            {"metrics_port": [8080]},
            {"poll_interval": True},
            {"poll_interval": [30]},
            {"poll_interval": float("nan")},
            {"poll_interval": float("inf")},
            {"poll_interval": 10**400},
            {"namespace": 5},
            {"enable_monitor": 2},
            {"state_token": 12345},
            {"config_db": ["geheim"]},
        ],
    )
    def test_wrong_type(self, tmp_path: Path, values: dict[str, object]) -> None:
        (problem,) = problems_of(file=in_file(tmp_path, **values))
        assert problem.startswith(f"{next(iter(values))}: ")
        assert "geheim" not in problem
        assert "12345" not in problem

    def test_numbers_are_seconds(self, tmp_path: Path) -> None:
        loaded = load({}, {}, in_file(tmp_path, poll_interval=5, database_timeout=0.5))
        assert loaded.settings.poll_interval == 5.0
        assert isinstance(loaded.settings.poll_interval, float)
        assert loaded.settings.database_timeout == 0.5


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("30s", 30.0),
            ("500ms", 0.5),
            ("700ms", 0.7),
            ("2m", 120.0),
            ("1h", 3600.0),
            ("7d", 604_800.0),
            ("1d12h", 129_600.0),
            ("1m30s", 90.0),
            ("1h0m0s", 3600.0),
            ("1m500ms", 60.5),
            ("1.5s", 1.5),
            (".5s", 0.5),
            ("30", 30.0),
            ("0.5", 0.5),
            ("0", 0.0),
        ],
    )
    def test_good(self, text: str, seconds: float) -> None:
        assert duration_seconds(text) == seconds

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "s",
            "-1s",
            "+1s",
            "1 s",
            "1s ",
            "1m 30s",
            "1w",
            "30S",
            "1e3",
            "nan",
            "inf",
            "1m30",
            "٣s",
            "1s\n",
        ],
    )
    def test_bad(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected a duration"):
            duration_seconds(text)

    @given(st.text(alphabet="0123456789.msh -+e", max_size=30) | st.text())
    def test_any_text_is_a_number_or_a_value_error(self, text: str) -> None:
        try:
            seconds = duration_seconds(text)
        except ValueError:
            return
        assert seconds >= 0

    @given(
        hours=st.integers(0, 99),
        minutes=st.integers(0, 999),
        seconds=st.integers(0, 999),
        milliseconds=st.integers(0, 99_999),
    )
    def test_parts_add_up(self, hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
        whole_ms = ((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds
        text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
        assert duration_seconds(text) == whole_ms / 1000

    @given(st.integers(100, 3_600_000))
    def test_what_is_shown_can_be_read_again(self, milliseconds: int) -> None:
        settings = Settings.model_validate({"poll_interval": f"{milliseconds}ms"})
        text = shown("poll_interval", settings.poll_interval)
        assert duration_seconds(text) == settings.poll_interval

    @pytest.mark.parametrize(
        ("name", "least", "most", "beyond"),
        [
            ("poll_interval", "100ms", "1h", ("99ms", "3601s")),
            ("checkpoint_interval", "0s", "1h", ("-1", "3601s")),
            ("database_timeout", "100ms", "1m", ("99ms", "61s")),
            ("heartbeat_timeout", "200ms", "4s", ("199ms", "4001ms")),
            ("http_keep_alive", "75s", "1h", ("74.9s", "61m")),
            ("http_read_timeout", "100ms", "1m", ("0.09", "1m1s")),
            ("shutdown_delay", "0s", "30s", ("-1", "30.1s", "9" * 400)),
            ("event_retention", "1h", "3650d", ("59m", "3651d")),
        ],
    )
    def test_bounds(self, name: str, least: str, most: str, beyond: tuple[str, ...]) -> None:
        for good in (least, most):
            assert parsed(name, good) == duration_seconds(good)
        for bad in beyond:
            assert "expected a duration" in problems_of(flags={name: bad})[0]


class TestValues:
    @pytest.mark.parametrize(
        ("name", "least", "most"),
        [
            ("metrics_port", 0, 65535),
            ("database_pool_size", 2, 100),
            ("heartbeat_queue_size", 64, 1_000_000),
            ("heartbeat_batch_size", 1, 10_000),
            ("http_connections", 16, 1_000_000),
        ],
    )
    def test_bounds_of_numbers(self, name: str, least: int, most: int) -> None:
        for good in (least, most):
            assert parsed(name, str(good)) == good
        for bad in (least - 1, most + 1, "1.5", "", "ten"):
            with pytest.raises(ValidationError):
                parsed(name, bad)

    @pytest.mark.parametrize(
        ("value", "share", "text"),
        [("0", 0.0, "0"), (1, 1.0, "1"), (" .25 ", 0.25, "0.25"), (0.5, 0.5, "0.5")],
    )
    def test_good_share(self, value: object, share: float, text: str) -> None:
        assert parsed("tracing_share", value) == share
        assert shown("tracing_share", share) == text

    @pytest.mark.parametrize("url", ["http://user:geheim@c:4318", "collector:4318", "http://", ""])
    def test_bad_collector(self, url: str) -> None:
        with pytest.raises(ValidationError, match="expected a URL such as http://collector:4318"):
            parsed("tracing_endpoint", url)

    @pytest.mark.parametrize("value", ["-0.1", "1.01", "nan", "1e-3", "10%", True, float("nan")])
    def test_bad_share(self, value: object) -> None:
        with pytest.raises(ValidationError, match="expected a number from 0 to 1"):
            parsed("tracing_share", value)

    @pytest.mark.parametrize(
        ("text", "level"),
        [("INFO", "info"), ("Warning", "warn"), ("warn", "warn"), ("ERROR", "error")],
    )
    def test_log_level(self, text: str, level: str) -> None:
        assert parsed("log_level", text) == level

    @pytest.mark.parametrize("text", ["a", "a-b", "0", "a" * 63])
    def test_good_namespace(self, text: str) -> None:
        assert parsed("namespace", text) == text

    @pytest.mark.parametrize("text", ["-a", "a-", "A", "a.b", "a\n", "ä", "a" * 64])
    def test_bad_namespace(self, text: str) -> None:
        assert "DNS label" in problems_of(flags={"namespace": text})[0]

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://host/db",
            "postgres://u:p@host:5432/db",
            "postgresql://u:p@[::1]:5432/db",
            "postgresql://u:p@a:1,b:2/db",
            "postgresql:///db?host=/tmp/socket",
            "postgresql://postgres:@/postgres?host=/tmp/pg",
        ],
    )
    def test_good_database_url(self, url: str) -> None:
        assert parsed("config_db", url) == SecretStr(url)

    @pytest.mark.parametrize(
        "url",
        [
            "host/geheim",
            "mysql://u:geheim@host/db",
            "postgresql+asyncpg://u:geheim@host/db",
            "postgresql://u:geheim@host/db\n",
            "postgresql://u:ge heim@host/db",
            "postgresql://u:geheim",
            "postgresql://u:x/geheim@host/db",
            "postgresql://u:x?geheim@host/db",
            "postgresql://u:x#geheim@host/db",
            "postgresql://u:geheim@[::1/db",
        ],
    )
    def test_bad_database_url(self, url: str) -> None:
        (problem,) = problems_of(environ={"DORY_DATABASE_URL": url})
        assert "geheim" not in problem

    @pytest.mark.parametrize("token", ["a b", "a\n", "\ttab", "schlüssel", "\x7f"])
    @pytest.mark.parametrize("name", ["state_token", "state_token_previous"])
    def test_bad_token(self, name: str, token: str) -> None:
        assert problems_of(flags={name: token}) == (
            f"{name}: *** (from flag {flag_name(name)}): "
            "expected printable ASCII without spaces and line ends",
        )

    def test_frozen_and_closed(self) -> None:
        settings = Settings()
        with pytest.raises(ValidationError):
            settings.role = "api"
        with pytest.raises(ValidationError):
            Settings.model_validate({"colour": "blue"})

    def test_loaded_is_frozen(self) -> None:
        loaded = load({}, {}, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            loaded.settings = Settings()  # type: ignore[misc]
        with pytest.raises(TypeError):
            loaded.origins["role"] = "mine"  # type: ignore[index]


class TestNames:
    def test_of_the_platform(self) -> None:
        assert environment_name("config_db") == "DORY_DATABASE_URL"
        assert environment_name("kubeconfig") == "KUBECONFIG"
        assert environment_name("state_token_previous") == "DORY_STATE_TOKEN_PREVIOUS"
        assert flag_name("poll_interval") == "--poll-interval"
        assert flag_name("enable_monitor", False) == "--no-enable-monitor"

    def test_are_unique(self) -> None:
        assert len({environment_name(name) for name in FIELDS}) == len(FIELDS)

    def test_choices(self) -> None:
        assert choices("role") == ("all", "api", "control")
        assert choices("kubeconfig") == choices("enable_monitor") == ()


class TestSecrets:
    def everything(self) -> Loaded:
        environ = {environment_name(name): SAMPLES[name].environment for name in FIELDS}
        return load({}, environ, None)

    def test_every_secret_type_is_listed(self) -> None:
        fields = Settings.model_fields.items()
        typed = {name for name, field in fields if "SecretStr" in repr(field.annotation)}
        assert "SecretStr" in repr(Webhook.model_fields["secret"].annotation)
        assert typed | {"webhooks"} == SECRETS

    @pytest.mark.parametrize("secret", ["geheim", "env-token", "env-old", "env-operator"])
    def test_in_no_text(self, secret: str) -> None:
        loaded = self.everything()
        texts = (printed(loaded), repr(loaded), str(loaded.settings))
        assert not any(secret in text for text in texts)
        assert secret not in loaded.settings.model_dump_json()
        assert secret in loaded.settings.to_json()

    def test_survive_the_pipe(self) -> None:
        settings = self.everything().settings
        assert Settings.from_json(settings.to_json()) == settings
        assert Settings.from_json(Settings().to_json()) == Settings()

    @pytest.mark.parametrize(
        ("url", "masked"),
        [
            ("postgresql://u:geheim@h:5432/db", "postgresql://u:***@h:5432/db"),
            ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
            ("postgresql://h/db?sslmode=require", "postgresql://h/db?sslmode=require"),
            ("postgresql://u:gehe:im@geheim@h/db", "postgresql://u:***@h/db"),
            ("postgresql://u@tenant:geheim@h/db", "postgresql://u@tenant:***@h/db"),
            ("postgresql://u:geheim@a:1,b:2/db", "postgresql://u:***@a:1,b:2/db"),
            ("postgresql://u:7/geheim@h/db", "postgresql://u:***@h/db"),
            ("postgresql://h/db?user=u&password=geheim", "postgresql://h/db?user=u&password=***"),
            (
                "postgresql://h/db?PASS%57ORD=geheim&sslpassword=geheim&a=b",
                "postgresql://h/db?PASS%57ORD=***&sslpassword=***&a=b",
            ),
            ("postgresql://h/db?password=ge@he=im#geheim", "postgresql://h/db?password=***"),
        ],
    )
    def test_only_the_password_of_a_url_is_masked(self, url: str, masked: str) -> None:
        assert shown("config_db", SecretStr(url)) == masked

    @given(
        # `/?#&` have to be written as %2F and so on, as the error says that a URL with them gets.
        st.text(alphabet="geheim0123456789:@=%;,!", min_size=1).map(lambda text: f"§{text}§"),
        st.sampled_from(
            ["postgresql://u:{}@h:5432/db", "postgresql://u@h/db?password={}&connect_timeout=3"]
        ),
    )
    def test_no_password_is_shown(self, password: str, url: str) -> None:
        settings = Settings.model_validate({"config_db": url.format(password)})
        assert "§" not in shown("config_db", settings.config_db)


def test_printed_is_an_aligned_table(tmp_path: Path) -> None:
    file = in_file(tmp_path, enable_monitor=True)
    flags = {"poll_interval": "1m30s", "state_token": "geheim"}
    lines = printed(load(flags, {"DORY_DATABASE_URL": DATABASE.format("h")}, file)).splitlines()
    assert [line.split()[0] for line in lines] == ["setting", *FIELDS]
    widths = [max(len(line.split(None, 2)[column]) for line in lines) for column in (0, 1)]
    for line in lines:
        name, value, origin = line.split(None, 2)
        assert line == f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}"
    rows = {tuple(line.split(None, 2)) for line in lines}
    assert {
        ("config_db", "postgresql://user:***@h/db", "environment DORY_DATABASE_URL"),
        ("poll_interval", "90s", "flag --poll-interval"),
        ("state_token", "***", "flag --state-token"),
        ("kubeconfig", "-", "default"),
        ("enable_monitor", "true", f"file {file}"),
        ("metrics_port", "8080", "default"),
    } <= rows


@every_setting
def test_documented(name: str) -> None:
    """The row of docs/configuration.md. On failure, paste the expected row."""
    field = Settings.model_fields[name]
    assert field.description
    flag = f"`{flag_name(name)}`"
    if field.annotation is bool:
        flag += f", `{flag_name(name, False)}`"
    default = "none" if field.default is None else f"`{shown(name, field.default)}`"
    row = f"| `{name}` | {flag} | `{environment_name(name)}` | {default} | {field.description} |"
    assert row in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_nothing_else_is_documented() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if "| `" in line]
    assert [row.split("`")[1] for row in rows] == list(FIELDS)


class TestWebhooks:
    def problem(self, *webhooks: object) -> str:
        given = json.dumps(list(webhooks))
        (problem,) = problems_of(environ={"DORY_WEBHOOKS": given})
        start = "webhooks: *** (from environment DORY_WEBHOOKS): "
        assert problem.startswith(start)
        return problem.removeprefix(start)

    def test_what_is_not_given(self) -> None:
        (hook,) = parsed("webhooks", [a_webhook()])
        assert (hook.kinds, hook.timeout) == (("*",), 5.0)
        assert hook.secret.get_secret_value() == "0123456789abcdef"

    def test_none_at_all(self) -> None:
        assert load({}, {"DORY_WEBHOOKS": "[]"}, None).settings.webhooks == ()

    @pytest.mark.parametrize(
        "url",
        [
            "http://a",
            "http://127.0.0.1:9/",
            "https://[::1]:8443/in?key=a%20b",
            "https://a.example?x=1",
        ],
    )
    def test_good_urls(self, url: str) -> None:
        (hook,) = parsed("webhooks", [a_webhook(url=url)])
        assert hook.url == url

    @pytest.mark.parametrize(
        "url",
        [
            *("", "a.example/in", "ftp://a.example", "http://", "http:///in", "http://:80/"),
            *("https://user:geheim@a.example/", "https://geheim@a.example/", "http://a/#geheim"),
            *("http://a:99999/", "http://a:0/", "http://a:geheim/", "http://a b/", "http://[::1/"),
            *("http://a/\n", "http://a\\@b/", 7, None),
        ],
    )
    def test_bad_urls(self, url: object) -> None:
        problem = self.problem(a_webhook(url=url))
        assert problem.startswith("[0].url: ")
        assert "geheim" not in problem

    @pytest.mark.parametrize(
        ("values", "place"),
        [
            ({"name": "Not_A_Label"}, "[1].name: expected a DNS label"),
            ({"name": "a" * 64}, "[1].name: expected a DNS label"),
            ({"secret": "geheim"}, "[1].secret: expected at least 16 characters"),
            ({"secret": "geheim geheim geheim"}, "[1].secret: expected printable ASCII"),
            ({"kinds": []}, "[1].kinds: "),
            ({"kinds": ["create", "Node"]}, "[1].kinds[1]: expected a kind of event"),
            ({"kinds": "create"}, "[1].kinds: "),
            ({"timeout": "31s"}, "[1].timeout: expected a duration from 0.1s to 30s"),
            ({"colour": "geheim"}, "[1].colour: "),
        ],
    )
    def test_bad_values_are_placed(self, values: dict[str, object], place: str) -> None:
        problem = self.problem(a_webhook(), a_webhook(**{"name": "b"} | values))
        assert problem.startswith(place)
        assert "geheim" not in problem

    @pytest.mark.parametrize("name", ["name", "url", "secret"])
    def test_what_must_be_given(self, name: str) -> None:
        webhook = a_webhook()
        del webhook[name]
        assert self.problem(webhook) == f"[0].{name}: Field required"

    def test_names_are_unique(self) -> None:
        problem = self.problem(a_webhook(), a_webhook(name="b"), a_webhook())
        assert problem == "expected each name once: a"

    def test_not_too_many(self) -> None:
        assert "at most 20" in self.problem(*(a_webhook(name=f"a{n}") for n in range(21)))

    @pytest.mark.parametrize("text", ["{", "geheim", "{}", "7", "null", '"geheim"'])
    def test_what_is_no_list(self, text: str) -> None:
        for problem in problems_of(environ={"DORY_WEBHOOKS": text}):
            assert problem.startswith("webhooks: *** (from environment DORY_WEBHOOKS): ")
            assert "geheim" not in problem

    def test_what_is_printed(self) -> None:
        webhook = a_webhook(url="https://a.example/in?key=geheim", secret="geheim-geheim-geheim")
        (hook,) = parsed("webhooks", [webhook])
        assert shown("webhooks", (hook,)) == (
            '[{"name":"a","url":"https://a.example/in?***","secret":"***","kinds":["*"],'
            '"timeout":"5s"}]'
        )
        assert hook.shown_url == "https://a.example/in"
