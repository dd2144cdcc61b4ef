"""Temperature and decision threshold of a saved model, chosen on the selection split alone.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") divides the logits
by one number that minimises the cross-entropy; answers stay the same, probabilities become honest.
The threshold of a binary task is the probability from which a text is called positive. Both are
chosen on the selection split; the report split only shows what they changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import softmax

from kdlora.errors import InputError, ModelError, Problems, did_you_mean
from kdlora.measure.calibration import cross_entropy, fit_temperature
from kdlora.records.predictions import SplitOutputs, read_outputs
from kdlora.records.store import Store, write_json
from kdlora.ship.card import (
    CALIBRATION,
    CARD,
    Calibration,
    Fit,
    ModelCard,
    make_card,
    read_card,
    renewed,
)
from kdlora.spec.run import EncoderRun
from kdlora.vocabulary.metric import METRICS as EVERY_METRIC
from kdlora.vocabulary.metric import expected_calibration_error
from kdlora.vocabulary.metric import metric as metric_of
from kdlora.vocabulary.task import CLASSIFICATION

# Metrics that a threshold may maximise, as they are written on the command line.
METRICS = tuple(name.replace("_", "-") for name, one in EVERY_METRIC.items() if one.of_confusion)


def choose_threshold(
    shares: np.ndarray, labels: np.ndarray, *, metric: str, positive: int
) -> float:  # fmt: skip
    """The probability of the positive class from which it is best to answer with it.

    shares [n]: that probability; labels [n]: class indices of two classes; `metric` one of
    `METRICS` (f1 is of the positive class). All cuts between neighbouring values are tried at
    once; of equally good ones the nearest to 0.5 is taken. Raises InputError for another metric.
    """
    if metric not in METRICS:
        raise InputError(f"unknown threshold metric '{metric}'.{did_you_mean(metric, METRICS)}")
    shares, truth = np.asarray(shares, float), np.asarray(labels) == positive
    values = np.unique(shares)
    cuts = np.concatenate([[0.5], (values[1:] + values[:-1]) / 2, [values[0] / 2],
                           [(1 + values[-1]) / 2]])  # fmt: skip
    order = np.sort(shares)
    hits = np.sort(shares[truth])
    above = len(shares) - np.searchsorted(order, cuts, side="left")
    true_positive = len(hits) - np.searchsorted(hits, cuts, side="left")
    scores = _score_of_counts(true_positive, above, int(truth.sum()), len(shares), metric)
    best = np.flatnonzero(scores >= np.nanmax(scores) - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def _score_of_counts(
    hit: np.ndarray, said: np.ndarray, positives: int, n: int, metric: str
) -> np.ndarray:
    """The metric from true positives [k] and answers "positive" [k]."""
    missed, wrong = positives - hit, said - hit
    right = n - hit - missed - wrong
    table = np.stack([np.stack([right, wrong], -1), np.stack([missed, hit], -1)], -2)
    of_confusion = metric_of(metric.replace("-", "_")).of_confusion
    assert of_confusion is not None
    return np.nan_to_num(of_confusion(table.astype(float), 1))


def calibrate(
    selection: SplitOutputs,
    report: SplitOutputs | None,
    label_names: list[str],
    *,
    temperature: bool,
    threshold: str | None,
    positive: str | None = None,
) -> Calibration:
    """Fit what is asked for on the selection split and measure it on both.

    Args:
        label_names: of the classes, in the order of the logits.
        temperature: whether to scale.
        threshold: metric that the threshold maximises, or None for no threshold.
        positive: the class that the threshold is about; default the second of two.

    Raises InputError where there is nothing to do, no class, or more than two for a threshold.
    """
    problems = Problems("calibration")
    if not temperature and threshold is None:
        problems.add("nothing to do: give --temperature, --threshold METRIC, or both")
    if not label_names:
        problems.add("a regression has no probabilities to calibrate")
    if threshold is not None and threshold not in METRICS:
        problems.add(
            f"unknown threshold metric '{threshold}'.{did_you_mean(threshold, METRICS)}"
        )  # fmt: skip
    if threshold is not None and label_names and len(label_names) != 2:
        problems.add(f"a threshold needs two classes; this model has {len(label_names)}")
    if positive is not None and positive not in label_names:
        problems.add(f"no class '{positive}'.{did_you_mean(positive, label_names)}")
    problems.raise_any()
    t = fit_temperature(selection.outputs, selection.labels) if temperature else 1.0
    cut, index = None, None
    if threshold is not None:
        positive = positive or label_names[1]
        index = label_names.index(positive)
        shares = softmax(selection.outputs / t, axis=1)[:, index]
        cut = choose_threshold(shares, selection.labels, metric=threshold, positive=index)
    splits = {"selection": selection} | ({"report": report} if report is not None else {})

    def fits(t: float, cut: float | None) -> dict[str, Fit]:
        return {
            name: measure_fit(own, temperature=t, threshold=cut, positive=index, metric=threshold)
            for name, own in splits.items()
        }

    return Calibration(
        temperature=t if temperature else None,
        threshold=cut,
        positive=positive if threshold is not None else None,
        metric=threshold,
        n=len(selection.labels),
        before=fits(1.0, None),
        after=fits(t, cut),
    )


def measure_fit(
    own: SplitOutputs,
    *,
    temperature: float = 1.0,
    threshold: float | None = None,
    positive: int | None = None,
    metric: str | None = None,
) -> Fit:
    """Cross-entropy, calibration error and the scores of the answers on one split."""
    logits, labels = own.outputs / temperature, np.asarray(own.labels, int)
    answers = logits.argmax(1)
    if threshold is not None and positive is not None:
        shares = softmax(logits, axis=1)
        answers = CLASSIFICATION.decide(shares, threshold=threshold, positive=positive)
    size = logits.shape[1]
    table = np.bincount(labels * size + answers, minlength=size * size).reshape(size, size)
    score = None
    if metric is not None and positive is not None:
        hit, said = table[positive, positive], table[:, positive].sum()
        score = float(
            _score_of_counts(
                np.array([hit]), np.array([said]), int((labels == positive).sum()), len(labels),
                metric,
            )[0]
        )  # fmt: skip
    return Fit(
        n=len(labels),
        nll=cross_entropy(logits, labels),
        ece=expected_calibration_error(logits, labels),
        accuracy=float((answers == labels).mean()),
        score=score,
    )


def calibrate_folder(
    folder: str | Path,
    *,
    temperature: bool,
    threshold: str | None,
    positive: str | None = None,
    study: str | Path | None = None,
) -> tuple[Path, Calibration]:
    """Calibrate a run, or a saved or exported student, and store it where it is read from.

    A run keeps it beside its record, and whatever is made of that run later takes it along. A
    student or an export has it in its card. Needs the run's stored predictions: those of the fp32
    model, also for a quantised export. Returns the file written.

    Raises ModelError where no run or card is found, InputError as `calibrate` does.
    """
    folder = Path(folder).expanduser()
    if (folder / "record.json").is_file():
        root, run_id, target = folder.parent.parent, folder.name, folder / CALIBRATION
        record = Store(root).read(run_id)
        if record is None or not isinstance(record.run, EncoderRun):
            raise ModelError(f"{folder} holds no trained encoder")
        card = make_card(record, folder, "named by the user", arm=record.run.title)
    else:
        found = read_card(folder) if folder.is_dir() else None
        if found is None:
            raise ModelError(
                f"{folder} is neither a run's folder (below `runs` of a study) nor a saved student "
                f"or export: expected record.json or {CARD} there"
            )
        card, target = found, folder / CARD
        run_id, root = card.run_id, _study_of(folder, card, study)
        card = renewed(card, Store(root))
    splits = {name: read_outputs(root, [run_id], name) for name in ("selection", "report")}
    if run_id not in splits["selection"]:
        raise ModelError(f"run {run_id} stored no predictions of its selection split in {root}")
    made = calibrate(
        splits["selection"][run_id], splits["report"].get(run_id), card.label_names,
        temperature=temperature, threshold=threshold, positive=positive or card.positive,
    )  # fmt: skip
    if target.name == CARD:
        write_json(target, card.model_copy(update={"calibration": made}).model_dump(mode="json"))
        _refresh_checksum(folder)
    else:
        write_json(target, made.model_dump(mode="json"))
    return target, made


def calibrate_run(run: str | Path, wanted: list[str]) -> Calibration:
    """Calibrate the run that `kdlora export` was given, so that its export takes it along.

    `wanted`: "temperature" and at most one threshold metric. Raises InputError for others.
    """
    from kdlora.ship.source import find_source

    known = ("temperature", *METRICS)
    problems = [f"unknown '{w}'.{did_you_mean(w, known)}" for w in wanted if w not in known]
    metrics = [w for w in wanted if w in METRICS]
    if len(metrics) > 1:
        problems.append(f"one threshold has one metric; given {', '.join(metrics)}")
    if problems or not wanted:
        raise InputError(problems or f"give some of {', '.join(known)}", where="--calibrate")
    source = find_source(run)
    _, made = calibrate_folder(
        source.store.folder(source.record.run_id),
        temperature="temperature" in wanted, threshold=metrics[0] if metrics else None,
    )  # fmt: skip
    folder = Path(run).expanduser()
    if (folder / CARD).is_file() and (card := read_card(folder)) is not None:
        new = card.model_copy(update={"calibration": made})
        write_json(folder / CARD, new.model_dump(mode="json"))
    return made


def _study_of(folder: Path, card: ModelCard, study: str | Path | None) -> Path:
    """The study that holds the run of a saved model: named, or one of the folders above."""
    places = [Path(study)] if study is not None else list(folder.absolute().parents)
    for place in places:
        if (place / "runs" / card.run_id / "record.json").is_file():
            return place
    raise ModelError(
        f"cannot find run {card.run_id}, whose predictions calibrate {folder}: "
        + (f"it is not in {study}" if study is not None else "name its study with --study")
    )


def _refresh_checksum(folder: Path) -> None:
    """An export lists the card's checksum, which has changed."""
    from kdlora.records.artefact import checksums_of, is_artefact, read_artefact, write_artefact

    if is_artefact(folder):
        artefact = read_artefact(folder)
        if CARD in artefact.checksums:
            sums = {**artefact.checksums, CARD: checksums_of(folder)[CARD]}
            write_artefact(folder, artefact.model_copy(update={"checksums": sums}))
