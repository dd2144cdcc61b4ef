"""The first screen of a study of one task: what its verdicts answer, even with one seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence.study import Evidence, gather_report
from kdlora.records.predictions import SplitOutputs
from kdlora.records.tidy import StudyFrame
from kdlora.report.content import answer
from kdlora.report.content.statistics import comparisons
from tests.harness.reports import report_of

RIGHT = {"teacher/fft": 0.91, "student/lora": 0.82, "student/kd-lora": 0.86}


def own_study(seeds: int, texts: int = 1500, spread: float = 0.0) -> StudyFrame:
    """A study of one own task, with predictions; each seed lifts the distilled student by more."""
    rng = np.random.default_rng(3)
    labels, hard = rng.integers(0, 2, texts), rng.random(texts)
    rows, outputs = [], {}
    for arm, share in RIGHT.items():
        for seed in range(seeds):
            lift = spread * (seed - (seeds - 1) / 2) if "kd" in arm else 0.0
            right = np.where(rng.random(texts) < 0.5, hard, rng.random(texts)) < share + lift
            run = f"{arm}-{seed}"
            outputs[run] = SplitOutputs(
                np.arange(texts), labels, np.eye(2)[np.where(right, labels, 1 - labels)]
            )
            rows.append({"arm": arm, "pair": "p", "task": "own", "seed": seed, "run_id": run,
                         "score": right.mean(), "selection_score": right.mean(), "direction": 1,
                         "metric": "accuracy", "status": "done"})  # fmt: skip
    return StudyFrame.of(pd.DataFrame(rows), outputs)


@pytest.fixture(scope="module")
def one_seed() -> Evidence:
    return gather_report(own_study(seeds=1))


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_one_seed_says_whether_the_student_is_worse_and_by_how_much(one_seed: Evidence) -> None:
    assert one_seed.facts is not None
    found = answer.against_teacher(one_seed.facts, one_seed)
    assert found is not None
    text = plain(found.text)
    assert "the fully fine-tuned teacher: -" in text
    assert "over 1,500 texts" in text
    assert "inferior as trained here, on texts like these" in text
    assert "Of the recipe nothing is said: what other seeds would give cannot be told" in text


def test_one_seed_says_whether_distillation_helps(one_seed: Evidence) -> None:
    found = answer.gain(one_seed)
    assert found is not None
    assert "superior as trained here, on texts like these" in plain(found.text)


def test_a_table_has_no_column_of_claims_that_are_not_made(one_seed: Evidence) -> None:
    table = comparisons(one_seed)
    assert table is not None
    names = [column.label for column in table.columns]
    assert "As trained, on texts like these" in names
    assert "On tasks like these" not in names
    shown = [cell.text for row in table.rows for cell in row]
    assert "cannot be said" not in shown
    notes = " ".join(table.notes)
    assert "On tasks like these: 1 task: a claim on tasks like these needs at least 6." in notes


def test_without_predictions_one_seed_says_what_is_needed() -> None:
    study = StudyFrame.of(own_study(seeds=1).table)
    found = answer.gain(gather_report(study))
    assert found is not None
    assert "cannot be told from 1 seed" in found.text
    assert "needs three seeds" in found.text


def test_three_seeds_speak_of_the_recipe() -> None:
    evidence = gather_report(own_study(seeds=3))
    assert evidence.comparisons
    for _, c in evidence.comparisons:
        assert c.claim is c.these_tasks
        assert c.claim.basis.sampled == ("seeds", "texts")


def test_the_answers_stand_in_the_first_screen() -> None:
    study = own_study(seeds=1)
    report = report_of(study.table, texts=study.outputs, histories=dict)
    topics = [finding.topic for finding in report.sections[0].findings]
    assert topics.index("Is the student worse than its teacher?") < 8
    assert "Does distillation help?" in topics


@pytest.mark.parametrize("kind", ["one seed", "three seeds", "too few to test"])
def test_what_distillation_does_is_told_once(kind: str, one_task: pd.DataFrame) -> None:
    """Tested where it can be; else what was measured and why it cannot be, in one sentence."""
    if kind == "too few to test":
        report = report_of(one_task)
    else:
        study = own_study(seeds=1 if kind == "one seed" else 3)
        report = report_of(study.table, texts=study.outputs, histories=dict)
    told = [f for f in report.sections[0].findings if "Distillation changes" in f.text]
    assert [f.topic for f in told] == ["Does distillation help?"]
    assert told[0].text.count("Distillation changes") == 1
    if kind == "too few to test":
        assert "Whether it helps: it cannot be said" in told[0].text


def test_what_the_trained_models_decide_stands_beside_what_seeds_leave_open() -> None:
    found = answer.gain(gather_report(own_study(seeds=3, spread=0.04)))
    assert found is not None
    open_, _, decided = plain(found.text).partition("; ")
    assert "undecided on own" in open_
    assert "superior as trained here, on texts like these" in decided
