"""What stands on the screen when a study is done: a student is offered only if it is worth it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdlora.cli.study import show
from tests.harness.exported import card_of
from tests.harness.studies import make_frame, put


def screen(frame, *, saved: bool = True) -> str:
    rows = frame[(frame["arm"] == "student/kd-lora") & (frame["seed"] == 42)]
    card = card_of(run_id=str(rows["run_id"].iloc[0]))
    students = [(Path("out/student"), card)] * saved
    report = SimpleNamespace(html="out/report.html", markdown="out/report.md")
    console = Console(width=300, record=True, quiet=False)
    result = SimpleNamespace(frame=frame, students=students, report=report)
    show(result, console)  # type: ignore[arg-type]
    return console.export_text()


def test_a_student_above_the_baselines_is_offered() -> None:
    told = screen(make_frame())
    assert 'try it:  kdlora predict out/student --text "..."' in told
    assert "not yet" not in told


def test_where_no_student_is_saved_the_screen_says_why() -> None:
    frame = make_frame()
    bad = [("never_learnt",) if role == "student" else () for role in frame["role"]]
    frame = frame.assign(flags=bad, flag_severities=[("error",) * len(own) for own in bad])
    told = screen(frame, saved=False)
    assert "carries an error flag (never_learnt); " in told
    assert "try it" not in told


@pytest.mark.parametrize(
    ("score", "why"),
    [
        (0.021, "too little"),
        (0.9994, "too little"),
        (0.9996, "no better than"),  # both are shown as 100.0
        (1.0, "no better than"),
    ],
)
def test_one_that_a_linear_model_reaches_is_not(score: float, why: str) -> None:
    frame = put(make_frame(), {"arm": "student/kd-lora", "seed": 42}, score=score)
    told = screen(put(frame, {"arm": "baseline/tfidf"}, score=1.0))
    assert "try it" not in told
    assert f"scores 100.0 on the report split, this student {100 * score:.1f}" in told
    assert [said for said in ("too little", "no better than") if said in told] == [why]
