"""Results of other tools are recommended by what is known of them."""

from __future__ import annotations

import pytest

from kdlora.choice.candidates import NOT_SELECTED, NOT_TRAINED_HERE
from kdlora.choice.constraints import Constraints
from kdlora.choice.exports import recommend_study
from kdlora.errors import InputError
from kdlora.evidence.gains import describe
from kdlora.importing.results import import_results
from kdlora.records.imported import load_imported
from kdlora.records.tidy import StudyFrame
from kdlora.report.content import trust
from kdlora.report.content.study import _subtitle

TABLE = (
    "task,method,seed,accuracy,latency_ms\n"
    "rte,FFT,1,0.70,20\nrte,FFT,2,0.71,20\nrte,KD-LoRA,1,0.66,10\nrte,KD-LoRA,2,0.67,10\n"
)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    return import_results(tmp_path / "a.csv", study="theirs", results=tmp_path)[0]


def test_an_import_is_chosen_from_by_its_reported_scores_and_says_so(study):
    (best,) = recommend_study(study, [(None, Constraints())], draws=200).found
    assert best.choice is not None
    assert best.choice.candidate.arm == "teacher/fft"
    assert best.choice.candidate.size_mb.value is None
    assert {NOT_SELECTED, NOT_TRAINED_HERE} <= set(best.notes)
    assert not any(step.command for step in best.next_steps)
    assert "a.csv, row 2" in best.choice.candidate.ship_folder


def test_a_limit_is_kept_by_what_is_known(study):
    (best,) = recommend_study(study, [(None, Constraints(max_latency_ms=15))], draws=200).found
    assert best.choice is None  # no 95th percentile was imported
    asked = Constraints(max_latency_ms=15, latency="p50")
    (best,) = recommend_study(study, [(None, asked)], draws=200).found
    assert best.choice is not None
    assert best.choice.candidate.arm == "student/kd-lora"


def test_an_import_without_scores_cannot_be_chosen_from(tmp_path):
    (tmp_path / "b.csv").write_text(
        "Model,Method,Rank 8,Memory Usage,Inference Time\nBERT-base,FFT,110M,1332.0MB,6.10s\n"
    )
    folder, _ = import_results(tmp_path / "b.csv", study="costs", results=tmp_path)
    with pytest.raises(InputError, match="no run with a score"):
        recommend_study(folder, [(None, Constraints())])


def test_an_import_says_how_many_runs_there_are_and_not_what_was_planned(study):
    text = trust.covered(describe(load_imported(study))).text
    assert text == "4 runs; what was planned is not known."


def test_a_report_of_an_import_names_no_encoders_that_nobody_named(study):
    frame = load_imported(study)
    assert _subtitle(StudyFrame.of(frame)) == "rte · seeds 1 and 2"
    named = frame.assign(teacher="big", student=["small", None, "small", None])
    assert _subtitle(StudyFrame.of(named)) == "rte · big to small · seeds 1 and 2"
