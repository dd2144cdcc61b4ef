"""Temperatures and thresholds against closed forms and brute force."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, matthews_corrcoef

import kdlora
from kdlora.errors import InputError, ModelError
from kdlora.measure.calibration import fit_temperature
from kdlora.records.predictions import SplitOutputs
from kdlora.ship.answers import answers
from kdlora.ship.calibration import (
    calibrate,
    calibrate_folder,
    choose_threshold,
    measure_fit,
)
from kdlora.ship.card import Calibration, make_card, read_calibration, read_card
from tests.harness.exported import card_of
from tests.harness.moods import Corner

NAMES = ["no", "yes"]


def drawn(n: int, scale: float, seed: int, classes: int = 2) -> SplitOutputs:
    """Labels drawn from softmax(logits), then logits made `scale` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, classes))
    shares = softmax(logits, axis=1)
    labels = (shares.cumsum(1) < rng.random((n, 1))).sum(1)
    return SplitOutputs(np.arange(n).astype(object), labels, logits * scale)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_logits_too_sure(scale: float) -> None:
    own = drawn(40_000, scale, 0, classes=3)
    assert fit_temperature(own.outputs, own.labels) == pytest.approx(scale, rel=0.03)


def test_a_temperature_improves_the_loss_and_changes_no_answer() -> None:
    selection, report = drawn(3000, 3.0, 1), drawn(3000, 3.0, 2)
    made = calibrate(selection, report, NAMES, temperature=True, threshold=None)
    for split in ("selection", "report"):
        assert made.after[split].nll < made.before[split].nll
        assert made.after[split].ece < made.before[split].ece / 2
        assert made.after[split].accuracy == made.before[split].accuracy
    assert made.threshold is None
    assert made.chosen_on == "selection"


@pytest.mark.parametrize("metric", ["f1", "macro-f1", "accuracy", "matthews"])
def test_the_threshold_is_the_best_of_all(metric: str) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random(200) < 0.2).astype(int)
    shares = np.round(np.clip(0.3 * labels + rng.normal(0.3, 0.15, 200), 0.01, 0.99), 2)
    score = {
        "f1": lambda said: f1_score(labels, said, zero_division=0),
        "macro-f1": lambda said: f1_score(labels, said, average="macro", zero_division=0),
        "accuracy": lambda said: (said == labels).mean(),
        "matthews": lambda said: matthews_corrcoef(labels, said),
    }[metric]
    cut = choose_threshold(shares, labels, metric=metric, positive=1)
    reached = score((shares >= cut).astype(int))
    best = max(score((shares >= t).astype(int)) for t in [*np.unique(shares), 1.1])
    assert reached == pytest.approx(best)


def test_the_report_split_chooses_nothing() -> None:
    selection = drawn(500, 2.0, 4)
    first = calibrate(selection, drawn(500, 2.0, 5), NAMES, temperature=True, threshold="f1")
    other = calibrate(selection, drawn(500, 9.0, 6), NAMES, temperature=True, threshold="f1")
    assert (first.temperature, first.threshold) == (other.temperature, other.threshold)
    assert first.after["report"] != other.after["report"]


def test_what_is_applied_is_what_was_measured() -> None:
    """`predict` and `serve` answer as the figures say."""
    selection, report = drawn(800, 2.0, 7), drawn(800, 2.0, 8)
    made = calibrate(selection, report, NAMES, temperature=True, threshold="f1", positive="no")
    card = card_of(label_names=NAMES, metric="f1", calibration=made)
    said = np.array([NAMES.index(a["label"]) for a in answers(report.outputs, card)])
    assert (said == report.labels).mean() == pytest.approx(made.after["report"].accuracy)
    assert f1_score(report.labels, said, pos_label=0) == pytest.approx(
        made.after["report"].score
    )  # fmt: skip
    again = measure_fit(report, temperature=made.temperature)
    assert again.nll == pytest.approx(made.after["report"].nll)


def test_problems_are_told_together() -> None:
    own = drawn(50, 1.0, 9, classes=3)
    with pytest.raises(InputError) as caught:
        calibrate(own, None, ["a", "b", "c"], temperature=False, threshold="f2", positive="d")
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="nothing to do"):
        calibrate(own, None, ["a", "b", "c"], temperature=False, threshold=None)


@pytest.fixture(scope="module")
def finished(corner: Corner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of one tiny student, which it has saved."""
    out = tmp_path_factory.mktemp("calibrated") / "study"
    study = corner.study(arms=["student/fft"], seeds=[1], baselines=False)
    kdlora.run(study, out=out, threads=1)
    return out


def student_of(finished: Path, tmp_path: Path, *, inside: bool) -> tuple[Path, Path]:
    """A run's records without weights, and a saved student that names it."""
    study = tmp_path / "study"
    card = read_card(finished / "student")
    assert card is not None
    target = study / "runs" / card.run_id
    target.mkdir(parents=True)
    for name in ("record.json", "predictions.parquet"):
        shutil.copy(finished / "runs" / card.run_id / name, target / name)
    folder = (study if inside else tmp_path / "elsewhere") / "student"
    folder.mkdir(parents=True)
    shutil.copy(finished / "student" / "kdlora.json", folder / "kdlora.json")
    return study, folder


def test_a_saved_student_keeps_it_in_its_card(finished: Path, tmp_path: Path) -> None:
    _, folder = student_of(finished, tmp_path, inside=True)
    path, made = calibrate_folder(folder, temperature=True, threshold="macro-f1")
    card = read_card(folder)
    assert card is not None
    assert path == folder / "kdlora.json"
    assert card.calibration == made
    assert card.calibration.n == json.loads(
        (finished / "runs" / card.run_id / "record.json").read_text()
    )["quality"]["n"]["selection"]  # fmt: skip


def test_a_run_keeps_it_for_what_is_made_of_it(finished: Path, tmp_path: Path) -> None:
    from kdlora.records.store import Store

    study, folder = student_of(finished, tmp_path, inside=True)
    card = read_card(folder)
    assert card is not None
    run = study / "runs" / card.run_id
    path, made = calibrate_folder(run, temperature=True, threshold=None)
    assert path.parent == run
    record = Store(study).read(card.run_id)
    assert record is not None  # the record itself is untouched
    kept = read_calibration(run)
    assert kept == made
    assert make_card(record, run, "x", arm="a", calibration=kept).calibration == made


def test_a_student_away_from_its_study_needs_to_be_told(finished: Path, tmp_path: Path) -> None:
    study, folder = student_of(finished, tmp_path, inside=False)
    with pytest.raises(ModelError, match="--study"):
        calibrate_folder(folder, temperature=True, threshold=None)
    _, made = calibrate_folder(folder, temperature=True, threshold=None, study=study)
    assert isinstance(made, Calibration)
    with pytest.raises(ModelError, match="neither a run's folder"):
        calibrate_folder(tmp_path, temperature=True, threshold=None)
