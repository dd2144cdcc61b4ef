"""Choices that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.choice.candidates import draw_candidates, gather_candidates, run_scores
from kdlora.choice.constraints import PROFILES, Constraints, profile
from kdlora.choice.formats import MeasuredForm, TextLatency
from kdlora.choice.next_steps import seeds_to_tell
from kdlora.choice.recommend import bands, coverages_of, pick, recommend, recommend_each
from kdlora.errors import InputError
from kdlora.records.predictions import SplitOutputs
from kdlora.report.content.which_to_ship import recommended
from tests.harness.choice_studies import outputs_of, row, study

ARMS = {"teacher/fft": 0.90, "student/fft": 0.86, "student/kd-lora": 0.88}


def small(**changes):
    return study(*(row(arm, score=score, **changes) for arm, score in ARMS.items()))


def choose(frame, constraints, *, outputs=None, exports=(), draws=2000, **options):
    field = gather_candidates(frame, "t", exports=exports, **options)
    drawn = draw_candidates(field, frame, outputs or {}, rng=np.random.default_rng(0), draws=draws)
    return recommend(field, constraints, drawn, run_scores=run_scores(frame))


def titles(judged):
    return [j.candidate.title for j in judged]


def test_a_model_that_would_withhold_too_much_is_left_out() -> None:
    """A model's errors lie among its unsure answers; the other one's everywhere."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    ids = np.array([f"e{i}" for i in range(2000)], object)
    sure = rng.random(2000)
    runs = {}
    for arm, wrong in (("student/fft", sure < 0.14), ("student/kd-lora", rng.random(2000) < 0.12)):
        said = np.where(wrong, 1 - labels, labels)
        logits = np.eye(2)[said] * (1 + 4 * sure)[:, None]
        runs[row(arm, score=0.9)["run_id"]] = SplitOutputs(ids, labels, logits)
    frame = study(*(row(arm, score=s) for arm, s in ARMS.items() if arm != "teacher/fft"))
    pool = gather_candidates(frame, "t")
    asked = [(None, Constraints()), (None, Constraints(min_coverage=0.7))]
    free, limited = recommend_each(pool, frame, runs, asked, draws=200)
    assert free.choice.candidate.arm == "student/kd-lora"
    assert limited.choice.candidate.arm == "student/fft"
    (effect,) = limited.exclusions
    assert (effect.constraint, effect.limit) == ("min_coverage", 0.7)
    unknown = recommend_each(pool, frame, {}, asked[1:], draws=200)[0]
    assert unknown.choice is None
    for wrong in ({"min_coverage": 1.5}, {"accuracy": 0.0}):
        with pytest.raises(InputError, match="expected a share"):
            Constraints(**wrong)


@pytest.mark.parametrize("several", [True, False])
def test_where_no_answer_can_be_withheld_a_coverage_is_refused(several) -> None:
    ids, shape = np.array([f"e{i}" for i in range(40)], object), (40, 3) if several else (40,)
    own = SplitOutputs(ids, np.zeros(shape, int), np.zeros((40, 3 if several else 1)))
    frame = study(*(row(arm, score=s) for arm, s in ARMS.items() if arm != "teacher/fft"))
    runs = dict.fromkeys(frame["run_id"], own)
    what = "a text may have several labels" if several else "answers are numbers"
    with pytest.raises(InputError, match=what):
        coverages_of(gather_candidates(frame, "t").candidates, Constraints(min_coverage=0.7), runs)


def test_the_best_score_within_a_size() -> None:
    found = choose(small(), Constraints(max_size_mb=90))
    # INT8 of the teacher is 100 MB, INT4 66 MB: 100 M parameters at 1 and 0.66 bytes
    assert found.choice.candidate.title == "teacher/fft as ONNX INT4"
    assert found.choice.candidate.size_mb.value == pytest.approx(66)
    assert found.choice.candidate.size_mb.basis == "estimated"
    assert "100.0 M parameters x 0.66 bytes" in found.choice.candidate.size_mb.source
    assert titles(found.runners_up) == ["student/kd-lora as ONNX INT8", "student/fft as ONNX INT8"]


