"""Which number of a table's column is the best, and which the tests do not tell apart from it.

An arm is "not told apart" from the best one only where a comparison of the same study says so: the
same cells as the column's means, the same correction, the same claims as the verdicts. So a mark
can not contradict a verdict. What was never tested against the best has no mark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from kdlora.evidence.comparison import Comparison
from kdlora.evidence.pairing import Cell
from kdlora.evidence.result import Mark

EQUAL = 1e-9  # relative: means over the same numbers may differ in the last bits


def marks(
    means: Mapping[str, float],
    direction: int,
    cells: Mapping[str, frozenset[Cell]],
    comparisons: Iterable[Comparison],
) -> dict[str, Mark]:
    """arm -> its mark; arms without one are absent.

    Args:
        means: the numbers of the column by arm, as they are shown.
        direction: +1 where more is better, -1 where less is.
        cells: what each arm's number is a mean over.
        comparisons: all comparisons of the study.

    "not told apart" is given to no arm of a column in which an arm without it stands between a
    marked one and the best: a reader takes the column's order for the order of the evidence.
    """
    found = best_of(means, direction)
    if len(found) != 1:
        return found
    (best,) = found
    between = [c for c in comparisons if best in (c.a, c.b)]
    others = sorted(
        (arm for arm, mean in means.items() if arm != best and math.isfinite(mean)),
        key=lambda arm: -direction * means[arm],
    )
    alike = [
        len({cells.get(arm), cells.get(best)}) == 1 and _not_told_apart(arm, best, cells, between)
        for arm in others
    ]
    n = alike.index(False) if False in alike else len(alike)
    if any(alike[n:]):
        return found
    return {**found, **dict.fromkeys(others[:n], "not told apart")}


def best_of(means: Mapping[str, float], direction: int) -> dict[str, Mark]:
    """The arms with the best number; none where there is no second arm to be better than."""
    known = {arm: mean for arm, mean in means.items() if math.isfinite(mean)}
    if len(known) < 2:
        return {}
    top = max(direction * mean for mean in known.values())
    return {
        arm: "best"
        for arm, mean in known.items()
        if math.isclose(direction * mean, top, rel_tol=EQUAL, abs_tol=1e-12)
    }


def _not_told_apart(
    arm: str, best: str, cells: Mapping[str, frozenset[Cell]], between: Iterable[Comparison]
) -> bool:
    """Whether the two were compared on these cells, and no test of theirs finds a difference."""
    found = [c for c in between if arm in (c.a, c.b)]
    tests = [(t.p_corrected, c.rules.alpha) for c in found for t in c.claims.values()]
    known = [(p, alpha) for p, alpha in tests if p is not None]
    same = all(c.matched.places == cells[best] for c in found)
    return bool(known) and same and all(p > alpha for p, alpha in known)
