"""From what the rows say to a pod: hash, labels, name, image, environment."""

import json
import re
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.world import FLEET, ORGANIZATION, V1, V2, a_processor, a_version, an_id, hash_of

from dory_orchestrator.core.geohash import geohash
from dory_orchestrator.core.model import Ownership, PodSpec, ProcessorConfig, Toleration
from dory_orchestrator.core.specify import (
    Blueprints,
    NotDefined,
    is_outdated,
    label_value,
    namespace_of,
    pod_name,
    specify,
    tolerations_of,
)

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
SENSOR = {"sensor_id": UUID(int=5), "sensor_config": '{"a": 1}', "sensor_location": "(8.5,47.3)"}
BASE = a_processor(0, versions=(V1,), **SENSOR)


def spec_of(config: ProcessorConfig, *, before: Ownership | None = None, **said) -> PodSpec:
    blueprints = Blueprints()
    blueprint = blueprints.of(config)
    usual: dict[str, Any] = {
        "config_hash": blueprints.change_hash(config, blueprint),
        "fleet_id": FLEET,
        "namespace": "default",
        "epoch": 3,
        "home": None,
        "preferred": None,
    }
    return specify(config, blueprint, before=before, **(usual | said))


# The change hash ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        pytest.param({"versions": (replace(V1, image_uri="other"),)}, True, id="image"),
        pytest.param({"versions": (replace(V1, digest="sha256:1"),)}, True, id="digest"),
        pytest.param({"versions": (replace(V1, digest=""),)}, True, id="an-empty-digest"),
        pytest.param({"versions": (replace(V1, version="1.0"),)}, True, id="version"),
        pytest.param({"versions": (a_version("1", runtime={"a": 1}),)}, True, id="configuration"),
        pytest.param({"template_slug": "radar"}, True, id="template"),
        pytest.param({"sensor_id": UUID(int=6)}, True, id="sensor"),
        pytest.param({"sensor_id": None}, True, id="no-sensor"),
        pytest.param({"sensor_config": '{"a": 2}'}, True, id="sensor-configuration"),
        pytest.param({"sensor_config": None}, True, id="no-sensor-configuration"),
        pytest.param({"sensor_location": "(8.6,47.3)"}, True, id="sensor-place"),
        pytest.param({"versions": (replace(V1, id=UUID(int=9)),)}, False, id="version-id"),
        pytest.param(
            {"versions": (a_version("1", runtime={"orchestrator": {"priority": 9}}),)},
            False,
            id="our-own-settings",
        ),
        pytest.param(
            {"versions": (replace(V1, runtime_config_template=" { } "),)}, False, id="white-space"
        ),
        pytest.param({"node_type": "edge"}, False, id="node-type"),
        pytest.param({"namespace": "other"}, False, id="namespace"),
        pytest.param({"name": "other"}, False, id="name"),
        pytest.param({"status": "running"}, False, id="status"),
        pytest.param({"organization_id": UUID(int=9)}, False, id="organization"),
    ],
)
def test_what_changes_the_hash(changes, changed):
    assert (hash_of(BASE) != hash_of(replace(BASE, **changes))) is changed


def test_without_a_sensor_its_other_columns_say_nothing():
    bare = replace(BASE, sensor_id=None)
    assert hash_of(bare) == hash_of(replace(bare, sensor_config=None, sensor_location=None))


@pytest.mark.parametrize(
    ("found", "outdated"),
    [
        (None, False),
        ("", False),
        ("v0:1234", False),
        ("v2:1234", False),
        ("1234", False),
        ("v1:1234", True),
        (hash_of(BASE), False),
        (hash_of(replace(BASE, versions=(V2,))), True),
    ],
)
def test_a_hash_that_is_missing_or_unknown_says_nothing(found, outdated):
    assert is_outdated(found, hash_of(BASE)) is outdated


def test_the_hash_stays_the_same_from_release_to_release():
    """Whoever changes how it is made restarts every fleet: then it needs another scheme."""
    assert hash_of(BASE) == "v1:1f91bca0f8068714a62d64bc0fb01991"