def test_only_encoders_under_an_allowed_licence_are_taken() -> None:
    frame = small()
    frame["licence"] = ["apache-2.0", "mit", "unknown"]
    allowed = ("mit", "cc0-1.0")
    found = choose(frame, Constraints(licence=allowed))
    assert found.choice.candidate.arm == "student/fft"
    assert found.choice.candidate.licence == "mit"
    assert any("the data's (unknown)" in note for note in found.notes)
    (effect,) = found.exclusions
    assert (effect.constraint, effect.limit) == ("licence", "mit, cc0-1.0")
    nothing = choose(frame, Constraints(licence=("gpl-3.0",)))
    assert nothing.choice is None
    assert {b.value for j in nothing.nearest for b in j.broken} <= {"apache-2.0", "mit", "unknown"}
    taken = choose(frame, Constraints(licence=("unknown",))).choice.candidate
    assert taken.arm == "student/kd-lora"
    of_old = choose(small(), Constraints(licence=("mit",)))  # records that say nothing
    assert of_old.choice is None
    with pytest.raises(InputError, match=r"licence 'My own'"):
        Constraints(licence=("My own",))


@pytest.mark.parametrize(("floor", "beaten"), [(0.85, True), (0.95, False), (0.8998, False)])
def test_a_choice_that_no_baseline_needs_is_told_apart(floor, beaten) -> None:
    baseline = row("student/fft", score=floor, run_id="b") | {
        "arm": "baseline/tfidf", "role": "baseline", "adaptation": "tfidf",
    }  # fmt: skip
    weak = row("student/fft", score=0.2, run_id="m") | {
        "arm": "baseline/majority", "role": "baseline", "adaptation": "majority",
    }  # fmt: skip
    frame = study(*small().to_dict("records"), baseline, weak)
    found = choose(frame, Constraints())
    assert found.baseline.arm == "baseline/tfidf"
    assert found.beats_baseline == beaten
    assert any("worth shipping" in note for note in found.notes) != beaten
    assert found.choice.candidate.arm == "teacher/fft"  # of the models it is the best
    nothing = choose(frame, Constraints(max_size_mb=1))
    assert nothing.choice is None
    assert nothing.beats_baseline == beaten


def test_measured_only_knows_no_estimates() -> None:
    found = choose(small(), Constraints(max_size_mb=90), measured_only=True)
    assert found.choice.candidate.title == "student/kd-lora as PyTorch"
    assert found.n_candidates == 3


def test_the_fastest_within_a_drop() -> None:
    found = choose(small(), Constraints(max_drop=3.0, prefer="latency"))
    assert found.choice.candidate.title == "student/kd-lora as ONNX INT8"
    assert found.choice.drop == pytest.approx(2.0)
    assert found.choice.candidate.latency_p95_ms.value == pytest.approx(10 / 2.5)
    by_name = {e.constraint: e for e in found.exclusions}
    assert len(by_name["max_drop"].excluded) == 4  # student/fft in its four forms
    assert by_name["max_drop"].fit_without == 12


def test_when_nothing_fits_it_says_what_would_have_to_give() -> None:
    found = choose(small(), Constraints(max_size_mb=30, min_score=0.89, quantize=("int8", "int4")))
    assert found.choice is None
    assert found.certainty == "nothing fits"
    eased = {g.constraint: g for g in found.eased}
    assert eased["max_size_mb"].needed == pytest.approx(66)
    assert eased["max_size_mb"].candidate == "teacher/fft as ONNX INT4"
    assert eased["min_score"].needed == pytest.approx(0.88)
    assert eased["min_score"].candidate.startswith("student/kd-lora")
    assert eased["quantize"].needed is None  # no single change of it is enough
    assert all(len(j.broken) == 1 for j in found.nearest)


def test_measured_exports_come_before_estimates() -> None:
    timing = TextLatency(64, 1.5, 2.0)
    export = MeasuredForm("student-kd-lora-1", "small", "onnx-int8", "/x", 21.5, gate="passed",
                          score=0.874, timings=(timing,))  # fmt: skip
    found = choose(small(), Constraints(max_drop=5, prefer="latency"), exports=[export])
    one = found.choice.candidate
    assert one.title == "student/kd-lora as ONNX INT8"
    assert (one.size_mb.value, one.size_mb.basis) == (21.5, "measured")
    assert (one.latency_p95_ms.value, one.latency_p95_ms.basis) == (2.0, "measured")
    assert (one.gate, one.artefact_score, one.folder) == ("passed", 0.874, "/x")
    sibling = next(j.candidate for j in found.considered
                   if j.candidate.title == "student/fft as ONNX INT8")  # fmt: skip
    assert (sibling.size_mb.value, sibling.size_mb.basis) == (21.5, "same architecture")
    assert sibling.gate == "not measured"


