"""Selection scores of all candidates of a task, and of the best teacher, drawn again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlora.analysis.candidates import Field
from kdlora.analysis.choice_bootstrap import ScoreDraws, draw_scores
from kdlora.analysis.summands import summands
from kdlora.store.outputs import SplitOutputs


def draw_field(
    field: Field,
    frame: pd.DataFrame,
    outputs: Mapping[str, SplitOutputs],
    *,
    rng: np.random.Generator,
    draws: int = 4_000,
) -> ScoreDraws:
    """Scores of all candidates and, as the last column, of the reference, drawn again.

    `outputs` are those of the *selection* split by run id, as many as were stored.
    """
    rows = [(c.run_ids, c.seeds) for c in field.candidates]
    if field.reference is not None:
        rows.append((field.reference.run_ids, field.reference.seeds))
    scores = run_scores(frame)
    positive = None
    if field.metric == "f1":
        positive = _positive_class(rows[0][0][0], outputs, scores)
        outputs = {} if positive is None else outputs
    return draw_scores(
        [r for r, _ in rows], [s for _, s in rows], scores, outputs, field.metric,
        rng=rng, draws=draws, positive=positive,
    )  # fmt: skip


def run_scores(frame: pd.DataFrame) -> dict[str, float]:
    """The recorded selection score of every finished run."""
    runs = frame[frame["selection_score"].notna()].drop_duplicates("run_id")
    return dict(zip(runs["run_id"].astype(str), runs["selection_score"].astype(float), strict=True))


def _positive_class(
    run: str, outputs: Mapping[str, SplitOutputs], scores: Mapping[str, float]
) -> int | None:
    """The class whose F1 is the recorded one, or None without outputs."""
    if run not in outputs:
        return None
    own = outputs[run]
    found = [
        summands("f1", own.outputs, own.labels, positive=k).score
        for k in range(own.outputs.shape[1])
    ]
    nearest = int(np.nanargmin([abs(f - scores[run]) for f in found]))
    return nearest if abs(found[nearest] - scores[run]) < 1e-6 else None
