"""Examples of requests and answers, for `/openapi.json`: one of each that has a body.

A test holds each against its schema.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dory_orchestrator import __version__

_CAMERA = "068aaeec-eeb5-4ee7-bf42-7a54fd9bdccc"
_BERLIN = "55b8b5da-c3b5-4e8e-8d83-6d046dd5cc95"
_ORGANIZATION = "7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11"
_FLEET = "e82a249a-6188-4fb1-aefc-f0754cb7d259"
_POD_UID = "2f0c1b6e-6f3d-4f7e-9a55-0d6b1f8f3c11"
_BEGAN_AT = "2026-11-25T06:30:43.018601Z"
_EVE = "eva"


@dataclass(frozen=True, slots=True)
class Example:
    """Of one operation: what is sent, and what is answered when all is well."""

    answer: Any
    request: Any = None


_PROCESSOR = {
    "id": _CAMERA,
    "name": "camera-1",
    "organization_id": _ORGANIZATION,
    "template": "camera",
    "version": "1.4.0",
    "node_type": "edge",
    "namespace": "video",
    "status": "running",
    "health_status": "healthy",
    "last_health_check_at": "2026-11-25T06:31:40.102Z",
    "state": "running",
    "reason": "away",
    "detail": "its home edge-berlin-1 is dead",
    "node_name": "cloud-1",
    "pod_name": "camera-068aaeec-2",
    "pod_ip": "10.42.0.17",
    "pod_uid": _POD_UID,
    "epoch": 2,
    "pod_epoch": 2,
    "restart_count": 0,
    "since": "2026-11-25T06:31:32.500Z",
}
_EVENT = {
    "id": 17,
    "at": _BEGAN_AT,
    "kind": "failover",
    "reason": "node_dead",
    "detail": "not ready for 42 s, and no heartbeat since",
    "processor_id": _CAMERA,
    "processor_name": "camera-1",
    "node_name": "edge-berlin-1",
    "pod_name": "camera-068aaeec-1",
    "pod_uid": _POD_UID,
    "epoch": 2,
    "term": 4,
    "explanation": None,
    "trace_id": "ffd5b3c0a1e14ad0a6c7c1f1a1f0f0b7",
}
_NODE = {
    "name": "edge-berlin-1",
    "kind": "edge",
    "ready": False,
    "ready_changed_at": "2026-11-25T06:30:01.000Z",
    "unschedulable": False,
    "cordoned": False,
    "cordon_cause": None,
    "edge_node_id": _BERLIN,
    "organization_id": _ORGANIZATION,
    "status": "offline",
    "failover_enabled": True,
    "failover_target_node_id": None,
    "last_heartbeat_at": "2026-11-25T06:30:00.512Z",
    "heartbeat_age_seconds": 101.4,
    "health": "offline",
    "health_reason": "dead_not_ready",
    "health_detail": "not ready for 42 s, and no heartbeat since",
    "health_since": _BEGAN_AT,
    "cpu_millicores": 4000,
    "memory_bytes": 8_589_934_592,
    "gpu_count": 0,
    "pods": 3,
    "pods_max": 110,
    "utilisation": 0.35,
    "processors": {"moving": 2, "running": 1},
}
_GUARD = {
    "held": True,
    "held_since": "2026-11-24T04:32:13.366413Z",
    "detail": "8 pods are kept (all: 4 of 12 left, template camera: 0 of 6 left)",
    "groups": {"all": 4, "template camera": 0},
    "confirmed": {},
    "confirmed_at": None,
    "confirmed_by": None,
    "processors_count": 1,
    "processors": [
        {
            "id": _CAMERA,
            "name": "camera-1",
            "organization_id": "7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11",
            "template": "camera",
            "health_status": "healthy",
            "namespace": "video",
            "pod_name": "camera-068aaeec-2",
            "node_name": "cloud-1",
            "epoch": 2,
            "pod_epoch": 2,
        }
    ],
    "frozen_count": 0,
    "frozen": [],
    "strangers_count": 1,
    "strangers": [
        {
            "pod_name": "camera-old-1",
            "node_name": "cloud-1",
            "processor_id": None,
            "detail": "pod video/camera-old-1 calls itself ours and is of no fleet",
            "at": "2026-11-24T04:30:00.000Z",
        }
    ],
}
_CONFIRMED = _GUARD | {
    "held": False,
    "held_since": None,
    "detail": "",
    "groups": {},
    "confirmed": {"all": 4, "template camera": 0},
    "confirmed_at": "2026-11-24T04:33:00.000Z",
    "confirmed_by": _EVE,
    "processors_count": 0,
    "processors": [],
}
_BRAKE = {
    "engaged": True,
    "engaged_at": _BEGAN_AT,
    "reason": "many_suspect",
    "detail": "3 of 4 edge nodes are suspect or dead: no node is moved away from",
    "population_count": 4,
    "override_until": None,
    "override_by": None,
    "override_reason": None,
    "nodes_count": 3,
    "nodes": [
        {
            "id": _BERLIN,
            "name": "edge-berlin-1",
            "state": "suspect",
            "reason": "not_ready",
            "detail": "not ready for 42 s, and no heartbeat since",
            "since": _BEGAN_AT,
        }
    ],
}
_OVERRIDDEN = _BRAKE | {
    "engaged": False,
    "override_until": "2026-11-25T06:41:25.156213Z",
    "override_by": _EVE,
    "override_reason": "the site burnt down",
    "message": "the brake does not hold until then: dead nodes are moved away from",
}
_HEALTH = {
    "status": "healthy",
    "timestamp": "2026-11-24T02:00:22.822Z",
    "version": __version__,
    "components": {
        "database": {
            "status": "healthy",
            "message": "answers and takes writes",
            "last_check": "2026-11-24T02:00:22.805Z",
        }
    },
}
_LIVE = _HEALTH | {"components": {}}
_UNIX_TIME_SECONDS = 1795485707.895
_METRICS = """\
# HELP dory_leader 1 if this process leads, else 0.
# TYPE dory_leader gauge
dory_leader 1.0
"""

_NODE_DECISION = {
    "outcome": "offline",
    "reason": "dead_not_ready",
    "detail": "not ready for 42 s, and no heartbeat since",
    "facts": {"ready": False, "ready_changed_seconds_ago": 42.0, "falls_lately": 1},
    "rules": [
        {
            "rule": "grace_over",
            "question": "Has its trouble lasted for the whole grace?",
            "held": True,
            "numbers": {"trouble_seconds": 42.0, "node_failure_grace_seconds": 30.0},
        }
    ],
    "candidates": [],
    "other_candidates": {},
}
_DECISION = {
    "outcome": "moving",
    "reason": "node_dead",
    "detail": "from edge-berlin-1 (not ready for 42 s, and no heartbeat since) to cloud-1",
    "facts": {"node_type": "edge", "linked_node": "edge-berlin-1", "epoch": 1},
    "rules": [
        {
            "rule": "node_in_trouble",
            "question": "Is its node in trouble?",
            "held": True,
            "numbers": {"node": "edge-berlin-1", "state": "offline", "reason": "dead_not_ready"},
        },
        {
            "rule": "brake_held",
            "question": "Does the mass-failure brake hold?",
            "held": False,
            "numbers": {"suspect_nodes": 1, "counted_nodes": 8, "reason": "clear"},
        },
    ],
    "candidates": [
        {"node": "cloud-1", "chosen": True, "why_not": None},
        {"node": "cloud-2", "chosen": False, "why_not": "cpu"},
    ],
    "other_candidates": {"selector": 8},
}
_DIRECTIVE_DECISION = {
    "outcome": "shutdown",
    "reason": "moved_away",
    "detail": "a heartbeat of it from edge-berlin-1 is answered shutdown",
    "facts": {"row_found": True, "status": "running", "left_node": "edge-berlin-1"},
    "rules": [
        {"rule": "not_found", "question": "Is its row missing?", "held": False, "numbers": {}}
    ],
    "candidates": [],
    "other_candidates": {},
}
_EXPLANATION = {
    "subject": "processor",
    "id": _CAMERA,
    "name": "camera-1",
    "live": True,
    "message": "",
    "decision": _DECISION,
    "because": [
        {
            "subject": "node",
            "id": _BERLIN,
            "name": "edge-berlin-1",
            "decision": _NODE_DECISION,
        }
    ],
    "events": [{**_EVENT, "explanation": _DECISION}],
}
_PAUSE = {
    "paused": True,
    "until": "2026-11-25T07:00:43Z",
    "began_at": _BEGAN_AT,
    "by": _EVE,
    "reason": "the network is being rebuilt",
}
_DRILL = {
    "id": 3,
    "node_name": "edge-berlin-1",
    "by": _EVE,
    "reason": "monthly drill",
    "phase": "ended",
    "began_at": _BEGAN_AT,
    "until": "2026-11-25T06:35:43Z",
    "left_at": "2026-11-25T06:35:43Z",
    "ended_at": "2026-11-25T06:35:51Z",
    "outcome": "done",
    "detail": "all are at home on edge-berlin-1 again",
    "moves": [
        {
            "processor_id": _CAMERA,
            "processor_name": "camera-1",
            "kind": "failover",
            "from_node": "edge-berlin-1",
            "to_node": "cloud-1",
            "began_at": _BEGAN_AT,
            "ended_at": "2026-11-25T06:30:46Z",
            "outcome": "done",
            "rto_seconds": 3.1,
            "rpo_seconds": 4.2,
        }
    ],
}
_ORDER = {"processor": _CAMERA, "reason": "the camera is being cleaned", "by": _EVE}

EXAMPLES: Mapping[tuple[str, str], Example] = {
    ("POST", "/api/v1/edge/heartbeat"): Example(
        {
            "acknowledged": True,
            "orchestrator_time": _UNIX_TIME_SECONDS,
            "directive": "continue",
        },
        {"processor_id": _CAMERA, "node_id": "edge-berlin-1", "status": "healthy"},
    ),
    ("POST", "/api/v1/edge/nodes"): Example(
        {
            "id": _BERLIN,
            "organization_id": _ORGANIZATION,
            "name": "edge-berlin-1",
            "status": "online",
            "failover_enabled": True,
            "failover_target_node_id": None,
            "last_heartbeat_at": None,
        },
        {"name": "edge-berlin-1", "organization_id": _ORGANIZATION},
    ),
    ("POST", "/api/v1/edge/nodes/decommission"): Example(
        {"status": "decommissioned", "node_name": "edge-berlin-1", "apps_stopped": 1},
        {"node_name": "edge-berlin-1"},
    ),
    ("GET", "/api/v1/fleet/nodes"): Example({"nodes": [_NODE], "next_cursor": None}),
    ("GET", "/api/v1/fleet/processors"): Example({"processors": [_PROCESSOR], "next_cursor": None}),
    ("GET", "/api/v1/fleet/processors/{id}"): Example(
        {"processor": _PROCESSOR, "events": [_EVENT]}
    ),
    ("GET", "/api/v1/fleet/events"): Example(
        {"events": [_EVENT], "next_cursor": None, "follow": 17}
    ),
    ("GET", "/api/v1/fleet/guard"): Example(_GUARD),
    ("POST", "/api/v1/fleet/guard/confirm"): Example(
        _CONFIRMED, {"groups": {"all": 4, "template camera": 0}, "by": _EVE}
    ),
    ("POST", "/api/v1/fleet/guard/adopt"): Example(
        {"adopted": [_CAMERA]}, {"processors": [_CAMERA], "by": _EVE}
    ),
    ("GET", "/api/v1/fleet/moves"): Example(
        {
            "moves": [
                {
                    "id": 2,
                    "processor_id": _CAMERA,
                    "processor_name": "camera-1",
                    "kind": "failover",
                    "detail": "not ready for 42 s, and no heartbeat since",
                    "from_node": "edge-berlin-1",
                    "to_node": "cloud-1",
                    "edge_node_id": _BERLIN,
                    "old_uid": _POD_UID,
                    "epoch": 2,
                    "began_at": _BEGAN_AT,
                    "last_alive_at": "2026-11-25T06:30:20.512Z",
                    "state_at": "2026-11-25T06:30:15.512Z",
                    "suspect_at": "2026-11-25T06:30:03Z",
                    "created_at": None,
                    "ready_at": None,
                    "ended_at": "2026-11-25T06:30:50.012Z",
                    "outcome": "done",
                    "rto_seconds": 29.5,
                    "rpo_seconds": 5.0,
                }
            ],
            "next_cursor": None,
        }
    ),
    ("GET", "/api/v1/fleet/brake"): Example(_BRAKE),
    ("POST", "/api/v1/fleet/brake/override"): Example(
        _OVERRIDDEN, {"for_seconds": 600, "reason": "the site burnt down", "by": _EVE}
    ),
    ("POST", "/api/v1/fleet/brake/clear"): Example(
        _BRAKE | {"message": "the brake holds again, unless its cause is gone"}, {"by": _EVE}
    ),
    ("POST", "/api/v1/fleet/nodes/cordon"): Example(
        {
            "node": "edge-berlin-1",
            "cordoned": True,
            "changed": True,
            "message": "it gets no new work, and nothing comes home to it; what runs there stays",
        },
        {"node": "edge-berlin-1", "reason": "a new disk", "by": _EVE},
    ),
    ("POST", "/api/v1/fleet/nodes/uncordon"): Example(
        {
            "node": "edge-berlin-1",
            "cordoned": False,
            "changed": True,
            "message": "it gets work again, and what is away from home comes back once it is well",
        },
        {"node": "edge-berlin-1", "by": _EVE},
    ),
    ("GET", "/api/v1/fleet/summary"): Example(
        {
            "fleet_id": _FLEET,
            "cluster": "kubernetes",
            "at": "2026-11-25T06:31:41.000Z",
            "current": True,
            "desired": 12,
            "ready": 10,
            "states": {"running": 10, "moving": 2},
            "nodes": 5,
            "nodes_ready": 4,
            "leader": {"holder": "dory-orchestrator-0", "term": 4, "lease_seconds": 3.2},
            "guard_held": False,
            "brake_engaged": False,
            "moves_open": 2,
            "away": 3,
            "pause_until": None,
            "pause_by": None,
            "pause_reason": None,
            "drill_node": None,
            "drill_until": None,
            "drill_phase": None,
        }
    ),
    ("GET", "/api/v1/fleet/drills"): Example({"drills": [_DRILL]}),
    ("POST", "/api/v1/fleet/drills/start"): Example(
        {
            "drill": {**_DRILL, "phase": "running", "left_at": None, "ended_at": None}
            | {"outcome": None, "detail": "", "moves": []},
            "message": "its processors move now; after 300 s, or as soon as one does not become"
            " ready, they come home",
        },
        {"node": "edge-berlin-1", "for_seconds": 300, "reason": "monthly drill", "by": _EVE},
    ),
    ("POST", "/api/v1/fleet/drills/stop"): Example(
        {
            "drill": {**_DRILL, "phase": "returning", "ended_at": None, "outcome": "aborted"},
            "message": "its processors go home now",
        },
        {"by": _EVE},
    ),
    ("GET", "/api/v1/fleet/events/stream"): Example(
        "retry: 2000\n\nid: 17\nevent: failover\ndata: " + json.dumps(_EVENT) + "\n\n"
    ),
    ("GET", "/api/v1/fleet/events/export"): Example(json.dumps(_EVENT) + "\n"),
    ("GET", "/api/v1/fleet/webhooks"): Example(
        {
            "webhooks": [
                {
                    "name": "pager",
                    "url": "https://pager.example/events",
                    "kinds": ["node_*", "failover", "brake"],
                    "lag_events": 0,
                    "lag_seconds": 0.0,
                    "delivered_at": _BEGAN_AT,
                    "failures": 0,
                    "last_error": None,
                    "last_error_at": None,
                    "next_try_at": None,
                    "dead_letters": 1,
                    "dropped": 0,
                }
            ]
        }
    ),
    ("GET", "/api/v1/fleet/webhooks/dead-letters"): Example(
        {
            "dead_letters": [
                {
                    "webhook": "pager",
                    "event": _EVENT,
                    "died_at": "2026-11-25T06:50:43Z",
                    "tries": 8,
                    "error": "status 500",
                    "retrying": False,
                }
            ],
            "next_cursor": None,
        }
    ),
    ("POST", "/api/v1/fleet/webhooks/retry"): Example(
        {"webhook": "pager", "count": 1}, {"webhook": "pager", "ids": [17], "by": _EVE}
    ),
    ("GET", "/api/v1/fleet/processors/{id}/explanation"): Example(_EXPLANATION),
    ("GET", "/api/v1/fleet/processors/{id}/directive"): Example(
        {
            **_EXPLANATION,
            "subject": "directive",
            "name": None,
            "decision": _DIRECTIVE_DECISION,
            "because": [],
        }
    ),
    ("GET", "/api/v1/fleet/nodes/explanation"): Example(
        {**_EXPLANATION, "subject": "node", "id": _BERLIN, "name": "edge-berlin-1"}
        | {"decision": _NODE_DECISION, "because": []}
    ),
    ("GET", "/api/v1/fleet/plan"): Example(
        {
            "actions": [
                {
                    "action": "create",
                    "id": _CAMERA,
                    "name": "camera-1",
                    "move": "failover",
                    "from_node": "edge-berlin-1",
                    "node": "cloud-1",
                    "reason": "node_dead",
                    "detail": "from edge-berlin-1: on cloud-1",
                }
            ],
            "actions_count": 1,
            "paused": [],
            "paused_count": 0,
            "paused_for_seconds": None,
            "waiting": [],
            "waiting_count": 0,
            "nodes": [
                {
                    "name": "edge-berlin-1",
                    "state": "offline",
                    "reason": "dead_not_ready",
                    "detail": "not ready for 42 s, and no heartbeat since",
                }
            ],
            "nodes_count": 1,
            "brake_engaged": False,
            "brake": "1 of 8 edge nodes are suspect or dead",
            "guard": "",
            "changes_in_seconds": 12.5,
        }
    ),
    ("GET", "/api/v1/fleet/what-if"): Example(
        {
            "nodes_down": ["edge-berlin-1"],
            "processors": [
                {
                    "id": _CAMERA,
                    "name": "camera-1",
                    "from_node": "edge-berlin-1",
                    "outcome": "moves",
                    "to_node": "cloud-1",
                    "reason": "node_dead",
                    "detail": "from edge-berlin-1: on cloud-1",
                    "loss_seconds": 4.2,
                    "wave": 1,
                    "seconds": 93.1,
                }
            ],
            "processors_count": 1,
            "moves": 1,
            "waits": 0,
            "stays": 0,
            "loss_seconds_most": 4.2,
            "seconds_most": 93.1,
            "brake_engaged": False,
            "brake": "1 of 8 edge nodes are suspect or dead",
            "paused": False,
            "safe": True,
            "detection_seconds": 90.0,
            "failover_seconds": 3.1,
        }
    ),
    ("GET", "/api/v1/fleet/pause"): Example(_PAUSE),
    ("POST", "/api/v1/fleet/pause/begin"): Example(
        {
            **_PAUSE,
            "message": "until then nothing is created, ended or moved; heartbeats go on, and what"
            " was begun is carried out within half a minute",
        },
        {"for_seconds": 1800, "reason": "the network is being rebuilt", "by": _EVE},
    ),
    ("POST", "/api/v1/fleet/pause/end"): Example(
        {
            **dict.fromkeys(_PAUSE),
            "paused": False,
            "message": "what waited is done now, if it is still right",
        },
        {"by": _EVE},
    ),
    ("POST", "/api/v1/fleet/orders/failover"): Example(
        {
            "processor": _CAMERA,
            "message": "it leaves edge-berlin-1 with its state, and stays in the cloud until it is"
            " sent home (failback)",
        },
        _ORDER,
    ),
    ("POST", "/api/v1/fleet/orders/failback"): Example(
        {
            "processor": _CAMERA,
            "message": "it goes home to edge-berlin-1 with its state, as soon as none other is on"
            " its way",
        },
        _ORDER,
    ),
    ("POST", "/api/v1/fleet/orders/retry"): Example(
        {
            "processor": _CAMERA,
            "message": "it failed 3 times in a row, and is tried again now",
        },
        _ORDER,
    ),
    ("GET", "/healthz"): Example(_HEALTH),
    ("GET", "/readyz"): Example(_HEALTH),
    ("GET", "/livez"): Example(_LIVE),
    ("GET", "/metrics"): Example(_METRICS),
}
