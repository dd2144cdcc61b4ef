"""A teacher that answers by entailment: held against transformers' own pipeline, and at work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from transformers import pipeline

import kdlora
from kdlora.data.examples import Examples, ids_of_texts
from kdlora.distillation import soft_labels
from kdlora.errors import InputError
from kdlora.measure.calibration import cross_entropy
from kdlora.recipes.zero_shot import ZeroShotLabeller
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.encoders import Pair
from kdlora.spec.plan import make_plan
from kdlora.spec.run import ZeroShotTeacherRun, read_run
from kdlora.vocabulary.task import TASKS
from tests.harness.entailment import HYPOTHESIS, WORDS, save_entailment
from tests.harness.finished import finished
from tests.harness.moods import BRIEF, sentences


@pytest.fixture(scope="module")
def knowing(tmp_path_factory) -> str:
    return save_entailment(tmp_path_factory.mktemp("nli") / "knowing", knows_moods=True).path


def pair(model: str, student: str, **changes) -> dict:
    teacher = {"zero_shot": model, "hypothesis": HYPOTHESIS, "labels": WORDS, **changes}
    return {"name": "zero", "teacher": teacher, "student": student}


def study(corner, model: str, **changes):
    values = {"pairs": [pair(model, corner.student)], "baselines": False, "training": BRIEF}
    values |= {"arms": ["teacher/given", "student/lora", "student/kd-lora"]}
    return corner.study(**values | changes)


def test_its_logits_are_those_of_the_pipeline(tmp_path):
    model = save_entailment(tmp_path / "random").path
    made = make_study(
        {
            "name": "x",
            "tasks": ["hate"],
            "data_dir": str(_hate(tmp_path)),
            "pairs": [{"teacher": {"zero_shot": model}, "student": "minilm-l3"}],
            "training": {"max_length": 32, "precision": "fp32"},
        }
    )
    (run,) = [r for r in make_plan(made).runs if isinstance(r, ZeroShotTeacherRun)]
    task = TASKS["hate"]
    texts = sentences(20, 3)[0]
    rows = Examples(ids_of_texts("hate", [texts]), (texts,), np.zeros(20, np.int64))
    logits = ZeroShotLabeller(run, task).label(rows)
    ask = pipeline("zero-shot-classification", model=model, tokenizer=model, device=-1)
    answers = ask(texts, list(task.label_names), hypothesis_template="This text is about {}.")
    expected = [
        [dict(zip(a["labels"], a["scores"], strict=True))[name] for name in task.label_names]
        for a in answers
    ]
    np.testing.assert_allclose(log_softmax(logits, axis=1), np.log(expected), atol=1e-4)


def test_a_text_costs_a_pass_for_each_class(corner, knowing):
    run = next(r for r in make_plan(study(corner, knowing)).runs if r.role == "teacher")
    costs = [
        ZeroShotLabeller(run, replace(TASKS["hate"], label_names=names)).costs(None)
        for names in (("a", "b"), ("a", "b", "c", "d"))
    ]
    assert costs[1]["forward_flops"] == 2 * costs[0]["forward_flops"]
    assert [found["protocol"]["passes_per_text"] for found in costs] == [2, 4]


def _hate(folder):
    (folder / "hate").mkdir()
    for split in ("train", "validation"):
        (folder / "hate" / f"{split}.tsv").write_text("sentence\tlabel\na\t0\n")
    return folder


def test_it_teaches_like_any_teacher(corner, knowing, tmp_path):
    frame = finished(corner, study(corner, knowing), tmp_path / "out").set_index("arm")
    store = Store(tmp_path / "out")
    teacher = store.read(frame.loc["teacher/given", "run_id"])
    assert teacher.quality.score == 1.0
    costs = teacher.efficiency
    assert costs.trainable_params == 0
    assert 0 < costs.latency_p50_ms <= costs.latency_p95_ms
    assert costs.protocol["passes_per_text"] == 2
    assert costs.size_mb > 0
    outputs, labels = read_predictions(store.folder(teacher.run_id)).by_split()
    found = teacher.facts.calibration
    assert (found.method, found.n, found.accuracy) == ("temperature", len(labels["selection"]), 1.0)
    assert found.cross_entropy_after == pytest.approx(
        cross_entropy(outputs["selection"], labels["selection"])
    )
    # the cache holds what its record was scored by, and the student learnt from it
    cached = soft_labels.load(store.folder(teacher.run_id))
    assert len(cached.ids) == sum(teacher.quality.n.values())
    student = frame.loc["student/kd-lora"]
    assert student["teacher_score"] == 1.0
    assert student["score"] > 0.8
    assert np.isnan(student.get("speedup_latency", np.nan))


def test_a_run_is_known_again_by_its_hypothesis_and_words(corner, knowing):
    def ids(**changes) -> list[str]:
        plan = make_plan(study(corner, knowing, pairs=[pair(knowing, corner.student, **changes)]))
        for run in plan.runs:
            assert read_run(run.model_dump_json()).run_id == run.run_id
        return [run.run_id for run in plan.runs]

    plain, other, words = ids(), ids(hypothesis="{}?"), ids(labels={"pos": "yes"})
    assert plain == ids()
    for changed in (other, words):
        assert [a == b for a, b in zip(plain, changed, strict=True)] == [False, True, False]


def test_two_hypotheses_of_one_model_are_two_teachers(corner, knowing):
    pairs = [pair(knowing, corner.student), pair(knowing, corner.student, hypothesis="{} it is")]
    pairs[1]["name"] = "other"
    runs = make_plan(study(corner, knowing, pairs=pairs)).runs
    told = [run.zero_shot.hypothesis for run in runs if isinstance(run, ZeroShotTeacherRun)]
    assert told == [HYPOTHESIS, "{} it is"]
    assert len([run for run in runs if run.distillation == "kd"]) == 2


@pytest.mark.parametrize("door", [kdlora.plan, kdlora.run])
def test_outputs_without_an_entailment_are_named(corner, tmp_path, door, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save_entailment(tmp_path / "moods", names=("sad", "so so", "glad")).path
    with pytest.raises(InputError) as caught:
        door(study(corner, model, pairs=[pair(model, corner.student, labels={"posi": "yes"})]))
    text = str(caught.value)
    assert "needs one output called entailment, but its outputs are sad, so so, glad" in text
    assert "has no class 'posi'. Did you mean 'pos'?" in text
    assert [path.name for path in tmp_path.iterdir()] == ["moods"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["stsb"]}, "tells classes, but the task is a regression"),
        ({"tasks": ["rte"]}, "the task's texts are pairs already"),
        ({"distillation": {"signals": {"hidden": 1.0}}}, "reads each text in pairs: use kl"),
        (
            {
                "pairs": [pair("minilm-l6", "x") | {"student": {"from": "teacher", "layers": [0]}}],
                "distillation": {"start": "teacher"},
            },
            "answers by entailment",
        ),
    ],
)
def test_what_it_cannot_teach(corner, changes, message):
    values = {"pairs": [pair("minilm-l6", "minilm-l3")], **changes}
    values["arms"] = ["teacher/given", "student/kd-lora"]
    with pytest.raises(InputError, match=message):
        make_plan(corner.study(**values))


@pytest.mark.parametrize("hypothesis", ["no place", "{} and {}"])
def test_a_hypothesis_has_one_place_for_the_class(hypothesis):
    with pytest.raises(ValueError, match="must stand in it once"):
        Pair.model_validate(pair("m", "s", hypothesis=hypothesis))
    with pytest.raises(ValueError, match="give teacher_is_trained or zero_shot, not both"):
        Pair.model_validate(pair("m", "s") | {"teacher_is_trained": True})


def test_words_of_a_class_are_its_name_unless_told():
    made = Pair.model_validate(pair("m", "s", labels={"pos": "good"})).zero_shot
    assert made.sentences(["pos", "not_so"]) == ["people say good", "people say not so"]