def test_a_failed_gate_is_no_choice() -> None:
    export = MeasuredForm("student-kd-lora-1", "small", "onnx-int8", "/x", 21.5, gate="failed",
                          timings=(TextLatency(64, 1.5, 2.0),))  # fmt: skip
    found = choose(small(), Constraints(max_drop=3, prefer="latency"), exports=[export])
    assert found.choice.candidate.title != "student/kd-lora as ONNX INT8"
    assert any(e.constraint == "accuracy gate" and len(e.excluded) == 1 for e in found.exclusions)


def test_an_export_states_the_ratio_for_all_others() -> None:
    plain = MeasuredForm("student-kd-lora-1", "small", "torch", "/x", 80.0,
                         timings=(TextLatency(64, 8.0, 10.0),))  # fmt: skip
    fast = MeasuredForm("student-kd-lora-1", "small", "onnx-int8", "/x", 21.0,
                        timings=(TextLatency(64, 2.0, 2.5),))  # fmt: skip
    found = choose(small(), Constraints(), exports=[plain, fast])
    teacher = next(j.candidate for j in found.considered
                   if j.candidate.title == "teacher/fft as ONNX INT8")  # fmt: skip
    assert teacher.latency_p50_ms.value == pytest.approx(40 / 4)
    assert "measured on this study's exports" in teacher.latency_p50_ms.source


def test_probability_of_a_clear_and_of_an_even_choice() -> None:
    frame = study(row("teacher/fft", score=0.90), row("student/fft", score=0.80),
                  row("student/lora", score=0.80))  # fmt: skip
    outputs = outputs_of({"teacher-fft-1": 0.90, "student-fft-1": 0.80, "student-lora-1": 0.80})
    clear = choose(frame, Constraints(quantize=("none",)), outputs=outputs)
    assert clear.certainty == "clear"
    assert clear.choice.candidate.arm == "teacher/fft"
    assert clear.probability > 0.99
    even = choose(frame, Constraints(max_size_mb=85, quantize=("none",)), outputs=outputs)
    assert even.certainty == "undecided"
    assert even.probability == pytest.approx(0.5, abs=0.05)
    assert sum(j.p_best for j in even.considered) == pytest.approx(1.0)


def test_an_interval_says_whether_texts_and_seeds_vary_in_it() -> None:
    frame = study(row("teacher/fft", score=0.90), row("student/fft", score=0.80),
                  row("student/lora", score=0.80),
                  row("student/lora", score=0.80, seed=2))  # fmt: skip
    outputs = outputs_of({"teacher-fft-1": 0.90, "student-fft-1": 0.80, "student-lora-1": 0.80,
                          "student-lora-2": 0.80})  # fmt: skip
    found = choose(frame, Constraints(quantize=("none",)), outputs=outputs)
    told = {j.candidate.arm: (j.score_over, j.difference_over) for j in found.considered}
    one = "texts only, one seed"
    assert told == {
        "teacher/fft": (one, one), "student/fft": (one, one),
        "student/lora": ("texts and seeds", "texts, and seeds of one of the two only"),
    }  # fmt: skip
    assert found.to_dict()["choice"]["score_over"] == one
    assert f", {one}'" in str(recommended([found]).rows)


def test_probability_of_keeping_a_limit_of_the_score() -> None:
    """A score right at the limit keeps it in half of the draws."""
    frame = study(row("teacher/fft", score=0.90), row("student/fft", score=0.80))
    outputs = outputs_of({"teacher-fft-1": 0.90, "student-fft-1": 0.80})
    found = choose(frame, Constraints(min_score=0.80, max_size_mb=85, quantize=("none",)),
                   outputs=outputs)  # fmt: skip
    assert found.choice.candidate.arm == "student/fft"
    assert found.choice.p_meets == pytest.approx(0.5, abs=0.06)
    assert any(step.kind == "seeds" and step.seeds == 3 for step in found.next_steps)


