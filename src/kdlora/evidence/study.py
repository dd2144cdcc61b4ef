"""Everything that is asked of a study, gathered once a command: what all pages and tables show.

`kdlora report` and `kdlora compare` ask for different parts (`Part`); what both show is made here
by one rule. Nothing is None for a doubt: what cannot be said says why.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from kdlora.evidence.aggregates import (
    Aggregate,
    Improvement,
    SharedCells,
    probability_of_improvement,
)
from kdlora.evidence.averages import Averages, averages
from kdlora.evidence.best import best_of, marks
from kdlora.evidence.compare import compare_many
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.correlation import Correlation, correlate
from kdlora.evidence.costs import PerResource, Ratio, cost_ratios, positive_runs, score_per_cost
from kdlora.evidence.diagnosis import DiagnosisFinding, diagnose, epochs_table
from kdlora.evidence.gains import Facts, describe
from kdlora.evidence.intervals import stream
from kdlora.evidence.mixed_model import MixedModel, mixed_model
from kdlora.evidence.outcomes import SUMMARY_COSTS, outcome_metric
from kdlora.evidence.pairing import cell_keys
from kdlora.evidence.pareto import Front, pareto_front
from kdlora.evidence.questions import ON_TEACHER, ask, questions
from kdlora.evidence.ranks import Ranking, rank_methods
from kdlora.evidence.result import Mark, Result, Rules
from kdlora.evidence.scores import KEYS, numbers, stopped_somewhere, usable_runs
from kdlora.evidence.teacher import reference_arm
from kdlora.records.tidy import StudyFrame, metrics_of, names, plain_strings, tidy
from kdlora.vocabulary.arm import Arm

# Less is better in all of them; in the order in which readers ask for them.
COSTS = ("size_mb", "latency_p50_ms", "trainable_params", "peak_memory_mb", "train_s",
         "inference_s")  # fmt: skip
COMPARED_COSTS = ("trainable_params", "size_mb", "peak_memory_mb", "train_s", "latency_p50_ms")

Part = Literal[
    "single comparisons",  # their bootstrap intervals and permutation tests
    "averages by pair",
    "improvements",
    "ratios",
    "common front",  # of the score and all costs together
    "fronts",  # of the score and each cost
    "correlations",
    "mixed model",
    "checkpoints",
    "doubts",
    "description",
]
OF_COMPARE: tuple[Part, ...] = (
    "single comparisons", "improvements", "ratios", "common front", "correlations", "mixed model",
)  # fmt: skip
OF_REPORT: tuple[Part, ...] = (
    "averages by pair", "fronts", "checkpoints", "doubts", "description",
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointChoice:
    """The same comparisons with each run's chosen checkpoint and with its last epoch."""

    chosen: tuple[Comparison, ...]
    last: tuple[Comparison, ...]

    @property
    def mean_gaps(self) -> tuple[float, float] | None:
        """Mean points below the teacher of the students told apart from it: as reported, and at
        the last epoch; None where there is none."""
        pairs = [
            (a.claim.difference, b.claim.difference)
            for a, b in zip(self.chosen, self.last, strict=True)
            if a.verdict == "inferior"
        ]
        known = [(-a, -b) for a, b in pairs if a is not None and b is not None]
        if not known:
            return None
        return sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known)

    @property
    def share(self) -> float:
        """Which part of the gap vanishes at the last epoch; 0 without a gap."""
        chosen, last = self.mean_gaps or (0.0, 0.0)
        return 1 - last / chosen if chosen > 0 else 0.0


@dataclass(frozen=True)
class Evidence(Result):
    """A whole study. `families` are the comparisons by question, each corrected within itself.

    `arms` are those with a finished run; of the `unfinished` ones nothing is said. `aggregates` are
    over the cells that all arms share but those `apart`, which have too few cells and stand against
    the reference on the cells they share with it; `by_pair` are both of each pair, `unflagged` the
    first without the runs that carry a health flag (None: there are none). `front` is over the
    score and all costs, `fronts` over the score and each cost. Parts that were not asked for are
    empty.
    """

    reference: str
    families: dict[str, tuple[Comparison, ...]]
    shared: SharedCells
    aggregates: tuple[Aggregate, ...]
    apart: tuple[Aggregate, ...]
    unflagged: tuple[Aggregate, ...] | None
    ranks: dict[str, Ranking]
    improvements: tuple[Improvement, ...]
    ratios: tuple[Ratio, ...]
    per_cost: tuple[PerResource, ...]
    front: Front | None
    correlations: tuple[Correlation, ...]
    mixed: MixedModel | None
    rules: Rules
    by_pair: dict[str, Averages] = field(default_factory=dict, repr=False)
    fronts: dict[str, Front] = field(default_factory=dict, repr=False)
    checkpoints: CheckpointChoice | None = field(default=None, repr=False)
    doubts: tuple[DiagnosisFinding, ...] = field(default=(), repr=False)
    facts: Facts | None = field(default=None, repr=False)
    arms: tuple[str, ...] = field(default=(), repr=False)
    unfinished: tuple[str, ...] = field(default=(), repr=False)

    @property
    def comparisons(self) -> list[tuple[str, Comparison]]:
        """(question, comparison), question by question."""
        return [(question, c) for question, found in self.families.items() for c in found]


