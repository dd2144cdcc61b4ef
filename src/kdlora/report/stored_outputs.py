"""What a report may know beside the tidy frame: stored outputs, and what exports measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kdlora.choice.formats import MeasuredForm
from kdlora.evidence.predictions import ConfidenceBins, confidence_bins
from kdlora.records.predictions import FILE as PREDICTIONS
from kdlora.records.predictions import SplitOutputs, read_outputs

MOST_BINNED = 200  # runs whose predictions are read for the reliability diagrams


@dataclass(frozen=True)
class StoredOutputs:
    """Outputs on the selection split by run id, and measured artefacts: what a choice rests on."""

    selection: Mapping[str, SplitOutputs] = field(default_factory=dict)
    exports: Sequence[MeasuredForm] = ()


def read_stored_outputs(
    frame: pd.DataFrame, root: Path, exports: Sequence[MeasuredForm] = ()
) -> StoredOutputs:  # fmt: skip
    """Read the stored outputs of a study's encoders: of all, as `kdlora recommend` does.

    A run costs about 2 ms for 500 rows, so even thousands of runs are read in seconds.
    """
    done = frame[(frame["status"] == "done") & frame["role"].isin(["teacher", "student"])]
    return StoredOutputs(read_outputs(root, done["run_id"].astype(str), "selection"), exports)


def read_bins(frame: pd.DataFrame, root: Path) -> dict[str, ConfidenceBins]:
    """Report rows by confidence of the encoders' runs, as far as they stored their predictions.

    Of a large study only the first `MOST_BINNED` runs are read, seed by seed, so that all models
    are among them.
    """
    encoders = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    if "seed" in encoders:
        encoders = encoders.sort_values("seed", kind="stable")
    found: dict[str, ConfidenceBins] = {}
    for run_id in dict.fromkeys(encoders["run_id"]):
        folder = root / "runs" / str(run_id)
        if len(found) == MOST_BINNED or not (folder / PREDICTIONS).is_file():
            continue
        own = read_outputs(root, [str(run_id)], "report").get(str(run_id))
        if own and (bins := confidence_bins(own.kind, own.outputs, own.labels)):
            found[str(run_id)] = bins
    return found
