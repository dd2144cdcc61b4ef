"""The linear baselines against scikit-learn's own pipeline, closed forms and real tasks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from kdlora.data.examples import Examples
from kdlora.errors import DataError, ModelError
from kdlora.models import baselines
from kdlora.models.baselines import LinearBaseline, majority, train_tfidf
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, TASKS, Task
from tests.harness.moods import TOPICS, reviews, sentences

SST2, STSB, MNLI = TASKS["sst2"], TASKS["stsb"], TASKS["mnli"]


def examples(labels, *texts: list[str]) -> Examples:
    return Examples(np.array([str(i) for i in range(len(labels))]), texts, np.asarray(labels))


def moods(n: int, seed: int) -> Examples:
    texts, labels = sentences(n, seed)
    return examples([int(label == "pos") for label in labels], texts)


def test_majority_is_the_class_shares():
    outputs = majority(MNLI, np.array([2, 2, 2, 0, 0, 1, 2]), 4)
    assert outputs.shape == (4, 3)
    assert (outputs.argmax(axis=1) == 2).all()
    assert np.exp(outputs[0]) == pytest.approx(np.array([3, 2, 5]) / 10)
    absent = majority(MNLI, np.array([1, 1]), 1)
    assert np.isfinite(absent).all()
    assert absent.argmax() == 1


def test_majority_of_a_regression_is_the_mean():
    assert majority(STSB, np.array([1.0, 2.0, 6.0], np.float32), 2) == pytest.approx([3, 3])
    with pytest.raises(DataError, match="no training labels"):
        majority(STSB, np.array([]), 2)


def test_binary_logits_are_scikit_learns_probabilities(monkeypatch):
    train, test = moods(200, 1), moods(50, 2)
    monkeypatch.setattr(baselines, "REGULARISATION", (1.0,))
    model = train_tfidf(SST2, train, seed=0)
    outputs = model.predict(test.texts)
    assert outputs.shape == (50, 2)

    vectoriser = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
    )
    reference = LogisticRegression(max_iter=1000)
    reference.fit(vectoriser.fit_transform(train.texts[0]), train.labels)
    chance = reference.predict_proba(vectoriser.transform(test.texts[0]))
    softmax = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    assert softmax == pytest.approx(chance, abs=1e-3)
    assert (outputs.argmax(axis=1) == test.labels).mean() > 0.95


def test_a_saved_model_answers_the_same(tmp_path):
    train, test = moods(200, 1), moods(50, 2)
    model = train_tfidf(SST2, train, seed=0)
    model.save(tmp_path / "new" / "folder")
    files = sorted(tmp_path.rglob("*.*"))
    assert [f.name for f in files] == ["baseline.json", "baseline.npz"]
    assert model.size_mb == sum(f.stat().st_size for f in files) / 1e6
    loaded = LinearBaseline.load(tmp_path / "new" / "folder")
    assert np.array_equal(loaded.predict(test.texts), model.predict(test.texts))
    assert loaded.label_names == SST2.label_names
    assert loaded.n_params == model.n_params == 2 * len(model.vocabulary) + 2


def test_nothing_but_arrays_and_json_is_read(tmp_path):
    with pytest.raises(ModelError, match="no readable TF-IDF baseline"):
        LinearBaseline.load(tmp_path)
    train_tfidf(SST2, moods(60, 1), seed=0).save(tmp_path)
    np.savez(tmp_path / "baseline.npz", idf=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match="no readable TF-IDF baseline"):
        LinearBaseline.load(tmp_path)


def test_the_same_seed_gives_the_same_model():
    train, test = moods(200, 1), moods(50, 2)
    first, second = (train_tfidf(SST2, train, seed=3).predict(test.texts) for _ in range(2))
    assert np.array_equal(first, second)


def pairs(n: int, seed: int) -> Examples:
    """Pairs of word lists; the label is whether they share most of their words."""
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(60)]
    a, b, labels = [], [], []
    for _ in range(n):
        left = rng.choice(words, 6, replace=False)
        same = bool(rng.random() < 0.5)
        right = [*left[:4], *rng.choice(words, 2)] if same else rng.choice(words, 6)
        a.append(" ".join(left))
        b.append(" ".join(rng.permutation(right)))
        labels.append(int(same))
    return examples(labels, a, b)


def test_a_pair_is_judged_by_what_its_texts_share():
    train, test = pairs(600, 1), pairs(200, 2)
    model = train_tfidf(TASKS["mrpc"], train, seed=0)
    outputs = model.predict(test.texts)
    assert (outputs.argmax(axis=1) == test.labels).mean() > 0.9
    with pytest.raises(DataError, match="1 text columns given, 2 expected"):
        model.predict(test.texts[:1])


def test_regression_predicts_numbers():
    train, test = pairs(600, 1), pairs(200, 2)
    noisy = [examples(part.labels * 3.0 + 1, *part.texts) for part in (train, test)]
    model = train_tfidf(STSB, noisy[0], seed=0)
    outputs = model.predict(test.texts)
    assert outputs.shape == (200,)
    assert np.corrcoef(outputs, noisy[1].labels)[0, 1] > 0.8
    assert abs(outputs.mean() - noisy[0].labels.mean()) < 0.3


def test_several_classes_and_one_that_training_lacks():
    task = Task("t", CLASSIFICATION, ("x",), ("a", "b", "c", "d"), "accuracy")
    texts = ["red apple", "blue sea", "green grass"] * 30
    train = examples([0, 1, 3] * 30, texts)
    outputs = train_tfidf(task, train, seed=0).predict((["blue", "red", "green"],))
    assert outputs.argmax(axis=1).tolist() == [1, 0, 3]
    assert (outputs[:, 2] < outputs.min(axis=1, where=np.arange(4) != 2, initial=0)).all()
    two = train_tfidf(task, examples([0, 3] * 30, ["red", "green"] * 30), seed=0)
    assert two.predict((["green", "red"],)).argmax(axis=1).tolist() == [3, 0]


def test_a_single_class_is_always_predicted():
    model = train_tfidf(SST2, examples([1] * 60, ["some text"] * 60), seed=0)
    assert model.predict((["other", "some"],)).argmax(axis=1).tolist() == [1, 1]


@pytest.mark.parametrize("best", baselines.REGULARISATION)
def test_the_regularisation_that_scores_best_on_a_held_out_fifth_is_taken(best, monkeypatch):
    fitted = []
    linear = baselines.LINEAR_MODELS[CLASSIFICATION]

    def spoiled(task, features, labels, strength):
        fitted.append((strength, features.shape[0]))
        coefficients, intercept = linear.fit(task, features, labels, strength)
        return (coefficients if strength == best else -coefficients), intercept

    spoiled_model = replace(linear, fit=spoiled)
    monkeypatch.setitem(baselines.LINEAR_MODELS, CLASSIFICATION, spoiled_model)
    train_tfidf(SST2, moods(200, 1), seed=0)
    assert fitted == [(0.1, 160), (1.0, 160), (10.0, 160), (best, 200)]


@pytest.mark.parametrize("texts", [["", ""], ["...", "!?"]])
def test_texts_without_words(texts):
    with pytest.raises(DataError, match="no words"):
        train_tfidf(SST2, examples([0, 1], texts), seed=0)


def test_no_rows():
    with pytest.raises(DataError, match="no rows"):
        train_tfidf(SST2, examples([], []), seed=0)


def test_timing_takes_single_texts_and_batches_in_turn(monkeypatch):
    model = train_tfidf(SST2, moods(60, 1), seed=0)
    now, sizes = [0.0], []

    def predict(self, texts):
        sizes.append(len(texts[0]))
        now[0] += 1e-3 * len(texts[0])
        return None

    monkeypatch.setattr(LinearBaseline, "predict", predict)
    p50, p95, throughput = model.time(moods(5, 2).texts, repeats=4, batch=8, clock=lambda: now[0])
    assert sizes[1:] == [1] * 4 + [8] * 4
    assert (p50, p95) == (pytest.approx(1), pytest.approx(1))
    assert throughput == pytest.approx(1000)


def read(path: Path, columns: int, dtype) -> Examples:
    with path.open(encoding="utf-8", newline="\n") as handle:
        rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    texts = [[row[i] for row in rows] for i in range(columns)]
    return examples(np.array([row[columns] for row in rows], dtype=float).astype(dtype), *texts)


def test_real_similarity_needs_the_cosine(shared):
    folder = shared / "glue" / "stsb"
    train, test = (read(folder / f"{s}.tsv", 2, np.float32) for s in ("train", "validation"))
    outputs = train_tfidf(STSB, train, seed=0).predict(test.texts)
    assert np.corrcoef(outputs, test.labels)[0, 1] > 0.68  # without it 0.62


def test_real_paraphrases_beat_the_majority(shared):
    folder = shared / "glue" / "mrpc"
    train, test = (read(folder / f"{s}.tsv", 2, np.int64) for s in ("train", "validation"))
    outputs = train_tfidf(TASKS["mrpc"], train, seed=0).predict(test.texts)
    assert (outputs.argmax(axis=1) == test.labels).mean() > test.labels.mean() + 0.04


def topics(n: int, seed: int) -> tuple[Task, Examples]:
    texts, sets = reviews(n, seed)
    task = Task("own", MULTILABEL, ("text",), (*TOPICS, "never"), "mean_average_precision")
    return task, examples(MULTILABEL.decode(sets, task.label_names), texts)


def test_several_labels_are_told_one_against_the_rest(tmp_path):
    task, train = topics(300, 1)
    _, held = topics(100, 2)
    model = train_tfidf(task, train, seed=0)
    outputs = model.predict(held.texts)
    answers = task.kind.decide(outputs)
    assert (answers[:, :3] == held.labels[:, :3]).mean() > 0.95
    assert not answers[:, 3].any()  # of which training has no row
    features = baselines._features(model._vectoriser, train.texts)
    alone = LogisticRegression(
        C=baselines.choose_regularisation(task, features, train.labels, 0), max_iter=1000
    ).fit(features, train.labels[:, 1])
    held_features = baselines._features(model._vectoriser, held.texts)
    np.testing.assert_allclose(outputs[:, 1], alone.decision_function(held_features), atol=1e-4)
    model.save(tmp_path)
    np.testing.assert_array_equal(LinearBaseline.load(tmp_path).predict(held.texts), outputs)


def test_what_ignores_the_text_answers_with_each_labels_rate():
    task, train = topics(300, 1)
    outputs = majority(task, train.labels, 5)
    shares = task.kind.probabilities(outputs)[0]
    np.testing.assert_allclose(shares, (train.labels.sum(0) + 0.5) / 301)
