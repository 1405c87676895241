"""What is said of pods and nodes, as `kubectl describe` finds it."""

from dataclasses import replace

import pytest
from kubernetes import client
from tests.contract.cluster_worlds import a_spec, said_of

from dory_orchestrator.cluster.kubernetes.events import event_of
from dory_orchestrator.cluster.reading import new_pod

POD = new_pod(a_spec(namespace="plants"), uid="u-1", created_at=0.0)


def test_of_a_pod() -> None:
    event = event_of(said_of(POD))
    client.CoreV1Event.model_validate(event)
    about = event["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("Pod", POD.name, "u-1")
    # The server refuses an Event beside what it is about.
    assert about["namespace"] == event["metadata"]["namespace"] == "plants"
    assert (event["type"], event["reason"]) == ("Warning", "Failover")
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2023-11-14T22:13:20Z"
    assert event["metadata"]["name"] == f"{POD.name}.1-5f"


def test_of_a_node() -> None:
    event = event_of(said_of("edge-1", is_warning=False))
    client.CoreV1Event.model_validate(event)
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["involvedObject"]
    assert event["involvedObject"]["uid"] == "edge-1"
    assert event["type"] == "Normal"


@pytest.mark.parametrize("length", [1, 63, 240, 253])
def test_its_name_is_one(length: int) -> None:
    pod = replace(POD, name="p" * (length - 1) + "x")
    name = event_of(said_of(pod))["metadata"]["name"]
    assert len(name) <= 253
    assert name.endswith(".1-5f")