def test_less_is_better_for_an_error() -> None:
    errors = {"teacher/fft": 0.30, "student/fft": 0.40}
    frame = study(*(row(arm, score=e, metric="rmse", direction=-1) for arm, e in errors.items()))
    found = choose(frame, Constraints(min_score=0.45))
    assert found.choice.candidate.arm == "teacher/fft"
    assert found.choice.drop == pytest.approx(0.0)
    strict = choose(frame, Constraints(min_score=0.35, max_size_mb=30))
    assert strict.choice is None
    small = choose(frame, Constraints(max_drop=34, prefer="size"))  # per cent of the teacher's
    assert small.choice.drop == pytest.approx(100 / 3)


def test_seeds_are_averaged_and_the_best_of_them_is_shipped() -> None:
    frame = study(row("teacher/fft", score=0.90), row("student/fft", score=0.84, seed=1),
                  row("student/fft", score=0.88, seed=2))  # fmt: skip
    found = choose(frame, Constraints(max_size_mb=85, quantize=("none",)))
    assert found.choice.candidate.score == pytest.approx(0.86)
    assert found.choice.candidate.ship == "student-fft-2"


def test_a_broken_run_is_no_candidate_and_is_named() -> None:
    frame = small()
    frame.at[2, "flag_severities"] = ("error",)
    found = choose(frame, Constraints())
    assert all(j.candidate.arm != "student/kd-lora" for j in found.considered)
    assert any("student-kd-lora-1" in note for note in found.notes)


def test_a_shared_teacher_is_one_candidate() -> None:
    rows = [row(arm, score=s, pair=pair) for pair in ("p", "q") for arm, s in ARMS.items()
            if arm == "teacher/fft" or pair == "p"]  # fmt: skip
    field = gather_candidates(study(*rows), "t", forms=("torch",))
    assert [c.arm for c in field.candidates] == list(ARMS)


def test_problems_are_told_together() -> None:
    with pytest.raises(InputError) as caught:
        Constraints(max_size_mb=-1, prefer="sped", runtime="onx", quantize=("int3",))
    assert len(caught.value.problems) == 4
    with pytest.raises(InputError, match="Did you mean 'mobile'"):
        profile("mobil")
    with pytest.raises(InputError, match="no finished model"):
        gather_candidates(small().assign(status="missing"), "t")


def test_profiles_are_overridden_one_limit_at_a_time() -> None:
    changed = PROFILES["mobile"].constraints.changed(max_size_mb=30.0, runtime=None)
    assert (changed.max_size_mb, changed.runtime, changed.max_drop) == (30.0, "onnx", 3.0)


def test_costs_that_are_alike_share_a_band() -> None:
    assert bands([10.0, 10.1, 5.0, None, 10.3]).tolist() == [1, 1, 0, 3, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 3), st.booleans()), min_size=1,
                max_size=8))  # fmt: skip
def test_picking_in_arrays_is_picking_by_sorting(rows) -> None:
    u = np.round([r[0] for r in rows], 3)
    levels = np.array([r[1] for r in rows])
    fits = np.array([r[2] for r in rows])
    ties = np.arange(len(rows))
    best = pick(u[None], fits[None], levels, ties)[0]
    order = [i for i in range(len(rows)) if fits[i]]
    expected = min(order, key=lambda i: (levels[i], -u[i], ties[i]), default=-1)
    assert best == expected


def test_seeds_to_tell_is_the_textbook_answer() -> None:
    """A difference of one SD, paired, 5 %, power 0.8: 10 pairs (noncentral t)."""
    assert seeds_to_tell(1.0, 1.0) == 10
    assert seeds_to_tell(0.01, 1.0) is None
    assert seeds_to_tell(0.0, 1.0) is None


def test_the_way_of_a_metric_that_one_run_does_not_tell_is_that_of_its_task():
    rows = small()
    rows["direction"] = rows["direction"].astype(float).where(rows.index > 0)
    field = gather_candidates(rows, "t")
    assert (field.metric, field.direction) == ("accuracy", 1)
