"""Each condition of a fair comparison, broken on its own, is found, named and told apart."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kdlora
from kdlora.evidence.compare import compare
from kdlora.evidence.diagnosis import diagnose
from kdlora.records.fairness import (
    ASKED,
    CONDITIONS,
    FIELDS,
    asked_of,
    differences,
    flag_unequal,
)
from kdlora.spec.plan import make_plan
from tests.harness.studies import make_frame

ENVIRONMENT = {
    "python": "3.11.9",
    "processor": "Xeon",
    "gpu": None,
    "versions": {"torch": "2.13", "peft": "0.21"},
}
ASKED_OF_ALL = {
    "batch_size": 32,
    "epochs": 3,
    "steps": (32, 3, ()),
    "max_length": 128,
    "windows": None,
    "precision": "auto",
    "class_weights": "none",
    "focal": "0",
}
# field -> another value of its column, and how the two are called in the flag
BROKEN = {
    "batch_size": ("batch_size", 64, "64", "32"),
    "epochs": ("epochs", 5, "5", "3"),
    "steps": ("planned_steps", 117.0, "117", "60"),
    "max_length": ("max_length", 512, "512", "128"),
    "windows": ("windows", "mean of up to 16", "mean of up to 16", "none"),
    "precision": ("precision", "fp32", "fp32", "bf16"),
    "target": ("target", "in its own unit", "in its own unit", "standardised"),
    "class_weights": ("class_weights", "a 1, b 9", "a 1, b 9", "none"),
    "focal": ("focal", "2", "2", "0"),
    "device": ("device", "cuda", "cuda", "cpu"),
    "hardware": ("environment", {**ENVIRONMENT, "gpu": "A100"}, "A100", "Xeon"),
    "versions": (
        "environment",
        {**ENVIRONMENT, "versions": {"torch": "2.12", "peft": "0.21"}},
        "python 3.11.9, torch 2.12, peft 0.21",
        "python 3.11.9, torch 2.13, peft 0.21",
    ),
}


def study() -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{task}-{arm}-{seed}",
            "task": task,
            "pair": "p",
            "arm": arm,
            "role": arm.split("/")[0],
            "adaptation": "lora",
            "distillation": "none",
            "seed": seed,
            "status": "done",
            "metric": "accuracy",
            "direction": 1,
            "score": 0.8,
            "batch_size": 32,
            "epochs": 3,
            "planned_steps": 60.0,
            "max_length": 128,
            "precision": "bf16",
            "target": "standardised",
            "class_weights": "none",
            "focal": "0",
            "device": "cpu",
            "environment": ENVIRONMENT,
            "flags": (),
            "flag_details": (),
            "flag_severities": (),
            ASKED: ASKED_OF_ALL,
        }
        for task in ("rte", "mrpc")
        for arm in ("teacher/lora", "student/lora")
        for seed in (1, 2)
    ]
    return pd.DataFrame(rows)


def broken(field: str) -> tuple[pd.DataFrame, int]:
    frame = study()
    row = frame.index[frame["run_id"] == "mrpc-student/lora-2"][0]
    frame.at[row, BROKEN[field][0]] = BROKEN[field][1]
    return frame, row


def test_what_should_be_alike_stands_in_one_list():
    """No other module lists the conditions of a fair training; column lists of imports aside."""
    package, core = Path(kdlora.__file__).parent, {"batch_size", "epochs", "device"}
    lists = []
    for path in package.rglob("*.py"):
        if path.parent.name == "importing":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            if core <= {one.value for one in found if isinstance(one, ast.Constant)}:
                lists.append(f"{path.name}:{node.lineno}")
    assert lists == []


def test_each_condition_is_held_to_by_somebody():
    assert len({one.field for one in CONDITIONS}) == len(CONDITIONS)
    assert all(one.flagged or one.listed or one.across_tasks for one in CONDITIONS)


def test_equal_runs_carry_no_flag():
    frame = study()
    assert list(differences(frame)) == []
    assert flag_unequal(frame) is frame


def test_every_field_is_tried():
    assert set(BROKEN) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_differs_flags_the_one_run_with_both_values(field):
    frame, row = broken(field)
    flagged = flag_unequal(frame)
    assert [i for i, flags in flagged["flags"].items() if flags] == [row]
    assert flagged.at[row, "flags"] == (f"unequal_{field}",)
    assert flagged.at[row, "flag_severities"] == ("warning",)
    (detail,) = flagged.at[row, "flag_details"]
    _, _, value, usual = BROKEN[field]
    assert detail == (
        f"{FIELDS[field]} {value} where 3 of 4 trained runs of this task and pair have {usual}, "
        "which the study file does not ask for"
    )
    assert frame.at[row, "flags"] == ()  # the given frame is as it was


@pytest.mark.parametrize("field", ASKED_OF_ALL)
def test_what_the_study_file_asks_for_is_stated(field):
    frame, row = broken(field)
    frame.at[row, ASKED] = {**ASKED_OF_ALL, field: "another"}
    (found,) = differences(frame)
    assert found.stated
    assert flag_unequal(frame).at[row, "flag_severities"] == ("info",)


def test_more_epochs_are_more_steps_said_once():
    frame, row = broken("epochs")
    frame.at[row, "planned_steps"] = 100.0
    assert flag_unequal(frame).at[row, "flags"] == ("unequal_epochs",)


def test_only_trained_runs_that_are_done_take_part():
    for column, value in (("role", "baseline"), ("adaptation", "given"), ("status", "failed"),
                          ("status", "stopped"), ("status", "missing")):  # fmt: skip
        frame, row = broken("precision")
        frame.at[row, column] = value
        assert list(differences(frame)) == []


def test_tasks_and_pairs_are_looked_at_on_their_own():
    frame = study()
    frame.loc[frame["task"] == "rte", "planned_steps"] = 400.0
    assert list(differences(frame)) == []
    frame.loc[frame["seed"] == 2, "pair"] = "q"
    frame.loc[frame["seed"] == 2, "device"] = "cuda"
    assert list(differences(frame)) == []


def test_a_run_of_two_pairs_carries_the_flags_of_both():
    frame = study()
    twin = frame[frame["task"] == "rte"].copy()
    shared = twin["run_id"] == "rte-student/lora-1"
    twin["pair"] = "q"
    twin.loc[~shared, "run_id"] += "-q"
    twin.loc[~shared, "precision"] = "fp32"
    both = flag_unequal(pd.concat([frame, twin], ignore_index=True))
    flags = both.loc[both["run_id"] == "rte-student/lora-1", "flags"]
    assert list(flags) == [("unequal_precision",)] * 2


def test_unknown_values_are_no_difference():
    frame, row = broken("precision")
    frame.at[row, "precision"] = None
    assert list(differences(frame)) == []


def test_the_doctor_names_it():
    frame, _ = broken("device")
    found = {finding.name: finding for finding in diagnose(flag_unequal(frame))}
    finding = found["flag:unequal_device"]
    assert finding.severity == "warning"
    assert finding.rows == ("mrpc-student/lora-2",)
    assert "device cuda where 3 of 4" in finding.sentence


@pytest.mark.parametrize("field", FIELDS)
def test_a_comparison_says_which_of_its_cells_are_unequal(field):
    frame, _ = broken(field)
    rng = np.random.default_rng(0)
    made = compare(frame, "student/lora", "teacher/lora", rng=rng)
    (text,) = made.unequal
    assert text.startswith(f"{FIELDS[field]} differs in 1 of 4 paired cells")
    assert f"unequal conditions: {text}" in made.notes
    if field != "versions":
        assert text.endswith(f"({BROKEN[field][2]} against {BROKEN[field][3]})")
    assert compare(study(), "student/lora", "teacher/lora", rng=rng).unequal == ()


def test_an_arm_with_texts_names_its_control_of_as_many_steps():
    for arm, control in (("student/lora[equal-steps]", True), ("student/lora[other]", False)):
        frame = study()
        frame["n_unlabelled"] = np.nan
        taught = frame.index[frame["run_id"] == "mrpc-student/lora-2"][0]
        beside = frame.index[frame["run_id"] == "mrpc-student/lora-1"][0]
        frame.at[taught, "planned_steps"], frame.at[taught, "n_unlabelled"] = 117.0, 900
        frame.at[beside, "arm"] = arm
        frame.at[beside, "planned_steps"] = 117.0 if control else 60.0
        (detail,) = flag_unequal(frame).at[taught, "flag_details"]
        told = f"{arm} took as many" if control else "no student took as many without"
        assert detail.endswith(f": it learns from texts without labels; {told}")


@pytest.mark.parametrize(("min_steps", "asked"), [(200, True), (0, False)])
def test_fewer_passes_over_more_texts_are_asked_for_by_a_floor_of_steps_alone(
    corner, tmp_path, min_steps, asked
):
    texts = tmp_path / "texts.csv"
    texts.write_text("review\n" + "".join(f"text {i}\n" for i in range(300)))
    training = {"epochs": 1, "batch_size": 16, "max_length": 32, "min_steps": min_steps}
    study = corner.study(unlabelled={"moods": str(texts)}, training=training)
    runs = {run.arm: asked_of(run) for run in make_plan(study).runs}
    differ = runs["student/kd-lora"]["epochs"] != runs["student/lora"]["epochs"]
    assert differ is asked
    assert runs["student/kd-lora"]["steps"] != runs["student/lora"]["steps"]


def test_a_last_layer_that_is_fitted_alone_takes_no_steps_to_be_compared():
    frame = make_frame(arms=("teacher/fft", "student/fft", "student/lora"), baselines=False)
    frozen = frame[frame["arm"] == "student/lora"].assign(
        arm="student/frozen", adaptation="frozen", batch_size=None, epochs=None, steps=0
    )
    whole = pd.concat([frame[frame["arm"] != "student/lora"], frozen], ignore_index=True)
    fields = {found.field for found in differences(whole)}
    assert not fields & {"batch_size", "epochs", "steps"}
