"""Every prediction of a run, and those of many runs on one split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdlora.errors import DataError, StoreError
from kdlora.files import whole_file
from kdlora.records.contents import PREDICTIONS as FILE
from kdlora.records.contents import require_whole
from kdlora.records.study_folder import RUNS
from kdlora.tables.formats import parquet_frame
from kdlora.vocabulary.label_metrics import holds_several
from kdlora.vocabulary.task import CLASSIFICATION, MULTILABEL, REGRESSION, Kind

COLUMNS = ("split", "example_id", "label", "logits")
OUT_OF_FOLD = "out_of_fold.parquet"  # training rows, each by a model that was fitted without it


@dataclass(frozen=True)
class Predictions:
    """One row an example of the held-out splits: split, example_id, label, logits (a list).

    Where a row may have several labels, `label` is a list too, of 0 and 1 in the order of `logits`.
    """

    frame: pd.DataFrame

    def by_split(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Outputs [n, c] and labels [n] or [n, c] by split, in stored order."""
        outputs, labels = {}, {}
        for split, rows in self.frame.groupby("split", sort=False):
            found = _outputs(rows, "predictions")
            outputs[str(split)], labels[str(split)] = found.outputs, found.labels
        return outputs, labels


@dataclass(frozen=True)
class SplitOutputs:
    """One run on one split: ids [n], labels [n], logits or predictions [n, c] ([n] is [n, 1]).

    Where a row may have several labels, `labels` is [n, c] of 0 and 1.
    """

    ids: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray

    @property
    def kind(self) -> Kind:
        """The kind of task, as the shapes tell it."""
        if holds_several(self.labels):
            return MULTILABEL
        of_classes = self.outputs.ndim == 2 and self.outputs.shape[1] > 1
        return CLASSIFICATION if of_classes else REGRESSION

    @property
    def right(self) -> np.ndarray:
        """Which rows [n] are answered with their class, or with all of their labels and no other.

        Of numbers none is.
        """
        return self.kind.right(self.outputs, self.labels)

    def at(self, positions: np.ndarray) -> SplitOutputs:
        return SplitOutputs(self.ids[positions], self.labels[positions], self.outputs[positions])


def write_predictions(
    folder: Path, splits: Mapping[str, SplitOutputs], *, file: str = FILE
) -> None:
    """Store the outputs of splits, keyed by example id, atomically."""
    blocks = []
    for split, part in splits.items():
        values = np.asarray(part.outputs, dtype=np.float32)
        values = values[:, None] if values.ndim == 1 else values  # of a regression
        blocks.append(
            pd.DataFrame(
                {
                    "split": split,
                    "example_id": part.ids.astype(object),
                    "label": list(part.labels) if holds_several(part.labels) else part.labels,
                    "logits": list(values),
                }
            )
        )
    with whole_file(folder / file) as temporary:
        pd.concat(blocks, ignore_index=True).to_parquet(temporary, index=False)


def _outputs(rows: pd.DataFrame, where: object) -> SplitOutputs:
    """The rows of one split, labels [n], or [n, c] where each cell is a list.

    Raises StoreError where the cells are no such numbers.
    """
    labels = rows["label"].to_numpy()
    try:
        labels = np.stack(list(labels)) if labels.dtype == object else labels
        outputs = np.stack(list(rows["logits"]))
        if outputs.ndim != 2 or not {outputs.dtype.kind, labels.dtype.kind} <= set("biuf"):
            raise ValueError("labels or logits are no numbers")
    except (ValueError, TypeError) as error:
        raise StoreError(f"{where} is damaged: {error}") from None
    return SplitOutputs(rows["example_id"].to_numpy(object), labels, outputs)


def read_predictions(folder: Path) -> Predictions:
    """Read what `write_predictions` wrote. Raises StoreError for a damaged file."""
    return Predictions(_read(folder / FILE))


def _read(path: Path) -> pd.DataFrame:
    require_whole(path)
    path.stat()  # FileNotFoundError: what is not there is not damaged
    try:
        rows = parquet_frame(path)
    except DataError as error:  # of a run from before there were hashes
        raise StoreError(f"{path} is damaged: {error}") from None
    if missing := [name for name in COLUMNS if name not in rows]:
        raise StoreError(f"{path} is damaged: it has no column {' and no '.join(missing)}")
    return rows


def read_outputs(
    root: str | Path, run_ids: Iterable[str], split: str, *, file: str = FILE
) -> dict[str, SplitOutputs]:
    """Outputs by run id, of the runs that stored any for this split (`selection` or `report`).

    Raises StoreError for a damaged file.
    """
    found = {}
    for run_id in dict.fromkeys(run_ids):
        path = Path(root) / RUNS / run_id / file
        if not path.is_file():
            continue
        rows = _read(path)
        rows = rows[rows["split"] == split]
        if len(rows):
            one = _outputs(rows, path)
            found[run_id] = replace(one, outputs=one.outputs.astype(np.float64))
    return found


class RunOutputs(Mapping[str, SplitOutputs]):
    """Outputs of a study's runs on one split by run id, read when they are asked for.

    A run whose predictions cannot be read is as one that stored none.
    """

    def __init__(self, root: str | Path, split: str, *, file: str = FILE) -> None:
        self.root, self.split, self.file = Path(root), split, file

    def __getitem__(self, run_id: str) -> SplitOutputs:
        try:
            return read_outputs(self.root, [run_id], self.split, file=self.file)[run_id]
        except (OSError, ValueError, StoreError):
            raise KeyError(run_id) from None

    def __iter__(self) -> Iterator[str]:
        return (path.parent.name for path in sorted(self.root.glob(f"runs/*/{self.file}")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def shared_examples(outputs: dict[str, SplitOutputs]) -> dict[str, SplitOutputs]:
    """The same runs on the examples that all of them have, in one order. {} if none are left.

    Runs that disagree on the label of an example do not belong to one data set: {} too.
    """
    if not outputs:
        return {}
    first = next(iter(outputs.values()))
    if all(np.array_equal(o.ids, first.ids) for o in outputs.values()):
        aligned = outputs
    else:
        shared = set(first.ids).intersection(*(o.ids for o in outputs.values()))
        order = [i for i in first.ids if i in shared]
        aligned = {}
        for run_id, own in outputs.items():
            place = {example: i for i, example in enumerate(own.ids)}
            aligned[run_id] = own.at(np.array([place[i] for i in order], int))
    labels = [o.labels for o in aligned.values()]
    if not len(labels[0]) or not all(np.array_equal(labels[0], other) for other in labels):
        return {}
    return aligned
