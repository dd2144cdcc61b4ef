"""Everything that is asked of a study, gathered in one call: what the command and reports show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.evidence.aggregates import (
    Aggregate,
    Improvement,
    SharedCells,
    aggregate,
    probability_of_improvement,
    shared_cells,
)
from kdlora.evidence.compare import Comparison, compare_many
from kdlora.evidence.correlation import Correlation, correlate
from kdlora.evidence.costs import PerResource, Ratio, cost_ratios, positive_runs, score_per_cost
from kdlora.evidence.mixed_model import MixedModel, mixed_model
from kdlora.evidence.pareto import Front, pareto_front
from kdlora.evidence.ranks import Ranking, rank_methods
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import KEYS, numbers, stopped_somewhere, usable_runs
from kdlora.evidence.teacher import reference_arm
from kdlora.vocabulary.arm import Arm

COSTS = ("trainable_params", "size_mb", "peak_memory_mb", "train_s", "latency_p50_ms")


@dataclass(frozen=True)
class Evidence(Result):
    """A whole study. `families` are the comparisons by question, each corrected within itself."""

    reference: str
    families: dict[str, tuple[Comparison, ...]]
    shared: SharedCells
    aggregates: tuple[Aggregate, ...]
    ranks: dict[str, Ranking]
    improvements: tuple[Improvement, ...]
    ratios: tuple[Ratio, ...]
    per_cost: tuple[PerResource, ...]
    front: Front | None
    correlations: tuple[Correlation, ...]
    mixed: MixedModel
    rules: Rules


def questions(arms: Sequence[str], reference: str) -> dict[str, list[tuple[str, str]]]:
    """The comparisons a study is made for, as far as its arms allow: question -> (a, b).

    Every arm against the reference; what distillation adds to a student; what the small encoder
    costs under the same adaptation. The last two are told apart only where the controls exist.
    """
    known = set(arms)
    asked = {f"against {reference}": [(arm, reference) for arm in arms if arm != reference]}
    students = {arm: read for arm in arms if (read := Arm.read(arm)).is_student}
    distilled = {arm: read for arm, read in students.items() if read.is_distilled}
    pairs = {
        "gain of distillation": [(arm, str(read.undistilled())) for arm, read in distilled.items()],
        "distilled student and its adaptation on the teacher": [
            (arm, str(read.as_teacher())) for arm, read in distilled.items()
        ],
        "smaller encoder": [
            (arm, str(read.as_teacher())) for arm, read in students.items() if not read.is_distilled
        ],
        "changed settings": [
            (arm, base) for arm in arms if (base := str(Arm.read(arm).plain)) != arm
        ],
    }
    asked |= {name: [(a, b) for a, b in found if b in known] for name, found in pairs.items()}
    return {name: found for name, found in asked.items() if found}


def gather(
    frame: pd.DataFrame,
    *,
    rng: np.random.Generator,
    reference: str | None = None,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    costs: Sequence[str] = COSTS,
    rules: Rules | None = None,
) -> Evidence:
    """All analyses of a study. Costs that the frame lacks are left out."""
    rules = rules or Rules()
    arms = sorted(map(str, frame["arm"].dropna().unique()))
    reference = reference or reference_arm(frame)
    finished = set(usable_runs(frame, score)[0]["arm"]) - stopped_somewhere(frame)
    costs = [c for c in costs if c in frame and (numbers(frame[c]) > 0).any()]
    shared = shared_cells(frame, [a for a in arms if a in finished], keys=keys, score=score)
    against = [(arm, reference) for arm in arms if arm != reference]
    return Evidence(
        reference=reference,
        families={
            name: compare_many(frame, asked, rng=rng, keys=keys, score=score, rules=rules)
            for name, asked in questions(arms, reference).items()
        },
        shared=shared,
        aggregates=aggregate(shared, rng=rng, reference=reference, rules=rules),
        ranks={
            level: rank_methods(shared, level=level, alpha=rules.alpha)
            for level in ("tasks", "blocks")
        },
        improvements=tuple(
            probability_of_improvement(frame, a, b, rng=rng, score=score, rules=rules)
            for a, b in against
        ),
        ratios=cost_ratios(frame, against, costs, rng=rng, keys=keys, rules=rules),
        per_cost=score_per_cost(frame, costs, shared.arms, keys=keys, score=score),
        front=_front(frame, shared.arms, costs, keys, score, rules, rng) if costs else None,
        correlations=correlate(frame, costs, rng=rng, score=score, rules=rules),
        mixed=mixed_model(frame, reference=reference, score=score, rules=rules),
        rules=rules,
    )


def _front(
    frame: pd.DataFrame,
    arms: Sequence[str],
    costs: Sequence[str],
    keys: Sequence[str],
    score: str,
    rules: Rules,
    rng: np.random.Generator,
) -> Front:
    """The Pareto set of the arms that have every cost; the others are named."""
    known = [set(positive_runs(frame, c)[0]["arm"]) for c in costs]
    kept = [arm for arm in arms if all(arm in some for some in known)]
    axes = {"score": 1, **dict.fromkeys(costs, -1)}
    front = (
        pareto_front(frame, kept, rng=rng, axes=axes, keys=keys, score=score, rules=rules)
        if kept
        else Front(axes, 0, 0, "", (), (), "no arm has all of these costs")
    )
    left_out = [arm for arm in arms if arm not in kept]
    if not left_out:
        return front
    return replace(front, notes=(*front.notes, f"without a cost: {', '.join(left_out)}"))
