from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from kdlora.ship.gate import Gate, search
from kdlora.ship.quantize import INT8, Settings
from kdlora.vocabulary.task import CLASSIFICATION, REGRESSION, Task
from tests.harness.onnx_models import small_model

TASK = Task("moods", CLASSIFICATION, ("text",), ("neg", "pos"), "accuracy")
LABELS = np.array([0, 0, 1, 1] * 50)


def outputs(wrong: int, *, sure: float = 1.0) -> np.ndarray:
    """Logits that are wrong on the first `wrong` rows."""
    right = np.where(np.arange(len(LABELS)) < wrong, 1 - LABELS, LABELS)
    return sure * np.eye(2)[right]


def test_a_verdict_by_hand() -> None:
    gate = Gate(TASK, LABELS, outputs(20), 0.5)
    verdict = gate.judge(outputs(22, sure=3.0))
    assert gate.score == 0.9
    assert verdict.score == 0.89
    assert verdict.drop_points == pytest.approx(1.0)
    assert verdict.agreement == 198 / 200
    assert verdict.max_abs_difference == 3.0
    assert not verdict.passed


@pytest.mark.parametrize(
    ("wrong", "allowed", "passed"),
    [(21, 0.5, True), (22, 0.5, False), (20, 0.0, True), (21, 0.0, False), (0, 0.0, True)],
)
def test_exactly_the_allowed_drop_passes(wrong: int, allowed: float, passed: bool) -> None:
    assert Gate(TASK, LABELS, outputs(20), allowed).judge(outputs(wrong)).passed is passed


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_a_drop_of_an_error_is_in_per_cent_and_more_is_a_drop(metric: str) -> None:
    task = Task("stars", REGRESSION, ("text",), (), metric)
    truth = np.zeros(4, dtype=np.float32)
    gate = Gate(task, truth, np.full((4, 1), 0.5), 3)
    verdict = gate.judge(np.full((4, 1), 0.52))
    assert verdict.drop_points == pytest.approx(4)
    assert not verdict.passed
    assert verdict.agreement is None
    assert gate.judge(np.full((4, 1), 0.514)).passed
    assert gate.judge(np.full((4, 1), 0.2)).passed


@pytest.mark.parametrize("metric", ["rmse", "mae"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_hundredth_of_an_error_may_be_lost_whatever_its_size(metric: str, size: float) -> None:
    task = Task("stars", REGRESSION, ("text",), (), metric)
    gate = Gate(task, np.zeros(4), np.full((4, 1), size))
    assert gate.judge(np.full((4, 1), 1.009 * size)).passed
    assert not gate.judge(np.full((4, 1), 1.011 * size)).passed


def test_nothing_of_an_error_of_zero_may_be_lost() -> None:
    gate = Gate(Task("stars", REGRESSION, ("text",), (), "rmse"), np.zeros(4), np.zeros((4, 1)))
    assert gate.judge(np.zeros((4, 1))).passed
    assert not gate.judge(np.full((4, 1), 1e-6)).passed


def test_half_a_point_of_a_correlation_may_be_lost() -> None:
    """Answers that are the labels turned by an angle correlate with them by its cosine."""
    truth, other = np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0])

    def answers(correlation: float) -> np.ndarray:
        return (correlation * truth + np.sqrt(1 - correlation**2) * other)[:, None]

    gate = Gate(Task("pairs", REGRESSION, ("text",), (), "pearson"), truth, answers(0.8))
    assert gate.judge(answers(0.796)).passed
    assert not gate.judge(answers(0.794)).passed
    assert gate.judge(answers(0.794)).drop_points == pytest.approx(0.6)


def test_half_a_point_may_be_lost_of_a_metric_in_points() -> None:
    gate = Gate(TASK, LABELS, outputs(20))
    assert gate.judge(outputs(21)).passed  # one of 200 rows
    assert not gate.judge(outputs(22)).passed


def test_what_has_no_score_does_not_pass() -> None:
    gate = Gate(TASK, LABELS, outputs(20), 100.0)
    verdict = gate.judge(np.full((200, 2), np.nan))
    assert verdict.drop_points is None
    assert not verdict.passed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save_model(small_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_settings_are_tried_in_turn_until_one_passes(source: Path, tmp_path: Path) -> None:
    answers = iter([outputs(24), outputs(23), outputs(21)])
    target = tmp_path / "int8.onnx"
    gate = Gate(TASK, LABELS, outputs(20), 0.5)
    chosen = search(source, target, INT8, gate=gate, outputs_of=lambda path: next(answers))
    assert chosen.verdict.passed
    assert [t.chosen for t in chosen.trials] == [False, False, True]
    assert [t.drop_points for t in chosen.trials] == pytest.approx([2.0, 1.5, 0.5])
    assert [t.settings for t in chosen.trials] == [str(s) for s in INT8[:3]]
    assert target.stat().st_size == chosen.trials[2].size_mb * 1e6
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "int8.onnx"}


def test_if_none_passes_the_one_that_lost_least_is_kept(source: Path, tmp_path: Path) -> None:
    settings = (Settings(8), Settings(8, keep=("embeddings",)), Settings(8, keep=("head",)))
    answers = iter([outputs(30), outputs(25), outputs(40)])
    target = tmp_path / "int8.onnx"
    gate = Gate(TASK, LABELS, outputs(20), 0.5)
    chosen = search(source, target, settings, gate=gate, outputs_of=lambda path: next(answers))
    assert not chosen.verdict.passed
    assert chosen.verdict.drop_points == pytest.approx(2.5)
    assert [t.chosen for t in chosen.trials] == [False, True, False]
    assert target.stat().st_size == chosen.trials[1].size_mb * 1e6 > chosen.trials[0].size_mb * 1e6
