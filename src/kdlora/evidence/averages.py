"""The averages of a study: over what all models share, and of models with few cells each apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.evidence.aggregates import Aggregate, SharedCells, aggregate, shared_cells
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import KEYS, stopped_somewhere, usable_runs
from kdlora.evidence.sparse import sparse_arms, too_few
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.arm import MAJORITY, Arm


@dataclass(frozen=True)
class Averages(Result):
    """`common` is over the cells in `shared`. Those `apart` have no place there: each is over the
    cells that it shares with the reference alone. `few`: the arms that lack most of the cells.
    """

    shared: SharedCells
    common: tuple[Aggregate, ...]
    apart: tuple[Aggregate, ...]
    few: tuple[str, ...]


def averages(
    study: StudyFrame,
    reference: str,
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
    baselines: bool = True,
) -> Averages:
    """The averages of all finished arms. Arms that were stopped early somewhere have none: they
    were scored where they did well. Without `baselines` those of the encoders alone.

    A baseline that would cost the encoders some of their cells is apart, too: one that answers the
    same everywhere has no correlation, and a whole task would be left out for it.
    """
    usable, _ = usable_runs(study, score)
    few = sparse_arms(usable, never=(reference,))
    left_out = few | stopped_somewhere(study)
    arms = sorted(map(str, usable["arm"].unique()))
    arms = [a for a in arms if baselines or not Arm.read(a).is_baseline]

    def aggregated(table: SharedCells) -> tuple[Aggregate, ...]:
        floor = _floor(study, table, keys, score)
        return aggregate(table, rng=rng, reference=reference, floor=floor, rules=rules)

    shared = shared_cells(study, [a for a in arms if a not in left_out], keys=keys, score=score)
    dear = {a for a, lost in shared.cost.items() if lost and Arm.read(a).is_baseline}
    if dear:
        kept = [a for a in shared.arms if a not in dear]
        shared = shared_cells(study, kept, keys=keys, score=score)
    shared = _unless_too_few(shared, usable)
    common = aggregated(shared)
    averaged = {one.arm for one in common}
    apart = []
    for arm in arms:
        if arm in averaged or arm == reference or arm in stopped_somewhere(study):
            continue
        both = shared_cells(study, [arm, reference], keys=keys, score=score)
        apart += [one for one in aggregated(both) if one.arm == arm]
    order = sorted(apart, key=lambda one: Arm.read(one.arm).sort_key())
    return Averages(shared, common, tuple(order), tuple(sorted(few)))


def _floor(
    study: StudyFrame, shared: SharedCells, keys: Sequence[str], score: str
) -> pd.Series | None:
    """The score of the majority baseline in each cell of the table, NaN where it has none."""
    majority = str(MAJORITY)
    if shared.reason or majority in shared.arms:
        return None if shared.reason else shared.table[majority]
    # Beside all arms of the table: a baseline has no seed and stands in the cells of those that do.
    beside = shared_cells(study, [*shared.arms, majority], keys=keys, score=score)
    return None if beside.reason else beside.table[majority].reindex(shared.table.index)


def _unless_too_few(shared: SharedCells, usable: pd.DataFrame) -> SharedCells:
    """The table, or none where a mean over it would leave out most of what every arm has."""
    arms = [a for a in shared.arms if not Arm.read(a).is_baseline]
    alike = usable[usable["unit"] == shared.unit]
    if shared.reason or not too_few(shared.n_cells, alike, arms):
        return shared
    reason = (
        f"all models share only {shared.n_cells} cells, less than half of what each of them has; "
        "each stands against the reference on the cells that the two share"
    )
    empty = shared.table.iloc[:0]
    return replace(shared, n_cells=0, by_task={}, reason=reason, table=empty)
