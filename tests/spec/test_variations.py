from __future__ import annotations

import pytest

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import read_run
from kdlora.vocabulary.arm import Arm, labelled, uncontrolled


def study(**changes):
    values = {
        "name": "s",
        "tasks": ["rte"],
        "pairs": [{"name": "p", "teacher": "big", "student": "small"}],
        "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
        "baselines": False,
    }
    return make_study({**values, **changes})


def ablation(arm="student/kd-lora", grid=False, **vary):
    axes = {axis.replace("__", "."): values for axis, values in vary.items()}
    return {"ablations": [{"arm": arm, "vary": axes, "grid": grid}]}


def planned(**changes):
    """Labelled arm -> its run."""
    plan = make_plan(study(**changes))
    runs = {run.run_id: run for run in plan.runs}
    return {labelled(cell.arm, cell.label): runs[cell.run_id] for cell in plan.cells}


def test_a_variation_changes_what_it_names_and_nothing_else():
    variation = {"arm": "student/kd-lora", "adapter": {"rank": 4, "options": {"x": 1}},
                 "distillation": {"temperature": 7}, "training": {"epochs": 9}}  # fmt: skip
    runs = planned(variations={"best": variation})
    plain, best = runs["student/kd-lora"], runs["student/kd-lora[best]"]
    assert (best.adapter.rank, best.adapter.options, best.kd.temperature) == (4, {"x": 1}, 7)
    assert best.training.epochs == 9
    assert best.label == "best"
    assert best.teacher_run_id == plain.teacher_run_id == runs["teacher/fft"].run_id
    undone = best.model_copy(
        update={"label": "", "adapter": plain.adapter, "kd": plain.kd, "training": plain.training}
    )
    assert read_run(undone.model_dump()).run_id == plain.run_id


def test_overrides_hold_for_the_variations_of_an_arm_too():
    runs = planned(
        overrides={"student/kd-lora": {"adapter": {"rank": 5}, "training": {"epochs": 7}}},
        variations={"v": {"arm": "student/kd-lora", "training": {"batch_size": 8}}},
    )
    varied = runs["student/kd-lora[v]"]
    assert (varied.adapter.rank, varied.training.epochs, varied.training.batch_size) == (5, 7, 8)


def test_axes_run_one_at_a_time():
    runs = planned(**ablation(distillation__temperature=[1, 2.0, 4], adapter__rank=[4, 16],
                              adapter__targets=["query-value", ["query", "key"]],
                              training__lr=[1e-4]))  # fmt: skip
    labels = [name for name in runs if "[" in name]
    assert labels == [
        f"student/kd-lora[{label}]"
        for label in ("temperature=1", "temperature=2", "temperature=4", "rank=4", "rank=16",
                      "targets=query-value", "targets=query+key", "lr=0.0001")
    ]  # fmt: skip
    assert runs["student/kd-lora[temperature=4]"].kd.temperature == 4
    assert runs["student/kd-lora[temperature=4]"].adapter.rank == 16
    assert runs["student/kd-lora[targets=query+key]"].adapter.targets == ("query", "key")
    assert runs["student/kd-lora[lr=0.0001]"].lr == 1e-4


def test_equal_settings_share_one_run():
    runs = planned(**ablation(distillation__temperature=[2.0, 4.0], adapter__rank=[16, 4]))
    ids = {name: run.run_id for name, run in runs.items()}
    assert ids["student/kd-lora[temperature=2]"] == ids["student/kd-lora"]
    assert ids["student/kd-lora[rank=16]"] == ids["student/kd-lora"]
    assert len(set(ids.values())) == len(ids) - 2
    assert runs["student/kd-lora[rank=16]"].label == ""  # the plain arm's run, which comes first


def test_a_grid_is_all_combinations():
    axes = {"distillation__temperature": [1.0, 4.0], "distillation__kd_weight": [0.1, 0.5, 0.9]}
    runs = planned(**ablation(grid=True, **axes))
    points = {(r.kd.temperature, r.kd.kd_weight) for name, r in runs.items() if "[" in name}
    assert points == {(t, w) for t in (1.0, 4.0) for w in (0.1, 0.5, 0.9)}
    assert "student/kd-lora[temperature=4 kd_weight=0.9]" in runs


def test_an_inner_setting_keeps_its_neighbours():
    runs = planned(
        arms=["student/adalora"],
        adapter={"options": {"beta1": 0.7}},
        **ablation("student/adalora", adapter__options__init_r=[20, 24], training__lr__peft=[3e-3]),
    )
    assert runs["student/adalora[options.init_r=20]"].adapter.options == {
        "beta1": 0.7, "init_r": 20,
    }  # fmt: skip
    varied = runs["student/adalora[lr.peft=0.003]"]
    assert varied.lr == 3e-3
    assert varied.training.lr.fft == 1e-4


