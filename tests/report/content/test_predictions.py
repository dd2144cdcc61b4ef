"""Calibration, confusion, agreement, ranks and coverage as figures, against hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.evidence.abstention import RiskCoverage
from kdlora.evidence.gains import describe as gather
from kdlora.evidence.predictions import ConfidenceBins, confidence_bins
from kdlora.evidence.study import gather_report
from kdlora.records.tidy import tidy
from kdlora.report.content import predictions, statistics, trust
from kdlora.report.content.cost import by_rank
from kdlora.report.content.coverage import coverage
from kdlora.report.content.task_by_task import precision_and_recall
from kdlora.report.render.panels import FAINT, FULL, shades
from kdlora.vocabulary.metric import expected_calibration_error
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, REGRESSION
from tests.harness.studies import make_frame, put


def rows_of(panel, *columns):
    """The rows of the first layer's data that have all the columns."""
    for layer in panel.spec["layer"]:
        rows = panel.spec["datasets"][layer["data"]["name"]]
        if rows and all(column in rows[0] for column in columns):
            return rows
    raise AssertionError(f"no layer has {columns}")


def test_bins_give_the_calibration_error_of_the_records():
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(0, 2, (400, 3)), rng.integers(0, 3, 400)
    bins = confidence_bins(CLASSIFICATION, logits, labels)
    gaps = np.abs(np.array(bins.correct) - np.array(bins.confidence)).sum()
    assert gaps / 400 == pytest.approx(expected_calibration_error(logits, labels, bins=10))
    assert sum(bins.n) == 400
    assert sum(bins.correct) == (logits.argmax(axis=1) == labels).sum()


def test_outputs_that_are_no_classes_have_no_bins():
    assert confidence_bins(REGRESSION, np.zeros((5, 1)), np.zeros(5)) is None
    assert confidence_bins(CLASSIFICATION, np.full((5, 2), np.nan), np.zeros(5, int)) is None


def test_reliability_adds_up_the_seeds(one_task):
    runs = one_task.loc[one_task["arm"] == "student/lora", "run_id"]
    one = ConfidenceBins((0, 4), (0.0, 3.0), (0, 2))
    figure, table = predictions.reliability(tidy(one_task), dict.fromkeys(runs, one))
    (row,) = table.rows
    assert [cell.value for cell in row[1:]] == [0.75, 0.5, 8]
    assert "n = 2 runs" in figure.caption
    assert predictions.reliability(tidy(one_task), {}) is None


def test_risk_by_coverage_is_the_mean_over_the_seeds(one_task):
    runs = list(one_task.loc[one_task["arm"] == "student/lora", "run_id"])
    curves = [RiskCoverage((1.0, 0.5), (0.2, 0.1), 0.12), RiskCoverage((1.0, 0.5), (0.4, 0.1), 0.2)]
    bins = {
        run: ConfidenceBins((4,), (3.0,), (2,), curve)
        for run, curve in zip(runs, curves, strict=True)
    }
    figure, table = predictions.risk_coverage(tidy(one_task), bins)
    found = [[cell.value for cell in row[1:]] for row in table.rows]
    assert found == [pytest.approx([1.0, 0.3, 0.16, 2]), pytest.approx([0.5, 0.1, 0.16, 2])]
    drawn = rows_of(figure.panels[0], "Answered")
    assert [(r["x"], r["y"]) for r in drawn] == [pytest.approx((50, 10)), pytest.approx((100, 30))]
    several = dict.fromkeys(runs, ConfidenceBins((4,), (3.0,), (2,)))
    assert predictions.risk_coverage(tidy(one_task), several) is None


def test_a_curve_is_of_rows_with_one_answer_each():
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(0, 2, (200, 3)), rng.integers(0, 3, 200)
    curve = confidence_bins(CLASSIFICATION, logits, labels).curve
    assert curve.risk[0] == pytest.approx((logits.argmax(1) != labels).mean())
    assert confidence_bins(MULTILABEL, logits, (logits > 0).astype(int)).curve is None


def test_confusion_is_the_sum_over_seeds_in_per_cent_of_the_true_class(one_task):
    frame = put(one_task, {"arm": "student/fft"}, confusion=[[30, 10], [5, 15]])
    figure, table = predictions.confusion(tidy(frame))
    assert len(figure.panels) == 1
    cells = {(r[1].text, r[2].text): (r[3].value, r[4].value) for r in table.rows}
    assert cells["negative", "positive"] == (20, 0.25)
    assert cells["positive", "positive"] == (30, 0.75)
    drawn = {(r["True"], r["Predicted"]): r["label"] for r in rows_of(figure.panels[0], "True")}
    assert drawn["negative", "negative"] == "75.0"


