"""The report's sections in the order in which someone in a hurry reads them: the answer, whether to
trust it, quality, efficiency, the trade-off, statistics, single tasks, methods, provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from kdlora.evidence import gains as g
from kdlora.evidence.gains import Facts
from kdlora.evidence.statistics import Statistics, gather_statistics
from kdlora.evidence.teacher import reference_arm
from kdlora.records.tidy import names, seeds_of
from kdlora.report import words as w
from kdlora.report.content import (
    checks,
    details,
    effects,
    explorer,
    findings,
    headline,
    tables,
    trust,
)
from kdlora.report.content import cost as charts_costs
from kdlora.report.content import cost as cost_tables
from kdlora.report.content import cost as efficiency
from kdlora.report.content import learning as charts_learning
from kdlora.report.content import matrix as matrix_report
from kdlora.report.content import methods as provenance
from kdlora.report.content import models as charts_models
from kdlora.report.content import scores as charts_scores
from kdlora.report.content import statistics as charts_tests
from kdlora.report.content import statistics as evidence_tables
from kdlora.report.content import trade_off as charts
from kdlora.report.content import which_to_ship as recommended
from kdlora.report.content.models import Bins
from kdlora.report.document import Block, Figure, Report, Section, Source, Table, Tile
from kdlora.report.stored_outputs import Examples

METHODS = (
    "Teacher and student are two encoders of a pair. Each is fine-tuned in full (all weights are "
    "trained) or through an adapter such as LoRA (a small low-rank update is trained, the rest is "
    "frozen). KD is knowledge distillation: beside the labels the student learns from the cached "
    "logits of its teacher, softened by a temperature (Hinton et al., 2015); KD-LoRA is that "
    "through an adapter. The students without distillation are the controls that tell the effect "
    "of distillation apart from that of the smaller encoder.",
    "Means are over seeds, averages over tasks only over tasks and seeds that all trained models "
    "share. Differences are paired by task and seed.",
    "Verdicts come from a paired estimate that counts tasks, not runs, as replicates where there "
    "are enough of them, with Student's intervals, a correction over all comparisons of a "
    "question, and two one-sided tests for equivalence within the stated margin. What is not "
    "significant is called undecided, with the difference that could have been seen.",
)
# What kdlora's own runs vouch for; imported results came about elsewhere.
OWN_METHODS = (
    "Every model of a comparison has the same rows, batch size, steps and device unless it is said "
    "otherwise above. The best checkpoint is chosen on a selection split carved from the training "
    "data, by the task's own metric; the report split is scored once. A score is that of the model "
    "as saved, loaded again and merged.",
    "Running the study again finds finished runs done and trains none of them twice.",
)


@dataclass(frozen=True)
class Study:
    """Everything that the sections show, gathered once."""

    facts: Facts
    stats: Statistics | None
    histories: dict[str, list[dict[str, Any]]]
    bins: dict[str, Bins]
    spec: dict[str, Any]
    notes: Sequence[str]
    rerun: str
    examples: Examples | None = None

    @property
    def frame(self) -> pd.DataFrame:
        return self.facts.frame

    @property
    def several(self) -> bool:
        return headline.several(self.facts, self.stats)


def build(
    frame: pd.DataFrame,
    *,
    title: str,
    spec: dict[str, Any],
    histories: dict[str, list[dict[str, Any]]],
    notes: Sequence[str],
    rerun: str,
    bins: dict[str, Bins] | None = None,
    examples: Examples | None = None,
) -> Report:
    """Everything that a report shows, from the tidy frame. Raises InputError on an empty one."""
    facts = g.gather(frame)
    stats = gather_statistics(facts.frame)
    study = Study(facts, stats, histories, bins or {}, spec, notes, rerun, examples)
    makers = (answer, trustworthy, quality, matrix, cost, trade_off, to_ship, statistics,
              task_by_task, methods, sources)  # fmt: skip
    sections = [section for make in makers if (section := make(study))]
    return Report(title, _subtitle(facts.frame), tuple(sections))


def _subtitle(frame: pd.DataFrame) -> str:
    pairs = [
        f"{teacher} to {student}"
        for teacher, student in dict.fromkeys(zip(frame["teacher"], frame["student"], strict=True))
        if teacher and student
    ]
    seeds = [str(seed) for seed in seeds_of(frame)]
    parts = [w.join(names(frame, "task")), w.join(pairs)]
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {w.join(seeds)}")
    return " · ".join(part for part in parts if part)


def _blocks(*found: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in found if block is not None)


def answer(study: Study) -> Section:
    """What a reader in a hurry wants to know: over all pairs together where there are several."""
    facts, stats = study.facts, study.stats
    if study.several and stats:
        found = tuple(headline.headlines(facts, stats))
        tiles = headline.tiles(facts, stats)
        blocks = _blocks(evidence_tables.selection(stats), tables.summary(facts))
    else:
        tested = headline.gain(stats) if stats else None
        found = (*findings.answer(facts), *((tested,) if tested else ()))
        tiles = _tiles(facts)
        blocks = _blocks(tables.summary(facts), effects.effects(facts))
    return Section("answer", "The answer", tiles=tiles, findings=found, blocks=blocks)


def _tiles(facts: Facts) -> tuple[Tile, ...]:
    """The first student's headline numbers, where there is one pair to speak of."""
    pairs = names(facts.frame, "pair")
    students, _ = facts.students.get(pairs[0], ([], ""))
    if len(pairs) > 1 or not students:
        return ()
    first, tiles = students[0], []
    if first.retained is not None:
        share = w.fixed(100 * first.retained, 1)
        mark = f" {w.DAGGER}" if first.score.flagged else ""
        kept = f"of the teacher's score is kept by {w.phrase(first.arm)}"
        tiles.append(Tile(f"{share} %{mark}", kept))
    if (size := w.number(first.costs["size_mb"])).value is not None:
        tiles.append(Tile(f"{size.text} MB", "is its size on disk"))
    if (speed := w.number(first.costs["speedup_latency"])).value is not None:
        tiles.append(Tile(f"{speed.text}{w.TIMES}", "is its speed, against the teacher's encoder"))
    for gain in facts.overall(pairs[0], g.DISTILLATION)[:1]:
        scale = w.scale_of(gain.metric)
        # A headline is no place for a difference that a broken run made.
        healthy = gain.flagged and gain.unflagged is not None
        change = scale.write(gain.unflagged if healthy else gain.mean, signed=True)
        change += f" {w.DAGGER}" if gain.flagged and not healthy else ""
        left_out = ", flagged pairs left out" if healthy else ""
        seeds = w.plural(len(gain.seeds), "seed")
        student = w.phrase(gain.comparison.base)
        what = f"{scale.unit} from distilling {student}{left_out}; {seeds}"
        tiles.append(Tile(change, what))
    return tuple(tiles)


