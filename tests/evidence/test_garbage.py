"""Frames full of all that goes wrong: an answer, a reason or an input error, nothing else."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.result import Rules
from kdlora.evidence.study import gather

ARMS = ["teacher/fft", "teacher/lora", "student/lora", "student/kd-lora", "baseline/tfidf",
        "teacher/given", "odd"]  # fmt: skip


def garbage(rng: np.random.Generator) -> pd.DataFrame:
    """Up to 80 rows: bad numbers, mixed metrics and directions, repeats, holes, lost columns."""
    n = int(rng.integers(0, 80))
    arms = rng.choice(ARMS, int(rng.integers(1, 7)), replace=False)
    bad = [0.5, 0.83, 0.91, np.nan, np.inf, -np.inf, -0.2, 1e300, 83.0]
    frame = pd.DataFrame(
        {
            "arm": rng.choice(arms, n),
            "task": rng.choice([f"t{i}" for i in range(int(rng.integers(1, 9)))], n),
            "pair": rng.choice(["p", "q", None], n, p=[0.5, 0.45, 0.05]),
            "seed": rng.choice([1, 2, 3], n),
            "score": np.where(rng.random(n) < 0.6, rng.normal(0.8, 0.05, n), rng.choice(bad, n)),
        }
    )
    frame["adaptation"] = frame["arm"].str.split("/").str[-1]
    columns = {
        "metric": ["accuracy", "rmse", "matthews", None],
        "direction": [1, -1, 0, np.nan],
        "status": ["done", "done", "done", "failed", "missing"],
        "run_id": [f"r{i}" for i in range(40)],
        "rank": [4, 8, np.nan],
        "train_s": [1.0, 2.0, 0.0, -1.0, np.nan, np.inf, 1e308, 1e-308],
        "trainable_params": [1e5, 2e5, 0.0, np.nan],
    }
    for name, values in columns.items():
        if rng.random() < 0.5:
            frame[name] = rng.choice(values, n)
    if rng.random() < 0.2:
        frame["score"] = frame["score"].astype(object).where(rng.random(n) < 0.8, "bad")
    if rng.random() < 0.2:
        frame = frame.drop(columns=list(rng.choice(["pair", "seed", "adaptation"], 2, False)))
    return frame


def answered(seed: int) -> set[bool]:
    """Whether comparisons of one garbage frame have an answer; each has one, or a reason."""
    rng = np.random.default_rng(seed)
    try:
        evidence = gather(garbage(rng), rng=rng, rules=Rules(draws=100, permutations=100))
    except InputError:
        return set()
    json.dumps(evidence.to_dict(), allow_nan=False)
    comparisons = [c for family in evidence.families.values() for c in family]
    for c in comparisons:
        if c.verdict == "cannot be said":
            assert c.claim.cannot, seed
            assert c.claim.p is None, seed
        else:
            assert 0 <= c.claim.p <= c.claim.p_corrected <= 1, seed
            assert c.claim.low < c.claim.difference < c.claim.high, seed
    return {c.verdict != "cannot be said" for c in comparisons}


def test_garbage_gives_answers_or_reasons() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = [answered(seed) for seed in range(16)]
    assert set().union(*found) == {True, False}
