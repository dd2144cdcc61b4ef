import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.data.splits import (
    apportion,
    carve,
    carve_labels,
    folds_of,
    groups_of,
    report_size,
    selection_size,
    strata_of,
    subset,
)
from kdlora.spec.sections import Data
from kdlora.vocabulary.task import CLASSIFICATION, REGRESSION

counts = st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(lambda c: sum(c) > 0)
rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=200)
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("n", "fraction", "minimum", "size"),
    [
        (67349, 0.1, 500, 6735),  # a fraction of train
        (3668, 0.1, 500, 500),  # at least the minimum
        (2490, 0.1, 500, 498),  # at most a fifth
        (67349, 0.4, 500, 13469),
        (20, 0.1, 500, 4),
        (4, 0.1, 500, 0),
    ],
)
def test_selection_size(n, fraction, minimum, size):
    data = Data(selection_fraction=fraction, selection_min=minimum)
    assert selection_size(n, data) == size


def test_apportion_by_hand():
    # quotas 5.5, 3.3, 1.2: the seat left over goes to the largest remainder
    assert apportion(np.array([55, 33, 12]), 10).tolist() == [6, 3, 1]
    # quotas 9.7, 0.2, 0.1: everyone gets a seat, at the cost of the largest
    assert apportion(np.array([97, 2, 1]), 10).tolist() == [8, 1, 1]
    assert apportion(np.array([97, 0, 3]), 10).tolist() == [9, 0, 1]
    assert apportion(np.array([3, 4]), 0).tolist() == [0, 0]
    assert apportion(np.array([3, 4]), 7).tolist() == [3, 4]
    with pytest.raises(ValueError, match="8 of 7"):
        apportion(np.array([3, 4]), 8)


@given(counts, st.floats(0, 1))
def test_apportion_is_exact_and_proportional_within_a_seat(counts, share):
    counts = np.array(counts)
    size = int(share * counts.sum())
    shares = apportion(counts, size)
    quotas = size * counts / counts.sum()
    assert shares.sum() == size
    assert (shares <= counts).all()
    assert (shares >= 0).all()
    if size >= np.count_nonzero(counts):
        assert (shares[counts > 0] > 0).all()
    if (quotas[counts > 0] >= 1).all():
        assert (np.abs(shares - quotas) < 1).all()


@given(rows, st.floats(0, 0.5), seeds)
def test_carve_is_disjoint_complete_and_keeps_groups_and_strata(rows, share, seed):
    strata, groups = (np.array(column) for column in zip(*rows, strict=True))
    size = int(share * len(rows))
    kept, carved = carve(strata, groups, size=size, rng=np.random.default_rng(seed))
    assert sorted([*kept, *carved]) == list(range(len(rows)))
    assert not set(groups[kept]) & set(groups[carved])
    assert len(carved) <= size
    # a group counts for the stratum of its first row; every such stratum keeps a row
    first = dict(reversed(list(zip(groups.tolist(), strata.tolist(), strict=True))))
    assert {first[g] for g in groups[kept].tolist()} == set(first.values())
    again = carve(strata, groups, size=size, rng=np.random.default_rng(seed))
    assert again[1].tolist() == carved.tolist()


@given(st.lists(st.integers(0, 3), min_size=20, max_size=300), st.floats(0.05, 0.2), seeds)
def test_carve_is_stratified_within_a_row_where_texts_differ(strata, share, seed):
    strata = np.array(strata)
    strata = strata[np.isin(strata, [s for s in range(4) if (strata == s).sum() > 1])]
    n, size = len(strata), int(share * len(strata))
    _, carved = carve(strata, np.arange(n), size=size, rng=np.random.default_rng(seed))
    assert len(carved) == size
    for stratum in np.unique(strata):
        quota = size * (strata == stratum).sum() / n
        if size * min(np.unique(strata, return_counts=True)[1]) >= n:
            assert abs((strata[carved] == stratum).sum() - quota) < 1


def test_carve_leaves_alone_what_cannot_be_split():
    strata = np.array([0] * 10 + [1] + [2] * 5)
    groups = np.array([*range(10), 10, *[11] * 5])  # class 2 is one text five times
    kept, carved = carve(strata, groups, size=4, rng=np.random.default_rng(0))
    assert set(strata[carved]) == {0}
    assert len(carved) == 2  # a quarter of the ten rows that can be split
    assert {10, 11, 12, 13, 14, 15} <= set(kept)


