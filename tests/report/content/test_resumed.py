"""The training time of an interrupted run is marked wherever it stands beside whole ones."""

from __future__ import annotations

from rich.console import Console

from kdlora.evidence.study import gather_report
from kdlora.report import words as w
from kdlora.report.content.answer import summary
from kdlora.report.content.cells import RESUMED_NOTE
from kdlora.report.content.cost import costs_figure, costs_table, efficiency, efficiency_by_task
from kdlora.report.content.explorer import explorer
from kdlora.report.content.methods import runs
from kdlora.report.render.terminal import results_table
from tests.harness.studies import make_frame


def interrupted(times: int, tasks: tuple[str, ...] = ("movie-reviews",)):
    frame = make_frame(seeds=(1, 2, 3), tasks=tasks)
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


def test_it_is_marked_task_by_task_run_by_run_and_said_under_charts():
    frame = interrupted(1, tasks=("rte", "mrpc"))
    stats = gather_report(frame)
    table = efficiency_by_task(stats.facts)
    place = [column.key for column in table.columns].index("train_s")
    marked = {row[table.heads - 1].value for row in table.rows if row[place].mark == w.RESUMED}
    assert marked == {"student/kd-lora"}
    assert RESUMED_NOTE in table.notes
    by_pair = costs_table(stats.facts)
    assert {row[1].value for row in by_pair.rows if any(c.mark for c in row)} == {"student/kd-lora"}
    every = runs(frame.assign(flagged=False))
    assert [row[4].value for row in every.rows if row[-2].mark == w.RESUMED] == [2, 2]
    for figure in (costs_figure(stats.facts), explorer(stats.facts, None)):
        assert "are no whole ones" in figure.caption


def test_whole_runs_have_no_mark_and_no_note():
    facts = gather_report(interrupted(0, tasks=("rte", "mrpc"))).facts
    assert w.RESUMED not in costs_figure(facts).caption + explorer(facts, None).caption
    assert RESUMED_NOTE not in efficiency_by_task(facts).notes
    table = efficiency(facts)
    assert {cell.mark for cell in cells(table, "train_s").values()} == {""}
    assert RESUMED_NOTE not in table.notes
