"""The matrix of teachers and students against effects that were put in by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdlora.evidence.matrix import (
    Contrast,
    analyse_matrix,
    crossed,
    holm,
    positive_class,
    split_effects,
)
from tests.harness.choice_studies import outputs_of, row, study

TEACHERS, STUDENTS = {"big": 0.90, "huge": 0.91}, {"small": 0.84, "tiny": 0.78}
# big-small, big-tiny, huge-small, huge-tiny: student effect 3, teacher effect 1, no interaction
CELLS = {("big", "small"): 0.85, ("big", "tiny"): 0.79,
         ("huge", "small"): 0.87, ("huge", "tiny"): 0.81}  # fmt: skip


def matrix_study(seeds=(1,), cells=CELLS):
    rows = []
    for seed in seeds:
        for (teacher, student), score in cells.items():
            pair = f"{teacher}--{student}"
            place = {"pair": pair, "teacher": teacher, "student": student, "seed": seed}
            rows.append(row("teacher/fft", score=TEACHERS[teacher], encoder=teacher,
                            **place | {"run_id": f"{teacher}-{seed}"}))  # fmt: skip
            rows.append(row("student/lora", score=STUDENTS[student], encoder=student,
                            **place | {"run_id": f"{student}-{seed}"}))  # fmt: skip
            rows.append(row(
                "student/kd-lora", score=score, encoder=student, agreement=0.86, kappa=0.7,
                agreement_lower=0.7, agreement_upper=0.95, agreement_chance=0.5,
                speedup_latency=4.0, teacher_run_id=f"{teacher}-{seed}",
                label_names=("no", "yes"),
                per_class_f1={"no": 0.9, "yes": 0.8}, confusion=[[700, 50], [100, 150]],
                **place | {"run_id": f"{pair}-{seed}"},
            ))  # fmt: skip
    return study(*rows)


def outputs_for(frame, n=1000):
    return outputs_of(dict(zip(frame["run_id"], frame["score"], strict=True)), n=n)


def analyse(frame, outputs=None, draws=1000):
    return analyse_matrix(frame, "t", "student/kd-lora", outputs or {},
                          rng=np.random.default_rng(0), draws=draws)  # fmt: skip


def test_effects_that_were_put_in() -> None:
    found = analyse(matrix_study())
    effects = {(e.kind, e.name): e.value for e in found.effects}
    assert found.mean.value == pytest.approx(83.0)
    assert effects["teacher", "huge"] == pytest.approx(1.0)
    assert effects["student", "small"] == pytest.approx(3.0)
    assert effects["interaction", "big x tiny"] == pytest.approx(0.0)
    assert found.shares == pytest.approx({"teacher": 0.1, "student": 0.9, "interaction": 0.0})
    assert found.mean.low is None  # no predictions, one seed: nothing to resample
    assert all(c.p is None for c in found.contrasts)


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


def test_intervals_cover_and_tests_find_what_is_large() -> None:
    frame = matrix_study()
    outputs = outputs_for(frame)
    found = analyse(frame, outputs)
    assert found.n_examples == 1000
    student = found.of("student")[0]
    assert student.a == "small"
    assert student.low < 6.0 < student.high
    assert student.p < 0.01
    # four independent binomials: se of the mean of two differences
    error = 100 * np.sqrt(sum(s * (1 - s) for s in CELLS.values()) / 4 / 1000)
    assert (student.high - student.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    interaction = found.of("interaction")[0]
    assert interaction.low < 0 < interaction.high
    assert interaction.p > 0.5


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
    assert student.low == pytest.approx(student.high)  # both seeds moved all cells alike


def test_what_is_crossed() -> None:
    whole = matrix_study()
    assert crossed(whole) == [("t", "student/kd-lora")]
    holes = whole[whole["run_id"] != "huge--tiny-1"]
    assert crossed(holes) == []
    one_teacher = whole[whole["teacher"] == "big"]
    assert crossed(one_teacher) == []
    assert crossed(whole.drop(columns=["distillation"])) == []


def test_holm_is_within_a_kind() -> None:
    made = [Contrast("x", "a", "b", 1, None, None, p) for p in (0.01, 0.04)]
    made.append(Contrast("y", "a", "b", 1, None, None, 0.04))
    assert [c.p_holm for c in holm(made)] == pytest.approx([0.02, 0.04, 0.04])


def test_the_positive_class_is_the_tasks_own_else_the_rarer_one() -> None:
    frame = matrix_study()
    assert positive_class(frame) == "yes"
    assert positive_class(frame.assign(positive_class="no")) == "no"
    assert positive_class(frame.assign(positive_class=np.nan)) == "yes"
    assert positive_class(frame.assign(label_names=np.nan)) is None


def test_a_class_that_the_report_split_lacks_changes_nothing_about_the_positive_one() -> None:
    frame = matrix_study()
    names = [("a", "no", "yes")] * len(frame)
    frame = frame.assign(label_names=names, positive_class="yes")
    assert positive_class(frame) == "yes"
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