def test_carve_draws_other_rows_for_another_seed():
    strata, groups = np.zeros(100, dtype=int), np.arange(100)
    draws = {tuple(carve(strata, groups, size=10, rng=np.random.default_rng(s))[1]) for s in (1, 2)}
    assert len(draws) == 2


def test_carve_draws_every_row_equally_often():
    strata, groups = np.repeat([0, 1], [30, 10]), np.arange(40)
    times = np.zeros(40)
    for seed in range(600):
        times[carve(strata, groups, size=8, rng=np.random.default_rng(seed))[1]] += 1
    # each row with probability 0.2: mean 120, standard deviation 9.8
    assert np.abs(times - 120).max() < 5 * 9.8


@given(st.lists(st.integers(0, 5), min_size=10, max_size=200), st.floats(0.1, 1.2), seeds)
def test_subset_is_exact_stratified_and_deterministic(strata, share, seed):
    strata = np.array(strata)
    size = int(share * len(strata))
    chosen = subset(strata, size=size, rng=np.random.default_rng(seed))
    assert len(chosen) == min(size, len(strata))
    assert (np.diff(chosen) > 0).all()
    if size >= len(set(strata.tolist())):
        assert set(strata[chosen]) == set(strata)
    assert chosen.tolist() == subset(strata, size=size, rng=np.random.default_rng(seed)).tolist()


def test_strata_of_classes_are_the_classes():
    assert strata_of(CLASSIFICATION, np.array([2, 0, 2])).tolist() == [2, 0, 2]


def test_strata_of_numbers_are_deciles():
    labels = np.random.default_rng(0).permutation(1000).astype(np.float32)
    strata = strata_of(REGRESSION, labels)
    assert strata.tolist() == (labels.astype(int) // 100).tolist()
    assert set(strata_of(REGRESSION, np.full(50, 3.5, dtype=np.float32)).tolist()) <= {0, 1}


def test_groups_of_equal_rows_are_equal():
    assert groups_of((["a", "a", "b", "a"], ["x", "y", "x", "x"])).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("n", "report", "selection"),
    [(300, 100, 100), (1000, 333, 333), (3000, 600, 500), (9000, 1800, 720)],
)
def test_scarce_labels_serve_to_select_and_to_report_first(n, report, selection):
    data = Data()
    assert report_size(n, data, scarce=True) == report
    assert selection_size(n - report, data, scarce=True) == selection
    assert report_size(n, data) == n // 5


def test_folds_spread_classes_and_keep_groups_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    strata = np.repeat(np.array([0] * 45 + [1] * 15), 2)
    fold = folds_of(CLASSIFICATION, strata, ([f"text {group}" for group in groups],), rng=rng)
    assert (fold[::2] == fold[1::2]).all()
    counts = np.array([[np.sum((fold == f) & (strata == s)) for s in (0, 1)] for f in range(5)])
    assert counts.tolist() == [[18, 6]] * 5


@given(st.integers(1, 6), st.integers(20, 200), st.floats(0.05, 0.5), seeds)
@settings(max_examples=40, deadline=None)
def test_several_labels_keep_their_rates_on_both_sides(labels, n, share, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < rng.random(labels) * 0.5).astype(int)
    size = int(share * n)
    kept, carved = carve_labels(truth, np.arange(n), size=size, rng=rng)
    assert sorted([*kept.tolist(), *carved.tolist()]) == list(range(n))
    assert len(carved) == size
    counts = truth.sum(0)
    # each label is shared out within a row or two of its part, however the labels come together
    assert np.abs(truth[carved].sum(0) - counts * size / n).max() <= 1 + labels / 2
    assert (truth[kept].sum(0)[counts > 0] >= 1).all()


def test_a_text_that_stands_several_times_goes_to_one_side_with_all_its_labels():
    rng = np.random.default_rng(4)
    groups = rng.integers(0, 60, 150)
    truth = (rng.random((150, 3)) < 0.3).astype(int)
    kept, carved = carve_labels(truth, groups, size=30, rng=rng)
    assert not set(groups[kept]) & set(groups[carved])
    assert len(carved) <= 30
    assert np.abs(truth[carved].mean(0) - truth.mean(0)).max() < 0.12


def test_carving_labels_is_drawn_by_the_generator_alone():
    truth = (np.random.default_rng(1).random((80, 4)) < 0.3).astype(int)
    first, again, other = (
        carve_labels(truth, np.arange(80), size=20, rng=np.random.default_rng(s))[1].tolist()
        for s in (1, 1, 2)
    )
    assert first == again != other
