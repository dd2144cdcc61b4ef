"""A report of a study in which some models have a few runs only."""

from __future__ import annotations

from pathlib import Path

from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Report
from tests.harness.evidence_frames import runs_742, with_sparse_rank
from tests.harness.studies import make_frame

# What counts runs, or says what is wrong with all of them, speaks of the new ones too.
OF_ALL_RUNS = {"doubts", "coverage"}
OF_ALL_SENTENCES = {"Read with care", "Coverage"}


def rows(report: Report) -> dict[str, list[dict[str, str]]]:
    """Table -> its rows as column -> what is shown."""
    return {
        table.key: [
            {
                c.key: f"{cell.text} {cell.sub} {cell.marks}"
                for c, cell in zip(table.columns, row, strict=True)
            }
            for row in table.rows
        ]
        for table in report.tables()
    }


def test_35_runs_of_another_rank_change_no_row_and_no_sentence_of_the_others(shared: Path) -> None:
    frame = runs_742(shared)
    plain, more = (
        build(f, ReportInputs("study"))
        for f in (frame, with_sparse_rank(frame, ["rte", "mrpc"], n=35))
    )
    assert not more.failures()
    told = {(s.key, f.topic): f.text for s in more.sections for f in s.findings}
    for section in plain.sections:
        for finding in section.findings:
            if finding.topic not in OF_ALL_SENTENCES:
                assert told[section.key, finding.topic] == finding.text
    assert [s.tiles for s in plain.sections] == [s.tiles for s in more.sections]
    after = rows(more)
    for table, before in rows(plain).items():
        if table in OF_ALL_RUNS:
            continue
        kept = [{k: v for k, v in row.items() if k in before[0]} for row in after[table]]
        assert [row for row in before if row not in kept] == [], table
    apart = [row for row in after["averages"] if "rank 16" in row["model"]]
    assert apart
    assert all(int(row["cells"].split()[0]) < 12 for row in apart)


def test_a_student_with_few_runs_is_spoken_of_over_what_it_shares_with_the_teacher() -> None:
    frame = make_frame(("rte", "sst2", "mrpc"), seeds=(1, 2, 3))
    kd = frame["arm"] == "student/kd-lora"
    frame = frame[~kd | ((frame["task"] == "rte") & (frame["seed"] == 1))]
    report = build(frame, ReportInputs("study"))
    (table,) = [t for t in report.tables() if t.key == "summary"]
    found = {row[0].value: row for row in table.rows}
    assert found["student/lora"][0].sub == ""
    assert found["student/kd-lora"][0].sub.startswith("1 block of rte; the teacher there: ")
    columns = [c.key for c in table.columns]
    assert found["student/kd-lora"][columns.index("runs")].value == 1
    assert found["student/lora"][columns.index("runs")].value == 9
    assert any("few runs stand apart" in note for note in table.notes)


def test_the_first_sentence_names_the_tasks_that_were_averaged() -> None:
    frame = make_frame(("rte", "sst2", "mrpc"))
    students = frame["role"] == "student"
    report = build(frame[~students | (frame["task"] != "mrpc")], ReportInputs("study"))
    text = next(f.text for s in report.sections for f in s.findings if f.topic == "The student")
    assert "average over rte and sst2;" in text
