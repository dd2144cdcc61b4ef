"""What a page opens with: a picture, a table, what to doubt and what to do; all else is folded."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.records.data_look import DataFinding, DataLook
from kdlora.report.content import first_screen
from kdlora.report.content.parts import ReportData, ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Figure, Report, Section, Source, Table
from kdlora.report.render.html import render_html
from kdlora.report.render.markdown import render_markdown
from kdlora.report.stored_outputs import StoredOutputs
from tests.harness.reports import report_of
from tests.harness.studies import blank, make_frame, put

MOST_WORDS = 750  # of a first screen; all of a small page has eight thousand


@pytest.fixture(scope="module")
def own() -> Report:
    """A study whose models are there, so that one can be chosen."""
    return report_of(make_frame(), examples=StoredOutputs)


def opening(report: Report) -> Section:
    return report.sections[0]


def test_it_opens_with_one_picture_one_table_and_commands(own: Report) -> None:
    kinds = [type(block) for block in opening(own).blocks]
    assert kinds == [Figure, Table, Source]
    assert [block.key for block in opening(own).blocks] == ["first_cost", "recommended", "next"]
    figure = opening(own).blocks[0]
    assert len(figure.panels) == 1


def test_the_first_screen_is_short_and_all_else_is_folded(own: Report) -> None:
    first, rest = render_markdown(own).split("\n## ", 2)[1:]
    assert len(first.split()) < MOST_WORDS < len(rest.split())
    assert not opening(own).folded
    assert all(section.folded for section in own.sections[1:] if section.blocks)
    blank_one = '<svg width="9" height="9"></svg>'
    page = render_html(
        own, drawings={panel.key: blank_one for f in own.figures() for panel in f.panels}
    )
    folded = [section for section in own.sections if section.folded]
    assert page.count('<details class="section">') == len(folded)
    for section in folded:
        titles = [block.title for block in section.blocks]
        assert all(title in section.contents for title in titles)


def test_every_table_stands_once(own: Report, made) -> None:
    for report in (own, made("one_task"), made("troubled")):
        keys = [table.key for table in report.tables()]
        assert len(keys) == len(set(keys))
        assert "summary" in keys


def test_without_a_model_to_choose_the_models_themselves_are_the_table(made) -> None:
    (table,) = [block for block in opening(made("one_task")).blocks if isinstance(block, Table)]
    assert table.key == "summary"


def test_commands_name_the_model_that_the_table_names(own: Report) -> None:
    table, source = opening(own).blocks[1:]
    assert isinstance(table, Table)
    assert isinstance(source, Source)
    commands = [line for line in source.text.splitlines() if not line.startswith("#")]
    assert commands[0].startswith("kdlora predict ")
    assert "student-fft" in commands[0]
    assert table.records()[0]["choice"] == "student/fft as PyTorch"
    assert any(line.startswith("kdlora export ") and "--quantize" in line for line in commands)


def test_no_command_uses_a_student_that_a_baseline_reaches() -> None:
    frame = make_frame()
    better = frame["arm"] == "baseline/tfidf"
    frame.loc[better, ["score", "selection_score"]] = 0.99
    frame.loc[better, "status"] = "done"
    (source,) = [b for b in opening(report_of(frame, examples=StoredOutputs)).blocks
                 if isinstance(b, Source)]  # fmt: skip
    assert "kdlora predict" not in source.text


def test_what_is_not_done_is_doubted_first_and_comes_first_among_the_commands() -> None:
    frame = blank(make_frame(), {"arm": "student/lora", "seed": 43}, "missing")
    report = report_of(frame, rerun="kdlora run mine.yaml", examples=StoredOutputs)
    (care,) = [f for f in opening(report).findings if f.topic == first_screen.TOPIC]
    assert "1 missing" in care.text
    (source,) = [b for b in opening(report).blocks if isinstance(b, Source)]
    assert source.text.splitlines()[1] == "kdlora run mine.yaml"


def test_flags_and_the_data_are_doubted_too() -> None:
    where = {"arm": "student/lora", "seed": 43}
    flags = {"flags": ("nan",), "flag_severities": ("error",), "flag_details": ("no number",)}
    frame = put(make_frame(), where, **flags)
    found = tuple(DataFinding(name, "warning", f"{name} was found") for name in ("one", "two"))
    looks = [DataLook("movie-reviews", "classification", ("text",), "0", (), (), found)]
    data = ReportData(frame, ReportInputs("s", looks=lambda: looks))
    care = first_screen.care(data)
    assert care is not None
    assert "nan in 1 run" in care.text
    assert "In the data: One was found. And 1 more finding there." in care.text
    assert {"flags", "data_findings"} <= set(care.tables)


def test_nothing_doubtful_says_nothing() -> None:
    data = ReportData(make_frame(), ReportInputs("s"))
    assert first_screen.care(data) is None


def test_a_long_table_starts_closed() -> None:
    tasks = ("rte", "cola", "sst2")
    report = report_of(make_frame(tasks), examples=StoredOutputs)
    (table,) = [b for b in opening(report).blocks if isinstance(b, Table)]
    assert (table.key, table.folded) == ("recommended", True)
    assert len(table.rows) > first_screen.MOST_ROWS


def test_a_study_without_costs_has_no_picture() -> None:
    frame = make_frame()
    costs = [c for c in frame.columns if c.startswith(("latency", "size", "train", "peak"))]
    frame = frame.assign(**dict.fromkeys([*costs, "total_params"], np.nan))
    report = build(frame, ReportInputs("s"))
    assert not [b for b in opening(report).blocks if isinstance(b, Figure)]