@plain_strings()
def gather(
    frame: StudyFrame | pd.DataFrame,
    *,
    rng: np.random.Generator,
    reference: str | None = None,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    costs: Sequence[str] = COMPARED_COSTS,
    rules: Rules | None = None,
    parts: Collection[Part] = OF_COMPARE,
) -> Evidence:
    """What is asked of a study. Costs that nobody measured are left out.

    Runs of a cell that differ in the adapter's rank are arms of their own.
    """
    study, rules = StudyFrame.of(frame).ranks_apart(), rules or Rules()
    doubts = diagnose(study) if "doubts" in parts else ()
    usable, _ = usable_runs(study, score)
    finished = set(usable["arm"])
    every = sorted(set(study.table["arm"].dropna()))
    arms = [arm for arm in every if arm in finished]
    reference = reference or reference_arm(study.table, arms or None)
    asked = questions(arms, reference)
    single = rules if "single comparisons" in parts else replace(rules, draws=0, permutations=0)
    families = ask(study, asked, rng=rng, keys=keys, score=score, rules=single)
    means = averages(study, reference, rng=rng, keys=keys, score=score, rules=rules)
    shared, few = means.shared, means.few
    even = study.where(~study.table["arm"].isin(few)) if few else study
    costs = [c for c in costs if study.has(c) and (numbers(study.table[c]) > 0).any()]
    against = [(arm, reference) for arm in arms if arm != reference]
    encoders = _encoders(shared.arms)
    return Evidence(
        reference=reference,
        families=families,
        shared=shared,
        aggregates=means.common,
        apart=means.apart,
        unflagged=_unflagged(study, reference, rules, rng),
        by_pair=_by_pair(study, reference, rules, rng) if "averages by pair" in parts else {},
        ranks={
            unit: rank_methods(shared, level=unit, alpha=rules.alpha)
            for unit in ("tasks", "blocks")
        },
        improvements=tuple(
            probability_of_improvement(study, a, b, rng=stream(rng, a, b), score=score, rules=rules)
            for a, b in (against if "improvements" in parts else ())
        ),
        ratios=cost_ratios(study, against, costs, rng=rng, keys=keys, rules=rules)
        if "ratios" in parts
        else (),
        per_cost=score_per_cost(study, costs, encoders, keys=keys, score=score),
        front=_common_front(study, shared.arms, costs, keys, score, rules, rng)
        if costs and "common front" in parts
        else None,
        fronts={c: _front(even, c, rules, rng) for c in costs} if "fronts" in parts else {},
        correlations=correlate(even, costs, rng=rng, score=score, rules=rules)
        if "correlations" in parts
        else (),
        mixed=mixed_model(even, reference=reference, score=score, rules=rules)
        if "mixed model" in parts
        else None,
        checkpoints=_checkpoints(study, asked, single, rng) if "checkpoints" in parts else None,
        doubts=doubts,
        facts=_described(study, families) if "description" in parts else None,
        arms=tuple(arms),
        unfinished=tuple(arm for arm in every if arm not in finished),
        rules=single,
    )


SEED = 0  # of a report's bootstrap: the same records give the same report
REPORT_RULES = Rules(draws=2000, permutations=0)


def gather_report(frame: StudyFrame | pd.DataFrame) -> Evidence:
    """All that a report shows; no bootstrap of single comparisons is among it.

    Raises InputError as `tidy` does.
    """
    study = StudyFrame.of(frame)
    # a table of costs alone has a report too, without scores: nothing of it counts as assumed
    described = StudyFrame(tidy(study), outputs=study.outputs)
    return gather(
        described, rng=np.random.default_rng(SEED), costs=COSTS, rules=REPORT_RULES, parts=OF_REPORT
    )


def _encoders(arms: Sequence[str]) -> list[str]:
    return [arm for arm in arms if not Arm.read(arm).is_baseline]


def _unflagged(
    study: StudyFrame, reference: str, rules: Rules, rng: np.random.Generator
) -> tuple[Aggregate, ...] | None:
    flagged = study.table["flagged"]
    if not flagged.any():
        return None
    return averages(study.where(~flagged), reference, rng=rng, rules=rules).common