def test_agreement_is_drawn_within_its_bounds(one_task):
    figure = predictions.agreement_figure(tidy(one_task))
    (panel,) = figure.panels
    rows = rows_of(panel, "low", "x")
    assert len(rows) == 2
    for row in rows:
        assert row["x"] == pytest.approx(90.2)
        assert row["low"] < row["high"]
    unknown = put(one_task, {"arm": "student/kd-lora"}, agreement_lower=None, agreement_upper=None)
    spec = predictions.agreement_figure(tidy(unknown)).panels[0].spec
    assert not [layer for layer in spec["layer"] if layer["mark"]["type"] == "bar"]


def test_shades_run_from_worst_to_best():
    assert shades([1.0, 3.0, 2.0]) == pytest.approx([FAINT, FULL, (FAINT + FULL) / 2])
    assert shades([1.0, 3.0], -1) == pytest.approx([FULL, FAINT])
    assert len(set(shades([2.0, 2.0]))) == 1


def test_coverage_as_a_picture(troubled):
    facts = gather(troubled)
    figure = trust.completion(coverage(facts.frame), facts)
    cells = {(r["row"], r["column"]): r for r in rows_of(figure.panels[0], "row")}
    assert cells["student KD-LoRA", "sst2"]["label"] == "1/2"
    whole = cells["student LoRA", "rte"]
    assert whole["label"] == "2/2"
    assert whole["shade"] > cells["student KD-LoRA", "sst2"]["shade"]


def test_the_forest_is_open_where_nothing_is_decided():
    facts = gather(make_frame(("rte", "cola", "stsb", "sst2", "mrpc", "movie-reviews")))
    stats = gather_report(facts.frame)
    figure = statistics.forest(stats)
    assert len(figure.panels) == len(stats.families)
    for panel, found in zip(figure.panels, stats.families.values(), strict=True):
        drawn = {}
        for layer in panel.spec["layer"]:
            for row in panel.spec["datasets"][layer["data"]["name"]]:
                if "Verdict" in row:
                    drawn[row["Comparison"]] = row
        assert len(drawn) == len([c for c in found if c.claim.low is not None])
        for row in drawn.values():
            assert row["decided"] == (row["Verdict"] not in ("undecided", "cannot be said"))
        band = rows_of(panel, "a", "b")[0]
        assert (band["a"], band["b"]) == (-1.0, 1.0)


def test_the_rank_diagram_has_the_ranks_of_the_analysis():
    facts = gather(make_frame(("rte", "cola", "stsb", "sst2"), baselines=False))
    stats = gather_report(facts.frame)
    figure = statistics.critical_difference(stats)
    drawn = {r["label"]: r["x"] for r in rows_of(figure.panels[0], "Average rank")}
    assert sorted(drawn.values()) == pytest.approx(
        sorted(stats.ranks["tasks"].average_rank.values())
    )
    assert "not told apart, which does not make them equal" in figure.caption


def test_ranks_of_one_cell_become_models_and_a_line(one_task):
    other = one_task[one_task["arm"] == "student/lora"].assign(
        rank=4, trainable_params=300_000, run_id=lambda f: f["run_id"] + "-r4"
    )
    import pandas as pd

    facts = gather(pd.concat([one_task, other]))
    assert {"student/lora[rank 4]", "student/lora[rank 16]"} <= set(facts.frame["arm"])
    figure, table = by_rank(facts)
    assert [(r[2].value, r[3].value) for r in table.rows] == [(4, 300_000), (16, 591_362)]
    assert by_rank(gather(one_task)) is None
    assert len(figure.panels) == 1


def test_precision_and_recall_of_each_class_come_from_its_counts(one_task):
    arm = {"arm": "student/fft"}
    table = precision_and_recall(tidy(put(one_task, arm, confusion=[[30, 10], [5, 15]])))
    cells = {row[1].text: [c.value for c in row[2:]] for row in table.rows}
    assert cells == {
        "negative": pytest.approx([80, 0.75, 30 / 35]),
        "positive": pytest.approx([40, 0.75, 15 / 25]),
    }
    silent = precision_and_recall(tidy(put(one_task, arm, confusion=[[40, 0], [20, 0]])))
    assert [c.value for c in silent.rows[1][2:]] == [40, 0.0, None]
