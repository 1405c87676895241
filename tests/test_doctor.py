"""`doctor` against real databases, a Kubernetes of the tests, and what answers over HTTP."""

import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result
from tests.contract.cluster_worlds import KubernetesWorld, a_node, kubernetes_world
from tests.deploy.objects import kustomized, the
from tests.patience import patient
from tests.test_cli import NO_SETTINGS

from dory_orchestrator.app import doctor
from dory_orchestrator.app.doctor import diagnose
from dory_orchestrator.cli import main
from dory_orchestrator.cluster.kubernetes.diagnosis import RIGHTS, RIGHTS_OF_NAMESPACE
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.core.diagnosis import Finding, Verdict
from dory_orchestrator.settings import Settings, load
from dory_orchestrator.store.fleet import fleet_namespace

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def _patient_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers is waited for, however slow the machine is."""
    monkeypatch.setattr(doctor, "CHECK_SECONDS", patient(5.0))


OK, WARNING = Verdict.OK, Verdict.WARNING
FAILED, SKIPPED = Verdict.FAILED, Verdict.SKIPPED
TOKENS = {"state_token": "a" * 32, "operator_token": "b" * 32}


def settings_of(**values: object) -> Settings:
    return load({"http_connections": 100, **TOKENS, **values}, {}, None).settings


async def find(check: str, settings: Settings, **options: Any) -> Finding:
    (found,) = [one for one in await diagnose(settings, **options) if one.check == check]
    return found


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[KubernetesWorld]:
    """With a node for the cloud, and one at the edge."""
    async with kubernetes_world(tmp_path) as world:
        await world.declare(
            a_node("cloud", labels={"workload-type": "application"}),
            a_node("edge-1", labels={"node-type": "edge"}),
        )
        yield world


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """Of the Kubernetes of the test."""
    return str(tmp_path / "kubeconfig")


Answering = Callable[[Mapping[str, object]], Awaitable[str]]


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """Makes servers that answer so, by path; yields their URL."""
    runners = []

    async def serve(answers: Mapping[str, object]) -> str:
        async def handler(request: web.Request) -> web.Response:
            if request.path not in answers:
                return web.json_response({"error": "Not Found"}, status=404)
            return web.json_response(answers[request.path])

        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


def orchestrator(fleet_id: object, status: str = "healthy") -> dict[str, object]:
    return {
        "/healthz": {"status": status, "components": {}},
        "/api/v1/fleet/summary": {"fleet_id": str(fleet_id)},
    }


async def test_all_is_well(database_url, kube, kubeconfig, answering):
    url = await answering(orchestrator(await fleet_namespace(database_url)))
    settings = settings_of(
        config_db=database_url, kubeconfig=kubeconfig, orchestrator_url=url + "/"
    )
    findings = await diagnose(settings)
    assert {one.check: one.verdict for one in findings} == dict.fromkeys(
        [
            *("tokens", "open files", "database", "database version", "database writes"),
            *("database connections", "database clock", "database schema", "database rights"),
            *("cluster", "cluster clock", "cluster rights, nodes and events"),
            *("cluster rights, namespace default", "cluster nodes", "orchestrator address"),
        ],
        OK,
    )


class TestDatabase:
    async def test_none_is_named(self):
        findings = await diagnose(settings_of())
        found = {one.check: one for one in findings}
        assert found["database"].verdict is FAILED
        assert "DORY_DATABASE_URL" in found["database"].remedy
        assert found["database rights"].verdict is SKIPPED

    async def test_it_cannot_be_reached(self):
        found = await find(
            "database", settings_of(config_db="postgresql://a:geheim@127.0.0.1:1/fleet")
        )
        assert (found.verdict, "fleet at 127.0.0.1:1" in found.detail) == (FAILED, True)
        assert "geheim" not in str(found)

    async def test_it_does_not_answer(self, monkeypatch):
        monkeypatch.setattr(doctor, "CHECK_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"postgresql://a@127.0.0.1:{silent.getsockname()[1]}/x"
            findings = await diagnose(settings_of(config_db=url))
        found = {one.check: one for one in findings}
        assert found["database"].detail == "no answer within 0.3 s"
        # All others are told nonetheless.
        assert found["database clock"].verdict is SKIPPED
        assert found["tokens"].verdict is OK

    async def test_it_is_not_migrated(self, empty_database_url):
        settings = settings_of(config_db=empty_database_url)
        found = await find("database schema", settings)
        assert (found.verdict, "db upgrade" in found.remedy) == (FAILED, True)
        found = await find("database rights", settings)
        assert (found.verdict, "processors is missing" in found.detail) == (FAILED, True)
        assert "the schema orchestrator is missing" in found.detail

    async def test_it_is_of_another_revision(self, database_url):
        settings = settings_of(config_db=database_url)
        table = "orchestrator.alembic_version"
        await execute(database_url, f"UPDATE {table} SET version_num = '9999'")
        found = await find("database schema", settings)
        assert (found.verdict, "newer than this program" in found.detail) == (FAILED, True)

    async def test_rights_are_missing(self, database_url):
        role = f"limited_{uuid4().hex[:8]}"
        await execute(database_url, f"CREATE ROLE {role} LOGIN")
        try:
            url = urlsplit(database_url)._replace(netloc=f"{role}:@").geturl()
            findings = {one.check: one for one in await diagnose(settings_of(config_db=url))}
            assert findings["database schema"].verdict is FAILED
            rights = findings["database rights"]
            assert (rights.verdict, "Rights" in rights.remedy) == (FAILED, True)
            assert f"processors: UPDATE is not granted to {role}" in rights.detail
            await execute(
                database_url,
                f"GRANT USAGE ON SCHEMA orchestrator TO {role}",
                f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}",
            )
            found = await find("database rights", settings_of(config_db=url))
            assert "orchestrator.leader: the right to UPDATE is missing" in found.detail
            assert "processors:" not in found.detail.replace("orchestrator.", "")
        finally:
            await execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    async def test_it_takes_no_writes(self, database_url):
        name = urlsplit(database_url).path.lstrip("/")
        statement = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        await execute(database_url, statement)
        found = await find("database writes", settings_of(config_db=database_url))
        assert (found.verdict, "read-only" in found.detail) == (FAILED, True)

    async def test_its_clock_is_another(self, database_url):
        found = await find(
            *("database clock", settings_of(config_db=database_url)), now=lambda: time.time() + 60
        )
        assert (found.verdict, "behind this machine's" in found.detail) == (FAILED, True)


class TestKubernetes:
    async def test_none_is_named(self, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        found = await find("cluster", settings_of())
        assert (found.verdict, "KUBECONFIG" in found.remedy) == (WARNING, True)

    async def test_it_cannot_be_reached(self, tmp_path):
        findings = await diagnose(settings_of(kubeconfig=str(tmp_path / "none")))
        found = {one.check: one for one in findings}
        assert (found["cluster"].verdict, "there is no file" in found["cluster"].detail) == (
            *(FAILED, True),
        )
        assert found["cluster nodes"].verdict is SKIPPED

    async def test_rights_are_missing(self, kube, kubeconfig, database_url):
        template = uuid4()
        await execute(
            database_url,
            "INSERT INTO processor_templates (id, slug, name)"
            f" VALUES ('{template}', 'camera', 'camera')",
            "INSERT INTO processors (id, organization_id, name, processor_template_id, node_type,"
            " k8s_namespace, status, health_status, created_at, updated_at) VALUES"
            f" ('{uuid4()}', '{uuid4()}', 'camera-1', '{template}', 'edge', 'video', 'running',"
            " 'unknown', now(), now())",
        )
        kube.server.forbidden |= {("create", "pods"), ("watch", "nodes")}
        settings = settings_of(config_db=database_url, kubeconfig=kubeconfig)
        found = {one.check: one for one in await diagnose(settings)}
        for namespace in ("default", "video"):
            rights = found[f"cluster rights, namespace {namespace}"]
            assert (rights.verdict, rights.detail) == (FAILED, "not allowed: create pods")
            assert "deploy/kustomize/processors" in rights.remedy
        rights = found["cluster rights, nodes and events"]
        assert (rights.verdict, rights.detail) == (FAILED, "not allowed: watch nodes")

    async def test_labels_are_missing(self, kube, kubeconfig, database_url):
        await kube.declare(a_node("edge-1"))
        await execute(
            database_url,
            "INSERT INTO edge_nodes (id, organization_id, name, status, failover_enabled,"
            f" created_at, updated_at) VALUES ('{uuid4()}', '{uuid4()}', 'edge-1', 'online', true,"
            " now(), now())",
        )
        settings = settings_of(config_db=database_url, kubeconfig=kubeconfig)
        found = await find("cluster nodes", settings)
        assert found.verdict is WARNING
        assert "no node has the label workload-type=application" in found.detail
        assert "edge nodes without node-type=edge: edge-1" in found.detail

    async def test_its_clock_is_another(self, kube, kubeconfig, database_url):
        settings = settings_of(config_db=database_url, kubeconfig=kubeconfig)
        kube.server.clock_offset_seconds = 30.0
        found = await find("cluster clock", settings)
        assert (found.verdict, "from the database's" in found.detail) == (FAILED, True)
        found = await find("cluster clock", settings_of(kubeconfig=kubeconfig))
        assert (found.verdict, "before this machine's" in found.detail) == (FAILED, True)

    async def test_what_is_asked_for_is_what_is_given(self, kube, kubeconfig):
        await diagnose(settings_of(kubeconfig=kubeconfig))
        wanted = {(verb, resource, "") for verb, resource in RIGHTS}
        wanted |= {(verb, resource, "default") for verb, resource in RIGHTS_OF_NAMESPACE}
        assert kube.server.reviewed == wanted

    def test_it_is_what_the_manifests_give(self):
        for kind, names, rights in (
            ("ClusterRole", ("dory-orchestrator-nodes",), RIGHTS),
            ("Role", ("dory-orchestrator",), RIGHTS_OF_NAMESPACE),
        ):
            rules = the(kustomized(), kind, *names)["rules"]
            given = {
                (verb, resource)
                for rule in rules
                for verb in rule["verbs"]
                for resource in rule["resources"]
            }
            assert given == set(rights)


class TestLocalCluster:
    async def test_none_runs(self, tmp_path):
        found = await find("cluster", settings_of(cluster="local", local_dir=str(tmp_path)))
        assert (found.verdict, "local start" in found.remedy) == (FAILED, True)

    async def test_one_runs(self, tmp_path):
        await (await start(tmp_path)).close()
        cluster = LocalCluster(tmp_path)
        try:
            found = await find("cluster", settings_of(cluster="local", local_dir=str(tmp_path)))
            assert found.verdict is OK
        finally:
            await cluster.stop(immediate=True)
            await cluster.close()


class TestAddress:
    async def test_it_is_of_another_fleet(self, database_url, answering):
        url = await answering(orchestrator(uuid4()))
        settings = settings_of(config_db=database_url, orchestrator_url=url)
        found = await find("orchestrator address", settings)
        assert (found.verdict, "another fleet" in found.detail) == (FAILED, True)

    async def test_it_is_not_well(self, database_url, answering):
        fleet_id = await fleet_namespace(database_url)
        url = await answering(orchestrator(fleet_id, "unhealthy"))
        settings = settings_of(config_db=database_url, orchestrator_url=url)
        assert (await find("orchestrator address", settings)).verdict is WARNING

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:8080"])
    async def test_nobody_answers(self, url):
        found = await find("orchestrator address", settings_of(orchestrator_url=url))
        assert (found.verdict, url in found.detail) == (FAILED, True)
        assert "DORY_ORCHESTRATOR_URL" in found.remedy

    async def test_something_else_answers(self, answering):
        for answers in ({}, {"/healthz": {"status": "ok"}}, {"/healthz": ["healthy"]}):
            url = await answering(answers)
            found = await find("orchestrator address", settings_of(orchestrator_url=url))
            assert (found.verdict, "is no orchestrator" in found.detail) == (FAILED, True)

    async def test_outside_of_the_cluster_it_is_not_known(self):
        found = await find("orchestrator address", settings_of())
        assert (found.verdict, "DORY_ORCHESTRATOR_URL" in found.detail) == (SKIPPED, True)


# The command -------------------------------------------------------------------------------


def call(*arguments: str, **environ: str) -> Result:
    """In a thread, where pytest-asyncio's event loop is not taken away."""
    environment = {**NO_SETTINGS, "COLUMNS": None, **environ}
    with ThreadPoolExecutor(max_workers=1) as executor:
        invoke = CliRunner().invoke
        return executor.submit(invoke, main, ["doctor", *arguments], env=environment).result()


