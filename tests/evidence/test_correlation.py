from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlora.evidence.correlation import correlate
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid

QUICK = Rules(draws=1_000)
TASKS = [f"t{i}" for i in range(6)]


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    """Bigger tasks score higher; within a task, time costs score."""
    rng = np.random.default_rng(0)
    frame = grid(lambda *_: 0.0, tasks=TASKS, seeds=range(8))
    size = frame["task"].str[1:].astype(int).to_numpy()
    extra = rng.normal(0, 1, len(frame))
    return frame.assign(
        train_s=100 * (size + 1) + extra,
        score=0.4 + 0.08 * size - 0.01 * extra + rng.normal(0, 0.003, len(frame)),
    )


def run(frame: pd.DataFrame, *columns: str, **options):
    return correlate(frame, columns, rng=np.random.default_rng(0), rules=QUICK, **options)


def test_pooling_turns_the_sign_and_within_tasks_tells_the_truth(study: pd.DataFrame) -> None:
    (c,) = run(study, "train_s")
    assert c.pooled > 0.9
    assert c.within_pearson < -0.8
    assert c.low <= c.within_pearson <= c.high < 0


def test_values_equal_scipy_and_partial_regression(study: pd.DataFrame) -> None:
    (c,) = run(study, "train_s")
    assert c.pooled == pytest.approx(stats.pearsonr(study["train_s"], study["score"])[0], rel=1e-9)
    assert c.pooled_spearman == pytest.approx(
        stats.spearmanr(study["train_s"], study["score"])[0], rel=1e-9
    )
    dummies = pd.get_dummies(study["task"]).to_numpy(float)
    left = [
        y - dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]
        for y in (study["train_s"].to_numpy(), study["score"].to_numpy())
    ]
    assert c.within_pearson == pytest.approx(stats.pearsonr(*left)[0], rel=1e-9)
    one = study[study["task"] == "t0"]
    (alone,) = run(one, "train_s")
    assert alone.within_spearman == pytest.approx(
        stats.spearmanr(one["train_s"], one["score"])[0], rel=1e-9
    )
    assert alone.low is None


def test_what_cannot_be_said(study: pd.DataFrame) -> None:
    frame = study.assign(constant=3.0, by_task=study["task"].str[1:].astype(float), empty=np.nan)
    constant, by_task, empty, missing = run(frame, "constant", "by_task", "empty", "nope")
    assert "constant does not vary" in constant.cannot
    assert by_task.within_pearson is None
    assert "within" in by_task.cannot
    assert "fewer than three" in empty.cannot
    assert "no column" in missing.cannot
    assert "the score does not vary" in run(study.assign(score=0.5), "train_s")[0].cannot
