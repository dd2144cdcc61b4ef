"""The training time of an interrupted run is marked wherever it stands beside whole ones."""

from __future__ import annotations

from rich.console import Console

from kdlora.evidence.study import gather_report
from kdlora.report import words as w
from kdlora.report.content.answer import summary
from kdlora.report.content.cells import RESUMED_NOTE
from kdlora.report.content.cost import efficiency
from kdlora.report.render.terminal import results_table
from tests.harness.studies import make_frame


def interrupted(times: int):
    frame = make_frame(seeds=(1, 2, 3))
    frame["resumed"] = 0
    where = (frame["arm"] == "student/kd-lora") & (frame["seed"] == 2)
    frame.loc[where, "resumed"] = times
    return frame


def cells(table, key: str):
    place = [column.key for column in table.columns].index(key)
    return {row[table.heads - 1].value: row[place] for row in table.rows}


def test_its_time_is_marked_in_tables_and_on_the_terminal():
    frame = interrupted(1)
    facts = gather_report(frame).facts
    for table in (summary(facts), efficiency(facts)):
        found = cells(table, "train_s")
        assert found["student/kd-lora"].mark == w.RESUMED
        assert found["student/kd-lora"].extra["resumed_runs"]
        assert found["student/lora"].mark == ""
        assert cells(table, "size_mb")["student/kd-lora"].mark == ""
        assert RESUMED_NOTE in table.notes
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(frame))
    assert "was interrupted" in " ".join(console.export_text().split())


def test_whole_runs_have_no_mark_and_no_note():
    table = efficiency(gather_report(interrupted(0)).facts)
    assert {cell.mark for cell in cells(table, "train_s").values()} == {""}
    assert RESUMED_NOTE not in table.notes
