"""The benchmark of withheld answers counts what is promised, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.abstention import Promise, measure, page
from kdlora.records.predictions import SplitOutputs

PROMISE = Promise("m", 500, 2000, 0.9, 200, 40, 30, 0.5, 0.95)


def rows(n: int, share: float, rng: np.random.Generator) -> SplitOutputs:
    """Answers of one confidence, of which so many are right."""
    labels = rng.integers(0, 2, n)
    wrong = np.arange(n) >= share * n
    logits = np.eye(2)[np.where(wrong, 1 - labels, labels)] * 3
    return SplitOutputs(np.arange(n).astype(object), labels, logits)


def test_a_promise_is_kept_or_broken_by_the_other_split():
    kept = measure("good", lambda rng: (rows(500, 0.97, rng), rows(400, 0.97, rng)), aim=0.9,
                   resamples=4)  # fmt: skip
    assert (kept.promised, kept.kept, kept.coverage, kept.broken) == (4, 4, 1.0, False)
    lost = measure("worse elsewhere", lambda rng: (rows(500, 0.97, rng), rows(400, 0.8, rng)),
                   aim=0.9, resamples=4)  # fmt: skip
    assert (lost.promised, lost.kept, lost.broken) == (4, 0, True)
    never = measure("too few", lambda rng: (rows(30, 1.0, rng), rows(400, 1.0, rng)), aim=0.9,
                    resamples=4)  # fmt: skip
    assert (never.promised, never.kept, never.coverage, never.broken) == (0, 0, None, False)


def test_a_resample_without_a_promise_breaks_none():
    assert not PROMISE.broken  # 10 of 200
    assert replace(PROMISE, kept=29).broken


def test_the_page_marks_what_is_broken():
    text = page([PROMISE, replace(PROMISE, kept=29), replace(PROMISE, promised=0, kept=0)])
    assert "| 40 | 30 of 40 | 50.0 % | 95.0 % |" in text
    assert "| 40 | 29 of 40 **broken** |" in text
    assert "| 0 | - |" in text
