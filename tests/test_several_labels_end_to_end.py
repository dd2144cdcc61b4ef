"""A study of a task with several labels a text: planned, trained, distilled, resumed, shipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from starlette.testclient import TestClient

import kdlora
from kdlora.errors import InputError
from kdlora.evidence.texts import StoredTexts
from kdlora.measure.quality import score_split
from kdlora.recipes.run import run_one
from kdlora.records.predictions import read_outputs, read_predictions
from kdlora.records.store import Store
from kdlora.serve.app import make_app
from kdlora.ship.calibration import calibrate_folder
from kdlora.ship.predict import load_predictor, predict_file
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.study import Study
from kdlora.tables.reader import read_table
from kdlora.vocabulary.task import MULTILABEL, Task
from tests.harness.commands import in_process
from tests.harness.finished import finished, share_costs
from tests.harness.moods import TOPICS, Corner, reviews, write_csv

NAMES = tuple(sorted(TOPICS))
ARMS = ["teacher/fft", "student/lora", "student/kd-lora"]
GIVEN = ["teacher/given", "student/kd-lora"]


def _study(corner: Corner, folder: Path, **changes: object) -> Study:
    for name, n, seed in (("train", 400, 1), ("eval", 200, 2)):
        texts, sets = reviews(n, seed)
        write_csv(folder / f"{name}.csv", text=texts, topics=["|".join(row) for row in sets])
    task = {"name": "topics", "train": str(folder / "train.csv"), "label_separator": "|",
            "eval": str(folder / "eval.csv"), "label": "topics"}  # fmt: skip
    values = {
        "name": "several", "tasks": [task], "arms": ARMS, "seeds": [1],
        "pairs": [{"name": "tiny", "teacher": corner.teacher, "student": corner.student}],
        "training": {"epochs": 8, "batch_size": 20, "dropout": 0.0, "max_length": 32,
                     "lr": {"fft": 3e-3, "peft": 1e-2}},
        "adapter": {"rank": 4}, "data": {"selection_min": 40},
    }  # fmt: skip
    return make_study({**values, **changes})


@pytest.fixture(scope="module")
def done(corner: Corner, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("several")
    study = _study(corner, root)
    result = kdlora.run(study, out=share_costs(corner, root / "out"), workers=2, threads=1)
    assert set(result.status.values()) == {"done"}
    return study, root / "out", result.frame


def run_of(study: Study, arm: str):
    return next(run for run in make_plan(study).runs if run.title == arm)


@pytest.mark.slow
def test_every_arm_learns_what_a_model_without_texts_cannot(done):
    frame = done[2].set_index("arm")
    floor = frame.loc["baseline/majority", "score"]
    assert floor == pytest.approx(0.4, abs=0.05)
    for arm in (*ARMS, "baseline/tfidf", "baseline/embeddings"):
        assert frame.loc[arm, "score"] > floor + 0.15, arm
    assert set(frame["metric"]) == {"mean_average_precision"}


@pytest.mark.slow
def test_a_record_holds_every_metric_and_each_label_and_agrees_with_the_predictions(done):
    study, out, _ = done
    record = Store(out).read(run_of(study, "student/kd-lora").run_id)
    quality, shared = record.quality, record.agreement
    task = Task("topics", MULTILABEL, ("text",), NAMES, "mean_average_precision")
    outputs, labels = read_predictions(Store(out).folder(record.run_id)).by_split()
    assert quality.splits["report"] == score_split(task, outputs["report"], labels["report"])
    assert record.task.kind == "multilabel"
    assert tuple(quality.per_label) == record.task.label_names == NAMES
    precision = [one.average_precision for one in quality.per_label.values()]
    assert quality.score == pytest.approx(np.mean(precision))
    assert tuple(shared.per_label) == NAMES
    assert shared.lower_bound <= shared.agreement <= shared.upper_bound
    for one in shared.per_label.values():
        assert one.lower_bound <= one.agreement <= one.upper_bound


@pytest.mark.slow
def test_the_saved_models_config_says_that_labels_come_together(done):
    study, out, _ = done
    for arm in ("teacher/fft", "student/lora"):
        model = Store(out).folder(run_of(study, arm).run_id) / "model"
        config = model / "config.json"
        if config.is_file():
            assert json.loads(config.read_text())["problem_type"] == "multi_label_classification"
    saved = json.loads((out / "student" / "config.json").read_text())
    assert saved["problem_type"] == "multi_label_classification"
    assert list(saved["id2label"].values()) == list(NAMES)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_undisturbed(done, tmp_path):
    study, out, _ = done
    run, store = run_of(study, "student/lora"), Store(tmp_path)

    def stop(event: dict) -> None:
        if event.get("step") == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(run, store, on_progress=stop)
    assert run_one(run, store).facts.resumed == 1
    whole, _ = read_predictions(Store(out).folder(run.run_id)).by_split()
    again, _ = read_predictions(store.folder(run.run_id)).by_split()
    np.testing.assert_array_equal(whole["report"], again["report"])


@pytest.mark.slow
def test_models_are_compared_text_by_text(done):
    _, out, _ = done
    frame = done[2].set_index("arm")
    runs = {arm: frame.loc[arm, "run_id"] for arm in ("student/kd-lora", "student/lora")}
    texts = StoredTexts(read_outputs(out, runs.values(), "report"))
    for arm, run in runs.items():
        found = texts.scores(run, "mean_average_precision", None)
        assert found.score == pytest.approx(frame.loc[arm, "score"])
        assert len(found.values) == 200
    assert "## Each label by itself" in (out / "report.md").read_text(encoding="utf-8").replace(
        "### ", "## "
    )


@pytest.mark.slow
def test_a_file_with_a_column_a_label_teaches(corner, tmp_path):
    texts, sets = zip(*(reviews(400, 1), reviews(200, 2)), strict=True)
    rows = [row for part in sets for row in part]
    columns = {name: [0.9 if name in row else 0.1 for row in rows] for name in NAMES}
    path = write_csv(tmp_path / "said.csv", text=[t for part in texts for t in part], **columns)
    pair = {
        "student": corner.student,
        "teacher_outputs": {"file": str(path), "kind": "probabilities"},
    }
    study = _study(corner, tmp_path, pairs=[pair], arms=GIVEN, baselines=False)
    frame = finished(corner, study, tmp_path / "out").set_index("arm")
    assert frame.loc["teacher/given", "score"] == 1
    assert frame.loc["student/kd-lora", "score"] > 0.6
    run = run_of(study, "teacher/given")
    record = Store(tmp_path / "out").read(run.run_id)
    assert record.facts.calibration.accuracy == 1
    assert record.facts.calibration.temperature < 1  # it is surer than it says


@pytest.mark.slow
def test_a_file_of_tags_teaches_is_reported_and_its_student_answers(corner, tmp_path):
    """As people and models write them: "Food; price.", [] for none, and names that are no label."""
    texts, sets = zip(*(reviews(400, 1), reviews(200, 2)), strict=True)
    said = dict(zip(chain(*texts), chain(*sets), strict=True))
    rows = [["weather", *own] if i % 50 == 0 else own for i, own in enumerate(said.values())]
    tags = ["; ".join(row) or "[]" for row in rows]
    written = [cell.replace("food", "Food").replace("price", "price.") for cell in tags]
    written[1] = ""  # says nothing, where [] says none
    path = write_csv(tmp_path / "said.csv", text=list(said), tags=written)
    outputs = {"file": str(path), "kind": "labels", "label": "tags", "label_separator": ";"}
    pair = {"student": corner.student, "teacher_outputs": outputs}
    study = _study(corner, tmp_path, pairs=[pair], arms=GIVEN, baselines=False)
    notes: list[str] = []
    out = share_costs(corner, tmp_path / "out")
    result = kdlora.run(study, out=out, threads=1, on_note=notes.append)
    assert not result.report.failures
    frame = result.frame.set_index("arm")
    assert frame.loc["teacher/given", "score"] > 0.95
    assert frame.loc["student/kd-lora", "score"] > 0.6
    told = " ".join(notes)
    assert "1 empty, where [] says none" in told
    assert f"names that are no labels of the task: 'weather' ({len(rows[::50])})" in told

    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Each label by itself" in report
    for name in NAMES:
        assert name in report
    student, eval_texts = tmp_path / "out" / "student", texts[1]
    asked = in_process("predict", student, "eval.csv", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    shares = [f"p_{name}" for name in NAMES]
    answers = read_table(tmp_path / "eval-predictions.csv", ["text", "prediction", *shares]).columns
    assert answers["text"] == eval_texts
    for name in NAMES:
        has = np.array([name in own for own in sets[1]])
        told = np.array(answers[f"p_{name}"], float)
        assert told[has].mean() > told[~has].mean(), name
        said = np.array([name in json.loads(cell) for cell in answers["prediction"]])
        np.testing.assert_array_equal(said, told >= 0.5)


@pytest.mark.parametrize("signal", ["dkd", "dist"])
def test_signals_of_one_class_a_text_are_refused_before_the_first_run(corner, tmp_path, signal):
    study = _study(corner, tmp_path, distillation={"signals": {signal: 1.0}})
    with pytest.raises(
        InputError, match=f"signal '{signal}' compares class probabilities, but here"
    ):
        kdlora.run(study, out=tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


def test_a_teacher_of_one_class_a_text_is_refused(corner, tmp_path):
    from tests.harness.tiny_models import save_tiny_encoder

    names = dict(enumerate(NAMES))
    stated = {"num_labels": 3, "id2label": names, "label2id": {n: i for i, n in names.items()}}
    save_tiny_encoder(tmp_path / "one", head=True, **stated)
    pair = {"teacher": str(tmp_path / "one"), "student": corner.student, "teacher_is_trained": True}
    with pytest.raises(InputError, match=r"no problem_type.*multi_label_classification"):
        kdlora.run(_study(corner, tmp_path, pairs=[pair], arms=GIVEN), out=tmp_path / "out")
    zero = {"teacher": {"zero_shot": corner.teacher}, "student": corner.student}
    with pytest.raises(InputError, match="tells one class a text"):
        kdlora.run(_study(corner, tmp_path, pairs=[zero], arms=GIVEN), out=tmp_path / "out")


def test_ids_and_plans_of_tasks_with_one_class_a_row_stay(corner):
    """The new settings of a task are at their default, and so in no id."""
    for run in make_plan(corner.study()).runs:
        assert "label_separator" not in json.dumps(run.identity())


@pytest.mark.slow
def test_thresholds_are_stored_with_the_model_and_every_form_of_it_answers_by_them(done, tmp_path):
    _, out, _ = done
    student = tmp_path / "study" / "student"
    shutil.copytree(out, tmp_path / "study")
    _, made = calibrate_folder(student, temperature=True, threshold="macro-f1")
    assert set(made.thresholds) == set(NAMES)
    assert made.after["selection"].score >= made.before["selection"].score
    with pytest.raises(InputError, match="several labels: raise the thresholds"):
        calibrate_folder(student, temperature=False, threshold=None, abstain=0.9)
    texts = ["the good film", "a bad scene with sad actor", "the plot"]
    mine = kdlora.predict(student, texts)
    for answer in mine:
        shares = answer["probabilities"]
        assert answer["labels"] == [n for n in NAMES if shares[n] >= made.thresholds[n]]
    exported = kdlora.export_model(student, tmp_path / "export", timing=False)
    readme = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "any number of food, price, service, each by itself (sigmoid)" in readme
    assert "average precision by label" in readme
    program = (tmp_path / "export" / "example.py").read_text(encoding="utf-8")
    assert str(made.thresholds["food"]) in program
    asked = subprocess.run(
        [sys.executable, str(tmp_path / "export" / "example.py")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(asked.stdout.splitlines()) == 2
    for variant in exported.variants:
        predictor = load_predictor(tmp_path / "export", variant=variant.name)
        with TestClient(make_app(predictor), base_url="http://localhost") as client:
            served = client.post("/predict", json={"texts": texts}).json()["predictions"]
            schema = client.get("/openapi.json").json()
        answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]
        jsonschema.validate({"predictions": served}, answer["application/json"]["schema"])
        for found, own in zip(served, mine, strict=True):
            near = [abs(own["probabilities"][n] - made.thresholds[n]) > 0.1 for n in NAMES]
            if all(near):
                assert found["labels"] == own["labels"], variant.name
    path = write_csv(tmp_path / "texts.csv", text=texts)
    predict_file(load_predictor(student), path, tmp_path / "said.csv")
    again = read_table(tmp_path / "said.csv", ["prediction", "p_food"])
    assert [json.loads(cell) for cell in again.columns["prediction"]] == [a["labels"] for a in mine]


@pytest.mark.slow
def test_a_folder_of_another_tool_is_read_as_its_config_says(done, tmp_path):
    _, out, _ = done
    shutil.copytree(out / "student", tmp_path / "plain")
    (tmp_path / "plain" / "kdlora.json").unlink()
    mine, theirs = (
        kdlora.predict(one, ["the good film"]) for one in (out / "student", tmp_path / "plain")
    )
    assert theirs[0]["labels"] == mine[0]["labels"]
    assert theirs[0]["probabilities"] == pytest.approx(mine[0]["probabilities"], abs=1e-6)
