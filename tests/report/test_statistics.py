"""What the report says of tests is what the analyses found; the imported runs as readers see."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence.compare import compare_many
from kdlora.evidence.costs import cost_ratios
from kdlora.evidence.gains import describe as gather
from kdlora.evidence.questions import ON_TEACHER
from kdlora.evidence.study import gather_report
from kdlora.importing.results import import_results
from kdlora.records.frame import load_frame
from kdlora.report import build
from kdlora.report.content import answer, cost, statistics, verdicts
from kdlora.report.content.parts import ReportInputs
from tests.harness.studies import make_frame, put, with_prefix

TASKS = ("rte", "cola", "stsb", "sst2", "mrpc", "movie-reviews")


@pytest.fixture(scope="module")
def known():
    facts = gather(make_frame(TASKS, seeds=(1, 2, 3)))
    return facts, gather_report(facts.frame)


@pytest.mark.parametrize(
    ("task", "unit", "decimals"), [("rte", "points", 1), ("toxicity", "root mean square error", 3)]
)
def test_comparisons_and_their_sentences_have_the_metrics_unit(task, unit, decimals):
    stats = gather_report(make_frame((task,), seeds=(1, 2, 3)))
    table = statistics.comparisons(stats)
    units = {column.key: column.unit for column in table.columns}
    assert {units[key] for key in ("difference", "interval", "detectable")} == {unit}
    differences = [row[3].text for row in table.rows if row[3].value is not None]
    assert differences
    assert all(len(text.partition(".")[2]) == decimals for text in differences)
    told = [verdicts.verdict_text(c) for _, c in stats.comparisons if c.claim.made]
    assert told
    assert all(f" {unit} [" in text for text in told)
    assert ("Equivalence margin 1 points" in table.caption) == (unit == "points")


def test_comparisons_are_those_of_the_analysis(known):
    facts, stats = known
    table = statistics.comparisons(stats)
    asked = [(c.a, c.b) for c in stats.families["gain of distillation"]]
    assert asked == [("student/kd-lora", "student/lora")]
    (mine,) = compare_many(facts.frame, asked, rng=np.random.default_rng(3))
    (row,) = [r for r in table.rows if r[0].text == "Gain of distillation"]
    assert row[3].value == pytest.approx(mine.claim.difference)
    assert row[4].extra["low"] == pytest.approx(mine.claim.low)
    assert row[5].value == pytest.approx(mine.claim.p_corrected)
    assert row[9].text == mine.tasks_like_these.verdict


def test_a_baseline_without_a_correlation_costs_no_task(known):
    facts, stats = known
    frame = put(facts.frame, {"task": "stsb", "arm": "baseline/majority"}, score=np.nan)
    found = gather_report(frame)
    assert stats.shared.by_task["stsb"] == found.shared.by_task["stsb"] > 0
    assert set(stats.shared.arms) - set(found.shared.arms) <= {"baseline/majority"}
    lost = put(facts.frame, {"task": "stsb", "arm": "student/lora"}, score=np.nan)
    assert "stsb" not in gather_report(lost).shared.by_task  # an encoder's cells do count


def test_what_is_saved_is_the_ratio_of_matched_runs(known):
    facts, _ = known
    found = cost.savings(facts, "teacher/fft")
    ratios = cost_ratios(
        facts.frame, [("student/kd-lora", "teacher/fft")], ["size_mb", "train_s"],
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert {ratio.column for ratio in ratios} == {"size_mb", "train_s"}
    for ratio in ratios:
        saved = found["minilm-l6--minilm-l3", "student/kd-lora"][ratio.column]
        assert saved == pytest.approx(ratio.reduction_percent)


def test_undecided_is_never_called_equal(known):
    _, stats = known
    sentences = [verdicts.verdict_text(c) for _, c in stats.comparisons]
    assert sentences
    for (_, c), text in zip(stats.comparisons, sentences, strict=True):
        assert c.verdict in text or "cannot be said" in text
        if c.verdict == "undecided":
            assert not re.search("equal|same|no difference|equivalent", text)


def test_a_study_without_scores_has_no_statistics():
    frame = make_frame()
    frame["score"] = np.nan
    found = gather_report(frame)
    assert found.families == {}
    assert found.shared.n_cells == 0
    assert found.aggregates == found.ratios == found.per_cost == ()
    assert found.facts.gains == []


@pytest.fixture(scope="module")
def imported(shared, tmp_path_factory):
    folder, _ = import_results(
        shared / "reference" / "runs.csv", study="runs", results=tmp_path_factory.mktemp("in")
    )
    return load_frame(folder)


@pytest.fixture(scope="module")
def page(imported, tmp_path_factory):
    start = time.process_time()
    files = build.write_report(imported, tmp_path_factory.mktemp("out"), ReportInputs("Runs"))
    return files, time.process_time() - start


def test_the_first_screen_of_the_742_runs(imported, shared):
    facts = gather(imported)
    stats = gather_report(facts.frame)
    found = {f.topic: f.text for f in answer.headlines(facts, stats)}
    text = found["What KD-LoRA costs"]
    low, high = (float(x) for x in re.search(r"scores ([\d.]+) to ([\d.]+) points", text).groups())
    assert 3 <= low < high <= 6
    assert "in 4 of 6 variants (DoRA, LoRA, MrLoRA and OLoRA): inferior" in text
    assert "KD-AdaLoRA is undecided" in text
    assert found["How much is an artefact"].startswith("About a third of it")
    assert found["No control arm"].startswith("No control arm exists")
    tiles = " ".join(tile.text for tile in answer.overall_tiles(facts, stats))
    assert re.search(r"None", tiles)
    # The independent re-analysis, which pairs runs and weighs them alike, has the same picture.
    truth = json.loads((shared / "reference" / "better_stats.json").read_text())["main"]
    means = [
        np.mean([100 * row["mean_diff"] for row in truth[column]["lora_vs_kd_paired"]
                 if row["variant"] != "adalora"])
        for column in ("reported_checkpoint", "last_epoch")
    ]  # fmt: skip
    assert answer.artefact_share(stats) == pytest.approx(1 - means[1] / means[0], abs=0.05)
    for c in stats.families[ON_TEACHER]:
        (row,) = [r for r in truth["reported_checkpoint"]["lora_vs_kd_paired"]
                  if r["variant"] == c.a.removeprefix("student/kd-")]  # fmt: skip
        assert c.n_runs == row["n_pairs"]
        assert -c.claim.difference == pytest.approx(100 * row["task_mean_diff"], abs=0.01)


def test_the_report_of_the_742_runs_is_quick_small_and_whole(page):
    files, seconds = page
    assert seconds < 30  # 10 s alone on a core; test machines are shared
    assert files.html.stat().st_size < 5_000_000
    figures = {path.stem for path in files.figures}
    assert figures >= {"averages", "by_task", "task_trends", "costs", "explorer", "score_costs",
                       "per_parameter", "reductions", "normalised", "completion",
                       "critical_difference", "forest", "learning"}  # fmt: skip


def test_the_published_tables_have_their_figures(shared, tmp_path):
    """Score bars, heat maps and trends; costs, parameters by rank and reductions; agreement."""
    wanted = {
        "paper_table_1.csv": {"averages", "by_task", "task_trends", "forest"},
        "paper_table_2.csv": {"costs", "by_rank", "reductions"},
        "kd_matrix_004.csv": {"agreement"},
    }
    for name, figures in wanted.items():
        folder, _ = import_results(
            shared / "reference" / name, study=name[:-4], results=tmp_path / "in"
        )
        files = build.write_report(load_frame(folder), tmp_path / name, ReportInputs(name))
        assert {path.stem for path in files.figures} >= figures, name


def test_thousands_of_runs(tmp_path):
    arms = ("teacher/fft", "teacher/lora", "teacher/dora", "student/fft", "student/lora",
            "student/dora", "student/kd-lora", "student/kd-dora", "student/kd-fft")  # fmt: skip
    frames = [
        with_prefix(
            make_frame(
                ("rte", "cola", "stsb", "mrpc", "sst2"), seeds=range(20), arms=arms, pair=pair
            ),
            f"{pair}-",
        )
        for pair in "abcd"
    ]
    frame = pd.concat(frames, ignore_index=True)
    assert len(frame) > 4_000
    files = build.write_report(frame, tmp_path, ReportInputs("Many"))
    assert files.html.stat().st_size < 8_000_000
    assert "The first 1,000 of" in files.html.read_text(encoding="utf-8")
    runs = next(path for path in files.tables if path.name == "runs.csv")
    assert len(pd.read_csv(runs)) == frame["run_id"].nunique()
