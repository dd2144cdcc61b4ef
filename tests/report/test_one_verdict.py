"""All outputs of one study say the same of one comparison, and say what rests on flagged runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import kdlora
import kdlora.records.frame
from kdlora.cli.compare import compare as command
from kdlora.evidence.questions import ON_TEACHER
from kdlora.evidence.result import Rules
from kdlora.records.tidy import StudyFrame
from kdlora.report import words as w
from kdlora.report.content.parts import ReportInputs
from kdlora.report.content.study import build
from kdlora.report.document import Report
from tests.harness.choice_studies import matrix_study, outputs_of
from tests.harness.evidence_frames import VARIANTS, grid, runs_742
from tests.harness.studies import make_frame, put

ARMS = ["teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora"]
LEVEL = {"teacher/fft": 0.05, "teacher/lora": 0.04, "student/lora": 0.0, "student/kd-lora": 0.012}
RULES = Rules(draws=300, permutations=100)

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


def study(tasks: int, seeds: int) -> pd.DataFrame:
    draw = np.random.default_rng(tasks)
    return grid(
        lambda arm, *_: 0.8 + LEVEL.get(arm, 0.02) + draw.normal(0, 0.01),
        arms=ARMS, tasks=[f"t{i}" for i in range(tasks)], seeds=range(seeds),
    )  # fmt: skip


def in_the_report(report: Report, a: str, b: str) -> tuple[str, float]:
    """Verdict of the widest claim and corrected p, from the rows of the page's table."""
    (table,) = [t for t in report.tables() if t.key == "comparisons"]
    at = {column.key: i for i, column in enumerate(table.columns)}
    rows = [r for r in table.rows if (r[at["a"]].value, r[at["b"]].value) == (a, b)]
    found = {(_first_verdict(row), row[at["p"]].value) for row in rows}
    assert len(found) == 1  # also where two questions ask for the same
    return found.pop()


def _first_verdict(row) -> str:
    """The scopes stand from the widest on; one in which nothing can be said is skipped."""
    known = ("superior", "inferior", "equivalent", "undecided")
    return next(cell.text.split(" within")[0] for cell in row if cell.text.startswith(known))


@pytest.mark.parametrize(("tasks", "seeds"), [(7, 3), (3, 3), (2, 3)])
def test_every_output_has_the_same_verdict(tasks, seeds, monkeypatch, tmp_path) -> None:
    frame = study(tasks, seeds)
    monkeypatch.setattr(kdlora.records.frame, "load_frame", lambda root: frame)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        options = ["--draws", "300", *arguments]
        return CliRunner().invoke(app, [str(tmp_path), *options], catch_exceptions=False).output

    whole = kdlora.compare(frame, rules=RULES)
    report = build(frame, ReportInputs("study"))
    told = {(c["a"], c["b"]): c for c in json.loads(run("--json"))["comparisons"]}
    for a, b in (("student/kd-lora", "student/lora"), ("student/kd-lora", "teacher/fft"),
                 ("student/fft", "teacher/fft")):  # fmt: skip
        (own,) = kdlora.compare_arms(frame, a, b, rules=RULES)
        verdicts = {c.verdict for _, c in whole.comparisons if (c.a, c.b) == (a, b)}
        page, p = in_the_report(report, a, b)
        (named,) = json.loads(run("--a", a, "--b", b, "--json"))["comparisons"]
        assert verdicts == {own.verdict} == {told[a, b]["verdict"]} == {named["verdict"]} == {page}
        assert p == pytest.approx(own.claim.p_corrected)
        assert named["sentence"] in run("--a", a, "--b", b)