def _by_pair(
    study: StudyFrame, reference: str, rules: Rules, rng: np.random.Generator
) -> dict[str, Averages]:
    found = {}
    for pair in names(study.table, "pair"):
        own = study.where(study.table["pair"] == pair)
        made = averages(own, reference, rng=rng, rules=rules, baselines=False)
        if made.common or made.apart:
            found[pair] = made
    return found


def _front(study: StudyFrame, cost: str, rules: Rules, rng: np.random.Generator) -> Front:
    """The Pareto set of score and one cost, of the arms that have both."""
    usable, _ = usable_runs(study)
    found = set(usable.loc[numbers(usable[cost]) > 0, "arm"]) - stopped_somewhere(study)
    arms, axes = _encoders(sorted(found)), {"score": 1, cost: -1}
    if len(arms) < 2:
        return Front(axes, 0, 0, "", (), (), f"fewer than two models have a score and {cost}")
    return pareto_front(study, arms, rng=rng, axes=axes, rules=rules)


def _common_front(
    study: StudyFrame,
    arms: Sequence[str],
    costs: Sequence[str],
    keys: Sequence[str],
    score: str,
    rules: Rules,
    rng: np.random.Generator,
) -> Front:
    """The Pareto set of the arms that have every cost; the others are named."""
    known = [set(positive_runs(study, c)[0]["arm"]) for c in costs]
    measured = [arm for arm in arms if all(arm in some for some in known)]
    axes = {"score": 1, **dict.fromkeys(costs, -1)}
    front = (
        pareto_front(study, measured, rng=rng, axes=axes, keys=keys, score=score, rules=rules)
        if measured
        else Front(axes, 0, 0, "", (), (), "no arm has all of these costs")
    )
    left_out = [arm for arm in arms if arm not in measured]
    if not left_out:
        return front
    return replace(front, notes=(*front.notes, f"without a cost: {', '.join(left_out)}"))


def _checkpoints(
    study: StudyFrame,
    asked: dict[str, list[tuple[str, str]]],
    rules: Rules,
    rng: np.random.Generator,
) -> CheckpointChoice | None:
    """Distilled students against their teachers, where the choice of the checkpoint is suspect.

    Only runs whose score at the last epoch is logged take part, in both comparisons.
    """
    contrasts = asked.get(ON_TEACHER, [])
    epochs = epochs_table(study.table)
    if not contrasts or epochs.empty:
        return None
    known = study.table.loc[epochs.index].assign(last_epoch=epochs["last_score"].astype(float))
    sides = {arm for contrast in contrasts for arm in contrast}
    if not sides <= set(known["arm"]) or known["last_epoch"].isna().all():
        return None
    logged = StudyFrame(known, study.assumed)
    return CheckpointChoice(
        compare_many(logged, contrasts, rng=rng, rules=rules),
        compare_many(logged, contrasts, rng=rng, score="last_epoch", rules=rules),
    )


def _described(study: StudyFrame, families: dict[str, tuple[Comparison, ...]]) -> Facts:
    """The description, with the marks of the columns that tables show."""
    facts = describe(study)
    tested = [c for found in families.values() for c in found]
    found: dict[tuple[str, str, str], dict[str, Mark]] = {}
    where = pd.Series(cell_keys(facts.cells), index=facts.cells.index, dtype=object)
    cells = facts.cells.assign(where=where)
    for pair, outcomes in facts.outcomes.items():
        over = frozenset((pair, str(task), str(seed)) for task, seed in facts.blocks[pair])
        means = {o.arm: o.score.mean for o in outcomes}
        direction = outcome_metric(facts.frame)[1]
        found["summary", pair, "score"] = marks(
            means, direction, dict.fromkeys(means, over), tested
        )
        trained = [o for o in outcomes if not Arm.read(o.arm).is_baseline]
        for cost, better in SUMMARY_COSTS.items():
            found["summary", pair, cost] = best_of({o.arm: o.costs[cost] for o in trained}, better)
    metrics = metrics_of(facts.frame)
    for key, own in cells.groupby(["pair", "task"], sort=False):
        pair, task = map(str, key)
        few = {one.own.arm for one in facts.apart.get(pair, ())}
        means = {
            arm: s.mean for (*of, arm), s in facts.spreads.items()
            if tuple(of) == key and arm not in few
        }  # fmt: skip
        blocks_of = {str(arm): frozenset(rows["where"]) for arm, rows in own.groupby("arm")}
        direction = metrics[task][1]
        found["quality", pair, task] = marks(means, direction, blocks_of, tested)
    return replace(facts, marks=found)
