import numpy as np
import pytest

from training.data.split import class_weights, contiguous_parts, grouped_parts, stratified_parts
from training.errors import DataRejected
from training.recipes.recipe import Split

LABELS = np.repeat(np.arange(4), (100, 50, 30, 20)).astype(np.int64)


def test_parts_are_disjoint_and_cover_every_picture() -> None:
    parts = stratified_parts(LABELS, Split())
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together.tolist()) == list(range(len(LABELS)))


def test_every_part_has_the_classes_in_the_same_mix() -> None:
    parts = stratified_parts(LABELS, Split(test=0.2, validation=0.1))
    assert np.bincount(LABELS[parts.test]).tolist() == [20, 10, 6, 4]
    assert np.bincount(LABELS[parts.validation]).tolist() == [10, 5, 3, 2]


def test_the_split_depends_on_its_seed_alone() -> None:
    again = stratified_parts(LABELS, Split(seed=1)).test
    assert np.array_equal(stratified_parts(LABELS, Split(seed=1)).test, again)
    assert not np.array_equal(stratified_parts(LABELS, Split(seed=2)).test, again)


def test_a_class_too_small_for_every_part_is_refused() -> None:
    with pytest.raises(DataRejected, match="too few items"):
        stratified_parts(np.array([0] * 20 + [1]), Split())


def test_contiguous_blocks_are_each_held_out_once_and_never_learnt_from() -> None:
    shuffled = np.random.default_rng(0).permutation(LABELS)
    folds = contiguous_parts(shuffled, Split(), 5)
    assert np.concatenate([parts.test for parts in folds]).tolist() == list(range(len(LABELS)))
    for parts in folds:
        assert (np.diff(parts.test) == 1).all()
        assert not set(parts.test) & (set(parts.train) | set(parts.validation))


def test_class_weights_undo_the_imbalance() -> None:
    weights = class_weights(LABELS, 4)
    summed = np.bincount(LABELS, weights=weights[LABELS])
    np.testing.assert_allclose(summed, summed[0], rtol=1e-6)
    assert weights[LABELS].mean() == pytest.approx(1.0)


def test_a_class_without_training_pictures_has_no_weight() -> None:
    with pytest.raises(DataRejected, match="class number 1"):
        class_weights(np.array([0, 0, 2]), 3)


@pytest.mark.parametrize("groups", [3, 4, 5, 8, 30])
def test_every_part_has_a_group_even_where_there_are_few(groups: int) -> None:
    names = [f"speaker {number % groups}" for number in range(60)]
    parts = grouped_parts(names, Split(test=0.2, validation=0.1, seed=0))
    of_part = [{names[i] for i in part} for part in (parts.train, parts.validation, parts.test)]
    assert all(of_part) and sum(map(len, of_part)) == groups
    assert len(parts.train) + len(parts.validation) + len(parts.test) == 60


def test_two_groups_are_too_few() -> None:
    with pytest.raises(DataRejected, match="too few groups, such as speakers"):
        grouped_parts(["a", "b", "a"], Split())
