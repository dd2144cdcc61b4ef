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
from kdlora.records.artefact import read_artefact, verify
from kdlora.records.predictions import SplitOutputs
from kdlora.ship.answers import answer_columns, answers, flat
from kdlora.ship.calibration import (
    calibrate,
    calibrate_folder,
    calibrate_run,
    choose_threshold,
    choose_thresholds,
    measure_fit,
)
from kdlora.ship.card import Calibration, make_card, read_calibration, read_card
from kdlora.vocabulary.metric import confusion_counts
from kdlora.vocabulary.metric import metric as metric_of
from tests.harness.exported import card_of, save_exported, seal
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
    again = measure_fit(report, NAMES, Calibration(temperature=made.temperature, n=1))
    assert again.nll == pytest.approx(made.after["report"].nll)


def test_problems_are_told_together() -> None:
    own = drawn(50, 1.0, 9, classes=3)
    with pytest.raises(InputError) as caught:
        calibrate(own, None, ["a", "b", "c"], temperature=False, threshold="f2", positive="d",
                  abstain=1.5)  # fmt: skip
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="name it with --positive"):
        calibrate(own, None, ["a", "b", "c"], temperature=False, threshold="f1")
    with pytest.raises(InputError, match="a regression has no probabilities"):
        calibrate(own, None, [], temperature=False, threshold=None, abstain=0.9)
    with pytest.raises(InputError, match="nothing to do"):
        calibrate(own, None, ["a", "b", "c"], temperature=False, threshold=None)


def skewed(n: int, seed: int) -> SplitOutputs:
    """Three classes, the last one rare and never the likeliest by much."""
    own = drawn(n, 1.0, seed, classes=3)
    return SplitOutputs(own.ids, own.labels, own.outputs - [0.0, 0.0, 2.0])


@pytest.mark.parametrize("metric", ["macro-f1", "balanced-accuracy", "matthews", "accuracy"])
def test_thresholds_of_three_classes_are_as_good_as_a_search_over_all_finds(metric: str) -> None:
    own = skewed(400, 20)
    shares = softmax(own.outputs, axis=1)
    one = metric_of(metric.replace("-", "_"))
    assert one.of_confusion is not None

    def score(thresholds: np.ndarray) -> float:
        said = (shares / thresholds).argmax(1)
        return float(one.of_confusion(confusion_counts(said, own.labels, 3), None))

    found = choose_thresholds(shares, own.labels, metric=metric)
    assert found.sum() == pytest.approx(1)
    steps = np.exp(np.linspace(-3, 3, 40))
    best = max(score(np.array([1.0, a, b])) for a in steps for b in steps)
    assert score(found) > best - 0.01
    assert score(found) >= score(np.full(3, 1 / 3))


def test_classes_of_few_rows_keep_their_thresholds() -> None:
    own = skewed(400, 21)
    few = own.at(np.concatenate([np.flatnonzero(own.labels == k)[:9] for k in range(3)]))
    found = choose_thresholds(softmax(few.outputs, axis=1), few.labels, metric="macro-f1")
    assert found == pytest.approx(np.full(3, 1 / 3))
    whole = choose_thresholds(softmax(own.outputs, axis=1), own.labels, metric="macro-f1")
    assert np.ptp(whole) > 0.1


def test_thresholds_of_many_classes_are_applied_as_they_were_measured() -> None:
    names = ["a", "b", "c"]
    made = calibrate(skewed(600, 22), skewed(600, 23), names, temperature=True,
                     threshold="macro-f1")  # fmt: skip
    assert made.threshold is None
    assert made.thresholds is not None
    assert list(made.thresholds) == names
    card = card_of(label_names=names, calibration=made)
    report = skewed(600, 23)
    said = np.array([names.index(a["label"]) for a in answers(report.outputs, card)])
    assert (said == report.labels).mean() == pytest.approx(made.after["report"].accuracy)
    assert made.after["selection"].score > made.before["selection"].score


