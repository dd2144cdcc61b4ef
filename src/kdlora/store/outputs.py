"""The stored outputs of many runs on one split, for what is computed over examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdlora.store.predictions import FILE


@dataclass(frozen=True)
class SplitOutputs:
    """One run on one split: ids [n], labels [n], logits or predictions [n, c]."""

    ids: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray

    def at(self, positions: np.ndarray) -> SplitOutputs:
        return SplitOutputs(self.ids[positions], self.labels[positions], self.outputs[positions])


def read_outputs(root: str | Path, run_ids: Iterable[str], split: str) -> dict[str, SplitOutputs]:
    """Outputs by run id, of the runs that stored any for this split (`selection` or `report`)."""
    found = {}
    for run_id in dict.fromkeys(run_ids):
        path = Path(root) / "runs" / run_id / FILE
        if not path.is_file():
            continue
        rows = pd.read_parquet(path, filters=[("split", "==", split)])
        if len(rows):
            found[run_id] = SplitOutputs(
                rows["example_id"].to_numpy(object),
                rows["label"].to_numpy(),
                np.stack(list(rows["logits"])).astype(np.float64),
            )
    return found


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
