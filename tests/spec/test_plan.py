from __future__ import annotations

import pytest

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.resolve import encoder_ref
from kdlora.spec.run import read_run


def study(**changes):
    values = {
        "name": "s",
        "tasks": ["sst2", "rte"],
        "pairs": [{"name": "p", "teacher": "big", "student": "small"}],
        "seeds": [1, 2],
    }
    return make_study({**values, **changes})


def ids(plan, arm, task="rte"):
    return [r.run_id for r in plan.runs if r.arm == arm and r.task.name == task]


def test_every_cell_has_its_run_and_teachers_come_first():
    plan = make_plan(study())
    position = {run.run_id: i for i, run in enumerate(plan.runs)}
    assert {cell.run_id for cell in plan.cells} == set(position)
    assert len(plan.cells) == 2 * 2 * (5 + 3)  # tasks x seeds x (arms + baselines)
    assert len(plan.runs) == 2 * (2 * 5 + 3)  # a baseline has no seed
    for run in plan.runs:
        for teacher in run.teachers:
            assert position[teacher] < position[run.run_id]


def test_stopping_early_leaves_whole_replicates():
    seeds = [cell.seed for cell in make_plan(study()).cells]
    assert seeds == sorted(seeds)


def test_a_teacher_is_planned_for_its_students_even_if_no_arm_names_it():
    plan = make_plan(study(arms=["student/kd-lora"], baselines=False))
    assert {run.arm for run in plan.runs} == {"teacher/fft", "student/kd-lora"}


def test_a_matrix_shares_teachers_and_undistilled_students():
    pairs = [{"teacher": t, "student": s} for t in ("big1", "big2") for s in ("small1", "small2")]
    plan = make_plan(study(tasks=["rte"], seeds=[1], pairs=pairs, baselines=False))
    assert len(ids(plan, "teacher/fft")) == 2
    assert len(ids(plan, "student/lora")) == 2
    assert len(ids(plan, "student/kd-lora")) == 4
    assert len(plan.cells) == 4 * 5


@pytest.mark.parametrize(
    ("changes", "arms"),
    [
        ({"adapter": {"rank": 99}}, {"teacher/lora", "student/lora", "student/kd-lora"}),
        ({"distillation": {"temperature": 9}}, {"student/kd-lora"}),
        ({"training": {"epochs": 9}},
         {"teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"}),
        ({"training": {"lr": {"peft": 9e-4, "head": 1e-3}}},
         {"teacher/lora", "student/lora", "student/kd-lora"}),
        ({"pairs": [{"name": "renamed", "teacher": "big", "student": "small"}]}, set()),
        ({"pairs": [{"name": "p", "teacher": "big", "student": "tiny"}]},
         {"student/fft", "student/lora", "student/kd-lora", "baseline/embeddings"}),
        ({"name": "another"}, set()),
    ],
)  # fmt: skip
def test_an_id_changes_only_with_what_affects_the_run(changes, arms):
    before, after = make_plan(study()), make_plan(study(**changes))
    changed = {
        arm for arm in {run.arm for run in before.runs} if ids(before, arm) != ids(after, arm)
    }
    assert changed == arms


def test_a_teacher_given_fine_tuned_is_scored_once_for_all_seeds():
    pairs = [{"teacher": "big", "student": "small", "teacher_is_trained": True}]
    plan = make_plan(study(tasks=["rte"], pairs=pairs, arms=["student/kd-lora"]))
    assert len(ids(plan, "teacher/given")) == 1
    assert len(ids(plan, "student/kd-lora")) == 2
    assert not ids(plan, "teacher/fft")


def test_edited_data_makes_new_runs(tmp_path):
    train = tmp_path / "t.csv"
    train.write_text("text,label\nfine,a\n")
    own = study(tasks=[{"name": "own", "train": str(train)}])
    before = make_plan(own).runs[2].run_id
    train.write_text("text,label\nfine,b\n")
    assert make_plan(own).runs[2].run_id != before


def test_moved_data_makes_no_new_runs(tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        train = tmp_path / name / "t.csv"
        train.write_text("text,label\nfine,a\n")
        found.append(make_plan(study(tasks=[{"name": "own", "train": str(train)}])).runs[2].run_id)
    assert found[0] == found[1]


def test_everything_missing_is_named_at_once(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    tasks = [
        {"name": "a", "train": "nope.csv", "eval": str(empty)},
        {"name": "rte", "train": str(empty)},
    ]
    with pytest.raises(InputError) as caught:
        make_plan(study(tasks=tasks, pairs=[{"teacher": "./no/folder", "student": str(tmp_path)}]))
    text = str(caught.value)
    for part in ("no train file at nope.csv", "is empty", "belongs to a built-in task",
                 "no model folder at", "holds no config.json"):  # fmt: skip
        assert part in text


def test_near_names_of_packaged_encoders_are_suggested():
    with pytest.raises(InputError, match="Did you mean 'minilm-l"):
        encoder_ref("minilm-l12", ".")
    assert encoder_ref("microsoft/MiniLM-L12-H384-uncased", ".").source == "hub"


@pytest.mark.parametrize("given", ["MiniLM-L6", "minlm-l6", "mimilm-l6"])
def test_a_slip_in_a_packaged_name_is_told(given):
    with pytest.raises(InputError, match="Did you mean 'minilm-l6'"):
        encoder_ref(given, ".")


def test_a_slip_in_the_name_of_a_folder_is_told_and_another_figure_is_none(tmp_path):
    (tmp_path / "google" / "bert-v1-teacher").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Did you mean '.*google/bert-v1-teacher'"):
        encoder_ref("google/bert-v1-techer", str(tmp_path))
    for name in ("google/bert-v2-teacher", "google/bert-v1-student", "facebook/bert-v1-teacher"):
        assert encoder_ref(name, str(tmp_path)).source == "hub"


def test_a_run_survives_json():
    for run in make_plan(study()).runs:
        again = read_run(run.model_dump_json())
        assert again == run
        assert again.run_id == run.run_id


def test_files_of_own_data_below_the_data_dir(tmp_path):
    (tmp_path / "moods").mkdir()
    (tmp_path / "moods" / "train.csv").write_text("text,label\na,b\n")
    task = {"name": "moods", "train": "{data_dir}/moods/train.csv"}
    found = make_plan(study(tasks=[task], data_dir=str(tmp_path))).runs[0].task
    assert found.own.train == str(tmp_path / "moods" / "train.csv")
    with pytest.raises(InputError, match="its files need data_dir"):
        make_plan(study(tasks=[task]))
