from __future__ import annotations

import json

import numpy as np
import pytest

from kdlora.data.examples import Examples
from kdlora.errors import DataError
from kdlora.models.embedding_baseline import (
    EmbeddingBaseline,
    features_of,
    out_of_fold,
    train_embeddings,
)
from kdlora.vocabulary.task import CLASSIFICATION, REGRESSION, TASKS, Task

SST2, STSB, MRPC = TASKS["sst2"], TASKS["stsb"], TASKS["mrpc"]


def embed(texts) -> np.ndarray:
    """A text is the numbers that it holds."""
    return np.array([[float(word) for word in text.split()] for text in texts], dtype=np.float32)


def written(values: np.ndarray) -> list[str]:
    return [" ".join(f"{x:.5f}" for x in row) for row in values]


def examples(labels, *texts: list[str]) -> Examples:
    return Examples(np.array([str(i) for i in range(len(labels))]), texts, np.asarray(labels))


def trained(task: Task, train: Examples) -> EmbeddingBaseline:
    features = features_of(task.kind, train.texts, embed) if len(train) else np.zeros((0, 2))
    return train_embeddings(task, features, train.labels, seed=0)


def test_a_class_that_the_embedding_shows_is_found(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 8)) * [1, 100, 1, 1, 1, 1, 1, 0.01]
    labels = (values[:, 7] > 0).astype(np.int64)  # however small the feature
    train = examples(labels[:300], written(values[:300]))
    model = trained(SST2, train)
    answers = model.predict([written(values[300:])], embed)
    assert answers.shape == (100, 2)
    assert (answers.argmax(1) == labels[300:]).mean() > 0.9
    model.save(tmp_path)
    assert json.loads((tmp_path / "baseline.json").read_text())["label_names"] == [
        "negative",
        "positive",
    ]
    assert model.n_params == 2 * 8 + 2


def test_similarity_is_the_cosine_and_nothing_else():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 200, 16))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    labels = (2.5 + 2 * cosine + rng.normal(0, 0.01, 200)).astype(np.float32)
    model = trained(STSB, examples(labels, written(a), written(b)))
    found = model.predict([written(a), written(b)], embed)
    assert np.corrcoef(found, cosine)[0, 1] == pytest.approx(1, abs=1e-6)
    assert found == pytest.approx(labels, abs=0.1)


def test_a_pair_of_a_classification_is_seen_from_both_sides():
    a, b = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    found = features_of(CLASSIFICATION, [written(a), written(b)], embed)
    assert found[0] == pytest.approx([0.6, 0.8, 0, 1, 0.6, 0.2, 0, 0.8, 0.8], abs=1e-5)
    assert features_of(REGRESSION, [written(a), written(b)], embed).shape == (1, 1)


def test_equal_features_divide_by_no_zero():
    train = examples([0, 1] * 30, ["1 2"] * 60)
    assert np.isfinite(trained(SST2, train).predict([["1 2"]], embed)).all()
    with pytest.raises(DataError, match="no rows"):
        trained(MRPC, examples([], [], []))


def test_out_of_fold_no_row_answers_for_itself_nor_for_its_text():
    """Every text stands twice; one random label in each, which only a leak could know."""
    rng = np.random.default_rng(3)
    values = np.repeat(rng.normal(size=(150, 40)), 2, axis=0)
    labels = np.repeat(rng.integers(0, 2, 150), 2)
    train = examples(labels, written(values))
    features = features_of(SST2.kind, train.texts, embed)
    whole = trained(SST2, train).predict(train.texts, embed).argmax(1)
    folded = out_of_fold(SST2, features, train, strength=10.0, seed=0).argmax(1)
    assert (whole == labels).mean() > 0.65
    assert abs((folded == labels).mean() - 0.5) < 0.12