def test_blueprints_are_made_once_and_errors_told_each_time():
    blueprints = Blueprints()
    assert blueprints.of(BASE) is blueprints.of(a_processor(1))
    broken = replace(BASE, versions=(a_version("1", runtime="["),))
    told = []
    for _ in range(3):
        with pytest.raises(NotDefined) as error:
            blueprints.of(broken)
        told.append(error.value)
    assert len({str(error) for error in told}) == 1
    assert len(set(map(id, told))) == 3
    assert "'camera' version '1'" in str(told[0])


# Names and labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "begins"),
    [
        ("camera", "camera-"),
        ("Camera_Feed v2", "camera-feed-v2-"),
        ("køge/strand", "k-ge-strand-"),
        ("--a--", "a-"),
        ("", "processor-"),
        ("日本", "processor-"),
        ("9lives", "9lives-"),
        ("a" * 200, "a" * 30),
        ("a" * 38 + "-b", "a" * 30),
    ],
)
def test_pod_names(slug, begins):
    name = pod_name(slug, an_id(0), 12)
    assert name.startswith(begins)
    assert name.endswith("-12")
    assert an_id(0).hex[:8] in name
    assert DNS_LABEL.fullmatch(name)
    assert name == pod_name(slug, an_id(0), 12)


@given(st.text(max_size=80), st.uuids(), st.integers(1, 10**18 - 1))
def test_every_pod_name_is_a_dns_label(slug, processor_id, epoch):
    assert DNS_LABEL.fullmatch(pod_name(slug, processor_id, epoch))


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([UUID(int=n) for n in range(100)], id="counted"),
        pytest.param(
            [
                UUID(int=(0x0198_0000_0000 << 80) | (7 << 76) | (2 << 62) | n * 7919)
                for n in range(100)
            ],
            id="of-one-millisecond",
        ),
        pytest.param(
            [UUID(int=(n << 96) | 0x11D1_80B4_00C0_4FD4_30C8) for n in range(100)],
            id="of-one-machine",
        ),
        pytest.param([uuid5(an_id(0), str(n)) for n in range(100)], id="random"),
    ],
)
def test_ids_that_look_alike_have_names_of_their_own(ids):
    """Else one is refused for as long as the other is there."""
    assert len({pod_name("camera", processor_id, 1) for processor_id in ids}) == len(ids)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("camera", True),
        ("Camera_1.2-x", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("-camera", False),
        ("camera.", False),
        ("a b", False),
        ("ä", False),
        ("", False),
        ("camera\n", False),
    ],
)
def test_label_values(text, kept):
    value = label_value(text)
    assert (value == text) is kept
    assert LABEL_VALUE.fullmatch(value)


@given(st.text(max_size=100), st.text(max_size=100))
def test_every_label_value_is_one_and_tells_texts_apart(one, other):
    assert LABEL_VALUE.fullmatch(label_value(one))
    assert (label_value(one) == label_value(other)) is (one == other)


@pytest.mark.parametrize(
    ("namespace", "found"),
    [
        (None, "ours"),
        ("", "ours"),
        ("space", "space"),
        ("a" * 63, "a" * 63),
        ("a" * 64, None),
        ("Space", None),
        ("a.b", None),
        ("a/../b", None),
        ("-a", None),
        ("a\n", None),
    ],
)
def test_namespaces(namespace, found):
    config = a_processor(0, namespace=namespace)
    if found is not None:
        assert namespace_of(config, "ours") == found
        return
    with pytest.raises(NotDefined, match="k8s_namespace"):
        namespace_of(config, "ours")


@pytest.mark.parametrize(
    ("node_type", "location"), [("edge", "edge"), ("managed", "managed"), ("cloud", "managed")]
)
def test_labels_and_annotations(node_type, location):
    spec = spec_of(a_processor(0, node_type=node_type, template_slug="my slug"))
    assert spec.labels == {
        "managed-by": "dory-orchestrator",
        "app": label_value("my slug"),
        "processor-id": str(an_id(0)),
        "workload-location": location,
        "dory.io/organization-id": str(ORGANIZATION),
    }
    assert spec.annotations["dory.io/fleet"] == FLEET
    assert spec.annotations["dory.io/epoch"] == "3"
    assert spec.annotations["dory.io/config-hash"].startswith("v1:")
    assert spec.environment["APP_NAME"] == "my slug"


