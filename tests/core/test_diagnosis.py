"""What facts about an installation mean."""

from dataclasses import replace

import pytest

from dory_orchestrator.core.diagnosis import (
    AddressFacts,
    Finding,
    ServerFacts,
    Verdict,
    judge_address,
    judge_clock,
    judge_connections,
    judge_nodes,
    judge_open_files,
    judge_revision,
    judge_rights,
    judge_tables,
    judge_tokens,
    judge_version,
    judge_writes,
    least_offset,
)
from dory_orchestrator.core.model import Node

A, B, C = "a" * 32, "b" * 32, "c" * 32
SERVER = ServerFacts(
    version=16,
    version_text="16.4",
    role="dory_run",
    is_standby=False,
    is_read_only=False,
    connections_max=97,
    offset_seconds=0.0,
)
CLOUD = Node("cloud", True, {"workload-type": "application"})
EDGE = Node("edge-1", True, {"node-type": "edge"})
OK, WARNING, FAILED = Verdict.OK, Verdict.WARNING, Verdict.FAILED


def tokens(state: str | None, previous: str | None, operator: str | None) -> Finding:
    return judge_tokens(
        {
            "DORY_STATE_TOKEN": state,
            "DORY_STATE_TOKEN_PREVIOUS": previous,
            "DORY_OPERATOR_TOKEN": operator,
        }
    )


CASES: list[tuple[Finding, Verdict, str]] = [
    (tokens(A, None, B), OK, "different"),
    (tokens(A, C, B), OK, "different"),
    (tokens(None, None, B), WARNING, "DORY_STATE_TOKEN is not set"),
    (tokens(A, None, None), WARNING, "DORY_OPERATOR_TOKEN is not set: everyone may change"),
    (tokens("short", None, B), WARNING, "DORY_STATE_TOKEN: shorter than 16"),
    (tokens(A, None, A), FAILED, "DORY_OPERATOR_TOKEN and DORY_STATE_TOKEN are the same"),
    (tokens(A, A, B), FAILED, "DORY_STATE_TOKEN and DORY_STATE_TOKEN_PREVIOUS are the same"),
    (judge_open_files(20_000, 20_000), OK, "20000"),
    (judge_open_files(900, 20_000), WARNING, "900 connections of 20000"),
    (judge_version(SERVER), OK, "16.4"),
    (judge_version(replace(SERVER, version=13)), FAILED, "14 or newer"),
    (judge_writes(SERVER), OK, "dory_run"),
    (judge_writes(replace(SERVER, is_standby=True)), FAILED, "standby"),
    (judge_writes(replace(SERVER, is_read_only=True)), FAILED, "read-only"),
    (judge_connections(SERVER, 5), OK, "97; two orchestrators use 33"),
    (judge_connections(SERVER, 50), WARNING, "use 213"),
    (judge_clock("clock", 0.4, "x"), OK, "within 1 s"),
    (judge_clock("clock", -2.0, "x"), WARNING, "2.0 s behind"),
    (judge_clock("clock", 5.1, "x"), FAILED, "5.1 s before"),
    (judge_revision("0007", "0007", ["0001", "0007"]), OK, "0007"),
    (judge_revision(None, "0007", ["0001", "0007"]), FAILED, "revision none, needed is 0007"),
    (judge_revision("0001", "0007", ["0001", "0007"]), FAILED, "revision 0001, needed is 0007"),
    (judge_revision("0009", "0007", ["0001", "0007"]), FAILED, "newer than this program"),
    (judge_tables(None), OK, "all rights"),
    (judge_tables("sensors is missing"), FAILED, "sensors is missing"),
    (judge_rights("namespace video", []), OK, "all"),
    (judge_rights("namespace video", ["create pods"]), FAILED, "not allowed: create pods"),
    (judge_nodes([CLOUD, EDGE], ["edge-1"]), OK, "2 nodes: 1 for the cloud, 1 at the edge"),
    (judge_nodes([CLOUD], None), OK, "1 nodes"),
    (judge_nodes([EDGE], ["edge-1"]), WARNING, "no node has the label workload-type=application"),
    (judge_nodes([CLOUD, Node("e", True)], ["e"]), WARNING, "without node-type=edge: e"),
    (judge_nodes([CLOUD], ["e"]), WARNING, "that the cluster has not: e"),
    (judge_nodes([CLOUD], list("abcdefg")), WARNING, "a, b, c, d, e and 2 more"),
    (judge_address(AddressFacts("http://a", "healthy", A), A), OK, "http://a answers: healthy"),
    (judge_address(AddressFacts("http://a", "degraded", A), A), WARNING, "degraded"),
    (judge_address(AddressFacts("http://a", "healthy", None), A), WARNING, "it does not tell"),
    (judge_address(AddressFacts("http://a", "healthy", A), None), WARNING, "our database does"),
    (judge_address(AddressFacts("http://a", "healthy", B), A), FAILED, "of another fleet"),
]


@pytest.mark.parametrize(("finding", "verdict", "words"), CASES)
def test_what_is_found(finding, verdict, words):
    assert (finding.verdict, words in finding.detail) == (verdict, True), finding
    # What is not well says how it is mended.
    assert bool(finding.remedy) is (verdict is not OK)


@pytest.mark.parametrize(
    ("theirs", "ours", "offset"),
    [
        ((10.0, 10.0), (10.0, 10.0), 0.0),
        ((10.0, 11.0), (9.0, 15.0), 0.0),
        ((20.0, 21.0), (9.0, 15.0), 5.0),
        ((2.0, 3.0), (9.0, 15.0), -6.0),
    ],
)
def test_a_slow_answer_proves_little_of_a_clock(theirs, ours, offset):
    assert least_offset(theirs, ours) == offset


def test_no_token_is_told():
    for one in (tokens(A, A, B), tokens(A, None, A), tokens("geheim", None, B)):
        assert not {A, B, "geheim"} & set(one.detail.split())
