"""The report's sections in the order in which someone in a hurry reads them: the answer, whether to
trust it, quality, cost, the trade-off, learning curves, methods and provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from kdlora.report import (
    charts,
    checks,
    details,
    effects,
    efficiency,
    findings,
    provenance,
    tables,
    trust,
)
from kdlora.report import gains as g
from kdlora.report import words as w
from kdlora.report.gains import Facts
from kdlora.report.parts import Block, Report, Section, Source, Tile
from kdlora.report.tidy import names, seeds_of

METHODS = (
    "Teacher and student are two encoders of a pair. Each is fine-tuned in full (all weights are "
    "trained) or through an adapter such as LoRA (a small low-rank update is trained, the rest is "
    "frozen). KD is knowledge distillation: beside the labels the student learns from the cached "
    "logits of its teacher, softened by a temperature (Hinton et al., 2015); KD-LoRA is that "
    "through an adapter. The students without distillation are the controls that tell the effect "
    "of distillation apart from that of the smaller encoder.",
    "Every model of a comparison has the same rows, batch size, steps and device unless it is said "
    "otherwise above. The best checkpoint is chosen on a selection split carved from the training "
    "data, by the task's own metric; the report split is scored once. A score is that of the model "
    "as saved, loaded again and merged.",
    "Means are over seeds, averages over tasks only over tasks and seeds that all trained models "
    "share. Differences are paired by task and seed and described, not tested: nothing here says "
    "that two models differ significantly, or that they are equal.",
    "Running the study again finds finished runs done and trains none of them twice.",
)


def build(
    frame: pd.DataFrame,
    *,
    title: str,
    spec: dict[str, Any],
    histories: dict[str, list[dict[str, Any]]],
    notes: Sequence[str],
    rerun: str,
) -> Report:
    """Everything that a report shows, from the tidy frame. Raises InputError on an empty one."""
    facts = g.gather(frame)
    sections = (
        answer(facts),
        trustworthy(facts),
        quality(facts),
        cost(facts),
        trade_off(facts),
        learning(facts, histories),
        methods(facts, spec, notes, rerun),
    )
    return Report(title, _subtitle(facts.frame), tuple(s for s in sections if s))


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


def answer(facts: Facts) -> Section:
    blocks = _blocks(tables.summary(facts), effects.effects(facts))
    sentences = tuple(findings.answer(facts))
    return Section("answer", "The answer", tiles=_tiles(facts), findings=sentences, blocks=blocks)


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
        what = f"{scale.unit} from distilling {student}{left_out}; {seeds}, not tested"
        tiles.append(Tile(change, what))
    return tuple(tiles)


def trustworthy(facts: Facts) -> Section:
    frame = facts.frame
    return Section(
        "trust",
        "Can it be trusted?",
        findings=tuple(checks.trust(facts)),
        blocks=_blocks(
            trust.flag_counts(frame),
            trust.flags(frame),
            trust.unfinished(frame),
            trust.coverage(frame),
            trust.shared(facts),
            provenance.settings(frame),
            provenance.splits(frame),
        ),
    )


def quality(facts: Facts) -> Section:
    frame = facts.frame
    blocks = _blocks(
        tables.quality(facts),
        effects.effects_by_task(facts),
        details.agreement(frame),
        details.metrics(frame),
        details.per_class(frame),
    )
    return Section("quality", "Quality", blocks=blocks)


def cost(facts: Facts) -> Section | None:
    frame = facts.frame
    if not (frame["status"] == "done").any():
        return None
    found = findings.trained_share(facts)
    blocks = _blocks(
        efficiency.efficiency(facts),
        efficiency.efficiency_by_task(facts),
        provenance.conditions(frame),
    )
    return Section("cost", "Efficiency", findings=(found,) if found else (), blocks=blocks)


def trade_off(facts: Facts) -> Section | None:
    figures = charts.trade_offs(facts)
    return Section("trade-off", "Trade-off", blocks=tuple(figures)) if figures else None


def learning(facts: Facts, histories: dict[str, list[dict[str, Any]]]) -> Section | None:
    figure = charts.learning(facts.frame, histories)
    return Section("learning", "Learning curves", blocks=(figure,)) if figure else None


def methods(facts: Facts, spec: dict[str, Any], notes: Sequence[str], rerun: str) -> Section:
    shown = {key: value for key, value in spec.items() if key != "base_dir"}
    study = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip() if shown else ""
    return Section(
        "methods",
        "Methods and provenance",
        (*METHODS, *notes),
        blocks=_blocks(
            Source("rerun", "To rerun", rerun, "sh"),
            Source("study", "The study file", study, "yaml", folded=True) if study else None,
            provenance.environment(facts.frame),
            details.runs(facts.frame),
        ),
    )
