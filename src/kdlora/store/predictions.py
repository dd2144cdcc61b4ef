"""Every prediction of a run, so that metrics and paired tests need no retraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdlora.data.examples import TaskData
from kdlora.files import whole_file

FILE = "predictions.parquet"


@dataclass(frozen=True)
class Predictions:
    """One row an example of the held-out splits: split, example_id, label, logits (a list)."""

    frame: pd.DataFrame

    def by_split(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Outputs [n, c] and labels [n] by split, in stored order."""
        outputs, labels = {}, {}
        for split, rows in self.frame.groupby("split", sort=False):
            outputs[str(split)] = np.stack(list(rows["logits"]))
            labels[str(split)] = rows["label"].to_numpy()
        return outputs, labels


def write_predictions(folder: Path, data: TaskData, outputs: dict[str, np.ndarray]) -> None:
    """Store the outputs of the held-out splits, keyed by example id, atomically."""
    blocks = []
    for split, values in outputs.items():
        part = data.split(split)
        values = np.asarray(values, dtype=np.float32)
        values = values[:, None] if values.ndim == 1 else values  # of a regression
        blocks.append(
            pd.DataFrame(
                {
                    "split": split,
                    "example_id": part.ids.astype(object),
                    "label": part.labels,
                    "logits": list(values),
                }
            )
        )
    with whole_file(folder / FILE) as temporary:
        pd.concat(blocks, ignore_index=True).to_parquet(temporary, index=False)


def read_predictions(folder: Path) -> Predictions:
    """Read what `write_predictions` wrote."""
    return Predictions(pd.read_parquet(folder / FILE))
