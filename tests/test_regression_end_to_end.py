"""A regression trains alike in every unit, and answers in its own: trained, resumed, shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import kdlora
from kdlora.models.saved import load_trained
from kdlora.recipes.run import run_one
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.serve.app import make_app
from kdlora.ship.predict import load_predictor
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.study import Study
from tests.harness.finished import finished
from tests.harness.moods import BAD, GOOD, Corner, sentences, write_csv

UNITS = {"plain": (0.0, 1.0), "shifted": (100.0, 0.01), "wide": (0.0, 1e6)}
ARMS = ["teacher/fft", "student/fft", "student/lora", "student/kd-lora"]


def _study(corner: Corner, folder: Path) -> Study:
    texts, _ = sentences(300, 1)
    values = np.array([sum((w in GOOD) - (w in BAD) for w in t.split()) for t in texts])
    values = values + np.random.default_rng(0).normal(0, 0.3, len(values))
    z = (values - values.mean()) / values.std()
    for name, (mean, spread) in UNITS.items():
        write_csv(folder / f"{name}.csv", text=texts, score=[mean + spread * x for x in z])
    tasks = [
        {"name": name, "train": str(folder / f"{name}.csv"), "label": "score",
         "kind": "regression"}
        for name in UNITS
    ]  # fmt: skip
    return make_study({
        "name": "units", "tasks": tasks, "arms": ARMS, "seeds": [1],
        "pairs": [{"name": "tiny", "teacher": corner.teacher, "student": corner.student}],
        "training": {"epochs": 4, "batch_size": 16, "dropout": 0.0, "max_length": 32,
                     "lr": {"fft": 3e-3, "peft": 1e-2}},
        "adapter": {"rank": 4}, "data": {"selection_min": 30}, "baselines": False,
    })  # fmt: skip


@pytest.fixture(scope="module")
def done(corner: Corner, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("units")
    study = _study(corner, root)
    return study, root / "out", finished(corner, study, root / "out", workers=2)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_as_well_in_every_unit(done, arm):
    frame = done[2]
    scores = frame[frame["arm"] == arm].set_index("task")["score"]
    assert scores["plain"] > 0.6
    for name in UNITS:
        assert scores[name] == pytest.approx(scores["plain"], abs=0.05)


def test_the_error_is_told_in_the_labels_unit(done):
    frame = done[2]
    errors = frame[frame["arm"] == "student/kd-lora"].set_index("task")["report.rmse"]
    for name, (_, spread) in UNITS.items():
        assert errors[name] / spread == pytest.approx(errors["plain"], rel=0.1)
        assert errors[name] / spread < 0.9
    assert set(frame["target"]) == {"standardised"}


@pytest.mark.parametrize("task", ["shifted", "wide"])
@pytest.mark.parametrize("arm", ["student/fft", "student/kd-lora"])
def test_the_saved_model_alone_answers_what_is_recorded(done, task, arm):
    from kdlora.data.tasks import load_task

    study, out, _ = done
    run = next(r for r in make_plan(study).runs if r.task.name == task and r.title == arm)
    store = Store(out)
    model, tokenizer = load_trained(store.folder(run.run_id) / "model")
    rows = load_task(run.task, run.data).reports["report"]
    outputs, _ = read_predictions(store.folder(run.run_id)).by_split()
    batch = tokenizer(rows.texts[0], padding=True, return_tensors="pt")
    found = model.eval()(**batch).logits.detach().numpy()[:, 0]
    _, spread = UNITS[task]
    assert found == pytest.approx(outputs["report"].reshape(-1), abs=0.1 * spread)


def test_a_student_of_numbers_around_100_is_exported_and_served_in_their_unit(done, tmp_path):
    study, out, _ = done
    run = next(
        r for r in make_plan(study).runs
        if r.task.name == "shifted" and r.title == "student/kd-lora"
    )  # fmt: skip
    folder = Store(out).folder(run.run_id)
    exported = kdlora.export_model(folder, tmp_path / "export", timing=False)
    texts = ["a good great film", "a bad awful film"]
    mine = [row["value"] for row in kdlora.predict(tmp_path / "export", texts)]
    assert mine[0] - mine[1] > 0.01  # a spread of the labels between good and bad
    for variant in exported.variants:
        predictor = load_predictor(tmp_path / "export", variant=variant.name)
        with TestClient(make_app(predictor), base_url="http://localhost") as client:
            answer = client.post("/predict", json={"texts": texts}).json()
        served = [row["value"] for row in answer["predictions"]]
        assert served == pytest.approx(mine, abs=0.004), variant.name


def test_an_interrupted_regression_goes_on_as_if_undisturbed(done, tmp_path):
    study, out, _ = done
    run = next(
        r for r in make_plan(study).runs if r.task.name == "shifted" and r.title == "student/lora"
    )
    store = Store(tmp_path)

    def stop(event: dict) -> None:
        if event.get("step") == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(run, store, on_progress=stop)
    record = run_one(run, store)
    assert record.facts.resumed == 1
    whole, _ = read_predictions(Store(out).folder(run.run_id)).by_split()
    again, _ = read_predictions(store.folder(run.run_id)).by_split()
    np.testing.assert_array_equal(whole["report"], again["report"])


def test_the_id_says_how_a_regression_is_trained_and_that_of_a_classification_stays(corner):
    from kdlora.spec.run import TrainedRun, read_run

    plain = make_plan(corner.study()).runs
    assert all(getattr(run, "target", None) is None for run in plain)
    sts = make_plan(corner.study(tasks=["stsb"])).runs
    trained = [run for run in sts if isinstance(run, TrainedRun)]
    assert trained
    for run in trained:
        assert run.target == "standardised"
        before = read_run({**run.model_dump(mode="json"), "target": None})
        assert before.run_id != run.run_id
