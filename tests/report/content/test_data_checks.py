"""What a look at the data found stands on top of what a report says of trust."""

from __future__ import annotations

from kdlora.records.data_look import DataFinding, DataLook
from kdlora.report.content.data_checks import data_findings, doubts_about_data
from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from tests.harness.studies import make_frame

NOTE = DataFinding("note", "info", "no eval file")
CUT = DataFinding("cut_texts", "warning", "20 % of the texts are cut", "Raise max_length")


def look(task: str, *findings: DataFinding) -> DataLook:
    return DataLook(task, "classification", ("text",), "f", (), (), findings)


def test_warnings_are_said_in_full_and_notes_stand_in_the_table():
    finding = doubts_about_data([look("moods", CUT, NOTE)])
    assert finding.text == "20 % of the texts are cut. Raise max_length."
    table = data_findings([look("moods", CUT, NOTE)])
    assert [row[3].text for row in table.rows] == [finding.text, "no eval file."]
    assert not table.folded


def test_of_several_tasks_each_is_named():
    finding = doubts_about_data([look("a", CUT), look("b", NOTE)])
    assert finding.text.startswith("a: 20 % of the texts")
    assert "b:" not in finding.text


def test_sound_data_were_looked_at_and_unseen_ones_were_not():
    assert "nothing to doubt" in doubts_about_data([look("moods", NOTE)]).text
    assert data_findings([look("moods", NOTE)]).folded
    assert doubts_about_data([]) is None
    assert data_findings([]) is None


def test_the_report_begins_its_section_on_trust_with_the_data():
    frame = make_frame(seeds=(1, 2, 3))
    report = build(frame, ReportInputs("t", looks=lambda: [look("moods", CUT)]))
    (trust,) = (section for section in report.sections if section.key == "trust")
    assert trust.findings[0].topic == "The data"
    assert "data_findings" in [block.key for block in trust.blocks]
