"""How often the promise of `kdlora calibrate --abstain` holds, simulated and on stored runs.

Each resample draws a selection split and a report split that share no row, calibrates on the first
by the public function, and looks whether the answers given on the second are as accurate as they
were promised to be. The report split is a sample too, so an accuracy that is exactly the promised
one would fall short of it in half of the resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from benchmarks.results import write_results
from kdlora.errors import InputError
from kdlora.records.frame import load_frame
from kdlora.records.predictions import SplitOutputs, read_outputs
from kdlora.records.study_folder import find_study
from kdlora.ship.calibration import calibrate
from kdlora.vocabulary.task import CLASSIFICATION

RESAMPLES = 200
AIMS = (0.9, 0.95)
LEAST_KEPT = 0.95
_REPORT = 2000  # rows of a simulated report split
_SIZES = (200, 500, 1000, 2000)  # of a simulated selection split
# name -> classes, how far logits spread, and how many times too sure they are
_SIMULATED = {
    "2 classes, honest": (2, 2.5, 1.0),
    "2 classes, 3 times too sure": (2, 2.5, 3.0),
    "2 classes, half as sure": (2, 2.5, 0.5),
    "5 classes, twice too sure": (5, 4.0, 2.0),
}

Draw = Callable[[np.random.Generator], tuple[SplitOutputs, SplitOutputs]]


@dataclass(frozen=True)
class Promise:
    """What became of an aim in all resamples of one model and size of its selection split."""

    model: str
    selection_rows: int
    report_rows: int
    aim: float
    resamples: int
    promised: int
    kept: int
    coverage: float | None
    accuracy: float | None

    @property
    def broken(self) -> bool:
        """Whether fewer resamples than promised keep it; one without a promise breaks none."""
        return self.resamples - self.promised + self.kept < LEAST_KEPT * self.resamples


def simulated(*, resamples: int = RESAMPLES) -> Iterator[Promise]:
    """Models whose labels are drawn from what they would say if they were honest."""
    for name, (classes, spread, too_sure) in _SIMULATED.items():
        for size in _SIZES:
            draw = _drawn(size, classes, spread, too_sure)
            for aim in AIMS:
                yield measure(name, draw, aim=aim, resamples=resamples)


def _drawn(size: int, classes: int, spread: float, too_sure: float) -> Draw:
    def rows(n: int, rng: np.random.Generator) -> SplitOutputs:
        logits = rng.normal(0, spread, (n, classes))
        labels = (softmax(logits, axis=1).cumsum(1) < rng.random((n, 1))).sum(1)
        return SplitOutputs(np.arange(n).astype(object), labels, logits * too_sure)

    return lambda rng: (rows(size, rng), rows(_REPORT, rng))


def stored(study: str | Path, *, resamples: int = RESAMPLES) -> Iterator[Promise]:
    """Every finished classifier of a study: its held-out rows, shared out anew.

    The new selection split is as large as the study's own.
    """
    root = find_study(study)
    frame = load_frame(root)
    done = frame[frame["status"] == "done"].drop_duplicates("run_id")
    for _, row in done.sort_values(["task", "arm", "seed"]).iterrows():
        parts = [read_outputs(root, [row["run_id"]], split) for split in ("selection", "report")]
        if not all(row["run_id"] in part for part in parts):
            continue
        own, held_out = (part[row["run_id"]] for part in parts)
        if own.kind is not CLASSIFICATION or row["arm"] == "baseline/majority":
            continue
        pooled = SplitOutputs(*(
            np.concatenate([getattr(own, name), getattr(held_out, name)])
            for name in ("ids", "labels", "outputs")
        ))  # fmt: skip
        model = f"{row['task']} {row['arm']}, seed {row['seed']}"
        for aim in AIMS:
            yield measure(model, _shared_out(pooled, len(own.labels)), aim=aim, resamples=resamples)


def _shared_out(pooled: SplitOutputs, size: int) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[SplitOutputs, SplitOutputs]:
        order = rng.permutation(len(pooled.labels))
        return pooled.at(order[:size]), pooled.at(order[size:])

    return draw


def measure(model: str, draw: Draw, *, aim: float, resamples: int, seed: int = 0) -> Promise:
    """Calibrate on every resample and count whose promise the report split keeps."""
    seen: list[tuple[float, float]] = []  # coverage and accuracy on the report split
    promised = sizes = reports = 0
    for number in range(resamples):
        selection, report = draw(np.random.default_rng([seed, number]))
        sizes, reports = len(selection.labels), len(report.labels)
        names = [str(k) for k in range(selection.outputs.shape[1])]
        try:
            made = calibrate(
                selection, report, names, temperature=True, threshold=None, abstain=aim
            )
        except InputError:  # no confidence is enough: nothing is promised
            continue
        assert made.abstention is not None
        found = made.abstention.splits["report"]
        promised += 1
        if found.accuracy is not None:
            seen.append((found.answered / found.n, found.accuracy))
    coverage, accuracy = np.mean(seen, axis=0).tolist() if seen else (None, None)
    kept = sum(one >= aim for _, one in seen) + promised - len(seen)  # none given, none wrong
    return Promise(model, sizes, reports, aim, resamples, promised, kept, coverage, accuracy)


def page(found: Sequence[Promise]) -> str:
    """The table, with what was promised and kept of all resamples."""
    lines = [
        "# How often the promise of answers withheld holds",
        "",
        f"`python -m benchmarks abstention`: {RESAMPLES} resamples a row. In each, `kdlora "
        "calibrate --temperature --abstain` is fitted on a selection split and asked for on a "
        "report split of other rows. Kept is a promise whose answers on the report split are as "
        f"accurate as it says; wanted are {100 * LEAST_KEPT:g} % of the resamples. Where no "
        "confidence is enough nothing is promised. Coverage and accuracy are means over the "
        "promises, on the report split.",
        "",
        "| model | selection rows | report rows | aim | promised | kept | coverage | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        kept = f"{one.kept} of {one.promised}" if one.promised else "-"
        shares = [
            f"{100 * x:.1f} %" if x is not None else "-" for x in (one.coverage, one.accuracy)
        ]
        lines.append(
            f"| {one.model} | {one.selection_rows:,} | {one.report_rows:,} | {100 * one.aim:g} % | "
            f"{one.promised} | {kept}{' **broken**' * one.broken} | {' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def run(folders: Sequence[Path], out: Path, *, resamples: int = RESAMPLES) -> list[Promise]:
    """Measure, and write `abstention.md` and its numbers."""
    found = list(simulated(resamples=resamples))
    for folder in folders:
        found += stored(folder, resamples=resamples)
    write_results(out, "abstention", {"rows": [asdict(one) for one in found]}, page(found))
    return found
