"""The matrix of teachers and students against effects that were put in by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdlora.evidence.compare import compare
from kdlora.evidence.matrix import analyse_matrix, class_shown, crossed, split_effects
from kdlora.evidence.result import THESE_TASKS, TRAINED_MODELS, Rules
from kdlora.records.tidy import StudyFrame
from tests.harness.choice_studies import CELLS, matrix_study, outputs_of


def outputs_for(frame, n=1000):
    return outputs_of(dict(zip(frame["run_id"], frame["score"], strict=True)), n=n)


def analyse(frame, outputs=None, draws=1000):
    return analyse_matrix(StudyFrame.of(frame, outputs or {}), "t", "student/kd-lora",
                          rng=np.random.default_rng(0), rules=Rules(draws=draws))  # fmt: skip


def test_effects_that_were_put_in() -> None:
    found = analyse(matrix_study())
    effects = {(e.kind, e.name): e.value for e in found.effects}
    assert found.mean.value == pytest.approx(83.0)
    assert effects["teacher", "huge"] == pytest.approx(1.0)
    assert effects["student", "small"] == pytest.approx(3.0)
    assert effects["interaction", "big x tiny"] == pytest.approx(0.0)
    assert found.shares == pytest.approx({"teacher": 0.1, "student": 0.9, "interaction": 0.0})
    assert found.mean.low is None  # no predictions, one seed: nothing to resample
    assert all(not c.claim.made for c in found.contrasts)


def test_every_model_stands_in_the_table_once() -> None:
    frame = matrix_study()
    found = analyse(frame)
    assert [m.kind for m in found.models] == ["teacher"] * 2 + ["vanilla"] * 2 + ["distilled"] * 4
    cell = found.cell("huge", "tiny")
    assert (cell.score, cell.kappa, cell.speedup) == (0.81, 0.7, 4.0)
    assert cell.size_mib == pytest.approx(80e6 / 2**20)
    assert cell.positive_f1 == 0.8  # of "yes", the rarer class
    assert found.control == "student/lora"
    gains = {c.a: c.difference for c in found.of("distillation")}
    assert gains["big to small"] == pytest.approx(1.0)
    assert gains["huge to tiny"] == pytest.approx(3.0)
    own = {(c.a, c.b): c.difference for c in found.of("teacher's own")}
    assert own["huge to tiny", "teacher to huge"] == pytest.approx(-10.0)


@pytest.mark.parametrize("control", ["student/lora", "student/lora[equal-steps]"])
def test_any_control_of_the_arm_is_the_student_alone(control: str) -> None:
    frame = matrix_study()
    frame["arm"] = frame["arm"].replace("student/lora", control)
    found = analyse(frame)
    assert found.control == control
    assert len(found.of("distillation")) == 4


def test_full_fine_tuning_is_no_control_of_an_adapter() -> None:
    frame = matrix_study()
    frame["arm"] = frame["arm"].replace("student/lora", "student/fft")
    found = analyse(frame)
    assert not found.of("distillation")
    assert {c.a: c.difference for c in found.of("full")}["big to small"] == pytest.approx(1.0)


def test_intervals_cover_and_tests_find_what_is_large() -> None:
    frame = matrix_study()
    outputs = outputs_for(frame)
    found = analyse(frame, outputs)
    assert found.n_examples == 1000
    student = found.of("student")[0]
    assert (student.a, student.claim.scope) == ("small", TRAINED_MODELS)
    assert student.claim.low < 6.0 < student.claim.high
    assert student.claim.verdict == "superior"
    # four independent binomials: se of the mean of two differences
    error = 100 * np.sqrt(sum(s * (1 - s) for s in CELLS.values()) / 4 / 1000)
    width = (student.claim.high - student.claim.low) / (2 * 1.96)
    assert width == pytest.approx(error, rel=0.05)
    interaction = found.of("interaction")[0]
    assert interaction.claim.low < 0 < interaction.claim.high
    assert interaction.claim.p > 0.5


def test_mcnemar_is_the_binomial_of_the_discordant_rows() -> None:
    frame = matrix_study()
    outputs = outputs_for(frame)
    found = analyse(frame, outputs)
    contrast = next(c for c in found.of("same student") if c.a == "big to tiny")
    right = [outputs[r].outputs.argmax(1) == outputs[r].labels
             for r in ("big--tiny-1", "huge--tiny-1")]  # fmt: skip
    first, second = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert contrast.mcnemar == ((1, pytest.approx(
        stats.binomtest(first, first + second).pvalue)),)  # fmt: skip


def test_seeds_are_replicates() -> None:
    frame = matrix_study(seeds=(1, 2))
    frame.loc[(frame["seed"] == 2) & (frame["arm"] == "student/kd-lora"), "score"] += 0.02
    found = analyse(frame)
    assert found.n_seeds == 2
    assert found.mean.value == pytest.approx(84.0)
    half = stats.t.ppf(0.975, 1) * 1.0  # Student's of two means 2 points apart
    assert 84 - found.mean.low == pytest.approx(half, rel=0.2)
    student = found.of("student")[0]
    assert student.difference == pytest.approx(6.0)
    assert "needs three seeds" in student.claim.cannot


def arms_apart(frame, **names):
    """The cells named as arms, so that `compare` can be asked about them."""
    told = frame[frame["arm"] == "student/kd-lora"]
    return told.assign(arm=[names["arm"](t, s) for t, s in zip(told["teacher"], told["student"],
                                                              strict=True)],
                       pair=[names["pair"](t, s) for t, s in zip(told["teacher"], told["student"],
                                                                 strict=True)])  # fmt: skip


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_a_difference_in_the_matrix_is_what_compare_says(seeds) -> None:
    draw = np.random.default_rng(3)
    frame = matrix_study(seeds)
    frame["score"] = (frame["score"] + draw.normal(0, 0.01, len(frame))).round(3)
    frame["score"] = frame.groupby("run_id")["score"].transform("first")
    outputs = outputs_for(frame.drop_duplicates("run_id"))
    found = analyse(frame, outputs)
    rules = Rules(draws=0, permutations=0)

    def asked(rows, a, b):
        return compare(StudyFrame.of(rows, outputs), a, b, rng=draw, rules=rules).claims

    (teacher,) = found.of("teacher")
    apart = arms_apart(frame, arm=lambda t, _: f"{t} taught", pair=lambda _, s: s)
    assert teacher.comparison.claims == asked(apart, "big taught", "huge taught")
    for kind, b in (("distillation", "student/lora"), ("teacher's own", "teacher/fft")):
        for contrast in found.of(kind):
            cell = contrast.a.replace(" to ", "--")
            alone = asked(frame[frame["pair"] == cell], "student/kd-lora", b)
            for scope, claim in contrast.comparison.claims.items():
                same = alone[scope]
                assert (claim.difference, claim.low, claim.high, claim.p, claim.cannot) == (
                    same.difference, same.low, same.high, same.p, same.cannot)  # fmt: skip
    scope = TRAINED_MODELS if len(seeds) == 1 else THESE_TASKS
    assert {c.claim.scope for c in found.contrasts} == {scope}


def test_an_interaction_is_a_difference_of_differences_seed_by_seed() -> None:
    frame = matrix_study((1, 2, 3))
    shift = {("big", "small", 1): 0.03, ("big", "small", 2): 0.01, ("huge", "tiny", 3): 0.02}
    for (teacher, student, seed), value in shift.items():
        frame.loc[frame["run_id"] == f"{teacher}--{student}-{seed}", "score"] += value
    (edge,) = analyse(frame).of("interaction")
    by_seed = np.array([3.0, 1.0, 2.0])  # each adds to (big - huge) for small less that for tiny
    half = stats.t.ppf(0.975, 2) * by_seed.std(ddof=1) / np.sqrt(3)
    assert edge.difference == pytest.approx(2.0)
    assert (edge.claim.low, edge.claim.high) == pytest.approx((2 - half, 2 + half))
    assert analyse(frame).mean.value == pytest.approx(83.0 + 2.0 / 4)


def test_a_flagged_run_is_told_wherever_it_counts() -> None:
    frame = matrix_study((1, 2, 3))
    bad = frame["run_id"] == "big--tiny-2"
    frame.loc[bad, "score"] = 0.5
    frame["flags"] = [("constant_predictions",) if b else () for b in bad]
    frame["flag_severities"] = [("error",) if b else () for b in bad]
    (teacher,) = analyse(frame).of("teacher")
    assert teacher.comparison.n_flagged == 1
    assert teacher.comparison.unflagged == pytest.approx(-2.0)
    assert teacher.difference < -6


def test_what_is_crossed() -> None:
    whole = matrix_study()
    assert crossed(whole) == [("t", "student/kd-lora")]
    holes = whole[whole["run_id"] != "huge--tiny-1"]
    assert crossed(holes) == []
    one_teacher = whole[whole["teacher"] == "big"]
    assert crossed(one_teacher) == []
    assert crossed(whole.drop(columns=["distillation"])) == []


def test_holm_is_within_a_kind() -> None:
    frame = matrix_study()
    found = analyse(frame, outputs_for(frame))
    gains = sorted(found.of("distillation"), key=lambda c: c.claim.p)
    assert len(gains) == 4
    assert gains[0].claim.p_corrected == pytest.approx(min(1, 4 * gains[0].claim.p))
    (teacher,) = found.of("teacher")  # alone in its kind
    assert teacher.claim.p_corrected == pytest.approx(teacher.claim.p)


def test_the_positive_class_is_the_tasks_own_else_the_rarer_one() -> None:
    frame = matrix_study()
    assert class_shown(frame) == "yes"
    assert class_shown(frame.assign(positive_class="no")) == "no"
    assert class_shown(frame.assign(positive_class=np.nan)) == "yes"
    assert class_shown(frame.assign(label_names=np.nan)) is None


def test_all_models_show_the_f1_of_one_class() -> None:
    """Where no class is asked about, runs that saw other rows must not choose another one."""
    frame = matrix_study().assign(positive_class=np.nan)
    frame["confusion"] = [
        [[1, 0], [0, 9]] if role == "teacher" else counted
        for role, counted in zip(frame["role"], frame["confusion"], strict=True)
    ]
    frame["per_class_f1"] = [{"no": 0.5, "yes": 0.8}] * len(frame)
    frame["label_names"] = [("no", "yes")] * len(frame)
    found = analyse(frame)
    assert found.positive == "yes"
    assert {m.positive_f1 for m in found.models} == {0.8}


def test_a_first_row_without_a_direction_crashes_nothing() -> None:
    frame = matrix_study()
    frame["direction"] = frame["direction"].astype(float)
    frame.loc[frame.index[frame["arm"].eq("student/kd-lora")][0], "direction"] = np.nan
    assert analyse(frame).direction == 1
    assert analyse(frame).mean == analyse(matrix_study()).mean


def test_a_class_that_the_report_split_lacks_changes_nothing_about_the_positive_one() -> None:
    frame = matrix_study()
    names = [("a", "no", "yes")] * len(frame)
    frame = frame.assign(label_names=names, positive_class="yes")
    assert class_shown(frame) == "yes"
    assert analyse(frame).cell("huge", "tiny").positive_f1 == 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 4), st.integers(2, 4))
def test_the_parts_sum_to_the_table_and_effects_to_zero(seed: int, t: int, s: int) -> None:
    cube = np.random.default_rng(seed).normal(size=(3, t, s))
    mean, teacher, student, rest = split_effects(cube)
    again = mean[:, None, None] + teacher[:, :, None] + student[:, None, :] + rest
    assert np.allclose(again, cube)
    for part in (teacher.sum(1), student.sum(1), rest.sum(1), rest.sum(2)):
        assert np.allclose(part, 0)