def test_the_reproduced_reports_say_what_compare_says(shared: Path) -> None:
    frame = runs_742(shared)
    made = kdlora.reproduce(runs=shared / "reference" / "runs.csv", draws=300)
    (report,) = [r for r in made.reports if r.id == "001"]
    tables = [s.table for s in report.sound if "001.lora_vs_kd.score" in s.id or "fft_vs" in s.id]
    students = [f"student/kd-{v}" for v in VARIANTS]
    whole = kdlora.compare(frame[frame["arm"].isin([*students, *(
        f"teacher/{v}" for v in VARIANTS), "teacher/fft"])], rules=RULES)  # fmt: skip
    known = {(c.a, c.b): c for _, c in whole.comparisons}
    turned = {"inferior": "superior", "superior": "inferior"}
    checked = 0
    for table in tables:
        for row in table.to_dict("records"):
            same = known.get((row["a"], row["b"]))
            other = same or known[row["b"], row["a"]]
            for scope in ("these_tasks", "tasks_like_these"):
                verdict = getattr(other, scope).verdict
                expected = verdict if same else turned.get(verdict, verdict)
                assert row[f"verdict_{scope}"] == expected, (row["a"], row["b"])
                checked += 1
    assert checked == 2 * 18
    told = [c for c in whole.families[ON_TEACHER] if c.verdict == "inferior"]
    answer = next(s.answer for s in report.sound if s.id == "001.lora_vs_kd.score")
    assert answer.startswith(f"{len(told)} of 6 variants are told apart on tasks like these")


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_the_matrix_says_what_compare_says_of_the_same_cells(seeds) -> None:
    frame, draw = matrix_study(seeds), np.random.default_rng(5)
    moved = {run: draw.normal(0, 0.012) for run in frame["run_id"].unique()}
    frame["score"] = (frame["score"] + frame["run_id"].map(moved)).round(3)
    outputs = outputs_of(frame.drop_duplicates("run_id").set_index("run_id")["score"].to_dict())
    (table,) = [
        t
        for t in build(frame, ReportInputs("m", texts=outputs)).tables()
        if t.key == "matrix_tests"
    ]
    rows = table.records()
    checked = 0
    for kind, base in (("distillation", "student/lora"), ("teacher's own", "teacher/fft")):
        for row in (row for row in rows if row["kind"] == kind):
            pair = row["a"].replace(" to ", "--")
            own = StudyFrame.of(frame[frame["pair"] == pair], outputs)
            (said,) = kdlora.compare_arms(own, "student/kd-lora", base, rules=RULES)
            for ours, theirs in (("difference", "difference"), ("low", "low"), ("p", "p")):
                assert row[ours] == pytest.approx(getattr(said.claim, theirs))
            if row["p"] > 0.05:  # no correction turns that into a verdict
                assert row["verdict"] == said.verdict
            checked += 1
    assert checked == 8
    (teacher,) = [row for row in rows if row["kind"] == "teacher"]  # alone in its question
    told = frame[frame["arm"] == "student/kd-lora"]
    told = told.assign(arm=told["teacher"] + " taught", pair=told["student"])
    (said,) = kdlora.compare_arms(
        StudyFrame.of(told, outputs), "big taught", "huge taught", rules=RULES
    )
    assert (teacher["verdict"], teacher["p_holm"]) == (said.verdict, said.claim.p_corrected)


def test_no_first_sentence_rests_on_flagged_runs_alone() -> None:
    frame = put(
        make_frame(seeds=(42, 43, 44)), {"arm": "student/kd-lora", "seed": 43}, score=0.5,
        flags=("constant_predictions",), flag_severities=("error",), flag_details=("all alike",),
    )  # fmt: skip
    report = build(frame, ReportInputs("study"))
    (answer,) = [s for s in report.sections if s.key == "answer"]
    for finding in answer.findings:
        if "KD-LoRA" in finding.text and re.search(r"\d", finding.text):
            assert re.search("flag", finding.text), finding.text
    (one,) = kdlora.compare_arms(frame, "student/kd-lora", "teacher/lora", rules=RULES)
    sound = frame[frame["seed"] != 43].groupby("arm")["score"].mean()
    assert one.n_flagged == 1
    assert one.unflagged == pytest.approx(100 * (sound["student/kd-lora"] - sound["teacher/lora"]))
    left = (
        f"but {w.signed_difference(one.unflagged, 'points')} without the 1 pair with a flagged run"
    )
    assert left in report_text(report)


def report_text(report: Report) -> str:
    return " ".join(f.text for s in report.sections for f in s.findings)