def trustworthy(study: Study) -> Section:
    facts, frame = study.facts, study.frame
    covered = trust.coverage(frame)
    return Section(
        "trust",
        "Can it be trusted?",
        findings=tuple(checks.trust(facts)),
        blocks=_blocks(
            evidence_tables.doubts(study.stats) if study.stats else None,
            trust.flag_counts(frame),
            trust.flags(frame),
            trust.unfinished(frame),
            covered,
            charts_scores.completion(covered, facts),
            trust.shared(facts),
            provenance.settings(frame),
            provenance.splits(frame),
        ),
    )


def quality(study: Study) -> Section:
    facts, stats = study.facts, study.stats
    blocks = _blocks(
        charts_scores.averages(stats) if stats else None,
        evidence_tables.averages(stats) if stats else None,
        charts_scores.by_task(facts),
        tables.quality(facts),
    )
    own = tuple(findings.answer(facts)) if study.several else ()
    return Section("quality", "Quality", findings=own, blocks=blocks)


def cost(study: Study) -> Section | None:
    facts, stats, frame = study.facts, study.stats, study.frame
    if not (frame["status"] == "done").any():
        return None
    found = findings.trained_share(facts)
    reference = stats.reference if stats else reference_arm(frame)
    blocks = _blocks(
        efficiency.efficiency(facts),
        charts_costs.by_model(facts),
        charts_costs.costs_table(facts),
        charts_costs.reductions_charts_costs(facts, reference),
        cost_tables.reductions(facts, reference),
        *_both(charts_costs.by_rank(facts)),
        efficiency.efficiency_by_task(facts),
        provenance.conditions(frame),
    )
    return Section("cost", "Efficiency", findings=(found,) if found else (), blocks=blocks)


def trade_off(study: Study) -> Section | None:
    facts, stats = study.facts, study.stats
    blocks = _blocks(
        steered := explorer.explorer(facts, stats),
        *(still := charts.trade_offs(facts)),
        explorer.stills(steered, "trade_off" in [f.key for f in still]),
        *_both(charts_scores.normalised(facts)),
        charts_costs.per_parameter(stats) if stats else None,
        cost_tables.per_cost(stats) if stats else None,
        cost_tables.pareto(stats) if stats else None,
    )
    return Section("trade-off", "Trade-off", blocks=blocks) if blocks else None


def matrix(study: Study) -> Section | None:
    """Teachers and students told apart, where several of each were crossed."""
    outputs = study.examples.report if study.examples else {}
    return matrix_report.section(matrix_report.gather(study.frame, outputs))


def to_ship(study: Study) -> Section | None:
    """The choice of each deployment profile; only where predictions were looked for."""
    if study.examples is None:
        return None
    found = recommended.gather(study.frame, study.examples.selection, study.examples.exports)
    return recommended.section(found)


def statistics(study: Study) -> Section | None:
    stats = study.stats
    if stats is None:
        return None
    blocks = _blocks(
        charts_tests.forest(stats),
        evidence_tables.comparisons(stats),
        charts_tests.critical_difference(stats),
        evidence_tables.ranks(stats),
    )
    found = tuple(headline.tests(stats))
    return Section("statistics", "Statistics", findings=found, blocks=blocks) if blocks else None


def task_by_task(study: Study) -> Section | None:
    facts, frame = study.facts, study.frame
    blocks = _blocks(
        *_both(charts_scores.task_trends(facts)),
        *([effects.effects(facts)] if study.several else []),
        effects.effects_by_task(facts),
        charts_learning.learning(frame, study.histories),
        *_both(charts_models.reliability(frame, study.bins)),
        *_both(charts_models.confusion(frame)),
        charts_models.agreement(frame),
        details.agreement(frame),
        details.metrics(frame),
        details.per_class(frame),
    )
    return Section("tasks", "Task by task", blocks=blocks) if blocks else None


def methods(study: Study) -> Section:
    own = OWN_METHODS if study.spec else ()
    return Section("methods", "Methods", (METHODS[0], *own[:1], *METHODS[1:], *own[1:],
                                          *study.notes))  # fmt: skip


def sources(study: Study) -> Section:
    shown = {key: value for key, value in study.spec.items() if key != "base_dir"}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip() if shown else ""
    return Section(
        "provenance",
        "Provenance and rerun",
        blocks=_blocks(
            Source("rerun", "To rerun", study.rerun, "sh"),
            provenance.environment(study.frame),
            Source("study", "The study file", text, "yaml", folded=True) if text else None,
            details.runs(study.frame),
        ),
    )


def _both(made: tuple[Figure, Table] | None) -> tuple[Figure | Table, ...]:
    return made or ()