def test_where_a_pod_may_be():
    runtime = {"node_selector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]}
    version = a_version("1", runtime=runtime)
    cloud = spec_of(a_processor(0, versions=(version,)), preferred="cloud-1")
    edge = spec_of(a_processor(0, versions=(version,), node_type="edge"), home="edge-1")
    assert cloud.node_selector == {"workload-type": "application", "disk": "ssd"}
    assert edge.node_selector == {"node-type": "edge", "disk": "ssd"}
    assert (cloud.node_name, cloud.preferred_node_name) == (None, "cloud-1")
    assert (edge.node_name, edge.preferred_node_name) == ("edge-1", None)
    assert cloud.tolerations == (Toleration("", "Exists"),)
    assert edge.tolerations[0] == Toleration("", "Exists")
    told = {(t.key, t.effect) for t in edge.tolerations if t.effect}
    assert {key for key, _ in told} == {
        "edge-node",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }
    assert len(told) == 5
    blueprint = Blueprints().of(a_processor(0, versions=(version,)))
    assert tolerations_of(blueprint, is_edge=False) == cloud.tolerations


@pytest.mark.parametrize(
    ("uri", "digest", "image"),
    [
        ("camera", None, "camera"),
        ("camera:1", "", "camera:1"),
        ("camera:1", "sha256:ab", "camera@sha256:ab"),
        ("camera", "sha256:ab", "camera@sha256:ab"),
        ("registry:5000/camera", "sha256:ab", "registry:5000/camera@sha256:ab"),
        ("registry:5000/team/camera:1.2", "sha256:ab", "registry:5000/team/camera@sha256:ab"),
        ("registry:5000/camera:1.2", None, "registry:5000/camera:1.2"),
        ("registry/camera:1@sha256:old", "sha256:ab", "registry/camera@sha256:ab"),
        ("registry/camera@sha256:old", None, "registry/camera@sha256:old"),
    ],
)
def test_the_image_is_named_by_its_digest(uri, digest, image):
    version = replace(V1, image_uri=uri, digest=digest)
    assert spec_of(a_processor(0, versions=(version,))).image == image


# The environment ---------------------------------------------------------------------------


def environment(*, template=None, sensor=None, before=None, **changes) -> dict[str, str]:
    version = a_version("1.2", runtime={"env_vars": template or {}})
    said = {"sensor_id": UUID(int=5), "sensor_config": json.dumps(sensor)} if sensor else {}
    return dict(
        spec_of(a_processor(0, versions=(version,), **said, **changes), before=before).environment
    )


def test_what_every_processor_is_told():
    assert environment() == {
        "PROCESSOR_ID": str(an_id(0)),
        "APP_NAME": "camera",
        "DORY_APP_VERSION": "1.2",
        "DORY_NODE_TYPE": "managed",
        "RESTART_COUNT": "0",
    }


def test_the_sensor_s_word_is_above_the_template_s_and_ours_above_both():
    told = environment(
        template={"URL": "t", "ONLY": "t", "PROCESSOR_ID": "x", "RESTART_COUNT": "9"},
        sensor={"url": "s", "processor_id": "y", "app_name": "z", "dory_node_type": "q"},
        node_type="edge",
    )
    assert (told["URL"], told["ONLY"]) == ("s", "t")
    assert told["PROCESSOR_ID"] == str(an_id(0))
    assert (told["APP_NAME"], told["DORY_NODE_TYPE"], told["RESTART_COUNT"]) == (
        "camera",
        "edge",
        "0",
    )


@pytest.mark.parametrize(
    "name",
    [
        "DORY_PROCESSOR_ID",
        "DORY_IS_MIGRATING",
        "DORY_MIGRATED_FROM",
        "DORY_MIGRATED_FROM_EDGE",
        "DORY_ORIGINAL_NODE",
        "PREVIOUS_EXIT_CODE",
        "RESTART_REASON",
    ],
)
def test_rows_cannot_make_a_processor_believe_what_is_not_so(name):
    assert name not in environment(template={name: "true"}, sensor={name.lower(): "true"})


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (None, {}),
        (Ownership(2), {}),
        (Ownership(2, failures=3), {}),
        (Ownership(2, exit_code=0), {"PREVIOUS_EXIT_CODE": "0"}),
        (
            Ownership(2, failures=9, exit_code=137, restart_reason="OOMKilled"),
            {"PREVIOUS_EXIT_CODE": "137", "RESTART_REASON": "OOMKilled"},
        ),
        (Ownership(2, restart_reason="changed"), {"RESTART_REASON": "changed"}),
    ],
)
def test_the_cause_of_a_restart_is_told_and_never_its_count(before, told):
    found = environment(before=before)
    assert found["RESTART_COUNT"] == "0"
    assert {k: v for k, v in found.items() if k in ("PREVIOUS_EXIT_CODE", "RESTART_REASON")} == told