@pytest.mark.parametrize("threshold", [None, "f1"])
def test_answers_are_withheld_as_they_were_measured(threshold: str | None) -> None:
    selection, report = drawn(3000, 2.0, 24), drawn(3000, 2.0, 25)
    made = calibrate(selection, report, NAMES, temperature=True, threshold=threshold, abstain=0.9)
    withheld = made.abstention
    assert withheld is not None
    assert withheld.lower_bound >= 0.9
    card = card_of(label_names=NAMES, calibration=made)
    for name, own in (("selection", selection), ("report", report)):
        found = answers(own.outputs, card)
        given = [(a["label"], y) for a, y in zip(found, own.labels, strict=True) if a["label"]]
        seen = withheld.splits[name]
        assert (seen.answered, seen.n) == (len(given), 3000)
        assert 0 < seen.answered < 3000
        right = np.mean([NAMES.index(label) == y for label, y in given])
        assert seen.accuracy == pytest.approx(right)
        assert all((a["label"] is None) == (a["withheld"] is not None) for a in found)
    (why,) = {
        a["withheld"] for a in found if a["probability"] == min(x["probability"] for x in found)
    }
    assert "is not above" in why
    assert "90 %" in why


def test_an_aim_that_no_cut_reaches_is_refused_with_what_is_sure() -> None:
    with pytest.raises(InputError, match="no confidence is enough for an accuracy of"):
        calibrate(drawn(500, 1.0, 26), None, NAMES, temperature=True, threshold=None,
                  abstain=0.999)  # fmt: skip


def test_columns_and_cells_are_the_same_for_every_row_of_a_model() -> None:
    own = drawn(3000, 1.0, 27)
    made = calibrate(own, None, NAMES, temperature=False, threshold=None, abstain=0.9)
    for by, more in ((made, ["withheld"]), (None, [])):
        card = card_of(label_names=NAMES, calibration=by)
        columns = answer_columns(card)
        assert columns == ["prediction", "probability", "p_no", "p_yes", *more, "tokens",
                           "truncated"]  # fmt: skip
        cells = [flat(a | {"tokens": 3, "truncated": False}) for a in answers(own.outputs, card)]
        assert {len(row) for row in cells} == {len(columns)}
        assert {row[0] is None for row in cells} == ({True, False} if by else {False})


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


def test_a_study_means_the_student_that_it_saved(finished: Path, tmp_path: Path) -> None:
    study, folder = student_of(finished, tmp_path, inside=True)
    (study / "plan.json").write_text("{}")
    path, made = calibrate_folder(study, temperature=True, threshold=None, abstain=0.5)
    assert path == folder / "kdlora.json"
    card = read_card(folder)
    assert card is not None
    assert card.calibration == made
    assert made.abstention is not None


def test_an_export_says_it_in_its_readme_and_applies_it_in_its_example(
    finished: Path, tmp_path: Path
) -> None:
    study, student = student_of(finished, tmp_path, inside=True)
    folder = tmp_path / "shipped"
    save_exported(folder, card=json.loads((student / "kdlora.json").read_text()))
    (folder / "README.md").write_text("# moods\n\n## Forms\n")
    (folder / "example.py").write_text("print('as it was')\n")
    seal(folder)
    for temperature in (True, False):
        _, made = calibrate_folder(folder, temperature=temperature, threshold=None, abstain=0.5,
                                   study=study)  # fmt: skip
        assert made.abstention is not None
        text = (folder / "README.md").read_text()
        assert text.count("- withheld: ") == 1
        assert text.count("- temperature: ") == temperature
        assert text.index("- withheld") < text.index("## Forms")
        assert f"p[best] > {made.abstention.cut!r}" in (folder / "example.py").read_text()
        verify(folder, read_artefact(folder))
    (folder / "README.md").write_bytes(b"caf\xe9")
    before = (folder / "kdlora.json").read_bytes()
    with pytest.raises(ModelError, match=r"README\.md.* cannot be read: it is not UTF-8"):
        calibrate_folder(folder, temperature=True, threshold=None, study=study)
    assert (folder / "kdlora.json").read_bytes() == before


def test_an_export_may_be_asked_for_an_abstention(finished: Path, tmp_path: Path) -> None:
    for wanted, says in ((["abstain=x"], "expected a number"), (["abstian"], "abstain=0.95"),
                         (["abstain=0.9", "abstain=0.8"], "one aim")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            calibrate_run(tmp_path, wanted)
