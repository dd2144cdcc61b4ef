"""Which number of a column is the best, and which are not told apart from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence.gains import Facts
from kdlora.report.document import TIE, Cell

CONFIDENCE = 0.95

NOTE = (
    f"Bold is the best of its column; {TIE} marks what is not told apart from it: the "
    f"{100 * CONFIDENCE:.0f} % interval of the paired difference covers zero. That is no proof of "
    "equality."
)
NO_NOISE = "Bold is the best of its column; with one run each, nothing says how far chance goes."


def standings(
    values: Mapping[str, pd.Series], direction: int, *, logs: bool = False
) -> dict[str, str]:
    """arm -> "best" or "tie"; the others are absent.

    Args:
        values: an arm's values, indexed by what pairs them (seeds, or tasks).
        direction: +1 where more is better.
        logs: compare ratios, as is apt for costs.

    What equals the best throughout is a best too. A tie is an arm whose paired difference from the
    best has a Student interval that covers zero; or of which one shared value is all there is,
    while others have more.
    """
    known = {arm: v.dropna() for arm, v in values.items() if v.notna().any()}
    if logs:
        known = {arm: np.log(v) for arm, v in known.items() if (v > 0).all()}
    if len(known) < 2:
        return {}
    best = max(known, key=lambda arm: direction * known[arm].mean())
    found = {best: "best"}
    noisy = any(len(v) > 1 for v in known.values())
    for arm, own in known.items():
        difference = (known[best] - own).dropna()
        if arm == best or difference.empty:
            continue
        if np.allclose(difference, 0, atol=1e-9):
            found[arm] = "best"
        elif _covers_zero(difference, noisy=noisy):
            found[arm] = "tie"
    return found


def _covers_zero(difference: pd.Series, *, noisy: bool) -> bool:
    n = len(difference)
    if n == 1:
        return noisy
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    return bool(abs(difference.mean()) <= half)


def values_by_arm(
    facts: Facts, pair: str, column: str, blocks: Sequence[tuple[str, int]]
) -> dict[str, pd.Series]:
    """arm -> values of a column over blocks of a pair, as means of tasks where there are several,
    else one a seed."""
    cells = facts.cells
    here = pd.MultiIndex.from_frame(cells[["task", "seed"]])
    wanted = pd.MultiIndex.from_tuples(list(blocks), names=["task", "seed"])
    own = cells[(cells["pair"] == pair) & here.isin(wanted)]
    unit = "task" if own["task"].nunique() > 1 else "seed"
    return {str(arm): part.groupby(unit)[column].mean() for arm, part in own.groupby("arm")}


def stand(cell: Cell, standing: str | None) -> Cell:
    return replace(cell, standing=standing) if standing else cell


def best_notes(rows: Sequence[tuple[Cell, ...]]) -> tuple[str, ...]:
    """The note that the marks of a table need."""
    found = {cell.standing for row in rows for cell in row}
    if "tie" in found:
        return (NOTE,)
    return (NO_NOISE,) if "best" in found else ()
