"""A student whose encoder stays as it is, by labels and by its teacher, of few rows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdlora.data.tasks import load_task
from kdlora.errors import InputError
from kdlora.recipes.run import run_one
from kdlora.records.predictions import read_outputs
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from tests.harness.moods import sentences, write_csv


@pytest.fixture(scope="module")
def done(tmp_path_factory, corner):
    """The runs of a study of 100 rows: a teacher, and frozen students without and with it."""
    folder = tmp_path_factory.mktemp("frozen")
    texts, moods = sentences(100, 6)
    file = write_csv(folder / "few.csv", review=texts, mood=moods)
    task = {"name": "few", "train": str(file), "text": "review", "label": "mood"}
    arms = ["teacher/fft", "student/frozen", "student/kd-frozen"]
    study = corner.study(tasks=[task], arms=arms, baselines=False)
    store = Store(folder / "study")
    store.prepare()
    runs = make_plan(study).runs
    return store, {run.arm: run for run in runs}, {run.arm: run_one(run, store) for run in runs}


def test_only_the_last_layer_differs_from_the_encoder(done, corner):
    store, _, records = done
    record = records["student/frozen"]
    weights = load_file(store.folder(record.run_id) / "model" / "model.safetensors")
    before = load_file(f"{corner.student}/model.safetensors")
    prefix = "" if any(name.startswith("distilbert.") for name in before) else "distilbert."
    kept = [name for name in before if "transformer.layer" in name]
    assert kept
    assert all(torch.equal(weights[prefix + name], before[name]) for name in kept)
    assert record.efficiency.trainable_params == sum(
        weights[f"classifier.{name}"].numel() for name in ("weight", "bias")
    )
    assert record.facts.head_sees == "mean"


def test_plain_transformers_answer_as_the_record_says(done):
    store, runs, records = done
    for arm in ("student/frozen", "student/kd-frozen"):
        run, folder = runs[arm], store.folder(records[arm].run_id) / "model"
        stored = read_outputs(store.root, [run.run_id], "report")[run.run_id]
        data = load_task(run.task, run.data).reports["report"]
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        rows = AutoTokenizer.from_pretrained(folder)(
            data.texts[0], padding=True, return_tensors="pt", return_token_type_ids=False
        )
        with torch.no_grad():
            assert model(**rows).logits.numpy() == pytest.approx(stored.outputs, abs=1e-3)


def test_few_rows_are_cross_validated_and_the_record_says_so(done):
    _, _, records = done
    folded = records["student/frozen"].facts.cross_validation
    assert (folded.folds, folded.rows) == (5, 100)
    assert folded.right == round(folded.metrics["accuracy"] * 100)
    assert records["student/kd-frozen"].facts.cross_validation is None


def test_what_no_setting_of_training_changes_has_one_run_id(corner):
    arms = ["student/frozen"]
    one = make_plan(corner.study(arms=arms, baselines=False)).runs
    other = make_plan(
        corner.study(arms=arms, baselines=False, training={"epochs": 9, "max_length": 32,
                                                           "precision": "fp32", "lr": 0.1})
    ).runs  # fmt: skip
    ids = [{r.run_id for r in runs if r.arm == "student/frozen"} for runs in (one, other)]
    assert ids[0] == ids[1]


def test_signals_of_hidden_states_are_refused(corner):
    with pytest.raises(InputError, match="logits alone"):
        corner.study(
            arms=["teacher/fft", "student/kd-frozen"],
            distillation={"signals": {"kl": {}, "hidden": {}}},
        )


def test_the_record_can_be_read_again(done):
    store, _, records = done
    assert len(records) == 3
    for record in records.values():
        assert store.read(record.run_id) is not None
        json.loads((store.folder(record.run_id) / "record.json").read_text())
