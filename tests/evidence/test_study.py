from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence.result import Rules, plain
from kdlora.evidence.study import gather
from tests.harness.evidence_frames import grid, noisy, runs_742

ARMS = ["teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"]
QUICK = Rules(draws=300, permutations=300)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_whole_study_gathers_into_json() -> None:
    frame = grid(noisy(0.02), arms=ARMS, tasks=[f"t{i}" for i in range(6)])
    frame = frame.assign(trainable_params=1e6, train_s=np.where(frame["role"] == "teacher", 9, 3))
    e = gather(frame, rng=rng(), rules=QUICK)
    assert len(e.aggregates) == 5
    assert {r.column for r in e.ratios} == {"trainable_params", "train_s"}
    assert e.front is not None
    assert len(e.front.points) == 5
    json.dumps(e.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("frame", "asked"),  # asked: there is more than one arm to compare
    [
        (grid(noisy(0.1), arms=ARMS, tasks=["t"], seeds=[1]), True),
        (grid(noisy(0.1), arms=ARMS[:1]), False),
        (grid(noisy(0.1), arms=ARMS).assign(status="missing"), False),
        (grid(noisy(0.1), arms=ARMS).assign(score=np.nan, train_s=0.0), False),
        (grid(lambda *_: 0.5, arms=ARMS).assign(train_s=1.0), True),
        (grid(noisy(0.1), arms=ARMS).head(0), False),
        (
            grid(noisy(0.1), arms=ARMS).drop(
                columns=["pair", "seed", "run_id", "metric", "direction"]
            ),
            True,
        ),
    ],
    ids=["one run", "one arm", "unfinished", "no scores", "identical", "empty", "few columns"],
)
def test_studies_that_say_little_still_gather(frame: pd.DataFrame, asked: bool) -> None:
    e = gather(frame, rng=rng(), rules=QUICK)
    assert any(e.families.values()) == asked
    for comparisons in e.families.values():
        for c in comparisons:
            assert c.verdict == "cannot be said" or c.claim.p is not None
            assert c.verdict != "cannot be said" or c.claim.cannot
    json.dumps(e.to_dict(), allow_nan=False)


def test_arms_without_a_cost_are_named_beside_the_front() -> None:
    frame = grid(noisy(0.1), arms=ARMS).assign(train_s=2.0)
    frame.loc[frame["arm"] == "teacher/lora", "train_s"] = np.nan
    front = gather(frame, rng=rng(), rules=QUICK).front
    assert front is not None
    assert len(front.points) == 4
    assert any("teacher/lora" in n for n in front.notes)


def test_the_742_runs_take_seconds_with_10000_draws(shared: Path) -> None:
    frame = runs_742(shared)
    costs = ("trainable_params_M", "mem_alloc_avg_mb", "train_time_s")
    started = time.process_time()
    e = gather(frame, rng=rng(), costs=costs, rules=Rules())
    assert time.process_time() - started < 20
    assert len(e.families["teachers against teacher/fft"]) == 6
    assert len(e.families["distilled students against teacher/fft"]) == 6
    assert e.shared.n_cells == 37


def test_plain_turns_everything_into_json() -> None:
    mixed = {1: np.float64("nan"), "a": np.arange(2), "b": (np.int64(3), {4}),
             "c": pd.DataFrame({"x": [1.5]})}  # fmt: skip
    assert plain(mixed) == {"1": None, "a": [0, 1], "b": [3, [4]], "c": [{"x": 1.5}]}
