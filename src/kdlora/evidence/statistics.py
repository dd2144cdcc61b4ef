"""What the analyses say of a study, gathered once for tables, figures and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.evidence.aggregates import Aggregate, SharedCells, aggregate, shared_cells
from kdlora.evidence.compare import Comparison, compare_many
from kdlora.evidence.costs import PerResource, score_per_cost
from kdlora.evidence.diagnosis import Finding, diagnose, epochs_table
from kdlora.evidence.pareto import Front, pareto_front
from kdlora.evidence.ranks import Ranking, rank_methods
from kdlora.evidence.result import Rules
from kdlora.evidence.scores import numbers, stopped_somewhere, usable_runs
from kdlora.evidence.study import questions
from kdlora.evidence.teacher import reference_arm
from kdlora.records.plausible import numeric
from kdlora.records.tidy import names
from kdlora.vocabulary.arm import Arm

SEED = 0  # of the bootstrap: the same records give the same report
# Less is better in all of them; in the order in which readers ask for them.
COSTS = ("size_mb", "latency_p50_ms", "trainable_params", "peak_memory_mb", "train_s",
         "inference_s")  # fmt: skip
# What comparisons read; each of them copies its frame, and a narrow one is quick to copy.
USED = ("run_id", "pair", "task", "arm", "role", "adaptation", "distillation", "seed", "status",
        "metric", "direction", "score", "epoch_scores", "epoch_losses", "final_loss", "rank",
        "batch_size", "epochs", "planned_steps", "train_steps", "max_length", "precision",
        "device", "environment", *COSTS)  # fmt: skip
ON_TEACHER = "distilled student and its adaptation on the teacher"
DISTILLATION = "gain of distillation"


@dataclass(frozen=True)
class Selection:
    """The same comparisons with each run's chosen checkpoint and with its last epoch."""

    chosen: tuple[Comparison, ...]
    last: tuple[Comparison, ...]


@dataclass(frozen=True)
class Statistics:
    """Comparisons by question, each family corrected within itself; and the rest of the evidence.

    `by_pair` are the averages of every pair over its own shared cells, `overall` those over the
    cells of all pairs. Nothing here is None because of a doubt: what cannot be said says why.
    """

    reference: str
    families: dict[str, tuple[Comparison, ...]]
    shared: SharedCells
    overall: tuple[Aggregate, ...]
    by_pair: dict[str, tuple[Aggregate, ...]]
    ranks: Ranking | None
    per_cost: tuple[PerResource, ...]
    fronts: dict[str, Front]
    selection: Selection | None
    doubts: tuple[Finding, ...]
    rules: Rules

    @property
    def comparisons(self) -> list[tuple[str, Comparison]]:
        return [(question, c) for question, found in self.families.items() for c in found]


# Student's intervals carry the verdicts; no bootstrap of single comparisons is shown.
COMPARED = Rules(draws=0, permutations=0)
DRAWN = Rules(draws=2000, permutations=0)


def gather_statistics(frame: pd.DataFrame) -> Statistics | None:
    """All that is tested of a tidy frame; None where nothing has a score."""
    doubts, whole_frame = diagnose(frame), frame
    frame = frame[[column for column in USED if column in frame]]
    rng = np.random.default_rng(SEED)
    arms = sorted(names(frame, "arm"))
    usable, _ = usable_runs(frame)
    if usable.empty:
        return None
    finished = set(usable["arm"])
    reference = reference_arm(whole_frame, [a for a in arms if a in finished])
    asked = questions([a for a in arms if a in finished], reference)
    whole = finished - stopped_somewhere(frame)
    shared = _shared(frame, [a for a in arms if a in whole])
    costs = [c for c in COSTS if c in frame and (numbers(frame[c]) > 0).any()]
    return Statistics(
        reference=reference,
        families={
            name: compare_many(frame, found, rng=rng, rules=COMPARED)
            for name, found in asked.items()
        },
        shared=shared,
        overall=aggregate(shared, rng=rng, reference=reference, rules=DRAWN),
        by_pair=_by_pair(frame, reference, rng),
        ranks=rank_methods(shared, level="tasks", alpha=COMPARED.alpha),
        per_cost=score_per_cost(frame, costs, _encoders(shared.arms)) if costs else (),
        fronts={c: _front(frame, c, rng) for c in costs},
        selection=_selection(frame, asked, rng),
        doubts=doubts,
        rules=COMPARED,
    )


def _shared(frame: pd.DataFrame, arms: Sequence[str]) -> SharedCells:
    """The cells of all models, without a baseline that would cost the encoders some of theirs: one
    that answers the same everywhere has no correlation, and a whole task would be left out for it.
    """
    shared = shared_cells(frame, arms)
    dear = {arm for arm, lost in shared.cost.items() if lost} - set(_encoders(arms))
    return shared_cells(frame, [a for a in arms if a not in dear]) if dear else shared


def _encoders(arms: Sequence[str]) -> list[str]:
    return [arm for arm in arms if not Arm.read(arm).is_baseline]


def _by_pair(
    frame: pd.DataFrame, reference: str, rng: np.random.Generator
) -> dict[str, tuple[Aggregate, ...]]:
    found = {}
    for pair in names(frame, "pair"):
        own = frame[frame["pair"] == pair]
        arms = sorted(set(usable_runs(own)[0]["arm"]) - stopped_somewhere(own))
        table = shared_cells(own, _encoders(arms)) if len(arms) > 1 else None
        if table is not None and not table.reason:
            found[pair] = aggregate(table, rng=rng, reference=reference, rules=DRAWN)
    return found


def _front(frame: pd.DataFrame, cost: str, rng: np.random.Generator) -> Front:
    """The Pareto set of score and one cost, of the arms that have both."""
    measured = frame[numbers(frame[cost]) > 0]
    done = measured[measured["status"] == "done"]
    found = set(usable_runs(done)[0]["arm"]) if len(done) else set()
    arms = _encoders(sorted(found - stopped_somewhere(frame)))
    axes = {"score": 1, cost: -1}
    if len(arms) < 2:
        return Front(axes, 0, 0, "", (), (), f"fewer than two models have a score and {cost}")
    return pareto_front(frame, arms, rng=rng, axes=axes, rules=DRAWN)


def _selection(
    frame: pd.DataFrame, asked: dict[str, list[tuple[str, str]]], rng: np.random.Generator
) -> Selection | None:
    """Distilled students against their teachers, where the choice of the checkpoint is suspect.

    Only runs whose score at the last epoch is logged take part, in both comparisons.
    """
    contrasts = asked.get(ON_TEACHER, [])
    epochs = epochs_table(frame)
    if not contrasts or epochs.empty:
        return None
    known = frame.loc[epochs.index].assign(last_epoch=epochs["last_score"])
    sides = {arm for contrast in contrasts for arm in contrast}
    if not sides <= set(known["arm"]) or numeric(known, "last_epoch").isna().all():
        return None
    return Selection(
        compare_many(known, contrasts, rng=rng, rules=COMPARED),
        compare_many(known, contrasts, rng=rng, score="last_epoch", rules=COMPARED),
    )
