"""What a reader is told before believing a number."""

from __future__ import annotations

import numpy as np

from kdlora.evidence.gains import describe as gather
from kdlora.report.content import trust
from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Figure
from tests.harness.evidence_frames import grid, noisy
from tests.harness.studies import blank, make_frame, put

WHERE = {"arm": "student/lora", "seed": 42}


def test_complete_coverage_is_said_in_numbers(one_task):
    assert trust.covered(gather(one_task)).text == "All planned runs are done (12 of 12)."


def test_failed_and_missing_runs_are_told_apart(one_task):
    frame = blank(one_task, WHERE, "failed", "x")
    frame = blank(frame, {"arm": "student/lora", "seed": 43}, "missing")
    assert trust.covered(gather(frame)).text == (
        "10 of 12 planned runs are done; 1 failed and 1 missing."
    )


def test_a_run_without_a_score_is_named(one_task):
    frame = put(one_task, WHERE, score=np.nan)
    assert "student-lora-s42" in trust.covered(gather(frame)).text
    # a constant prediction has no correlation: that is no news of the majority baseline
    assert "No score" not in trust.covered(gather(make_frame(("stsb",)))).text


def test_flags_by_name(one_task):
    assert trust.flagged(gather(one_task)).text == "No run carries a health flag."
    frame = put(one_task, {"arm": "student/lora"}, flags=("loss_not_falling", "never_improved"))
    frame = put(frame, {"arm": "student/fft", "seed": 42}, flags=("never_improved",))
    text = trust.flagged(gather(frame)).text
    assert "never_improved in 3 runs and loss_not_falling in 2 runs" in text


def test_equal_conditions_are_listed(one_task):
    text = trust.equal(gather(one_task)).text
    assert "batch size 32, epochs 3, maximum length 128, precision bf16 and device cpu" in text
    assert trust.unequal(gather(one_task)) is None


def test_unequal_conditions_are_listed_and_not_called_equal(one_task):
    frame = put(one_task, {"arm": "student/lora"}, batch_size=16, precision="fp32")
    text = trust.unequal(gather(frame)).text
    assert "batch size: 32 in Teacher, full fine-tuning" in text
    assert "16 in Student, LoRA" in text
    assert "fp32 in Student, LoRA" in text
    assert "batch size" not in trust.equal(gather(frame)).text


def test_what_is_not_known_of_all_is_not_called_equal(one_task):
    frame = put(one_task, {"arm": "student/lora"}, precision=None)
    assert "precision" not in trust.equal(gather(frame)).text


def test_settings_that_differ_within_an_arm_are_unequal(one_task):
    frame = put(one_task, WHERE, epochs=5)
    assert "3/5 in Student, LoRA" in trust.unequal(gather(frame)).text.replace("5/3", "3/5")


def test_learning_rates_may_differ_and_baselines_do_not_count(one_task):
    # fixture: lr 1e-4 and 1e-3, baselines in fp64
    assert trust.unequal(gather(one_task)) is None


def test_tasks_may_differ_in_rows(one_task):
    frame = put(make_frame(("rte", "cola")), {"task": "rte"}, n_train=2241)
    assert trust.unequal(gather(frame)) is None
    frame = put(one_task, {"arm": "student/lora"}, n_train=100)
    assert "training rows" in trust.unequal(gather(frame)).text


def test_unequal_measurement(one_task):
    assert trust.mixed_protocol(gather(one_task)) is None
    protocol = one_task.loc[one_task["arm"] == "teacher/fft", "protocol"].iloc[0]
    frame = put(one_task, {"arm": "student/lora"}, protocol={**protocol, "threads": 4})
    assert trust.mixed_protocol(gather(frame)).text.endswith("for all encoders: threads differ.")
    adaptive = {**protocol, "latency_repeats": 7, "interleaved": ["model", "reference"],
                "measured": "in this run"}  # fmt: skip
    frame = put(one_task, {"arm": "student/lora"}, protocol=adaptive)
    assert trust.mixed_protocol(gather(frame)) is None


def test_an_unsteady_machine(one_task):
    assert trust.unsteady(gather(one_task)) is None
    slow = put(one_task, {"arm": "teacher/lora", "seed": 42}, latency_p50_ms=9.4)
    text = trust.unsteady(gather(slow)).text
    assert "minilm-l6 took 5.12 to 9.40 ms a text." in text
    assert "minilm-l3" not in text
    elsewhere = put(slow, {"arm": "teacher/lora", "seed": 42}, device="cuda")
    assert trust.unsteady(gather(elsewhere)) is None


def test_of_an_import_nothing_is_said_to_be_planned() -> None:
    frame = grid(noisy(0.02), pairs=("bert", "roberta"), tasks=("a", "b", "c")).iloc[1:]
    report = build(frame, ReportInputs("theirs"))
    shown = [f.text for s in report.sections for f in s.findings]
    shown += [text for t in report.tables() for text in (t.title, t.caption, *t.notes)]
    shown += [cell.text for t in report.tables() for row in t.rows for cell in row]
    shown += [
        text
        for figure in report.figures()
        if isinstance(figure, Figure)
        for panel in figure.panels
        for text in (figure.title, figure.caption, panel.title, panel.alt)
    ]
    known = "35 runs; what was planned is not known."
    assert [text for text in shown if "planned" in text] == [
        text for text in shown if known in text
    ]
    (table,) = [t for t in report.tables() if t.key == "coverage"]
    assert table.title == "Runs by model and task"
    assert {cell.text for row in table.rows for cell in row if cell.extra} >= {"2", "3", "35"}
