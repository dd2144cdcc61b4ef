"""Studies without a worse slice, asked as a user asks: how often one is claimed all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import kdlora
from kdlora.records.predictions import SplitOutputs, write_predictions
from kdlora.records.rows import make_rows, write_rows
from kdlora.records.store import Store
from tests.harness.stored_studies import same_on_both, store_study

N, STUDIES = 240, 40


def answer_again(store: Store, rng: np.random.Generator) -> None:
    """Other answers on the report split, wrong as often in every slice, and another file."""
    ids = np.array([f"id{i}" for i in range(N)], object)
    labels = rng.integers(0, 2, N)
    for path in sorted((store.root / "runs").iterdir()):
        answers = np.where(rng.random(N) < 0.2, 1 - labels, labels)
        part = SplitOutputs(ids, labels, np.eye(2)[answers] * rng.uniform(0.5, 3, (N, 1)))
        write_predictions(path, {"report": part, "selection": part})
    facts = pd.DataFrame({"split": "report", "example_id": ids, "number": np.arange(1.0, N + 1)})
    facts = facts.assign(tokens=rng.integers(5, 60, N).astype(float), script="Latin")
    columns = {
        "channel": rng.choice(["mail", "web", "shop"], N, p=[0.4, 0.4, 0.2]).tolist(),
        "stars": rng.integers(1, 6, N).astype(str).tolist(),
    }
    texts = {"sentence1": [f"text {i}" for i in range(N)], "sentence2": ["a"] * N}
    write_rows(make_rows(facts, texts, columns), store.root, "rte")


def false_claims(folder: Path, studies: int, seed: int = 0) -> int:
    """In how many of so many studies any slice is told apart."""
    store = store_study(
        folder, same_on_both(lambda run: 0.8), arms=["teacher/fft", "student/fft"], seeds=[1]
    )
    rng, claims = np.random.default_rng(seed), 0
    for _ in range(studies):
        answer_again(store, rng)
        (found,) = kdlora.mistakes(folder)
        assert found.tested >= 12
        claims += any(one.verdict in ("worse", "better") for one in found.slices)
    return claims


@pytest.mark.slow
def test_at_most_one_study_in_twenty_claims_a_slice(tmp_path):
    most = stats.binom.ppf(0.999, STUDIES, 0.05)
    assert false_claims(tmp_path, STUDIES) <= most
