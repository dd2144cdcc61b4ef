"""Draws of scores against the metrics they resample and the standard errors they should have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdlora.evidence.score_draws import draw_scores, quantiles, resampled
from kdlora.records.predictions import SplitOutputs, shared_examples
from kdlora.vocabulary.metric import metric
from tests.harness.choice_studies import outputs_of


def test_spread_of_draws_is_the_binomial_error_and_pairing_shrinks_differences() -> None:
    made = outputs_of({"a": 0.8, "b": 0.8}, n=2000)
    twin = SplitOutputs(made["a"].ids, made["a"].labels, made["a"].outputs * 2)
    parts = [metric("accuracy").terms(o.outputs, o.labels) for o in (made["a"], made["b"], twin)]
    drawn = resampled(parts, draws=3000, rng=np.random.default_rng(1))
    error = np.sqrt(0.8 * 0.2 / 2000)
    assert drawn.std(0) == pytest.approx([error] * 3, rel=0.06)
    assert np.abs(drawn[:, 0] - drawn[:, 2]).max() == 0  # the same answers in every draw
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(error * np.sqrt(2), rel=0.08)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_interval_of_few_seeds_is_students(k: int) -> None:
    """And that of a difference is the paired one, however large what the seeds share is."""
    rng = np.random.default_rng(k)
    common, names = rng.normal(0, 0.02, k), range(k)
    recorded = {f"{m}{s}": 0.8 + common[s] + rng.normal(0, 0.002) for m in "ab" for s in names}
    runs = [tuple(f"{m}{s}" for s in names) for m in "ab"]
    drawn = draw_scores(runs, [tuple(names)] * 2, recorded, {}, "accuracy", draws=40_000,
                        rng=np.random.default_rng(0)).draws  # fmt: skip
    assert drawn is not None
    a, b = (np.array([recorded[r] for r in own]) for own in runs)
    for values, own in ((a, drawn[:, 0]), (b, drawn[:, 1]), (a - b, drawn[:, 0] - drawn[:, 1])):
        half = stats.t.ppf(0.975, k - 1) * values.std(ddof=1) / np.sqrt(k)
        low, high = quantiles(own)
        assert high == pytest.approx(values.mean() + half, abs=0.08 * half)
        assert low == pytest.approx(values.mean() - half, abs=0.08 * half)


def test_examples_and_seeds_are_told_apart() -> None:
    made = outputs_of({"s1": 0.82, "s2": 0.78}, n=100_000)
    drawn = draw_scores(
        [("s1", "s2")], [(1, 2)], {"s1": 0.82, "s2": 0.78}, made, "accuracy",
        rng=np.random.default_rng(0), draws=1500,
    )  # fmt: skip
    assert drawn.scores[0] == pytest.approx(0.80)
    assert drawn.by_examples is not None
    assert drawn.by_examples.std() < 0.002


def test_nothing_to_resample_gives_no_draws() -> None:
    drawn = draw_scores([("a",)], [(1,)], {"a": 0.8}, {}, "accuracy",
                        rng=np.random.default_rng(0))  # fmt: skip
    assert drawn.draws is None
    assert drawn.n_examples == 0
    recorded = {"a": 0.8, "b1": 0.7, "b2": 0.71, "b3": 0.72}
    mixed = draw_scores([("a",), ("b1", "b2", "b3")], [(1,), (1, 2, 3)], recorded, {}, "accuracy",
                        rng=np.random.default_rng(0))  # fmt: skip
    assert mixed.draws is None  # how the single one varies is unknown, not nil


def test_only_shared_examples_count_and_their_order_does_not() -> None:
    made = outputs_of({"a": 0.9, "b": 0.7}, n=100)
    order = np.random.default_rng(2).permutation(100)[:80]
    aligned = shared_examples({"a": made["a"], "b": made["b"].at(order)})
    assert list(aligned["a"].ids) == list(aligned["b"].ids)
    assert len(aligned["a"].ids) == 80
    place = {e: i for i, e in enumerate(made["b"].ids)}
    first = aligned["b"].ids[0]
    assert np.array_equal(aligned["b"].outputs[0], made["b"].outputs[place[first]])


def test_other_labels_are_another_data_set() -> None:
    made = outputs_of({"a": 0.9, "b": 0.7}, n=50)
    flipped = SplitOutputs(made["b"].ids, 1 - made["b"].labels, made["b"].outputs)
    assert shared_examples({"a": made["a"], "b": flipped}) == {}


def test_a_ranking_metric_is_drawn_as_its_rows_are_and_pairs_its_models() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((300, 4)) < 0.3).astype(int)
    noisy = truth + rng.normal(0, 1, truth.shape)
    one = metric("mean_average_precision")
    parts = [one.terms(noisy, truth), one.terms(noisy * 2, truth), one.terms(-noisy, truth)]
    drawn = resampled(parts, draws=500, rng=np.random.default_rng(1))
    assert drawn[:, 0].mean() == pytest.approx(one.score(noisy, truth), abs=0.02)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1])
    assert (drawn[:, 0] > drawn[:, 2]).all()
    outputs = {n: SplitOutputs(np.arange(300), truth, v) for n, v in (("a", noisy), ("b", -noisy))}
    recorded = {n: one.score(o.outputs, o.labels) for n, o in outputs.items()}
    found = draw_scores([("a",), ("b",)], [(0,), (0,)], recorded, outputs,
                        "mean_average_precision", draws=500, rng=rng)  # fmt: skip
    assert found.n_examples == 300
    low, high = quantiles(found.draws[:, 0] - found.draws[:, 1])
    assert 0 < low < recorded["a"] - recorded["b"] < high
