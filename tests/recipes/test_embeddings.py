"""A teacher that is a linear model on embeddings: the baseline's answers, and at work."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kdlora
from kdlora.distillation import soft_labels
from kdlora.errors import InputError
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from kdlora.spec.run import EmbeddingsTeacherRun, read_run
from tests.harness.finished import finished
from tests.harness.moods import BRIEF, sentences, write_csv


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> dict:
    """Pairs of sentences; how alike they are is 4 where they have one mood, and 1 elsewhere."""
    folder = tmp_path_factory.mktemp("alike")
    files = {}
    for name, n, seed in (("train", 300, 1), ("eval", 80, 2)):
        left, moods = sentences(n, seed)
        right, others = sentences(n, seed + 10)
        score = [4.5 if a == b else 1.25 for a, b in zip(moods, others, strict=True)]
        write_csv(folder / f"{name}.csv", left=left, right=right, score=score)
        files[name] = str(folder / f"{name}.csv")
    return {"name": "alike", **files, "text": ["left", "right"], "label": "score",
            "kind": "regression"}  # fmt: skip


def pairs(corner, **changes) -> list[dict]:
    return [{"name": "own", "teacher": {"embeddings": corner.student}, "student": corner.student}
            | changes]  # fmt: skip


def study(corner, **changes):
    values = {"pairs": pairs(corner), "arms": ["teacher/given", "student/kd-fft"]}
    values |= {"training": BRIEF}
    return corner.study(**values | changes)


def test_it_answers_as_the_baseline_and_teaches(corner, alike, tmp_path):
    made = study(corner, tasks=[alike], unlabelled={"alike": {"file": "recombined"}})
    frame = finished(corner, made, tmp_path / "out").set_index("arm")
    store = Store(tmp_path / "out")
    ids = frame["run_id"]
    teacher, base = (store.read(ids[arm]) for arm in ("teacher/given", "baseline/embeddings"))
    assert teacher.quality == base.quality
    outputs, _ = read_predictions(store.folder(teacher.run_id)).by_split()
    expected, _ = read_predictions(store.folder(base.run_id)).by_split()
    for split, values in expected.items():
        np.testing.assert_array_equal(outputs[split], values)
    costs = teacher.efficiency
    assert (costs.trainable_params, costs.protocol["passes_per_text"]) == (2, 2)
    assert costs.latency_p50_ms > 0
    cached = soft_labels.load(store.folder(teacher.run_id))
    assert cached.logits.shape == (sum(teacher.quality.n.values()), 1)
    student = store.read(ids["student/kd-fft"])
    assert student.run.teacher_run_id == teacher.run_id
    assert student.facts.teaching.unlabelled["used"] > 300
    assert frame.loc["student/kd-fft", "teacher_score"] == teacher.quality.score
    finished(corner, made, tmp_path / "out")
    assert store.read(teacher.run_id) == teacher  # it is not fitted again


def test_a_damaged_linear_model_teaches_nobody(corner, alike, tmp_path):
    made = study(corner, tasks=[alike], baselines=False)
    alone = study(corner, tasks=[alike], baselines=False, arms=["teacher/given"])
    finished(corner, alone, tmp_path / "out")
    (model,) = (tmp_path / "out").glob("runs/*given*/model/baseline.npz")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    finished(corner, made, tmp_path / "out")  # it was set aside and fitted again
    assert list((tmp_path / "out").glob("runs/*given*/*damaged*"))


def test_a_run_is_known_by_its_encoder_and_cut(corner):
    def teacher(**changes) -> EmbeddingsTeacherRun:
        (run,) = [r for r in make_plan(study(corner, **changes)).runs if r.role == "teacher"]
        assert isinstance(run, EmbeddingsTeacherRun)
        assert read_run(run.model_dump_json()).run_id == run.run_id
        return run

    cut = {"max_length": 16}
    plain = teacher(training=cut)
    assert plain.run_id == teacher(training=cut | {"epochs": 9}).run_id
    assert plain.run_id != teacher(training={"max_length": 20}).run_id
    other = pairs(corner, teacher={"embeddings": corner.teacher})
    assert plain.run_id != teacher(training=cut, pairs=other).run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"signals": {"hidden": 1.0}}}, "of pair 'own' is a linear model"),
        (
            {"pairs": [{"name": "own", "student": {"from": "teacher", "layers": [0]}}],
             "distillation": {"start": "teacher"}},
            "a head for the task, but the one of pair 'own' is a linear model",
        ),
        (
            {"pairs": [{"name": "own", "teacher": {"embeddings": "x", "layers": [0]}}]},
            "layers does not go with embeddings: give {embeddings: ENCODER} alone",
        ),
        ({"pairs": [{"name": "own", "teacher_is_trained": True}]}, "or embeddings, not both"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_said(corner, changes, message):
    if "pairs" in changes:
        changes = changes | {"pairs": pairs(corner, **changes["pairs"][0])}
    with pytest.raises(InputError) as caught:
        kdlora.plan(study(corner, **changes))
    assert message in str(caught.value)


def test_it_needs_labels(corner, alike, tmp_path):
    texts, _ = sentences(50, 7)
    write_csv(tmp_path / "bare.csv", left=texts, right=texts, score=[""] * 50)
    bare = {"train": str(tmp_path / "bare.csv"), "missing_labels": "rest"}
    made = study(corner, tasks=[alike | bare], baselines=False)
    with pytest.raises(InputError) as caught:
        kdlora.plan(made)
    assert "learns from labels" in str(caught.value)


def test_what_it_is_stands_in_its_files(corner, alike, tmp_path):
    alone = study(corner, tasks=[alike], baselines=False, arms=["teacher/given"])
    finished(corner, alone, tmp_path / "out")
    (about,) = (tmp_path / "out").glob("runs/*given*/model/baseline.json")
    assert json.loads(about.read_text())["kind"] == "regression"
