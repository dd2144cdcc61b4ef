"""What a notebook shows of a study: a table, a chart, the student's answers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from kdlora.errors import InputError
from kdlora.report.build import ReportFiles
from kdlora.ship.card import ModelCard
from kdlora.ship.study_result import StudyResult
from tests.harness.exported import card_of, save_exported
from tests.harness.studies import make_frame


def result_of(frame: pd.DataFrame, students: list[tuple[Path, ModelCard]]) -> StudyResult:
    report = SimpleNamespace(html=Path("out/report.html"))
    assert isinstance(ReportFiles, type)
    return StudyResult(Path("out"), {}, frame, report, students)  # type: ignore[arg-type]


@pytest.fixture
def result(tmp_path: Path) -> StudyResult:
    folder = save_exported(tmp_path / "student")
    return result_of(make_frame(seeds=(1, 2, 3)), [(folder, card_of())])


def test_the_table_holds_a_row_for_every_task_and_model(result: StudyResult) -> None:
    table = result.table()
    done = result.frame[result.frame["status"] == "done"]
    assert len(table) == done.groupby(["task", "arm"]).ngroups
    score = next(name for name in table if "score" in name.lower())
    assert pd.to_numeric(table[score], errors="coerce").notna().any()


def test_the_student_answers(result: StudyResult) -> None:
    (answer,) = result.predict("good film")
    assert answer["label"] == "positive"
    frame = result.predict(pd.DataFrame({"text": ["bad"]}))
    assert list(frame["prediction"]) == ["negative"]
    with pytest.raises(InputError, match="holds no saved student"):
        result_of(result.frame, []).predict("good")


def test_a_notebook_shows_the_table_the_student_and_the_report(result: StudyResult) -> None:
    page = result._repr_html_()
    assert page.count("<tr>") == len(result.table()) + 1
    assert "student" in page
    assert "out/report.html" in page


def test_the_chart_is_one_that_altair_writes(result: StudyResult) -> None:
    spec = json.loads(result.plot().to_json())
    assert spec["vconcat"]
