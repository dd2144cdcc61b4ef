from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlora.errors import InputError
from kdlora.evidence.costs import (
    budget_matched,
    cost_ratio,
    cost_ratios,
    score_per_cost,
)
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid, noisy

FFT, LORA = "teacher/fft", "teacher/lora"
TASKS = [f"t{i}" for i in range(7)]
QUICK = Rules(draws=1_000)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    """Seconds differ 1,000-fold between tasks; LoRA takes half of them, up to noise."""
    draw = np.random.default_rng(1)
    frame = grid(noisy(0.0), arms=[FFT, LORA], tasks=TASKS)
    size = 3.0 ** frame["task"].str[1:].astype(int)
    noise = np.exp(draw.normal(0, 0.1, len(frame)))
    lora = frame["arm"] == LORA
    return frame.assign(
        train_s=size * noise * np.where(lora, 0.5, 1.0),
        trainable_params=np.where(lora, 1e5, 1e7),
        rank=np.where(lora, 8.0, np.nan),
        n_gpus=np.where(lora & (frame["seed"] == 3), 4, 2),
    )


def test_geometric_mean_of_matched_ratios(study: pd.DataFrame) -> None:
    r = cost_ratio(study, LORA, FFT, "train_s", rng=rng(), rules=QUICK)
    wide = study.pivot_table(index=["task", "seed"], columns="arm", values="train_s")
    assert r.n_pairs == 21
    assert r.ratio == pytest.approx(stats.gmean(wide[LORA] / wide[FFT]), rel=1e-8)
    assert r.factor == pytest.approx(1 / r.ratio)
    assert r.reduction_percent == pytest.approx(100 * (1 - r.ratio))
    assert r.low < r.ratio < r.high
    assert r.resampled == "tasks"
    turned = cost_ratio(study, FFT, LORA, "train_s", rng=rng(), rules=QUICK)
    assert turned.ratio == pytest.approx(r.factor, rel=1e-8)


def test_unlike_settings_are_counted_and_can_be_left_out(study: pd.DataFrame) -> None:
    other = study[study["arm"] == LORA].assign(arm="teacher/dora", n_gpus=8)  # of no concern
    study = pd.concat([study, other])
    assert cost_ratio(study, LORA, FFT, "train_s", rng=rng(), rules=QUICK).unlike == {"n_gpus": 7}
    same = cost_ratio(study, LORA, FFT, "train_s", rng=rng(), rules=QUICK, same=["n_gpus"])
    assert same.n_pairs == 14
    assert same.unlike == {}
    never = study.assign(n_gpus=study["arm"])
    none = cost_ratio(never, LORA, FFT, "train_s", rng=rng(), rules=QUICK, same=["n_gpus"])
    assert none.ratio is None
    assert "no matched runs agree in n_gpus" in none.cannot


def test_few_tasks_resample_runs(study: pd.DataFrame) -> None:
    few = study[study["task"].isin(TASKS[:2])]
    assert cost_ratio(few, LORA, FFT, "train_s", rng=rng(), rules=QUICK).resampled == "runs"


def test_zero_and_missing_costs_are_left_out_and_said(study: pd.DataFrame) -> None:
    frame = study.copy()
    frame.loc[frame.index[0], "train_s"] = 0.0
    frame.loc[frame.index[1], "train_s"] = np.nan
    r = cost_ratio(frame, LORA, FFT, "train_s", rng=rng(), rules=QUICK)
    assert r.n_pairs == 19
    assert any("0 or less" in n for n in r.notes)
    missing = cost_ratio(study, LORA, "teacher/x", "train_s", rng=rng(), rules=QUICK)
    assert "teacher/x" in missing.cannot
    with pytest.raises(InputError, match="Did you mean 'train_s'"):
        cost_ratio(study, LORA, FFT, "trains", rng=rng())
    with pytest.raises(InputError, match="gpu"):
        cost_ratio(study, LORA, FFT, "train_s", rng=rng(), same=["gpus"])


def test_many_ratios_are_the_single_ones(study: pd.DataFrame) -> None:
    both = cost_ratios(
        study, [(LORA, FFT)], ["train_s", "trainable_params"], rng=rng(), rules=QUICK
    )
    assert [r.column for r in both] == ["train_s", "trainable_params"]
    assert both[1].ratio == pytest.approx(0.01)
    assert both[1].low == pytest.approx(0.01)


def test_score_per_cost_by_hand(study: pd.DataFrame) -> None:
    best, worst = score_per_cost(study, ["trainable_params"])
    assert best.arm == LORA
    mean = 100 * study.loc[study["arm"] == LORA, "score"].mean()
    assert best.score_per_unit == pytest.approx(mean / 1e5, rel=1e-9)
    assert worst.cost == pytest.approx(1e7)


def test_budget_matching_picks_the_closest_run_of_like_cost() -> None:
    lora = grid(noisy(0.0), arms=[LORA], rank=8, trainable_params=1.0e5)
    small = grid(noisy(0.0), arms=["teacher/dora"], rank=4, trainable_params=0.6e5)
    like = grid(noisy(0.0), arms=["teacher/dora"], rank=7, trainable_params=0.95e5)
    frame = pd.concat([lora, small, like], ignore_index=True)
    kept, budget = budget_matched(frame, "teacher/dora", LORA)
    assert budget.n_cells == 6
    runs = kept.table
    assert set(runs.loc[runs["arm"] == "teacher/dora", "rank"]) == {7}
    assert len(runs) == 12
    none, budget = budget_matched(frame[frame["rank"] != 7], "teacher/dora", LORA)
    assert none.table.empty
    assert "0.6 times the trainable_params" in budget.cannot
    assert "no run" in budget_matched(frame, "teacher/x", LORA)[1].cannot
