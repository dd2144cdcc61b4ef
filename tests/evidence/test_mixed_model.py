from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence import mixed_model as mixed
from kdlora.evidence.mixed_model import mixed_model
from tests.harness.evidence_frames import grid

ARMS = ["teacher/fft", "teacher/lora", "student/kd-lora"]
TASKS = [f"t{i}" for i in range(8)]
PAIRS = ["p", "q", "r"]


def draw(seed: int = 0, seeds: int = 2) -> pd.DataFrame:
    """Arms at 80, 78 and 70 points, with every random effect of the model."""
    rng = np.random.default_rng(seed)
    effects: dict[object, float] = {}

    def effect(spread: float, *key: str) -> float:
        return effects.setdefault(key, rng.normal(0, spread))

    def score(arm: str, pair: str, task: str, run: int) -> float:
        base = {ARMS[0]: 80.0, ARMS[1]: 78.0, ARMS[2]: 70.0}[arm]
        random = effect(8, task) + effect(3, task, pair) + effect(2, task, arm)
        return (base + random + effect(1.5, task, pair, arm) + rng.normal(0, 1)) / 100

    return grid(score, arms=ARMS, tasks=TASKS, pairs=PAIRS, seeds=range(seeds))


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return draw()


def test_a_balanced_grid_gives_the_paired_means_and_their_error(study: pd.DataFrame) -> None:
    # Balanced REML: differences are those of plain means, with the ANOVA error of arm x task.
    found = {m.arm: m for m in mixed_model(study, reference=ARMS[0]).arms}
    table = 100 * study.pivot_table(index="task", columns="arm", values="score")[ARMS]
    for arm in ARMS[1:]:
        assert found[arm].difference == pytest.approx(
            table[arm].mean() - table[ARMS[0]].mean(), abs=1e-4
        )
    centred = table.sub(table.mean(1), axis=0) - (table.mean() - table.to_numpy().mean())
    error = np.sqrt(2 * (centred.to_numpy() ** 2).sum() / (7 * 2) / 8)
    assert found[ARMS[1]].difference_se == pytest.approx(error, rel=0.01)


def test_holes_do_not_bias_an_arm() -> None:
    # The weak arm is missing on the hard tasks: pooled means would flatter it.
    frame = draw(seed=3)
    hard = 100 * frame[frame["arm"] == ARMS[0]].groupby("task")["score"].mean().sort_values()
    holes = frame["task"].isin(hard.index[:3]) & (frame["arm"] == ARMS[2])
    pooled = 100 * (
        frame[~holes & (frame["arm"] == ARMS[2])]["score"].mean()
        - frame[frame["arm"] == ARMS[0]]["score"].mean()
    )
    fitted = {m.arm: m for m in mixed_model(frame[~holes], reference=ARMS[0]).arms}
    full = {m.arm: m for m in mixed_model(frame, reference=ARMS[0]).arms}
    truth = full[ARMS[2]].difference
    assert abs(fitted[ARMS[2]].difference - truth) < abs(pooled - truth) / 2


def test_variances_are_those_drawn() -> None:
    variances = [mixed_model(draw(seed), reference=ARMS[0]).variances for seed in range(4)]
    mean = {k: np.mean([v[k] for v in variances]) for k in variances[0]}
    assert mean["noise"] == pytest.approx(1, rel=0.2)
    assert mean["arm x task"] == pytest.approx(4, rel=0.5)
    assert mean["arm x block"] == pytest.approx(2.25, rel=0.5)
    assert mean["task"] == pytest.approx(64, rel=0.6)


def test_the_best_arm_is_first_and_p_is_corrected(study: pd.DataFrame) -> None:
    found = mixed_model(study, reference=ARMS[0])
    means = [m.mean for m in found.arms]
    assert means == sorted(means, reverse=True)
    p = sorted(m.p for m in found.arms if m.p is not None)
    corrected = sorted(m.p_corrected for m in found.arms if m.p_corrected is not None)
    assert corrected[0] == pytest.approx(2 * p[0])


def test_large_studies_average_seeds_first(monkeypatch, study: pd.DataFrame) -> None:
    exact = {m.arm: m for m in mixed_model(study, reference=ARMS[0]).arms}
    monkeypatch.setattr(mixed, "MOST_ROWS", 100)
    coarse = mixed_model(study, reference=ARMS[0])
    assert any("averaged" in n for n in coarse.notes)
    for m in coarse.arms:
        assert m.mean == pytest.approx(exact[m.arm].mean, abs=1e-3)
        assert m.se == pytest.approx(exact[m.arm].se, rel=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[f["arm"] == ARMS[0]], "1 arm"),
        (lambda f: f[f["arm"] != ARMS[0]], "reference"),
        (lambda f: f[f["task"].isin(TASKS[:2])], "2 tasks"),
        (lambda f: f.assign(score=0.8), "all scores are equal"),
        (lambda f: f.head(0), "0 arm"),
        (lambda f: f.assign(score=np.nan), "0 arm"),
    ],
)
def test_what_cannot_be_fitted_is_said(study: pd.DataFrame, change, words: str) -> None:
    found = mixed_model(change(study), reference=ARMS[0])
    assert found.arms == ()
    assert words in found.cannot


def test_one_pair_and_one_seed_still_fit(study: pd.DataFrame) -> None:
    one = study[(study["pair"] == "p") & (study["seed"] == 0)]
    found = mixed_model(one, reference=ARMS[0])
    assert not found.cannot
    table = 100 * one.pivot_table(index="task", columns="arm", values="score")
    by_arm = {m.arm: m for m in found.arms}
    assert by_arm[ARMS[2]].difference == pytest.approx(
        (table[ARMS[2]] - table[ARMS[0]]).mean(), abs=1e-3
    )
