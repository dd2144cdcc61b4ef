"""Temperature, thresholds and abstention of a saved model, chosen on the selection split alone.

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") divides the logits
by one number that minimises the cross-entropy; answers stay the same, probabilities become honest.
The threshold of a binary task is the probability from which a text is called positive; more classes
have one each. An abstention is the probability from which an answer is given at all. All are chosen
on the selection split; the report split only shows what they changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdlora.errors import InputError, ModelError, Problems, alternatives, did_you_mean
from kdlora.evidence.abstention import (
    LEVEL,
    answered_at,
    choose_cut,
    rows_needed,
    try_cuts,
)
from kdlora.files import read_text
from kdlora.measure.calibration import cross_entropy, fit_temperature
from kdlora.records.predictions import SplitOutputs, read_outputs
from kdlora.records.store import Store
from kdlora.ship.answers import decide
from kdlora.ship.card import (
    CALIBRATION,
    CARD,
    Abstention,
    AnsweredRows,
    Calibration,
    Fit,
    ModelCard,
    card_text,
    make_card,
    read_card,
    renewed,
    write_calibration,
    write_card,
)
from kdlora.ship.label_thresholds import METRICS as LABEL_METRICS
from kdlora.ship.label_thresholds import best_cut, choose_label_thresholds, measure_label_fit
from kdlora.ship.named_model import model_folder
from kdlora.spec.run import EncoderRun
from kdlora.vocabulary.metric import METRICS as EVERY_METRIC
from kdlora.vocabulary.metric import confusion_counts, expected_calibration_error
from kdlora.vocabulary.metric import metric as metric_of
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, as_number

_LEAST_OF_CLASS = 10  # rows of a class from which on its threshold is chosen
_CUTS, _SWEEPS = 200, 10  # of the search for thresholds
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
    return best_cut(cuts, scores, 0.5)


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


def choose_thresholds(
    shares: np.ndarray, labels: np.ndarray, *, metric: str, positive: int | None = None
) -> np.ndarray:
    """A threshold for each of c classes [c]; the class that exceeds its own by most times is right.

    shares [n, c]: probabilities; labels [n]; `metric` one of `METRICS`. An answer that weighs the
    classes' probabilities is best for every metric of the confusion matrix (Narasimhan et al. 2015,
    "Consistent multiclass algorithms for complex performance measures"). The weights are found one
    class after the other, each at the best of `_CUTS` cuts, until none gets better; a class with
    fewer than `_LEAST_OF_CLASS` rows keeps its own, since so few would fit it to chance. The
    thresholds sum to 1; all 1/c is the likeliest class.
    """
    c = shares.shape[1]
    of_confusion = metric_of(metric.replace("-", "_")).of_confusion
    assert of_confusion is not None
    log_shares, weights = np.log(np.clip(shares, 1e-300, None)), np.zeros(c)

    def score(answers: np.ndarray) -> float:
        return float(np.nan_to_num(of_confusion(confusion_counts(answers, labels, c), positive)))

    best = score((log_shares + weights).argmax(1))
    tunable = np.flatnonzero(np.bincount(labels, minlength=c) >= _LEAST_OF_CLASS)
    for _ in range(_SWEEPS):
        before = best
        for k in tunable:
            others = log_shares + weights
            others[:, k] = -np.inf
            rival, needed = others.argmax(1), others.max(1) - log_shares[:, k]
            values = np.unique(needed)
            cuts = (values[1:] + values[:-1]) / 2
            if len(cuts) > _CUTS:
                cuts = cuts[np.linspace(0, len(cuts) - 1, _CUTS).round().astype(int)]
            scores = np.array([score(np.where(needed < cut, k, rival)) for cut in cuts])
            if len(scores) and scores.max() > best + 1e-12:
                weights[k], best = best_cut(cuts, scores, 0.0), scores.max()
        if best <= before + 1e-12:
            break
    found = np.exp(-(weights - weights.min()))
    return np.asarray(found / found.sum())


def calibrate(
    selection: SplitOutputs,
    report: SplitOutputs | None,
    label_names: list[str],
    *,
    temperature: bool,
    threshold: str | None,
    positive: str | None = None,
    abstain: float | None = None,
) -> Calibration:
    """Fit what is asked for on the selection split and measure it on both.

    Args:
        label_names: of the classes, in the order of the logits.
        temperature: whether to scale.
        threshold: metric that the threshold (of more than two classes: the thresholds) maximises,
            or None for none.
        positive: the class that the threshold is about; default the second of two. Of more than
            two, the class of the metric f1.
        abstain: accuracy that the answers have to reach, or None to answer everything. It is about
            the probabilities and the answers that temperature and thresholds leave.

    Where a text may have several labels there is a threshold for each. Raises InputError where
    there is nothing to do, no class, one that is unknown, or an accuracy that no cut reaches.
    """
    if selection.kind.several:
        return _calibrate_labels(
            selection, report, label_names, temperature=temperature, metric=threshold,
            abstain=abstain,
        )  # fmt: skip
    problems = Problems("calibration")
    several = len(label_names) > 2
    if not temperature and threshold is None and abstain is None:
        problems.add("nothing to do: give --temperature, --threshold METRIC, --abstain ACCURACY")
    if not label_names:
        problems.add(
            "a regression has no probabilities to calibrate, and so none by which an answer could "
            "be withheld"
        )
    if threshold is not None and threshold not in METRICS:
        problems.add(
            f"unknown threshold metric '{threshold}'.{did_you_mean(threshold, METRICS)}"
        )  # fmt: skip
    if positive is not None and positive not in label_names:
        problems.add(f"no class '{positive}'.{did_you_mean(positive, label_names)}")
    elif threshold == "f1" and several and positive is None:
        problems.add(
            "f1 is of one class: name it with --positive, or take macro-f1 for all of "
            f"{', '.join(label_names)}"
        )
    if abstain is not None and not 0 < abstain < 1:
        problems.add(f"--abstain is {abstain:g}; expected an accuracy between 0 and 1, such as 0.9")
    problems.raise_any()
    made = Calibration(n=len(selection.labels))
    if temperature:
        t = fit_temperature(selection.outputs, selection.labels)
        made = made.model_copy(update={"temperature": t})
    if threshold is not None:
        found = _thresholds(selection, label_names, made, threshold, positive)
        made = made.model_copy(update={"metric": threshold, **found})
    splits = {"selection": selection} | ({"report": report} if report is not None else {})
    if abstain is not None:
        withheld = choose_abstention(splits, label_names, made, aim=abstain)
        made = made.model_copy(update={"abstention": withheld})
    place = label_names.index(made.positive) if made.positive else None

    def fits(by: Calibration | None) -> dict[str, Fit]:
        return {
            name: measure_fit(own, label_names, by, metric=threshold, positive=place)
            for name, own in splits.items()
        }

    return made.model_copy(update={"before": fits(None), "after": fits(made)})


def _thresholds(
    selection: SplitOutputs,
    label_names: list[str],
    made: Calibration,
    metric: str,
    positive: str | None,
) -> dict[str, Any]:
    """The threshold of two classes or the thresholds of more, as fields of a calibration."""
    labels = np.asarray(selection.labels, int)
    shares = decide(selection.outputs, label_names, made, CLASSIFICATION).shares
    if len(label_names) > 2:
        place = label_names.index(positive) if positive is not None else None
        found = choose_thresholds(shares, labels, metric=metric, positive=place)
        by_class = dict(zip(label_names, found.tolist(), strict=True))
        return {"thresholds": by_class, "positive": positive if metric == "f1" else None}
    positive = positive or label_names[1]
    index = label_names.index(positive)
    cut = choose_threshold(shares[:, index], labels, metric=metric, positive=index)
    return {"threshold": cut, "positive": positive}


def choose_abstention(
    splits: Mapping[str, SplitOutputs],
    label_names: Sequence[str],
    by: Calibration,
    *,
    aim: float,
) -> Abstention:
    """From which probability on answers reach the accuracy `aim`, chosen on the selection split.

    Raises InputError where the selection split allows none, with what it does allow.
    """
    found = {}
    for name, own in splits.items():
        decided = decide(own.outputs, label_names, by, CLASSIFICATION)
        found[name] = decided.confidence, decided.chosen == own.labels
    confidence, right = found["selection"]
    chosen = choose_cut(confidence, right, aim=aim)
    if chosen is None:
        best = max(try_cuts(confidence, right), key=lambda cut: cut.lower)
        raise InputError(
            f"on the selection split ({len(right):,} rows) no confidence is enough for an accuracy "
            f"of {aim:g}: at best {best.accuracy:.3f} on {best.answered:,} answers, of which "
            f"{best.lower:.3f} is sure. Ask for less, or select on more rows: {rows_needed(aim):,} "
            "answers without a mistake are the fewest that could show it",
            where="calibration",
        )
    measured = {
        name: (len(right), *answered_at(confidence, right, chosen.cut))
        for name, (confidence, right) in found.items()
    }
    return Abstention(
        aim=aim,
        level=LEVEL,
        cut=chosen.cut,
        lower_bound=chosen.lower,
        splits={
            name: AnsweredRows(n=n, answered=answered, accuracy=accuracy)
            for name, (n, answered, accuracy) in measured.items()
        },
    )


def _calibrate_labels(
    selection: SplitOutputs,
    report: SplitOutputs | None,
    label_names: list[str],
    *,
    temperature: bool,
    metric: str | None,
    abstain: float | None,
) -> Calibration:
    """`calibrate` where a text may have several labels."""
    problems = Problems("calibration")
    if abstain is not None:
        problems.add(
            "--abstain withholds the one answer of a text, but here a text may have several "
            "labels: raise the thresholds of the labels instead"
        )
    elif not temperature and metric is None:
        problems.add("nothing to do: give --temperature, --threshold METRIC, or both")
    if metric is not None and metric not in LABEL_METRICS:
        problems.add(
            f"unknown threshold metric '{metric}' of several labels: expected "
            f"{alternatives(LABEL_METRICS)}.{did_you_mean(metric, LABEL_METRICS)}"
        )
    problems.raise_any()
    t = fit_temperature(selection.outputs, selection.labels) if temperature else 1.0
    cuts = None
    if metric is not None:
        shares = MULTILABEL.probabilities(selection.outputs, t)
        cuts = choose_label_thresholds(shares, selection.labels, metric=metric)
    splits = {"selection": selection} | ({"report": report} if report is not None else {})
    return Calibration(
        temperature=t if temperature else None,
        thresholds=None if cuts is None else dict(zip(label_names, cuts.tolist(), strict=True)),
        metric=metric,
        n=len(selection.labels),
        before={n: measure_label_fit(own, metric=metric) for n, own in splits.items()},
        after={
            n: measure_label_fit(own, temperature=t, thresholds=cuts, metric=metric)
            for n, own in splits.items()
        },
    )


def measure_fit(
    own: SplitOutputs,
    label_names: Sequence[str],
    by: Calibration | None,
    *,
    metric: str | None = None,
    positive: int | None = None,
) -> Fit:
    """Cross-entropy, calibration error and the scores of all answers, withheld or not."""
    labels, size = np.asarray(own.labels, int), own.outputs.shape[1]
    logits = own.outputs / ((by.temperature if by else None) or 1.0)
    answers = decide(own.outputs, label_names, by, CLASSIFICATION).chosen
    score = None
    if metric is not None:
        of_confusion = metric_of(metric.replace("-", "_")).of_confusion
        assert of_confusion is not None
        counts = confusion_counts(answers, labels, size)
        score = float(np.nan_to_num(of_confusion(counts, positive)))
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
    abstain: float | None = None,
    study: str | Path | None = None,
) -> tuple[Path, Calibration]:
    """Calibrate a run, or a saved or exported student, and store it where it is read from.

    A study means the student that it saved (`named_model.model_folder`). A run keeps it beside its
    record, and whatever is made of that run later takes it along. A student or an export has it in
    its card; an export says it in its README and example, too. Needs the run's stored predictions:
    those of the fp32 model, also for a quantised export. Returns the file written.

    Raises ModelError where no run or card is found, InputError as `calibrate` does.
    """
    folder = model_folder(folder)
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
    if positive is not None and card.answers.several:
        raise InputError("--positive is of a threshold of two classes; here each label has its own")
    made = calibrate(
        splits["selection"][run_id], splits["report"].get(run_id), card.label_names,
        temperature=temperature, threshold=threshold, positive=positive or card.positive,
        abstain=abstain,
    )  # fmt: skip
    if target.name == CARD:
        card = card.model_copy(update={"calibration": made})
        _write_anew(folder, card)
    else:
        write_calibration(folder, made)
    return target, made


def calibrate_run(run: str | Path, wanted: list[str]) -> Calibration:
    """Calibrate the run that `kdlora export` was given, so that its export takes it along.

    `wanted`: "temperature", at most one threshold metric, and at most one "abstain=ACCURACY".
    Raises InputError for others.
    """
    from kdlora.ship.source import find_source

    thresholds = tuple(dict.fromkeys((*METRICS, *LABEL_METRICS)))
    known = ("temperature", *thresholds, "abstain=0.95")
    aims = [w.removeprefix("abstain=") for w in wanted if w.startswith("abstain=")]
    others = [w for w in wanted if not w.startswith("abstain=")]
    problems = [f"unknown '{w}'.{did_you_mean(w, known)}" for w in others if w not in known]
    problems += [f"abstain={a}: expected a number such as 0.95" for a in aims if not as_number(a)]
    metrics = [w for w in wanted if w in thresholds]
    for several, what in ((metrics, "one threshold has one metric"), (aims, "one aim is enough")):
        if len(several) > 1:
            problems.append(f"{what}; given {', '.join(several)}")
    if problems or not wanted:
        raise InputError(problems or f"give some of {', '.join(known)}", where="--calibrate")
    source = find_source(run)
    _, made = calibrate_folder(
        source.store.folder(source.record.run_id),
        temperature="temperature" in wanted, threshold=metrics[0] if metrics else None,
        abstain=as_number(aims[0]) if aims else None,
    )  # fmt: skip
    folder = model_folder(run)
    if (folder / CARD).is_file() and (card := read_card(folder)) is not None:
        write_card(folder, card.model_copy(update={"calibration": made}))
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


def _write_anew(folder: Path, card: ModelCard) -> None:
    """The card of a saved model and, of an export, what its README and example say of it."""
    from kdlora.records.artefact import is_artefact, read_artefact, rewrite
    from kdlora.ship.model_card import EXAMPLE, README, example, with_calibration

    if not is_artefact(folder):
        write_card(folder, card)
        return
    artefact = read_artefact(folder)
    texts = {CARD: card_text(card)}
    if (folder / README).is_file():
        try:
            written = read_text(folder / README)
        except OSError as error:
            raise ModelError(
                f"{folder / README}, which says how the answers are calibrated, cannot be read: "
                f"{error}. Export the model again"
            ) from None
        texts[README] = with_calibration(written, card)
    if (folder / EXAMPLE).is_file() and (program := example(artefact, card)) is not None:
        texts[EXAMPLE] = program
    rewrite(folder, artefact, texts)