def test_axes_that_end_alike_are_written_out():
    runs = planned(**ablation(adapter__dropout=[0.1], training__dropout=[0.1]))
    assert {"student/kd-lora[adapter.dropout=0.1]", "student/kd-lora[training.dropout=0.1]"} <= set(
        runs
    )


def test_a_teacher_can_be_varied_and_still_the_plain_one_teaches():
    runs = planned(variations={"long": {"arm": "teacher/fft", "training": {"epochs": 9}}})
    assert runs["teacher/fft[long]"].training.epochs == 9
    assert runs["student/kd-lora"].teacher_run_id == runs["teacher/fft"].run_id


def test_labels_change_no_id():
    plain = planned()
    varied = planned(variations={"v": {"arm": "student/lora", "adapter": {"rank": 3}}})
    assert {name: varied[name].run_id for name in plain} == {n: r.run_id for n, r in plain.items()}
    renamed = planned(variations={"w": {"arm": "student/lora", "adapter": {"rank": 3}}})
    assert renamed["student/lora[w]"].run_id == varied["student/lora[v]"].run_id


def test_a_study_with_variations_survives_its_file():
    one = study(
        variations={"v": {"arm": "student/lora", "adapter": {"budget": 300}}},
        **ablation(distillation__temperature=[1, 3]),
    )
    assert make_study(one.model_dump(mode="json")) == one
    again = make_plan(make_study(one.located().model_dump(mode="json")))
    assert [run.run_id for run in again.runs] == [run.run_id for run in make_plan(one).runs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variations": {"v": {"arm": "student/kd-lorra"}}}, "Did you mean 'lora'"),
        ({"variations": {"v": {"arm": "student/lora", "adaptor": {}}}}, "Did you mean 'adapter'"),
        ({"variations": {"v": {"arm": "student/lora", "adapter": {"rnk": 1}}}},
         "variations.v.adapter.rnk: unknown key. Did you mean 'rank'"),
        ({"variations": {"v": {"arm": "student/lora", "adapter": {"rank": 0}}}}, "greater than 0"),
        ({"variations": {"v": {"arm": "student/lora"}}}, "changes nothing"),
        ({"variations": {"a b": {"arm": "student/lora", "adapter": {"rank": 1}}}}, "is no label"),
        ({"variations": {"v": {"arm": "student/fft", "adapter": {"rank": 1}}}}, "has no adapter"),
        ({"variations": {"v": {"arm": "student/lora", "distillation": {"temperature": 3}}}},
         "Did you mean student/kd-lora?"),
        ({"variations": {"v": {"arm": "teacher/given", "training": {"epochs": 3}}}}, "not trained"),
        (ablation(temperature=[1]), "write section.setting, such as distillation.temperature"),
        (ablation(distillation__temprature=[1, 2]), "Did you mean 'temperature'"),
        (ablation(distillation__temperature=[]), "names no value"),
        (ablation(distillation__temperature=[1, 1]), "named twice"),
        (ablation("student/lora", distillation__temperature=[1]), "has no distillation"),
        ({"variations": {"rank=4": {"arm": "student/lora", "adapter": {"rank": 3}}}}, "no label"),
        ({"variations": {"v": {"arm": "student/kd-lora", "adapter": {"method": "LOHA"}}}},
         "name an arm such as student/kd-peft"),
        ({"arms": ["student/kd-peft"]}, "Name it in adapter.method"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_name(changes, message):
    with pytest.raises(InputError) as caught:
        study(**changes)
    assert message in str(caught.value)


def test_all_problems_at_once():
    with pytest.raises(InputError) as caught:
        study(
            variations={"v": {"arm": "student/lora", "adapter": {"rnk": 1}}},
            **ablation(distillation__temprature=[1, 2], training__epochs=[0]),
        )
    text = str(caught.value)
    assert text.count("temprature") == 1  # once, not for every value
    for part in ("variations.v.adapter.rnk", "vary.training.epochs"):
        assert part in text


def test_labels_are_read_as_they_are_written():
    for arm, label in (("student/kd-lora", "best"), ("teacher/fft", ""), ("a", "t=1 w=0.5")):
        assert Arm.read(labelled(arm, label)) == Arm.read(arm).with_label(label)


def test_a_labelled_arm_is_served_by_the_control_of_the_arm_it_varies():
    arms = ["student/lora", "student/kd-lora", "student/kd-lora[t=4]", "student/kd-dora[x]"]
    assert uncontrolled(arms) == ["student/kd-dora[x]"]
    assert uncontrolled([*arms, "student/dora[x]"]) == []
