"""Comparisons on grids small enough to check by hand, and on data that allow no answer."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlora.errors import InputError
from kdlora.evidence.compare import compare, compare_many
from kdlora.evidence.comparison import Comparison, sentence
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid, noisy

A, B = "teacher/fft", "student/kd-lora"
NINE = [f"t{i}" for i in range(9)]
QUICK = Rules(draws=500, permutations=999)


def run(frame: pd.DataFrame, a: str = A, b: str = B, rules: Rules = QUICK, **options) -> Comparison:
    return compare(frame, a, b, rng=np.random.default_rng(0), rules=rules, **options)


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return grid(noisy(0.05), tasks=NINE, pairs=["p", "q", "r"])


def test_without_common_seeds_tasks_are_compared_by_the_paired_t_test(
    study: pd.DataFrame,
) -> None:
    own_seeds = study.assign(seed=study["seed"] + 10 * study["task"].str[1:].astype(int))
    c = run(own_seeds)
    wide = study.pivot_table(index=["task"], columns="arm", values="score") * 100
    known = stats.ttest_rel(wide[A], wide[B])
    claim = c.tasks_like_these
    assert claim.p == pytest.approx(known.pvalue, rel=1e-9)
    bounds = known.confidence_interval(0.95)
    assert (claim.low, claim.high) == pytest.approx((bounds.low, bounds.high), rel=1e-9)
    assert claim.basis.sampled == ("tasks", "seeds")
    assert c.claim is claim
    assert c.verdict == "superior"
    assert run(own_seeds, B, A).verdict == "inferior"


def test_a_common_effect_of_seeds_widens_what_is_said_of_tasks(study: pd.DataFrame) -> None:
    """The same scores under the same seeds on all tasks: what seeds share is no spread of tasks."""
    wide = study.pivot_table(index=["task"], columns="arm", values="score") * 100
    bounds = stats.ttest_rel(wide[A], wide[B]).confidence_interval(0.95)
    claim = run(study).tasks_like_these
    assert claim.low < bounds.low < bounds.high < claim.high
    assert claim.difference == pytest.approx((bounds.low + bounds.high) / 2, rel=1e-9)


def test_on_these_tasks_the_seeds_are_the_sample(study: pd.DataFrame) -> None:
    """Student's t of one mean a seed, whatever the tasks' noise and whatever seeds share."""
    wide = study.pivot_table(index=["seed"], columns="arm", values="score") * 100
    known = stats.ttest_rel(wide[A], wide[B])
    claim = run(study).these_tasks
    assert claim.p == pytest.approx(known.pvalue, rel=1e-9)
    assert claim.df == pytest.approx(2, rel=1e-9)
    assert claim.basis.sampled == ("seeds",)
    assert claim.basis.n_seeds == 3


def test_the_means_of_both_sides_differ_by_the_difference_whatever_seeds_tasks_have() -> None:
    draw = np.random.default_rng(3)
    frame = grid(lambda *_: draw.uniform(0.4, 0.9), pairs=["p", "q"], seeds=range(6))
    kept = frame[(frame["task"] == "t0") | (frame["seed"] < 2) | (frame["pair"] == "q")]
    c = run(kept)
    blocks = 100 * kept.groupby(["arm", "task", "pair"])["score"].mean()
    known = blocks.groupby(level=["arm", "task"]).mean().groupby(level="arm").mean()
    assert (c.mean_a, c.mean_b) == pytest.approx((known[A], known[B]))
    assert c.mean_a - c.mean_b == pytest.approx(c.claim.difference)
    assert c.mean_a - c.mean_b == pytest.approx(c.levels["tasks"].mean)


def test_levels_equal_scipy_at_each_level(study: pd.DataFrame) -> None:
    c = run(study)
    points = study.assign(score=100 * study["score"])
    for level, keys in {
        "runs": ["pair", "task", "seed"],
        "blocks": ["pair", "task"],
        "tasks": ["task"],
    }.items():
        wide = points.pivot_table(index=keys, columns="arm", values="score")
        d = wide[A] - wide[B]
        found = c.levels[level]
        assert found.n == len(d)
        assert found.t == pytest.approx(stats.ttest_1samp(d, 0).statistic, rel=1e-9)
        assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(d).pvalue, rel=1e-9)
        assert found.median == pytest.approx(d.median(), rel=1e-9)
        assert found.wins + found.ties + found.losses == found.n


def test_equal_arms_are_equivalent_only_with_enough_evidence() -> None:
    calm = run(grid(noisy(0.0, spread=0.002), tasks=NINE, pairs=["p", "q", "r"]))
    assert calm.verdict == "equivalent"
    loud = run(grid(noisy(0.0, spread=0.05), tasks=NINE))
    assert loud.verdict == "undecided"
    assert f"80 % power from {loud.tasks_like_these.detectable:.1f} pp on" in sentence(loud)


def test_a_real_difference_within_the_margin_is_equivalent() -> None:
    c = run(grid(noisy(0.003, spread=0.0005), tasks=NINE))
    assert c.tasks_like_these.p_corrected < 0.05
    assert c.verdict == "equivalent"
    assert run(grid(noisy(0.003, spread=0.0005), tasks=NINE), rules=Rules(
        margin=0.1, draws=0)).verdict == "superior"  # fmt: skip


def test_surely_better_on_these_tasks_is_not_better_on_others() -> None:
    """Each task has its own difference, known exactly; a third of the tasks turn it round."""
    noise = noisy(0.0, spread=0.001)

    def score(arm: str, pair: str, task: str, seed: int) -> float:
        gain = {0: -0.06, 1: 0.03, 2: 0.06}[int(task[1:]) % 3]
        return noise(arm, pair, task, seed) + gain * (arm == A)

    c = run(grid(score, tasks=NINE, pairs=["p", "q", "r"]))
    assert c.these_tasks.verdict == "superior"
    assert c.tasks_like_these.verdict == c.verdict == "undecided"
    assert "; on these tasks: superior" in sentence(c)


def test_few_tasks_allow_a_claim_on_them_but_none_on_others() -> None:
    c = run(grid(noisy(0.05), tasks=["t"], seeds=range(6)))
    assert c.tasks_like_these.verdict == "cannot be said"
    assert "at least 6" in c.tasks_like_these.cannot
    assert c.verdict == c.these_tasks.verdict == "superior"
    assert "superior to student/kd-lora on t (" in sentence(c)
    assert "6 seeds" in sentence(c)


def test_p_values_are_corrected_over_the_family(study: pd.DataFrame) -> None:
    arms = ["student/kd-lora", "student/kd-dora", "student/kd-olora"]
    frame = grid(noisy(0.01), arms=[A, *arms], tasks=NINE)
    rng = np.random.default_rng(0)
    made = compare_many(frame, [(A, b) for b in arms], rng=rng, rules=QUICK)
    p = [c.tasks_like_these.p for c in made]
    first = int(np.argmin(p))
    assert made[first].tasks_like_these.p_corrected == pytest.approx(min(1, 3 * p[first]))
    assert made[0].family_size == 3
    alone = run(frame, A, arms[first])
    assert alone.tasks_like_these.p_corrected == alone.tasks_like_these.p


def test_comparisons_that_cannot_be_made_do_not_cost_the_others(study: pd.DataFrame) -> None:
    made = compare_many(
        study, [(A, B), (A, "student/none")], rng=np.random.default_rng(0), rules=QUICK
    )
    assert made[0].tasks_like_these.p_corrected == made[0].tasks_like_these.p
    assert made[1].verdict == "cannot be said"


def test_the_same_seed_gives_the_same_result(study: pd.DataFrame) -> None:
    assert json.dumps(run(study).to_dict()) == json.dumps(run(study).to_dict())


def test_to_dict_names_the_cells_and_the_rules(study: pd.DataFrame) -> None:
    out = run(study).to_dict()
    assert out["cells"]["p/t0"] == [1, 2, 3]
    assert len(out["cells"]) == 27
    assert out["rules"]["correction"] == "holm"
    assert out["verdict"] == "superior"
    assert out["n_runs"] == 81
    json.dumps(out, allow_nan=False)


def test_clustered_bootstrap_is_wider_where_tasks_differ() -> None:
    def score(arm: str, pair: str, task: str, seed: int) -> float:
        return 0.5 + (arm == A) * int(task[1:]) / 100 + np.sin(seed * 7.0) / 1000

    c = run(grid(score, tasks=NINE, pairs=["p", "q", "r"]))
    runs = c.levels["runs"]
    assert runs.high_tasks - runs.low_tasks > 1.5 * (runs.high - runs.low)


# --- data that allow no answer ---------------------------------------------------------------


def no_answer(c: Comparison, *words: str) -> None:
    """No verdict, no p-value, and words that say why; and it all goes into JSON."""
    assert c.verdict == "cannot be said"
    assert c.claim.p is None
    text = " ".join([c.these_tasks.cannot, c.tasks_like_these.cannot, *c.notes])
    for word in words:
        assert word in text, text
    assert "cannot be said" in sentence(c)
    json.dumps(c.to_dict(), allow_nan=False)


def test_missing_arm() -> None:
    no_answer(run(grid(noisy(0.1)), A, "student/kd-dora"), "student/kd-dora", "arms with runs")


def test_no_shared_cell() -> None:
    frame = grid(noisy(0.1))
    frame.loc[frame["arm"] == A, "seed"] += 10
    no_answer(run(frame), "share no cell")


def test_nothing_finished() -> None:
    no_answer(run(grid(noisy(0.1)).assign(status="missing")), "no finished run")


def test_an_empty_frame() -> None:
    no_answer(run(grid(noisy(0.1)).head(0)), "no finished run")


def test_only_nan_and_infinite_scores() -> None:
    frame = grid(noisy(0.1))
    frame["score"] = [np.nan, np.inf, -np.inf] * 4
    no_answer(run(frame), "without a finite score")


def test_one_run_only() -> None:
    no_answer(run(grid(noisy(0.1), tasks=["t"], seeds=[1])), "it needs three seeds")


def test_two_seeds_only() -> None:
    no_answer(run(grid(noisy(0.1), tasks=["t"], seeds=[1, 2])), "it needs three seeds")


def test_one_seed_on_many_tasks_still_speaks_of_tasks() -> None:
    c = run(grid(noisy(0.1), tasks=NINE, seeds=[1]))
    assert c.verdict == "superior"
    assert c.components is not None
    assert c.components.run is None


def test_all_scores_identical() -> None:
    c = run(grid(lambda *_: 0.8, tasks=NINE))
    no_answer(c, "identical scores throughout")
    assert c.levels["runs"].ties == 27
    assert c.levels["runs"].p_wilcoxon is None


def test_the_same_difference_everywhere() -> None:
    c = run(grid(lambda arm, *_: 0.8 + 0.1 * (arm == A), tasks=NINE))
    no_answer(c, "equal differences throughout")
    assert {"runs", "blocks", "tasks"} <= set(c.levels)
    for level in c.levels.values():
        assert level.mean == pytest.approx(10)
        assert level.p_t is None
        assert level.p_permutation is None
        assert "all differences are equal" in level.cannot


def test_ties_nearly_everywhere_stay_undecided() -> None:
    def score(arm: str, pair: str, task: str, seed: int) -> float:
        return 0.8 + (0.01 if (arm, task, seed) == (A, "t0", 1) else 0)

    c = run(grid(score, tasks=NINE))
    assert c.verdict == "equivalent"  # one point once in 27 runs: a mean of 0.04 points
    assert c.levels["runs"].ties == 26


def test_some_bad_scores_among_good_ones() -> None:
    frame = grid(noisy(0.05), tasks=NINE)
    frame.loc[frame.index[:3], "score"] = [np.nan, np.inf, -np.inf]
    c = run(frame)
    assert c.verdict == "superior"
    assert c.n_tasks == 8
    assert c.only_b == 3


def test_a_score_column_of_text() -> None:
    no_answer(run(grid(noisy(0.1)).assign(score="good")), "without a finite score")


def test_no_margin_in_another_unit() -> None:
    frame = grid(noisy(0.0, spread=0.001), tasks=NINE, metric="rmse").assign(direction=-1)
    c = run(frame)
    assert c.unit == "rmse"
    assert c.tasks_like_these.p_equivalence is None
    assert c.verdict == "undecided"
    named = run(frame, rules=Rules(margin=0.01, margin_unit="rmse", draws=0))
    assert named.verdict == "equivalent"


def test_less_is_better_keeps_positive_for_a() -> None:
    # A's error is lower, so A is better and its difference positive.
    better = noisy(0.2)

    def error(*cell: object) -> float:
        return 2 - better(*cell)

    frame = grid(error, tasks=NINE, metric="rmse").assign(direction=-1)
    c = run(frame)
    assert c.verdict == "superior"
    assert c.tasks_like_these.difference == pytest.approx(0.2, abs=0.02)
    assert c.mean_a > c.mean_b


@pytest.mark.parametrize("rules", [{"alpha": 0}, {"alpha": 0.7}, {"margin": 0},
                                   {"margin": float("nan")}, {"power": 1.0}, {"draws": 5},
                                   {"correction": "sidak"}, {"bootstrap": "bca"}])  # fmt: skip
def test_rules_that_mean_nothing_are_refused(rules: dict) -> None:
    with pytest.raises(InputError, match="expected"):
        Rules(**rules)


def test_all_wrong_rules_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Rules(alpha=2, margin=-1, power=0)
    assert len(caught.value.problems) == 3
