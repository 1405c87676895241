"""The judge of the programs' own records, on records written by hand."""

import pytest
from tests.acceptance.record import Line, Record


def counted(incarnation: str, counts: range, *, at: float, pod: str = "pod") -> list[Line]:
    """Ten a second."""
    return [
        Line(at + 0.1 * n, at + 0.1 * n, count, incarnation, pod) for n, count in enumerate(counts)
    ]


def test_one_that_only_counts_has_lost_nothing():
    record = Record(counted("a", range(1, 50), at=0))
    assert record.losses() == []
    assert record.worst() is None
    assert record.incarnations == ("a",)


def test_what_goes_on_from_the_highest_has_lost_nothing():
    record = Record([*counted("a", range(1, 50), at=0), *counted("b", range(50, 60), at=9)])
    (loss,) = record.losses()
    assert (loss.lost, loss.seconds, loss.is_within_life) == (0, 0.0, False)
    assert (loss.before.incarnation, loss.after.incarnation) == ("a", "b")


def test_a_start_from_an_older_state_has_lost_what_came_after_it():
    record = Record([*counted("a", range(1, 51), at=0), *counted("b", range(41, 60), at=9)])
    (loss,) = record.losses()
    assert (loss.base, loss.highest, loss.lost) == (40, 50, 10)
    assert loss.seconds == pytest.approx(0.9)
    assert record.set_back() == []


def test_one_that_began_from_zero_and_was_given_its_state_is_judged_by_that():
    lines = [
        *counted("a", range(1, 51), at=0),
        *counted("b", range(1, 11), at=9),
        *counted("b", range(49, 60), at=10),
    ]
    (loss,) = Record(lines).losses()
    assert (loss.base, loss.lost) == (48, 2)
    assert Record(lines).set_back() == []


def test_one_that_is_given_what_it_began_with_is_set_back():
    lines = [
        *counted("a", range(1, 51), at=0),
        *counted("b", range(48, 500), at=9),
        *counted("b", range(48, 60), at=60),
    ]
    start, set_back = Record(lines).losses()
    assert (start.base, start.lost) == (47, 3)
    assert (set_back.base, set_back.lost, set_back.is_within_life) == (47, 499 - 47, True)
    assert set_back.seconds == pytest.approx(45.1)
    assert Record(lines).set_back() == [set_back]
    assert Record(lines).worst() == set_back
    assert Record(lines).worst(since=61) is None


def test_one_that_is_given_more_than_it_began_with_and_less_than_it_has_loses_the_difference():
    lines = [
        *counted("a", range(1, 51), at=0),
        *counted("b", range(31, 46), at=9),
        *counted("b", range(41, 60), at=20),
    ]
    (loss,) = Record(lines).losses()
    assert (loss.base, loss.highest, loss.lost) == (40, 50, 10)
    assert Record(lines).set_back() == []


def test_what_was_lost_twice_is_counted_from_the_highest():
    lines = [
        *counted("a", range(1, 51), at=0),
        *counted("b", range(41, 43), at=9),
        *counted("c", range(41, 60), at=12),
    ]
    assert [loss.lost for loss in Record(lines).losses()] == [10, 10]
    assert [loss.lost for loss in Record(lines).losses(since=10)] == [10]


def test_two_that_count_beside_each_other_are_seen():
    one, other = counted("a", range(1, 51), at=0), counted("b", range(20, 60), at=3)
    assert Record([*one, *other]).overlap_seconds() == pytest.approx(1.9)
    assert Record(one).overlap_seconds() == 0
    apart = Record([*one, *counted("b", range(51, 60), at=9)])
    assert apart.overlap_seconds() < 0


def test_what_a_pod_counts_after_it_was_given_up_is_nobodys():
    alone = counted("a", range(1, 101), at=0, pod="old")
    record = Record([*alone, *counted("b", range(51, 60), at=12, pod="new")])
    (loss,) = record.without("old", since=5.0).losses()
    assert loss.lost == 0


def test_a_file_is_read_but_for_what_is_being_written(tmp_path):
    assert Record.read(tmp_path / "none").lines == ()
    path = tmp_path / "record"
    path.write_text("1.5 2.5 1 a pod\n1.6 2.6 2 a pod\n1.7 2.7 3")
    record = Record.read(path)
    assert record.last == Line(1.6, 2.6, 2, "a", "pod")
