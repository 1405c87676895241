"""What an answer of a receiver means, which events are wanted, and the signature."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.webhook import (
    Dead,
    Delivered,
    DeliveryLimits,
    Retry,
    decide,
    is_wanted,
    signature,
)


@pytest.mark.parametrize(
    ("status", "tries", "wished", "expected"),
    [
        (200, 1, None, Delivered()),
        (204, 8, 60.0, Delivered()),
        (299, 99, None, Delivered()),
        # It says no.
        (400, 1, None, Dead("answered 400")),
        (401, 1, None, Dead("answered 401")),
        (404, 1, 60.0, Dead("answered 404")),
        (410, 1, None, Dead("answered 410")),
        (422, 3, None, Dead("answered 422")),
        # Not now.
        (408, 1, None, Retry(1, "answered 408")),
        (425, 1, None, Retry(1, "answered 425")),
        (429, 1, None, Retry(1, "answered 429")),
        (500, 1, None, Retry(1, "answered 500")),
        (503, 2, None, Retry(4, "answered 503")),
        (100, 1, None, Retry(1, "answered 100")),
        # Redirects are not followed.
        (301, 1, None, Retry(1, "answered 301")),
        (307, 1, None, Retry(1, "answered 307")),
        (None, 1, None, Retry(1, "no answer")),
        # Further and further apart, for 15 minutes at most.
        (500, 3, None, Retry(16, "answered 500")),
        (500, 4, None, Retry(64, "answered 500")),
        (500, 5, None, Retry(256, "answered 500")),
        (500, 6, None, Retry(900, "answered 500")),
        (500, 7, None, Retry(900, "answered 500")),
        # And not for ever.
        (500, 8, None, Dead("answered 500, 8 times")),
        (500, 9, None, Dead("answered 500, 9 times")),
        (429, 8, 5.0, Dead("answered 429, 8 times")),
        (None, 8, None, Dead("no answer, 8 times")),
        # A wish for more patience is granted, for an hour at most; one for less is not.
        (429, 1, 30.0, Retry(30, "answered 429")),
        (503, 1, 1e9, Retry(3600, "answered 503")),
        (503, 3, 2.0, Retry(16, "answered 503")),
        (503, 1, -5.0, Retry(1, "answered 503")),
    ],
)
def test_what_an_answer_means(status, tries, wished, expected):
    assert decide(status, "no answer", tries=tries, wished_seconds=wished) == expected


@given(
    status=st.none() | st.integers(100, 599),
    tries=st.integers(1, 10_000),
    wished=st.none() | st.floats(allow_nan=False),
)
def test_nothing_is_sent_for_ever_nor_put_off_for_long(status, tries, wished):
    limits = DeliveryLimits()
    match decide(status, "x", tries=tries, wished_seconds=wished):
        case Retry(after_seconds, error):
            assert tries < limits.tries_max
            assert 1 <= after_seconds <= 3600
            assert error
        case Dead(error):
            assert error
        case Delivered():
            assert status is not None
            assert 200 <= status < 300


@pytest.mark.parametrize(
    ("kind", "patterns", "expected"),
    [
        ("failover", ("*",), True),
        ("failover", ("failover",), True),
        ("failover", ("fail*",), True),
        ("failover", ("fail",), False),
        ("node_offline", ("create", "node_*"), True),
        ("node_offline", ("node_?",), False),
        ("failback", ("fail????",), True),
        ("create", ("node_*",), False),
        ("failover", (), False),
        # Its own are sent nowhere, whatever is asked for.
        ("webhook", ("*", "webhook"), False),
    ],
)
def test_which_events_are_wanted(kind, patterns, expected):
    assert is_wanted(kind, patterns) is expected


def test_the_signature_is_that_of_id_moment_and_body():
    expected = hmac.new(b"secret", b'17.1700000000.{"a":1}', hashlib.sha256).hexdigest()
    signed = signature("secret", 17, 1_700_000_000, b'{"a":1}')
    assert signed == f"v1={expected}"
    others = [("other", 17, 1_700_000_000, b'{"a":1}'), ("secret", 18, 1_700_000_000, b'{"a":1}')]
    others += [("secret", 17, 1_700_000_001, b'{"a":1}'), ("secret", 17, 1_700_000_000, b"{}")]
    assert signed not in [signature(*other) for other in others]
