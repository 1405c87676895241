"""Values made of rows are made once, as long as the rows say the same."""

from uuid import UUID

from dory_orchestrator.store.kept import Kept

A, B = UUID(int=1), UUID(int=2)


def test_what_has_not_changed_is_the_same_object():
    kept: Kept[UUID, tuple[int, ...], list[int]] = Kept()
    before = kept.take({A: (1,), B: (2,)}, list)
    after = kept.take({A: (1,), B: (3,)}, list)
    assert after == {A: [1], B: [3]}
    assert after[A] is before[A]


def test_what_was_gone_is_made_anew():
    kept: Kept[UUID, tuple[int, ...], list[int]] = Kept()
    before = kept.take({A: (1,)}, list)
    assert kept.take({}, list) == {}
    assert kept.take({A: (1,)}, list)[A] is not before[A]


def test_everything_is_made_anew_after_forgetting():
    kept: Kept[UUID, tuple[int, ...], list[int]] = Kept()
    before = kept.take({A: (1,)}, list)
    kept.forget()
    assert kept.take({A: (1,)}, list)[A] is not before[A]


def test_one_that_cannot_be_made_leaves_what_is_known():
    kept: Kept[UUID, tuple[int, ...], int] = Kept()
    kept.take({A: (1,)}, lambda row: row[0])
    try:
        kept.take({A: (1,), B: ()}, lambda row: row[0])
    except IndexError:
        assert kept.take({A: (1,)}, lambda row: row[0]) == {A: 1}


def test_what_was_returned_does_not_change():
    kept: Kept[UUID, tuple[int, ...], list[int]] = Kept()
    first = kept.take({A: (1,)}, list)
    second = kept.take({B: (2,)}, list)
    third = kept.take({A: (1,), B: (2,)}, list)
    assert (first, second, third) == ({A: [1]}, {B: [2]}, {A: [1], B: [2]})
    assert kept.take({B: (2,)}, list) == second
