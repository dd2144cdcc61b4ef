"""A student that starts from its teacher is at first what is left of the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdlora.errors import InputError
from kdlora.models.saved import load_trained
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from tests.harness.finished import finished

STILL = {"training": {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}}
ARMS = ("student/kd-lora", "student/kd-olora", "student/kd-fft")


@pytest.fixture(scope="module")
def values(corner) -> dict:
    study = corner.study(seeds=[1], training={"epochs": 3, "batch_size": 16, "max_length": 32,
                                              "precision": "fp32", "lr": 5e-3})  # fmt: skip
    pair = {"name": "cut", "teacher": corner.teacher,
            "student": {"from": "teacher", "layers": [1]}}  # fmt: skip
    changes = {"baselines": False, "arms": ["teacher/fft", *ARMS], "pairs": [pair],
               "overrides": dict.fromkeys(ARMS, STILL)}  # fmt: skip
    dumped = study.model_dump(mode="json") | changes
    dumped["data"] |= {"max_train": 320}
    dumped["distillation"]["start"] = "teacher"
    return dumped


@pytest.fixture(scope="module")
def done(values, corner, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "out"
    frame = finished(corner, make_study(values), out, workers=2)
    return Store(out), frame.set_index("arm")["run_id"]


@pytest.fixture(scope="module")
def remainder(done):
    """The teacher as saved, its first layer taken out by hand."""
    store, run_ids = done
    folder = store.folder(run_ids["teacher/fft"]) / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    del model.bert.encoder.layer[0]
    return model, AutoTokenizer.from_pretrained(folder)


TEXTS = ["a good film", "dull from start to end", "not bad at all"]


@torch.inference_mode()
def logits(model, tokenizer) -> np.ndarray:
    return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()


@pytest.mark.parametrize("arm", ARMS)
def test_an_untrained_student_is_what_is_left_of_its_teacher(done, remainder, arm):
    store, run_ids = done
    found = load_trained(store.folder(run_ids[arm]) / "model")
    np.testing.assert_allclose(logits(*found), logits(*remainder), atol=1e-4)


def test_it_is_not_the_encoder_as_it_came(done, remainder, corner):
    encoder = AutoModelForSequenceClassification.from_pretrained(corner.teacher).eval()
    del encoder.bert.encoder.layer[0]
    weights = [m.bert.encoder.layer[0].intermediate.dense.weight for m in (encoder, remainder[0])]
    assert not torch.allclose(*weights, atol=1e-3)


def test_the_run_can_be_moved_and_holds_no_leftovers(done, remainder, tmp_path):
    store, run_ids = done
    run_id = run_ids["student/kd-lora"]
    moved = tmp_path / "model"
    (store.folder(run_id) / "model").rename(moved)
    try:
        np.testing.assert_allclose(logits(*load_trained(moved)), logits(*remainder), atol=1e-4)
    finally:
        moved.rename(store.folder(run_id) / "model")
    assert not (store.folder(run_id) / "start").exists()
    outputs, _ = read_predictions(store.folder(run_id)).by_split()
    assert np.isfinite(outputs["report"]).all()


def test_only_a_student_made_of_its_teacher_can_start_from_it(values, corner):
    other = values | {"pairs": [{"teacher": corner.teacher, "student": corner.student}]}
    with pytest.raises(InputError, match="needs a student made of its teacher's layers"):
        make_plan(make_study(other))
