"""What holds of all that is applied to a cluster, however it is: with kustomize, or with Helm and
whatever values."""

import pytest
from tests.deploy.objects import MODELS, Object, containers, installations, key, of_kind, the

from dory_orchestrator.settings import SECRETS, Settings, environment_name, load

INSTALLATIONS = installations()
KNOWN = {environment_name(name) for name in Settings.model_fields}

each = pytest.mark.parametrize("objects", INSTALLATIONS.values(), ids=INSTALLATIONS.keys())


@each
def test_every_object_is_one_of_the_api(objects: list[Object]) -> None:
    """Unknown and misspelt fields, and wrong types, are refused by the models."""
    assert objects
    for one in objects:
        if one["kind"] != "ServiceMonitor":  # of the Prometheus operator: see test_helm
            MODELS[one["kind"]].model_validate(one)


@each
def test_no_object_stands_twice(objects: list[Object]) -> None:
    keys = [key(one) for one in objects]
    assert len(keys) == len(set(keys))


@each
def test_no_container_may_do_more_than_it_must(objects: list[Object]) -> None:
    deployment = the(objects, "Deployment")
    assert deployment["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "runAsGroup": 65534,
        "fsGroup": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in containers(deployment):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each
def test_no_image_is_one_that_may_be_moved(objects: list[Object]) -> None:
    images = {container["image"] for container in containers(the(objects, "Deployment"))}
    [image] = images
    name, _, digest = image.partition("@")
    _, _, tag = name.partition(":")
    assert digest.startswith("sha256:") or tag not in ("", "latest")


@each
def test_settings_are_settings_and_secrets_are_only_referred_to(objects: list[Object]) -> None:
    assert not of_kind(objects, "Secret")
    secrets = {environment_name(name) for name in SECRETS}
    assert the(objects, "ConfigMap")["data"].keys() <= KNOWN - secrets
    for container in containers(the(objects, "Deployment")):
        for one in container["env"]:
            assert one["name"] in secrets
            assert "secretKeyRef" in one["valueFrom"], one["name"]


@each
def test_the_settings_are_taken(objects: list[Object]) -> None:
    load({}, the(objects, "ConfigMap")["data"], None)


@each
@pytest.mark.parametrize("name", ["dory-orchestrator", "dory-orchestrator-metrics"])
def test_heartbeats_arrive_also_while_it_is_not_ready(objects: list[Object], name: str) -> None:
    service = the(objects, "Service", name)["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert [port["port"] for port in service["ports"]] == [8080]


@each
def test_selectors_find_the_pods(objects: list[Object]) -> None:
    deployment = the(objects, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    asked = [deployment["selector"]["matchLabels"]]
    asked += [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    asked += [
        one["spec"]["podSelector"]["matchLabels"] for one in of_kind(objects, "NetworkPolicy")
    ]
    asked += [
        one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "PodDisruptionBudget")
    ]
    assert all(selector and selector.items() <= labels.items() for selector in asked)


@each
def test_the_metrics_are_scraped(objects: list[Object]) -> None:
    annotations = the(objects, "Service", "dory-orchestrator-metrics")["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == "8080"


@each
def test_bindings_lead_to_what_is_there(objects: list[Object]) -> None:
    there = {key(one) for one in objects}
    for binding in objects:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role, namespace = binding["roleRef"], binding["metadata"].get("namespace")
            assert (role["kind"], namespace, role["name"]) in there
            for subject in binding["subjects"]:
                assert ("ServiceAccount", subject["namespace"], subject["name"]) in there


@each
def test_more_than_one_are_neither_ended_nor_drained_together(objects: list[Object]) -> None:
    deployment, budgets = the(objects, "Deployment"), of_kind(objects, "PodDisruptionBudget")
    pod = deployment["spec"]["template"]["spec"]
    if deployment["spec"]["replicas"] == 1:
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
        assert "affinity" not in pod
        assert not budgets
        return
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    apart = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [one["podAffinityTerm"] for one in apart] == [
        {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": deployment["spec"]["selector"]["matchLabels"]},
        }
    ]
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1]
