"""A section that fails never costs the report, and one without data says what is lacking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from kdlora import api
from kdlora.cli.app import app
from kdlora.errors import InputError, ReportError, StoreError
from kdlora.evidence.result import Rules
from kdlora.report import build
from kdlora.report.content import parts, study
from kdlora.report.content.parts import ReportInputs
from kdlora.report.document import Missing, Report
from kdlora.report.stored_outputs import StoredOutputs
from tests.harness.studies import blank, make_frame, make_histories, put

ARMS = ("teacher/fft", "student/lora", "student/kd-lora")


def small(tasks=("movie-reviews", "rte"), **changes) -> pd.DataFrame:
    return make_frame(tasks, **{"seeds": (1, 2), "arms": ARMS, **changes})


def all_flagged() -> pd.DataFrame:
    frame = small()
    for role in ("teacher", "student"):
        flags = {"flags": ("constant_predictions",), "flag_severities": ("error",)}
        frame = put(frame, {"role": role}, **flags, flag_details=("one class everywhere",))
    return frame


def all_failed() -> pd.DataFrame:
    frame = small()
    for arm in dict.fromkeys(frame["arm"]):
        frame = blank(frame, {"arm": arm}, "failed", "OutOfMemoryError: no room")
    return frame


def one_run() -> pd.DataFrame:
    return small(("rte",), seeds=(1,), arms=ARMS[:1], baselines=False)


def only_baselines() -> pd.DataFrame:
    frame = small()
    return frame[frame["role"] == "baseline"]


STUDIES = {
    "no rows": lambda: small().iloc[:0],
    "all runs flagged": all_flagged,
    "all failed": all_failed,
    "one run": one_run,
    "one task": lambda: small(("rte",)),
    "one seed": lambda: small(seeds=(1,)),
    "one arm": lambda: small(("rte",), arms=("student/kd-lora",)),
    "no teacher": lambda: small(("rte",), arms=ARMS[1:]),
    "only baselines": only_baselines,
    "regression only": lambda: small(("toxicity",)),
    "no scores": lambda: small(("rte",)).assign(score=np.nan, selection_score=np.nan),
}
# What is asked of every study; whether teachers and students were crossed is not.
ASKED = {plan.title for plan in study.PLANS} - {"Teachers and students"}


@pytest.fixture
def few_draws(monkeypatch):
    """The intervals are not looked at here, and drawing them takes most of the time."""
    monkeypatch.setattr("kdlora.evidence.study.REPORT_RULES", Rules(draws=100, permutations=0))


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.usefixtures("few_draws")
def test_every_section_of_a_poor_study_stands_or_says_why(kind, tmp_path):
    frame = STUDIES[kind]()
    inputs = ReportInputs(
        kind, {"name": "s"}, histories=lambda: make_histories(frame), examples=StoredOutputs
    )
    files = build.write_report(frame, tmp_path, inputs)
    text = files.markdown.read_text(encoding="utf-8")
    assert files.failures == (), text
    files.check()
    page = files.html.read_text(encoding="utf-8")
    if kind == "no rows":
        assert "The study has no runs: there is nothing to report." in text
        assert "there is nothing to report" in page
        return
    sections = dict(part.split("\n", 1) for part in ("\n" + text).split("\n## ")[1:])
    assert set(sections) - {"Teachers and students"} == ASKED
    assert all(body.strip() for body in sections.values()), "a heading with nothing below it"
    if kind == "all runs flagged":
        why = sections["Which model to ship"]
        assert why.count("every trained model carries an error flag") == 2
        assert "'movie-reviews'" in why
        assert "'rte'" in why


@pytest.fixture(scope="module")
def data():
    frame = small(("rte",))
    inputs = ReportInputs(
        "s", {"name": "s"}, notes=("a note",), rerun="kdlora",
        histories=lambda: make_histories(frame), examples=StoredOutputs,
    )  # fmt: skip
    return parts.ReportData(frame, inputs)


@pytest.mark.parametrize("plan", study.PLANS, ids=lambda plan: plan.key)
def test_a_part_that_fails_costs_no_other_part_of_its_section(plan, data):
    assert plan.parts
    made = [plan._made(i, part, data) for i, part in enumerate(plan.parts)]
    same = tuple(replace(p, make=lambda d, m=m: m) for p, m in zip(plan.parts, made, strict=True))

    def broken(d):
        return 1 / 0

    for i, part in enumerate(plan.parts):
        planted = (*same[:i], replace(part, make=broken), *same[i + 1 :])
        section = replace(plan, parts=planted).make(data)
        (missing,) = [b for b in section.blocks if isinstance(b, Missing)]
        assert missing.title == part.title
        assert "ZeroDivisionError: division by zero" in missing.text
        assert "raise ZeroDivisionError" in missing.trace or "1 / 0" in missing.trace
        stands = [piece for j, pieces in enumerate(made) if j != i for piece in pieces]
        shown = (*section.intro, *section.tiles, *section.findings, *section.blocks)
        assert len(shown) == len(stands) + 1
        assert all(any(piece is s for s in shown) for piece in stands)


def test_lacking_data_are_no_failure(data):
    def lacking(d):
        raise InputError("no run has a size")

    plan = parts.SectionPlan("k", "Section", (parts.Part("A table", lacking),))
    (block,) = plan.make(data).blocks
    assert (block.title, block.text, block.trace) == ("A table", "No run has a size.", "")


@pytest.mark.usefixtures("few_draws")
def test_what_cannot_be_read_costs_only_what_needs_it(tmp_path):
    def unreadable():
        raise StoreError("predictions.parquet is damaged")

    frame = small(("rte",))
    inputs = ReportInputs("s", histories=unreadable, bins=unreadable, examples=unreadable)
    made = study.build(frame, inputs)
    failed = {(section.title, part.title) for section, part in made.failures()}
    of_choice = {part for part in failed if part[0] == "Which model to ship"}
    assert len(of_choice) == 5
    assert failed - of_choice == {
        ("The answer", "Which model for which use"),
        ("The answer", "What to do next"),
        ("Task by task", "Learning curves"),
        ("Task by task", "Calibration"),
        ("Task by task", "If unsure answers were withheld"),
    }
    assert {"summary", "quality", "efficiency", "comparisons", "runs"} <= {
        table.key for table in made.tables()
    }


@pytest.fixture
def broken_everywhere(monkeypatch):
    """Plans whose first part of every section fails."""

    def broken(d):
        raise KeyError("a <column> & more")

    plans = tuple(
        replace(plan, parts=(replace(plan.parts[0], make=broken), *plan.parts[1:]))
        for plan in study.PLANS
    )
    monkeypatch.setattr(study, "PLANS", plans)
    return plans


@pytest.mark.usefixtures("few_draws")
def test_a_report_with_failures_is_written_and_the_command_exits_with_1(
    broken_everywhere, monkeypatch, tmp_path
):
    frame = one_run()
    files = build.write_report(frame, tmp_path, ReportInputs("s"))
    titles = [f"{plan.title}: {plan.parts[0].title}" for plan in broken_everywhere]
    assert list(files.failures) == titles
    log = files.errors.read_text(encoding="utf-8")
    page = files.html.read_text(encoding="utf-8")
    text = files.markdown.read_text(encoding="utf-8")
    for plan in broken_everywhere:
        assert f"{plan.title}: {plan.parts[0].title}\n\nTraceback" in log
        assert f"### {plan.parts[0].title}\n\nThis part could not be made (KeyError" in text
    assert page.count("All else on this page stands") == len(titles)
    assert "a &lt;column&gt; &amp; more" in page
    with pytest.raises(ReportError, match="Efficiency: How few parameters are trained"):
        files.check()
    assert ReportError("x").exit_code == 1
    monkeypatch.setattr(api, "write_report", lambda folder, **part: files)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert str(files.html) in done.output
    assert isinstance(done.exception, ReportError)
    monkeypatch.undo()
    after = build.save_report(Report("s", "", ()), tmp_path)
    assert after.failures == ()
    assert after.errors is None
    assert not files.errors.exists()


@pytest.mark.usefixtures("few_draws")
def test_a_chart_that_cannot_be_drawn_says_so_in_its_place(monkeypatch, tmp_path):
    whole = build.draw

    def draw(panel):
        if panel.key.startswith("cost_"):
            raise ValueError("not a number")
        return whole(panel)

    monkeypatch.setattr(build, "draw", draw)
    files = build.write_report(small(("rte",), seeds=(1,)), tmp_path, ReportInputs("s"))
    assert files.failures == ("Efficiency: What each model costs",)
    assert not (tmp_path / "figures" / "costs.svg").exists()
    assert "ValueError: not a number" in files.markdown.read_text(encoding="utf-8")
