"""Run ids are promises: what was done before a field existed stays done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.plan import make_plan
from kdlora.spec.run import (
    NEW_FIELDS,
    DistilledRun,
    EncoderRef,
    OutputsRef,
    TrainedRun,
    read_run,
)
from kdlora.spec.sections import OwnTask, Training
from kdlora.spec.study import merged

PAIRS = [
    {"teacher": "big", "student": "small"},
    {"teacher": "g", "student": "small", "teacher_is_trained": True},
]


def plan(**changes):
    values = {"name": "x", "tasks": ["rte", "stsb"], "pairs": PAIRS, "seeds": [1, 2]}
    values |= {
        "training": {"epochs": 3, "lr": {"fft": 1e-4, "peft": 1e-3}},
        "adapter": {"rank": 8},
        "overrides": {"student/kd-fft": {"distillation": {"temperature": 4}}},
    }
    values["arms"] = ["teacher/fft", "teacher/adalora", "student/kd-fft", "student/kd-dora"]
    return make_plan(make_study({**values, **changes}))


# as the first version of kdlora computed them
KNOWN = {
    "rte-baseline-majority-s0-4ff8dd720d09",
    "rte-teacher-fft-s1-29e475984fb0",
    "rte-teacher-adalora-s1-df8768100aad",
    "rte-student-kd-fft-s1-7088713e8743",
    "rte-student-kd-dora-s1-5d9b599bde0c",
    "rte-teacher-given-s0-67feb95d603d",
    "rte-student-kd-fft-s1-4a51652ac38d",
}


def test_ids_of_the_first_version_are_kept():
    ids = {run.run_id for run in plan().runs}
    assert len(ids) == 32  # two of them, of the untrained embeddings, are newer
    assert ids >= KNOWN


def test_a_regression_is_another_run_since_its_target_is_standardised():
    old = "stsb-student-kd-dora-s2-2f9b59eb2830"  # as the first version planned it
    new = next(run for run in plan().runs if run.run_id.startswith(old[:-12] + "0bd6743607a8"))
    values = new.model_dump(mode="json")
    assert values.pop("target") == "standardised"
    assert read_run(values).run_id == old


def test_writing_a_default_down_changes_no_id():
    section = {"signals": {"kl": 1}, "hidden_cache_mb": 5, "unlabelled": False, "teacher_seeds": []}
    ids = [run.run_id for run in plan().runs]
    assert [run.run_id for run in plan(distillation=section).runs] == ids


@pytest.mark.parametrize(
    "section",
    [
        {"signals": {"kl": 2.0}},
        {"signals": {"logit-mse": 1.0}},
        {"signals": {"kl": 1.0, "hidden": 1.0}},
        {"teacher_seeds": [1, 2]},
    ],
)
def test_what_changes_the_training_changes_the_ids_of_distilled_runs_alone(section):
    pairs = PAIRS[:1]
    before, after = plan(pairs=pairs), plan(pairs=pairs, distillation=section)
    kept = {run.run_id for run in before.runs} & {run.run_id for run in after.runs}
    assert {run.distillation for run in before.runs if run.run_id not in kept} == {"kd"}
    assert all(run.distillation == "none" for run in before.runs if run.run_id in kept)


def test_weights_of_classes_are_part_of_the_ids_of_trained_runs_where_there_are_any():
    before = plan()
    for same in ({"class_weights": "none"}, {"focal": 0}, {"class_weights": "none", "focal": 0.0}):
        same |= {"epochs": 3}
        assert plan(training=same).runs == plan(training={"epochs": 3}).runs
    for other in ({"class_weights": "balanced"}, {"class_weights": {"a": 3}}, {"focal": 2}):
        after = plan(training=other)
        kept = {run.run_id for run in before.runs} & {run.run_id for run in after.runs}
        changed = [run for run in before.runs if run.run_id not in kept]
        assert all(isinstance(run, TrainedRun) for run in changed)
        assert not any(isinstance(run, TrainedRun) for run in after.runs if run.run_id in kept)


def test_the_cache_counts_only_where_states_are_matched():
    def ids(signals, cache):
        section = {"signals": signals, "hidden_cache_mb": cache}
        return [run.run_id for run in plan(pairs=PAIRS[:1], distillation=section).runs]

    assert ids({"kl": 1.0}, 0) == ids({"kl": 1.0}, 2000)
    assert ids({"relations": 1.0}, 0) != ids({"relations": 1.0}, 2000)


def test_a_dumped_run_is_the_same_run():
    section = {"signals": {"logit-mse": 1, "hidden": {"layers": {1: 2}}}, "teacher_seeds": "all"}
    for run in plan(pairs=PAIRS[:1], distillation=section).runs:
        again = read_run(run.model_dump_json())
        assert again == run
        assert again.run_id == run.run_id


def test_new_fields_exist():
    whole = next(run for run in plan().runs if isinstance(run, DistilledRun) and run.adapter)
    parts = {"task.own": OwnTask, "outputs": OutputsRef}
    parts |= dict.fromkeys(("embeddings", "entailment"), EncoderRef)
    for section, names in NEW_FIELDS.items():
        model = parts.get(section) or type(getattr(whole, section) if section else whole)
        assert set(names) <= set(model.model_fields), section


def test_a_file_that_taught_before_it_was_calibrated_keeps_its_id(tmp_path):
    (tmp_path / "rte.csv").write_text("sentence1,sentence2\na,b\n")
    file = {"file": "rte.csv", "kind": "logits"}
    study = {"name": "x", "tasks": ["rte"], "base_dir": str(tmp_path)}

    def teacher(**changes):
        pair = {"name": "f", "student": "small", "teacher_outputs": file | changes}
        return make_plan(make_study(study | {"pairs": [pair]})).runs[3]

    now, plain = teacher(), teacher(calibrate=False)
    old = plain.model_dump(mode="json")
    for name in ("calibrate", "label", "confidence"):
        del old["outputs"][name]
    assert read_run(old).run_id == plain.run_id == old["run_id"]
    assert not {"calibrate", "label", "confidence"} & plain.identity()["outputs"].keys()
    assert now.run_id != plain.run_id


def test_a_located_study_finds_its_files_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("more.csv", "rte.csv"):
        (tmp_path / "here" / name).write_text("sentence1,sentence2\na,b\n")
    pair = {"name": "f", "student": "small"}
    pair["teacher_outputs"] = {"file": "{task}.csv", "kind": "logits"}
    study = make_study(
        {
            "name": "x",
            "tasks": ["rte"],
            "pairs": [pair],
            "unlabelled": {"rte": ["more.csv"]},
            "base_dir": str(tmp_path / "here"),
        }
    )
    again = make_study({**study.located().model_dump(mode="json"), "base_dir": str(tmp_path)})
    runs = [[run.run_id for run in make_plan(each).runs] for each in (study, again)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])


def test_runs_of_other_seeds_are_what_they_would_be_if_made_one_by_one():
    signals = {"signals": {"kl": 1, "hidden": 1}, "teacher_seeds": [1, 2]}
    ensemble = {"student/kd-fft": {"distillation": signals}}
    several = plan(pairs=PAIRS[:1], overrides=ensemble)
    for made in (plan(), several, plan(adapter={"options": {"a": "{x}"}})):
        for run in made.runs:
            anew = type(run)(**{name: getattr(run, name) for name in type(run).model_fields})
            assert anew == run
            assert anew.run_id == run.run_id == read_run(run.model_dump()).run_id
            assert run.run_id.endswith(hash_json(run.identity(), 12))


def test_saved_plans_keep_their_ids():
    results = Path(__file__).resolve().parents[2] / "results"
    kept = sorted(results.glob("*/plan.json"))
    if not kept:
        pytest.skip("no study has been run in this checkout")
    for path in kept:
        for run_id, values in json.loads(path.read_text(encoding="utf-8"))["runs"].items():
            assert read_run(values).run_id == run_id, path


def test_settings_that_came_later_change_no_id_where_they_change_no_training():
    """Each written down as runs were before it, and records without it."""
    before = [run.run_id for run in plan().runs]
    rates = {"fft": 1e-4, "peft": 1e-3, "head": None}
    same = {"epochs": 3, "min_steps": 0, "count_texts": False, "lr": rates}
    runs = plan(training=same).runs
    assert [run.run_id for run in runs] == before
    for run in runs:
        values = run.model_dump(mode="json")
        for name in ("min_steps", "count_texts"):
            values.get("training", {}).pop(name, None)
        for name in ("head_lr", "counted"):
            values.pop(name, None)
        values["data"].pop("max_selection")
        assert read_run(values).run_id == run.run_id


def test_who_names_rates_means_them():
    assert Training().lr.head == 1e-3
    assert Training(epochs=3).lr.head == 1e-3
    assert Training(lr={"fft": 5e-5}).lr.head is None
    assert Training(lr=5e-5).lr.head is None
    assert Training(lr={"fft": 5e-5, "head": 2e-3}).lr.head == 2e-3
    assert Training.model_validate(Training().model_dump()) == Training()


def test_who_names_epochs_means_them():
    assert Training().min_steps == 200
    assert Training(epochs=3).min_steps == 0
    assert Training(epochs=3, min_steps=7).min_steps == 7
    changed = merged(Training(min_steps=200), {"epochs": 9})
    assert (changed.epochs, changed.min_steps) == (9, 0)
    assert merged(Training(), {"weight_decay": 0.1}).min_steps == 200
    written = Training.model_validate(Training().model_dump())
    assert written == Training()


def test_a_rate_of_the_head_is_part_of_the_runs_that_it_changes():
    arms = {"arms": ["teacher/fft", "student/lora"], "seeds": [1], "overrides": {}}
    rates = {"fft": 1e-4, "peft": 1e-3}
    before = {run.title: run for run in plan(**arms, training={"lr": rates}).runs}
    after = {run.title: run for run in plan(**arms, training={"lr": rates | {"head": 1e-3}}).runs}
    assert after["teacher/fft"].head_lr == 1e-3
    assert after["teacher/fft"].run_id != before["teacher/fft"].run_id
    assert after["student/lora"].run_id == before["student/lora"].run_id  # its own rate already
    assert Training(lr=3e-4).lr.head is None  # one number is the rate of everything


def test_few_labels_plan_a_small_selection_split_and_records_of_before_keep_theirs():
    run = plan(data={"max_train": 1000}).runs[0]
    assert run.data.max_selection == 250
    assert plan(data={"max_train": 300}).runs[0].data.max_selection == 100
    assert plan().runs[0].data.max_selection is None
    old = run.model_dump(mode="json")
    old["data"].pop("max_selection")
    assert read_run(old).run_id != run.run_id


def test_a_control_counts_the_texts_that_it_does_not_learn_from():
    changes = {
        "tasks": ["rte"], "seeds": [1], "pairs": PAIRS[:1], "overrides": {},
        "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
        "data": {"max_train": 100}, "unlabelled": {"rte": "rest"},
        "variations": {
            "equal-steps": {"arm": "student/lora", "training": {"count_texts": True}},
            "taught": {"arm": "student/kd-lora", "training": {"count_texts": True}},
        },
    }  # fmt: skip
    runs = {run.title: run for run in plan(**changes).runs}
    control = runs["student/lora[equal-steps]"]
    assert control.counted == runs["student/kd-lora"].unlabelled
    assert control.counted[0].is_rest
    assert control.run_id != runs["student/lora"].run_id
    assert runs["student/lora"].counted == ()
    # an arm that learns from them is no other for counting them
    assert "student/kd-lora[taught]" not in runs
    with pytest.raises(InputError, match="no unlabelled texts"):
        plan(**changes | {"unlabelled": {}})
    named = {"equal-steps": {"arm": "student/lora", "training": {"epochs": 5}}}
    with pytest.raises(InputError, match="compared as the control of as many steps"):
        plan(**changes | {"variations": named})
    with pytest.raises(InputError, match="there is no max_train"):
        plan(**changes | {"data": {}})
