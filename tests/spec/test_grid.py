"""Matrix form, lists of ranks and budgets, exclusions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import adapter_of
from kdlora.vocabulary.arm import labelled


def study(**changes):
    values = {"name": "s", "tasks": ["sst2", "rte"], "seeds": [1, 2], "baselines": False}
    if "pairs" not in changes and "matrix" not in changes:
        values["pairs"] = [{"name": "p", "teacher": "big", "student": "small"}]
    return make_study({**values, **changes})


def titles(plan):
    return {labelled(cell.arm, cell.label) for cell in plan.cells}


def test_a_matrix_is_every_teacher_beside_every_student():
    made = study(matrix={"teachers": ["a", "b"], "students": ["x", {"from": "b", "layers": [0]}]})
    assert [(p.teacher, p.student_title) for p in made.pairs] == [
        ("a", "x"), ("a", "b[0]"), ("b", "x"), ("b", "b[0]"),
    ]  # fmt: skip
    written = study(pairs=[{"teacher": t, "student": s} for t in "ab" for s in "xy"])
    short = study(matrix={"teachers": ["a", "b"], "students": ["x", "y"]})
    assert make_plan(short).runs == make_plan(written).runs


def test_a_matrix_survives_being_written_down():
    made = study(matrix={"teachers": "a", "students": ["x", "y"]}, ranks=[8, 4])
    again = make_study(made.model_dump(mode="json"))
    assert again == made
    assert make_plan(again).runs == make_plan(made).runs


def test_pairs_or_a_matrix_must_be_there():
    with pytest.raises(InputError, match="pairs: is required; or give a matrix"):
        study(pairs=[])
    with pytest.raises(InputError, match=r"matrix\.student: unknown key\. Did you mean 'students'"):
        study(matrix={"teachers": ["a"], "student": ["x"]})


def test_every_peft_arm_at_every_rank():
    plan = make_plan(study(ranks=[8, 64], arms=["teacher/fft", "student/dora", "student/kd-lora"]))
    assert titles(plan) == {
        "teacher/fft", "student/dora", "student/dora[rank=64]",
        "student/kd-lora", "student/kd-lora[rank=64]",
    }  # fmt: skip
    ranks = {run.title: run.adapter.rank for run in plan.runs if adapter_of(run)}
    assert ranks["student/kd-lora"] == 8  # the first, where the adapter section names none
    assert ranks["student/kd-lora[rank=64]"] == 64
    assert len(plan.runs) == len(plan.cells) == 2 * 2 * 5


def test_the_adapters_own_rank_bears_the_arms_name():
    ranked = make_plan(study(ranks=[8, 16, 32], adapter={"rank": 16}))
    plain = make_plan(study(adapter={"rank": 16}))
    assert {r.run_id for r in plain.runs} < {r.run_id for r in ranked.runs}
    names = {run.run_id: run.title for run in ranked.runs}
    assert all(names[run.run_id] == run.title for run in plain.runs)


def test_budgets_as_a_list_and_arms_that_keep_their_own_size():
    plan = make_plan(study(budgets=[1000, 5000], arms=["teacher/fft", "student/lora"]))
    sizes = {(r.title, r.adapter.budget) for r in plan.runs if adapter_of(r)}
    assert sizes == {("student/lora", 1000), ("student/lora[budget=5000]", 5000)}
    own = study(
        ranks=[4, 8],
        arms=["student/lora", "student/dora"],
        overrides={"student/dora": {"adapter": {"rank": 2}}},
    )
    ranks = {(r.title, r.adapter.rank) for r in make_plan(own).runs if adapter_of(r)}
    assert ranks == {("student/lora", 4), ("student/lora[rank=8]", 8), ("student/dora", 2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": [8], "budgets": [1000]}, "an adapter's size is one of both"),
        ({"ranks": [8, 8]}, "names one twice"),
        ({"ranks": [8, 32], "adapter": {"rank": 16}}, "adapter.rank is 16, which is not among"),
        ({"ranks": [8], "adapter": {"budget": 500}}, "the adapter's size is set by budget 500"),
        ({"ranks": [0]}, "ranks.0: input should be greater than 0"),
        ({"exclude": [{"task": "rt"}]}, "no task 'rt' in this study. Did you mean 'rte'"),
        ({"exclude": [{"arm": "student/kd-dora"}]}, "exclude.0: 'student/kd-dora' names no arm"),
        ({"exclude": [{"seed": 9}]}, "no seed '9' in this study"),
        ({"exclude": [{}]}, "names nothing: give some of pair, task, arm and seed"),
        ({"exclude": {"seed": [1, 2]}}, "nothing is left of the study"),
        ({"exclude": [{"taks": "rte"}]}, "unknown key. Did you mean 'task'"),
    ],
)
def test_what_cannot_be_meant_is_told(changes, message):
    with pytest.raises(InputError) as caught:
        study(**changes)
    assert message in str(caught.value)


def test_all_problems_of_the_short_forms_at_once():
    with pytest.raises(InputError) as caught:
        study(pairs=[], ranks=[8], budgets=[9], unlabelled={"x": ["y.csv"]})
    assert len(caught.value.problems) == 3


def test_excluded_places_are_left_out_and_nothing_else():
    everything = make_plan(study())
    fewer = make_plan(study(exclude=[{"task": "rte", "arm": "student/kd-*"}, {"seed": 2,
                                     "arm": ["student/fft"]}]))  # fmt: skip
    gone = {(c.task, c.arm, c.seed) for c in everything.cells} - {
        (c.task, c.arm, c.seed) for c in fewer.cells
    }
    assert gone == {
        ("rte", "student/kd-lora", 1), ("rte", "student/kd-lora", 2),
        ("rte", "student/fft", 2), ("sst2", "student/fft", 2),
    }  # fmt: skip
    known = {run.run_id for run in everything.runs}
    assert {run.run_id for run in fewer.runs} < known


def test_an_excluded_teacher_is_still_trained_for_its_students():
    plan = make_plan(study(tasks=["rte"], seeds=[1], exclude=[{"arm": "teacher/*"}]))
    assert titles(plan) == {"student/fft", "student/lora", "student/kd-lora"}
    assert plan.runs[0].arm == "teacher/fft"
    none = make_plan(study(exclude=[{"arm": ["teacher/*", "student/kd-*"]}]))
    assert {run.role for run in none.runs} == {"student"}


def test_what_fits_one_pair_only_can_be_left_out_of_the_others():
    pairs = [
        {"name": "made", "teacher": "big", "student": {"from": "teacher", "layers": [0]}},
        {"name": "found", "teacher": "big", "student": "small"},
    ]
    start = {"start": {"arm": "student/kd-lora", "distillation": {"start": "teacher"}}}
    left_out = {"pair": "found", "arm": "student/kd-lora[start]"}
    plan = make_plan(study(pairs=pairs, variations=start, exclude=left_out))
    assert {cell.pair for cell in plan.cells if cell.label == "start"} == {"made"}
    for some in ({}, {"exclude": left_out | {"seed": 1}}):
        with pytest.raises(InputError, match="made of its teacher's layers"):
            make_plan(study(pairs=pairs, variations=start, **some))


def test_a_signal_that_fits_no_regression_can_be_left_out_of_it():
    dkd = {"dkd": {"arm": "student/kd-lora", "distillation": {"signals": {"dkd": 1.0}}}}
    left_out = {"task": "stsb", "arm": "student/kd-lora[dkd]"}
    plan = make_plan(study(tasks=["rte", "stsb"], variations=dkd, exclude=left_out))
    assert {cell.task for cell in plan.cells if cell.label == "dkd"} == {"rte"}
    with pytest.raises(InputError, match="the task is a regression"):
        make_plan(study(tasks=["rte", "stsb"], variations=dkd))


def test_a_file_that_teaches_one_task_needs_not_teach_the_excluded_ones(tmp_path):
    (tmp_path / "rte.csv").write_text("sentence1,sentence2,no,yes\na,b,0.5,0.5\n")
    outputs = {"file": str(tmp_path / "{task}.csv"), "kind": "probabilities"}
    changes = {
        "tasks": ["rte", "stsb"],
        "pairs": [{"name": "p", "teacher_outputs": outputs, "student": "small"}],
        "arms": ["student/lora", "student/kd-lora"],
    }
    with pytest.raises(InputError, match=r"expected scores(.|\n)*no file at"):
        make_plan(study(**changes))
    plan = make_plan(study(**changes, exclude={"task": "stsb", "arm": ["*/kd-*", "teacher/*"]}))
    assert {(c.task, c.arm) for c in plan.cells} >= {("rte", "student/kd-lora")}
    assert {c.arm for c in plan.cells if c.task == "stsb"} == {"student/lora"}
    whole = make_plan(study(**changes, exclude={"task": "stsb"}))
    assert {c.task for c in whole.cells} == {"rte"}


def test_baselines_and_given_teachers_can_be_excluded():
    pairs = [{"name": "p", "teacher": "big", "student": "small", "teacher_is_trained": True}]
    plan = make_plan(
        study(pairs=pairs, baselines=True, exclude={"arm": ["baseline/tfidf", "teacher/given"]})
    )
    assert "baseline/majority" in titles(plan)
    assert not titles(plan) & {"baseline/tfidf", "teacher/given"}


@settings(max_examples=40, deadline=None)
@given(
    tasks=st.sets(st.sampled_from(["cola", "rte", "mrpc"]), min_size=1),
    n_pairs=st.integers(1, 3),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    arms=st.sets(
        st.sampled_from(
            ["teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"]
        ),
        min_size=2,
    ),
    ranks=st.sampled_from([[], [4, 8]]),
    baselines=st.booleans(),
)
def test_any_prefix_of_the_plan_is_balanced(tasks, n_pairs, seeds, arms, ranks, baselines):
    """Wherever the work stops, one block at most is begun and not complete, and all before it are.

    So no arm of a comparison is ahead of another by more than one block.
    """
    pairs = [{"teacher": f"t{i}", "student": f"s{i}"} for i in range(n_pairs)]
    plan = make_plan(
        study(tasks=sorted(tasks), pairs=pairs, seeds=seeds, arms=sorted(arms), ranks=ranks,
              baselines=baselines)
    )  # fmt: skip
    blocks: dict[tuple[str, str, int], dict[str, str]] = {}
    for cell in plan.cells:
        block = blocks.setdefault((cell.seed, cell.task, cell.pair), {})
        block[labelled(cell.arm, cell.label)] = cell.run_id
    done: set[str] = set()
    trained = [t for t in next(iter(blocks.values())) if not t.startswith("baseline/")]
    for run in plan.runs:
        done.add(run.run_id)
        complete = [set(block.values()) <= done for block in blocks.values()]
        assert complete == sorted(complete, reverse=True)  # whole blocks first, in their order
        counts = [sum(block[title] in done for block in blocks.values()) for title in trained]
        assert max(counts) - min(counts) <= 1
    assert done == {run.run_id for run in plan.runs}
