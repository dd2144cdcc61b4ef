"""Varied arms in the analysis: chosen by their whole name, compared with the arm they vary."""

from __future__ import annotations

import numpy as np

from kdlora.evidence.compare import compare
from kdlora.evidence.coverage import coverage
from kdlora.evidence.diagnosis import diagnose
from kdlora.evidence.questions import questions
from kdlora.evidence.result import Rules
from kdlora.evidence.scores import Selection
from kdlora.evidence.study import gather
from tests.harness.evidence_frames import grid, noisy

ARMS = ("teacher/fft", "student/lora", "student/kd-lora", "student/kd-lora[best]",
        "student/kd-lora[temperature=4]")  # fmt: skip
QUICK = Rules(draws=200, permutations=200)


def frame():
    made = grid(noisy(0.02), arms=ARMS, tasks=[f"t{i}" for i in range(4)])
    made["adaptation"] = made["adaptation"].str.partition("[")[0]
    made["distillation"] = np.where(made["arm"].str.contains("kd-"), "kd", "none")
    same = made["arm"] == "student/kd-lora[temperature=4]"  # the plain arm's settings and runs
    for name in ("run_id", "score"):
        made.loc[same, name] = made.loc[made["arm"] == "student/kd-lora", name].to_numpy()
    return made


def test_a_label_is_no_pattern():
    def arms(text: str) -> list[str]:
        return Selection.parse(text).arms(ARMS)

    assert arms("student/kd-lora[best]") == ["student/kd-lora[best]"]
    assert arms("student/kd-lora") == ["student/kd-lora"]
    assert arms("student/kd-lora[temperature=4]") == ["student/kd-lora[temperature=4]"]
    assert arms("student/kd-lora[*") == list(ARMS[3:])
    assert arms("student/kd-*") == list(ARMS[2:])
    chosen = Selection.parse("student/kd-lora[temperature=4],seed=2")
    assert (chosen.arm, chosen.where) == ("student/kd-lora[temperature=4]", (("seed", "2"),))


def test_the_questions_know_what_a_variation_varies():
    asked = questions(ARMS, "teacher/fft")
    assert asked["changed settings"] == [
        ("student/kd-lora[best]", "student/kd-lora"),
        ("student/kd-lora[temperature=4]", "student/kd-lora"),
    ]
    assert asked["gain of distillation"] == [("student/kd-lora", "student/lora")]
    both = questions([*ARMS, "student/lora[best]"], "teacher/fft")
    assert ("student/kd-lora[best]", "student/lora[best]") in both[
        "gain of distillation, changed settings"
    ]
    assert both["gain of distillation"] == asked["gain of distillation"]


def test_every_analysis_takes_them():
    data = frame()
    evidence = gather(data, rng=np.random.default_rng(0), rules=QUICK)
    assert {a.arm for a in evidence.aggregates} == set(ARMS)
    assert set(coverage(data).arms) == set(ARMS)
    diagnose(data)
    one = compare(data, "student/kd-lora[best]", "student/kd-lora", rng=np.random.default_rng(0),
                  rules=QUICK)  # fmt: skip
    assert one.matched.differences.std() > 0
    copies = compare(data, "student/kd-lora[temperature=4]", "student/kd-lora",
                     rng=np.random.default_rng(0), rules=QUICK)  # fmt: skip
    assert not copies.matched.differences.any()
