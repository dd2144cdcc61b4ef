"""Varied arms are arms of their own in every part of a report."""

from __future__ import annotations

import pandas as pd
import pytest

from kdlora.evidence import gains as g
from kdlora.evidence.teacher import teacher_arm
from kdlora.records.tidy import tidy
from kdlora.report import words as w
from kdlora.report.build import write_report
from kdlora.report.content.pair_answer import no_control
from kdlora.report.content.parts import ReportInputs
from kdlora.report.render.colours import kind_of, shape_of
from tests.harness.studies import make_frame

ARMS = ("teacher/fft", "teacher/fft[long]", "student/lora", "student/lora[best]", "student/fft",
        "student/kd-lora", "student/kd-lora[best]", "student/kd-lora[temperature=8]")  # fmt: skip


def labelled_frame(**arguments):
    frame = make_frame(arms=[a for a in ARMS if "[" not in a], **arguments)
    parts = [frame]
    for arm in ARMS:
        base, bracket, _ = arm.partition("[")
        if bracket:
            copy = frame[frame["arm"] == base].copy()
            copy["run_id"] += arm.partition("[")[2]
            copy["score"] += 0.01
            parts.append(copy.assign(arm=arm, base_arm=base))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("arm", "long", "short", "phrase"),
    [
        ("student/kd-lora[best]", "Student, KD-LoRA, best", "student KD-LoRA, best",
         "the KD-LoRA student (best)"),
        ("student/kd-lora[temperature=4 kd_weight=0.9]",
         "Student, KD-LoRA, temperature 4, KD weight 0.9",
         "student KD-LoRA, temperature 4, KD weight 0.9",
         "the KD-LoRA student (temperature 4, KD weight 0.9)"),
        ("teacher/fft[lr=0.001]", "Teacher, full fine-tuning, learning rate 0.001",
         "teacher FFT, learning rate 0.001", "the fully fine-tuned teacher (learning rate 0.001)"),
        ("student/kd-peft[loha]", "Student, KD-PEFT, loha", "student KD-PEFT, loha",
         "the KD-PEFT student (loha)"),
    ],
)  # fmt: skip
def test_names(arm, long, short, phrase):
    assert w.arm_name(arm) == long
    assert w.short_arm_name(arm) == short
    assert w.phrase(arm) == phrase


def test_a_varied_arm_keeps_the_look_of_the_arm_it_varies():
    for arm in ARMS:
        base = arm.partition("[")[0]
        assert (kind_of(arm), shape_of(arm)) == (kind_of(base), shape_of(base))


def test_they_stand_behind_the_arm_they_vary():
    arms = list(dict.fromkeys(tidy(labelled_frame())["arm"]))
    assert arms == [
        "teacher/fft", "teacher/fft[long]", "student/fft", "student/lora", "student/lora[best]",
        "student/kd-lora", "student/kd-lora[best]", "student/kd-lora[temperature=8]",
        "baseline/tfidf", "baseline/majority",
    ]  # fmt: skip
    assert teacher_arm(tidy(labelled_frame()), "minilm-l6--minilm-l3") == "teacher/fft"


def test_only_arms_under_the_same_label_differ_in_one_thing():
    found = {(c.effect, c.arm, c.base) for c in g.comparisons(ARMS, "teacher/fft")}
    best = "student/kd-lora[best]"
    assert (g.DISTILLATION, best, "student/lora[best]") in found
    assert (g.VARIATION, best, "student/kd-lora") in found
    assert (g.VARIATION, "teacher/fft[long]", "teacher/fft") in found
    mixed = "student/kd-lora[temperature=8]"
    assert {(effect, base) for effect, arm, base in found if arm == mixed} == {
        (g.VARIATION, "student/kd-lora"), (g.WHOLE, "teacher/fft"),
    }  # fmt: skip
    assert not [f for f in found if f[0] == g.ADAPTER and "[" in f[1]]


def test_the_control_of_the_varied_arm_serves_its_variations():
    facts = g.describe(tidy(labelled_frame()))
    assert no_control(facts, "minilm-l6--minilm-l3") is None
    without = labelled_frame()
    without = without[~without["arm"].isin(["student/lora", "student/lora[best]"])]
    found = no_control(g.describe(tidy(without)), "minilm-l6--minilm-l3")
    assert found is not None
    assert "any distilled student" in found.text


def test_a_whole_report_is_written(tmp_path):
    frame = labelled_frame(tasks=("rte", "mrpc"), seeds=(1, 2))
    files = write_report(frame, tmp_path, ReportInputs("labelled"))
    text = files.markdown.read_text()
    for arm in ARMS:
        assert w.arm_name(arm) in text
    assert "Changed settings" in text
