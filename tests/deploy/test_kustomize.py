"""The kustomizations: complete, and with a Deployment as the platform has it. What else is applied,
see `test_installations`."""

import pytest
from tests.deploy.objects import FOLDERS, KUSTOMIZE, kustomization, kustomized, the


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_named(folder: str) -> None:
    there = {path.name for path in (KUSTOMIZE / folder).iterdir()} - {"kustomization.yaml"}
    assert there == set(kustomization(folder)["resources"])


def test_the_deployment_is_as_documented() -> None:
    deployment = the(kustomized(), "Deployment")
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    assert deployment["metadata"]["namespace"] == "dory-system"
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert pod["serviceAccountName"] == "dory-orchestrator"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (
        65534,
        65534,
    )
    assert pod["nodeSelector"] == {"role": "system"}
    [toleration] = pod["tolerations"]
    assert toleration == {
        "key": "node-role",
        "operator": "Equal",
        "value": "system",
        "effect": "NoSchedule",
    }
    [container] = pod["containers"]
    assert container["image"].startswith("dory-orchestrator:")
    assert "imagePullPolicy" not in container
    assert container["ports"] == [{"name": "metrics", "containerPort": 8080}]
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }
    live = container["livenessProbe"]
    assert live["httpGet"]["path"] == "/livez"
    numbers = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
    assert [live[name] for name in numbers] == [30, 10, 5, 3]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
