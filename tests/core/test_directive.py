"""Promise S1: `shutdown` only on a fresh, positive finding."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.directive import BeatFacts, DirectiveReason, decide
from dory_orchestrator.core.model import Directive

HOME, CLOUD = "edge-1", "cloud-1"
MOVED = BeatFacts(True, True, "running", HOME, CLOUD, True)


@pytest.mark.parametrize(
    ("facts", "sender", "reason"),
    [
        pytest.param(BeatFacts(True, True, "running"), HOME, DirectiveReason.DESIRED, id="running"),
        pytest.param(BeatFacts(True, True, "odd"), HOME, DirectiveReason.DESIRED, id="own-state"),
        pytest.param(BeatFacts(False, True), HOME, DirectiveReason.NOT_FOUND, id="missing"),
        pytest.param(BeatFacts(True, True, "terminated"), HOME, DirectiveReason.ENDED, id="ended"),
        pytest.param(BeatFacts(True, True, "failed"), HOME, DirectiveReason.ENDED, id="failed"),
        pytest.param(
            BeatFacts(True, False, "terminated"), HOME, DirectiveReason.NOT_RECORDED, id="locked"
        ),
        pytest.param(BeatFacts(False, False), HOME, DirectiveReason.NOT_RECORDED, id="unknown"),
        pytest.param(
            BeatFacts(False, True, deletion_undecided=True),
            HOME,
            DirectiveReason.DELETION_UNDECIDED,
            id="missing-undecided",
        ),
        pytest.param(
            BeatFacts(True, True, "terminated", deletion_undecided=True),
            HOME,
            DirectiveReason.DELETION_UNDECIDED,
            id="ended-undecided",
        ),
        pytest.param(
            BeatFacts(True, True, "failed", deletion_undecided=True),
            HOME,
            DirectiveReason.DELETION_UNDECIDED,
            id="failed-undecided",
        ),
        pytest.param(
            BeatFacts(True, True, "running", deletion_undecided=True),
            HOME,
            DirectiveReason.DESIRED,
            id="running-undecided",
        ),
        pytest.param(
            BeatFacts(False, False, deletion_undecided=True),
            HOME,
            DirectiveReason.NOT_RECORDED,
            id="unknown-undecided",
        ),
        pytest.param(
            replace(MOVED, deletion_undecided=True),
            HOME,
            DirectiveReason.MOVED_AWAY,
            id="left-behind-undecided",
        ),
        pytest.param(
            replace(MOVED, status="terminated", deletion_undecided=True),
            HOME,
            DirectiveReason.DELETION_UNDECIDED,
            id="left-behind-ended-undecided",
        ),
        pytest.param(
            BeatFacts(False, True, no_picture=True, unowned_pod=True),
            HOME,
            DirectiveReason.NO_PICTURE,
            id="missing-nobody-looks",
        ),
        pytest.param(
            BeatFacts(True, True, "failed", no_picture=True),
            HOME,
            DirectiveReason.NO_PICTURE,
            id="ended-nobody-looks",
        ),
        pytest.param(
            BeatFacts(False, True, unowned_pod=True),
            HOME,
            DirectiveReason.UNOWNED_POD,
            id="missing-and-borne",
        ),
        pytest.param(
            BeatFacts(True, True, "terminated", unowned_pod=True),
            HOME,
            DirectiveReason.UNOWNED_POD,
            id="ended-and-borne",
        ),
        pytest.param(
            BeatFacts(False, True, deletion_undecided=True, no_picture=True, unowned_pod=True),
            HOME,
            DirectiveReason.DELETION_UNDECIDED,
            id="missing-with-every-doubt",
        ),
        pytest.param(
            BeatFacts(False, False, no_picture=True, unowned_pod=True),
            HOME,
            DirectiveReason.NOT_RECORDED,
            id="unknown-nobody-looks",
        ),
        pytest.param(
            replace(MOVED, no_picture=True, unowned_pod=True),
            HOME,
            DirectiveReason.MOVED_AWAY,
            id="left-behind-nobody-looks",
        ),
        pytest.param(
            BeatFacts(True, True, "running", no_picture=True, unowned_pod=True),
            HOME,
            DirectiveReason.DESIRED,
            id="running-nobody-looks",
        ),
        pytest.param(MOVED, HOME, DirectiveReason.MOVED_AWAY, id="left-behind"),
        pytest.param(MOVED, CLOUD, DirectiveReason.DESIRED, id="the-owner-itself"),
        pytest.param(MOVED, "", DirectiveReason.DESIRED, id="sender-does-not-say"),
        pytest.param(
            BeatFacts(True, True, "running", HOME, CLOUD, False),
            HOME,
            DirectiveReason.DESIRED,
            id="owner-not-ready",
        ),
        pytest.param(
            BeatFacts(True, True, "running", HOME, None, True),
            HOME,
            DirectiveReason.DESIRED,
            id="owner-has-no-place",
        ),
        pytest.param(
            BeatFacts(True, True, "running", HOME, HOME, True),
            HOME,
            DirectiveReason.DESIRED,
            id="came-home",
        ),
    ],
)
def test_the_first_rule_that_holds_decides(facts, sender, reason):
    directive, chosen = decide(facts, sender)

    assert chosen is reason
    ends = {DirectiveReason.NOT_FOUND, DirectiveReason.ENDED, DirectiveReason.MOVED_AWAY}
    assert directive is (Directive.SHUTDOWN if reason in ends else Directive.CONTINUE)


names = st.sampled_from([None, "", HOME, CLOUD])


@given(
    st.builds(
        BeatFacts,
        found=st.booleans(),
        recorded=st.booleans(),
        status=st.sampled_from(["", "running", "pending", "terminated", "failed", "Terminated"]),
        left_node_name=names,
        owner_node_name=names,
        owner_ready=st.booleans(),
        deletion_undecided=st.booleans(),
        no_picture=st.booleans(),
        unowned_pod=st.booleans(),
    ),
    st.sampled_from(["", HOME, CLOUD]),
)
def test_shutdown_always_has_a_finding(facts, sender):
    directive, _ = decide(facts, sender)

    if directive is Directive.SHUTDOWN:
        assert facts.recorded
        left_behind = sender == facts.left_node_name != facts.owner_node_name and facts.owner_ready
        ended = not facts.found or facts.status in {"terminated", "failed"}
        doubt = facts.deletion_undecided or facts.no_picture or facts.unowned_pod
        assert (ended and not doubt) or left_behind
