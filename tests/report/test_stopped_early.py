"""Runs that an early decision ended: said, left out of averages, and neither missing nor failed."""

from __future__ import annotations

from kdlora.evidence.gains import describe as gather
from kdlora.report.content import trust
from kdlora.report.content.coverage import coverage
from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from tests.harness.studies import blank

WHERE = {"arm": "student/lora", "seed": 42}
WHY = "stopped after epoch 1 at accuracy 0.6 on the selection split; student/fft went on"


def test_they_are_counted_on_their_own(one_task):
    frame = blank(one_task, WHERE, "stopped", WHY)
    facts = gather(frame)
    assert trust.covered(facts).text == "11 of 12 planned runs are done; 1 stopped early."
    told = trust.ended_early(facts)
    assert "in 1 cell of 2" in told.text
    assert "selection split alone" in told.text
    assert trust.ended_early(gather(one_task)) is None
    (row,) = trust.unfinished(facts.frame).rows
    assert (row[4].text, row[5].text) == ("stopped", WHY)
    cells = [cell.extra for row in coverage(facts.frame).rows for cell in row if cell.extra]
    assert {(e["stopped"], e["missing"], e["failed"]) for e in cells} >= {(1, 0, 0)}


def test_averages_keep_their_blocks_and_lose_the_stopped_model(one_task):
    whole = {o.arm: o for found in gather(one_task).outcomes.values() for o in found}
    frame = blank(one_task, WHERE, "stopped", WHY)
    left = {o.arm: o for found in gather(frame).outcomes.values() for o in found}
    assert set(left) == set(whole) - {"student/lora"}
    assert all(left[arm].blocks == whole[arm].blocks == 2 for arm in left)


def test_the_whole_report_is_made(one_task):
    frame = blank(one_task, WHERE, "stopped", WHY)
    made = build(frame, ReportInputs("t"))
    (section,) = [s for s in made.sections if s.key == "trust"]
    assert any(finding.topic == "Stopped early" for finding in section.findings)
