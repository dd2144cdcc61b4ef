"""What a report may know beside the tidy frame: stored outputs, and what exports measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kdlora.choice.formats import MeasuredForm
from kdlora.records.predictions import SplitOutputs, read_outputs

MOST_READ = 300  # runs whose predictions are read; a study with more is judged by its seeds


@dataclass(frozen=True)
class Examples:
    """Outputs by run id on the two splits, and measured artefacts."""

    selection: Mapping[str, SplitOutputs] = field(default_factory=dict)
    report: Mapping[str, SplitOutputs] = field(default_factory=dict)
    exports: Sequence[MeasuredForm] = ()


def read_examples(
    frame: pd.DataFrame, root: Path, exports: Sequence[MeasuredForm] = ()
) -> Examples:  # fmt: skip
    """Read the stored outputs of a study's encoders, if they are not too many."""
    done = frame[(frame["status"] == "done") & frame["role"].isin(["teacher", "student"])]
    runs = list(dict.fromkeys(done["run_id"].astype(str)))
    if len(runs) > MOST_READ:
        return Examples(exports=exports)
    selection = read_outputs(root, runs, "selection")
    return Examples(selection, read_outputs(root, runs, "report"), exports)