@pytest.mark.parametrize(
    ("config", "told"),
    [
        pytest.param('{"camera_feed_url": "rtsp://x"}', {"CAMERA_FEED_URL": "rtsp://x"}, id="text"),
        pytest.param(
            '{"n": 1, "f": 0.5, "t": true, "z": 0}',
            {"N": "1", "F": "0.5", "T": "true", "Z": "0"},
            id="scalars",
        ),
        pytest.param('{"e": ""}', {"E": ""}, id="empty"),
        pytest.param('{"a": null, "b": [1], "c": {"d": 1}}', {}, id="no-scalars"),
        pytest.param(
            '{"a-b": 1, "1a": 1, "": 1, "ä": 1, "a b": 1, "_a": 1}', {"_A": "1"}, id="no-names"
        ),
        pytest.param('{"a": "x\\u0000y", "b": "z"}', {"B": "z"}, id="a-nul"),
        pytest.param("[1]", {}, id="a-list"),
        pytest.param("null", {}, id="null"),
        pytest.param("{", {}, id="torn"),
        pytest.param("[" * 100_000, {}, id="deep"),
        pytest.param("", {}, id="nothing"),
        pytest.param(None, {}, id="null-column"),
    ],
)
def test_what_a_sensor_says(config, told):
    found = environment(sensor_id=UUID(int=5), sensor_config=config)
    assert found.pop("SENSOR_ID") == str(UUID(int=5))
    assert found.items() - environment().items() == told.items()


@pytest.mark.parametrize(
    ("point", "place"),
    [
        ("(8.5417,47.3769)", ("47.3769", "8.5417")),
        ("(-180,-90)", ("-90.0", "-180.0")),
        ("(180,90)", ("90.0", "180.0")),
        ("(1e-07,0)", ("0.0", "1e-07")),
        ("(180.1,0)", None),
        ("(0,90.1)", None),
        ("(NaN,0)", None),
        ("(0,NaN)", None),
        ("(Infinity,0)", None),
        ("(0,-Infinity)", None),
        ("(somewhere,else)", None),
        ("(1,2,3)", None),
        ("1,2", None),
        ("POINT(1 2)", None),
        ("", None),
        (None, None),
    ],
)
def test_where_a_sensor_is(point, place):
    found = environment(sensor_id=UUID(int=5), sensor_config=None, sensor_location=point)
    told = (found.get("DORY_LATITUDE"), found.get("DORY_LONGITUDE"))
    assert told == (place or (None, None))
    assert ("DORY_GEOHASH" in found) is (place is not None)


@pytest.mark.parametrize(
    ("latitude", "longitude", "length", "text"),
    [
        (57.64911, 10.40744, 11, "u4pruydqqvj"),
        (57.64911, 10.40744, 9, "u4pruydqq"),
        (42.6, -5.6, 5, "ezs42"),
        (37.8324, 112.5584, 9, "ww8p1r4t8"),
        (-25.382708, -49.265506, 8, "6gkzwgjz"),
        (0.0, 0.0, 9, "s00000000"),
        (-90.0, -180.0, 9, "000000000"),
        (90.0, 180.0, 9, "zzzzzzzzz"),
        (0.0, 0.0, 0, ""),
    ],
)
def test_geohash(latitude, longitude, length, text):
    assert geohash(latitude, longitude, length) == text


@settings(max_examples=60)
@given(st.text(max_size=60), st.none() | st.text(max_size=40))
def test_no_text_of_a_sensor_stops_the_others(config, location):
    told = environment(sensor_id=UUID(int=5), sensor_config=config, sensor_location=location)
    assert told["PROCESSOR_ID"] == str(an_id(0))
    assert all(isinstance(value, str) and "\0" not in value for value in told.values())