class TestCommand:
    def test_nothing_failed(self, database_url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call("--config-db", database_url, "--http-connections", "100")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1].startswith("2 warning, ")
        assert "-> set them: openssl" in result.stdout
        assert "\x1b" not in result.stdout

    @pytest.mark.parametrize("output", ["json", "yaml"])
    def test_as_data(self, tmp_path, monkeypatch, output):
        monkeypatch.chdir(tmp_path)
        result = call("-o", output, DORY_STATE_TOKEN="geheim")
        assert (result.exit_code, "geheim" in result.output) == (1, False)
        found = (json.loads if output == "json" else yaml.safe_load)(result.stdout)
        assert found["well"] is False
        by_check = {one["check"]: one for one in found["findings"]}
        assert by_check["database"]["verdict"] == "failed"
        assert by_check["database"]["remedy"]

    def test_settings_as_run_takes_them(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "settings.yaml"
        file.write_text("poll_interval: never\n")
        result = call("--config", str(file), "--role", "x")
        assert result.exit_code == 2
        lines = result.stdout.splitlines()
        assert "poll_interval: 'never' (from file" in lines[0] + lines[2]
        assert "role: 'x' (from flag --role)" in lines[0] + lines[2]
        assert "the settings are wrong" in result.stdout
        assert call("--colour", "blue").exit_code == 2

    def test_a_parameter_of_the_database_s_url_that_is_not_supported(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call("--config-db", "postgresql://a:geheim@h/d?sslcrldir=x")
        assert (result.exit_code, "geheim" in result.output) == (2, False)
        assert "sslcrldir is not supported" in result.stdout

    def test_a_dev_that_does_not_run(self, tmp_path):
        result = call("--data-dir", str(tmp_path))
        assert (result.exit_code, "dory-orchestrator dev" in result.stdout) == (1, True)
        (tmp_path / "endpoints.json").write_text("{")
        result = call("--data-dir", str(tmp_path))
        assert (result.exit_code, "cannot be read" in result.stdout) == (1, True)

    def test_a_dev(self, database_url, tmp_path, monkeypatch):
        """Its cluster and its HTTP server are down, its database is up."""
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / ".dory"
        folder.mkdir()
        content = {"http": "http://127.0.0.1:1", "database": database_url}
        (folder / "endpoints.json").write_text(json.dumps(content))
        for arguments in ((), ("--data-dir", str(folder))):
            result = call(*arguments, "-o", "json", DORY_CLUSTER="kubernetes", KUBECONFIG="/x")
            found = {one["check"]: one for one in json.loads(result.stdout)["findings"]}
            assert found["settings"]["detail"] == "of `dev`"
            assert found["database rights"]["verdict"] == "ok"
            assert found["cluster"]["verdict"] == "failed"
            assert "http://127.0.0.1:1" in found["orchestrator address"]["detail"]
            assert found["tokens"]["verdict"] == "skipped"
