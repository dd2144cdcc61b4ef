from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdlora.errors import InputError
from kdlora.spec.adapter import Adapter
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import TrainedRun, read_run
from kdlora.spec.study import merged


def test_a_budget_stands_in_place_of_a_rank():
    adapter = Adapter(budget=1000)
    assert adapter.rank is None
    assert adapter.at_rank(7) == Adapter(rank=7)
    assert Adapter.model_validate(adapter.model_dump()) == adapter
    with pytest.raises(ValueError, match="before the budget is resolved"):
        _ = adapter.alpha_value
    assert Adapter(budget=9, alpha=3.5).alpha_value == 3.5


@pytest.mark.parametrize("values", [{"rank": 8, "budget": 9}, {"rank": None}, {"budget": 0},
                                    {"config": {"r": 1}}])  # fmt: skip
def test_sizes_that_contradict_each_other(values):
    with pytest.raises(ValidationError):
        Adapter(**values)


@pytest.mark.parametrize(
    ("alpha", "kept", "value"),
    [
        ("rank", "rank", 8), ("1*rank", "rank", 8), (" 1.0 * rank ", "rank", 8),
        ("2*rank", "2*rank", 16), ("2.0*rank", "2*rank", 16), ("2 * rank", "2*rank", 16),
        ("4*rank", "4*rank", 32), ("0.5*rank", "0.5*rank", 4), (".5*rank", "0.5*rank", 4),
        ("1e-1*rank", "0.1*rank", 0.8), (16, 16.0, 16), ("16", 16.0, 16), (0.5, 0.5, 0.5),
    ],
)  # fmt: skip
def test_alpha_is_a_number_or_any_multiple_of_the_rank_in_one_spelling(alpha, kept, value):
    adapter = Adapter(rank=8, alpha=alpha)
    assert (adapter.alpha, type(adapter.alpha)) == (kept, type(kept))
    assert adapter.alpha_value == pytest.approx(value)
    assert Adapter.model_validate_json(adapter.model_dump_json()) == adapter


def test_spellings_of_alpha_are_one_run():
    def run_id(**adapter) -> str:
        values = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "a", "student": "b"}]}
        values |= {"arms": ["student/lora"], "baselines": False, "adapter": adapter}
        return make_plan(make_study(values)).runs[0].run_id

    assert run_id() == run_id(alpha="2*rank") == run_id(alpha="2.0 * rank")
    assert run_id() != run_id(alpha="4*rank") == run_id(alpha="4.0*rank")


@pytest.mark.parametrize("alpha", ["2rank", "rank*2", "0*rank", "-1*rank", "twice", -1, 0, True,
                                   "nan", "inf", "", None, [1]])  # fmt: skip
def test_no_alpha_is_told_in_one_plain_sentence(alpha):
    values = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "a", "student": "b"}]}
    with pytest.raises(InputError) as caught:
        make_study({**values, "adapter": {"alpha": alpha}})
    text = f"{alpha!r} is no alpha: give a positive number (16), rank, or a positive multiple"
    assert [p for p in caught.value.problems if "alpha" in p] == caught.value.problems
    assert caught.value.problems[0].startswith(f"adapter.alpha: {text}")


def test_the_study_names_both():
    values = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "a", "student": "b"}]}
    with pytest.raises(InputError, match="rank 8 and budget 900 are both given"):
        make_study({**values, "adapter": {"rank": 8, "budget": 900}})


def test_a_size_gives_way_to_one_of_the_other_kind():
    assert merged(Adapter(rank=8), {"budget": 900}) == Adapter(budget=900)
    assert merged(Adapter(budget=900), {"rank": 8}) == Adapter(rank=8)
    assert merged(Adapter(budget=900), {"dropout": 0.1}) == Adapter(budget=900, dropout=0.1)
    with pytest.raises(ValidationError):
        merged(Adapter(), {"rank": 8, "budget": 900})


def test_another_method_leaves_the_first_ones_config():
    first = Adapter(rank=None, method="loha", config={"r": 2})
    assert first.method == "LOHA"
    assert merged(first, {"method": "ln-tuning"}) == Adapter(rank=None, method="LN_TUNING")
    assert merged(first, {"config": {"r": 3}}).config == {"r": 3}


def test_every_arm_gets_only_what_concerns_it():
    values = {
        "name": "s", "tasks": ["rte"], "pairs": [{"teacher": "a", "student": "b"}],
        "arms": ["student/lora", "student/peft"], "baselines": False,
        "adapter": {"rank": 3, "method": "LOHA", "config": {"r": 2}, "targets": "query-value"},
    }  # fmt: skip
    runs = {run.arm: run for run in make_plan(make_study(values)).runs}
    assert runs["student/lora"].adapter == Adapter(rank=3, targets=("query-value",))
    assert runs["student/peft"].adapter == Adapter(
        rank=None, method="LOHA", config={"r": 2}, targets=("query-value",)
    )
    values["adapter"] |= {"rank": 5}
    again = {run.arm: run for run in make_plan(make_study(values)).runs}
    assert again["student/peft"].run_id == runs["student/peft"].run_id
    assert again["student/lora"].run_id != runs["student/lora"].run_id


def test_new_fields_change_no_id_while_they_are_unused():
    """Ids of runs that were done before the fields existed."""
    values = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "a", "student": "b"}]}
    values |= {"arms": ["teacher/fft", "student/kd-mrlora"], "seeds": [1], "baselines": False}
    values["training"] = {"epochs": 3, "lr": {"fft": 1e-4, "peft": 1e-3}}
    assert [run.run_id for run in make_plan(make_study(values)).runs] == [
        "rte-teacher-fft-s1-49f3a19bee6e", "rte-student-kd-mrlora-s1-d8855a24b6f5",
    ]  # fmt: skip


def student(spec: object, **changes) -> TrainedRun:
    values = {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "big", "student": spec}]}
    plan = make_plan(make_study(values | {"arms": ["student/kd-lora"]} | changes))
    return next(run for run in plan.runs if run.role == "student")


def test_a_student_made_of_its_teachers_layers():
    made = student({"from": "teacher", "layers": [0, 2, 4]})
    assert (made.encoder.name, made.encoder.layers) == ("big", (0, 2, 4))
    assert made.encoder.title == "big[0,2,4]"
    assert made.reference.layers is None
    assert made.pair == "big--teacher-layers-0-2-4"
    assert made.run_id == student({"from": "big", "layers": [0, 2, 4]}).run_id
    assert made.run_id != student({"from": "teacher", "layers": [0, 2]}).run_id
    assert made.run_id != student("big").run_id
    assert student({"from": "other", "layers": [1]}).encoder.name == "other"
    assert read_run(made.model_dump_json()).run_id == made.run_id


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([1, 1], "name each layer once"),
        ([2, 0], "in rising order"),
        ([-1], "greater than or equal to 0"),
        ([], "at least 1"),
        ("0", "valid tuple"),
    ],
)
def test_layers_that_make_no_student(layers, message):
    with pytest.raises(InputError, match=message):
        student({"from": "teacher", "layers": layers})


def test_a_file_of_outputs_has_no_layers():
    pair = {"teacher_outputs": {"file": "x.csv", "kind": "logits"},
            "student": {"from": "teacher", "layers": [0]}}  # fmt: skip
    with pytest.raises(InputError, match="has no layers to take"):
        make_study({"name": "s", "tasks": ["rte"], "pairs": [pair]})
