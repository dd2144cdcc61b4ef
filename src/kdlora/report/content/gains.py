"""What each step on the way to a small model gains or costs: tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.evidence import gains as g
from kdlora.evidence.gains import Facts, Gain, PairedArms
from kdlora.records.tidy import names
from kdlora.report import words as w
from kdlora.report.content.cells import Lead, dagger_notes
from kdlora.report.document import Cell, Column, Finding, Table

# More per-seed differences than this are left to the table.
LISTED_SEEDS = 5


def gain_text(gain: g.Gain) -> str:
    """Mean difference, and each seed's or how many are above zero; what is flagged is said."""
    scale = w.scale_of(gain.metric)
    mean = scale.sentence(gain.mean, signed=True)
    if gain.task is None:
        text = (
            f"{mean} on average over {w.plural(len(gain.tasks), 'task')} and "
            f"{w.plural(len(gain.seeds), 'seed')}, above zero in {gain.above_zero} of "
            f"{w.plural(len(gain.values), 'pair')}"
        )
    elif len(gain.values) == 1:
        text = f"{mean} with one seed"
    elif len(gain.values) > LISTED_SEEDS:
        low, high = (scale.write(v, signed=True) for v in (gain.lowest, gain.highest))
        text = f"{mean} on average over {w.plural(len(gain.values), 'seed')} ({low} to {high}, "
        text += f"above zero in {gain.above_zero})"
    else:
        seeds = w.plural(len(gain.values), "seed")
        text = f"{mean} on average over {seeds} ({each_seed(gain)})"
    if gain.flagged and gain.unflagged is not None:
        without = scale.sentence(gain.unflagged, signed=True)
        text += f", but {without} without the pairs in which a run is flagged"
    elif gain.flagged:
        text += ", with a flagged run in every pair"
    return text


def mean_text(gain: g.Gain) -> str:
    """The mean difference alone, with the one of healthy pairs where a run is flagged."""
    scale = w.scale_of(gain.metric)
    text = scale.sentence(gain.mean, signed=True)
    if gain.flagged and gain.unflagged is not None:
        return f"{text} [{scale.write(gain.unflagged, signed=True)} without flagged pairs]"
    return f"{text} [flagged]" if gain.flagged else text


def distillation(facts: Facts, pair: str) -> Finding | None:
    """What the teacher's soft labels add to the same student, seed by seed."""
    own = facts.overall(pair, g.DISTILLATION)
    if not own:
        return None
    texts = [f"{w.phrase(gain.comparison.base)} by {gain_text(gain)}" for gain in own]
    text = f"Distillation changes {'; '.join(texts)}."
    return Finding("What distillation adds", text, ("effects",))


def smaller_encoder(facts: Facts, pair: str) -> Finding | None:
    """What the student's encoder costs when nothing else changes."""
    parts = [
        f"{mean_text(gain)} ({w.arm_name(gain.comparison.arm).partition(', ')[2]})"
        for gain in facts.overall(pair, g.SMALLER)
    ]
    text = f"Trained alike, the smaller encoder differs from the larger by {w.join(parts)}."
    return Finding("What the smaller encoder costs", text, ("effects",)) if parts else None


def adapter(facts: Facts, pair: str) -> Finding | None:
    """What training an adapter costs when nothing else changes."""
    parts = [
        f"{w.phrase(gain.comparison.arm)} is at {mean_text(gain)}"
        for gain in facts.overall(pair, g.ADAPTER)
    ]
    text = f"Compared with full fine-tuning of the same encoder, {w.join(parts)}."
    return Finding("What the adapter costs", text, ("effects",)) if parts else None


def effects(facts: Facts) -> Table | None:
    """What each step costs or gains, told apart and paired by seed; averages over tasks."""
    found = [gain for pair in names(facts.frame, "pair") for gain in facts.overall(pair)]
    lead = Lead(facts.frame, task=False, model=False)
    return _effects("effects", "What each step gains or costs", lead, found)


def effects_by_task(facts: Facts) -> Table | None:
    """The same on every task, where there are several."""
    lead = Lead(facts.frame, model=False)
    found = [gain for gain in facts.gains if gain.task is not None]
    title = "What each step gains or costs, task by task"
    return _effects("effects_by_task", title, lead, found, folded=True) if lead.task else None


def _effects(
    key: str, title: str, lead: Lead, found: Sequence[Gain], *, folded: bool = False
) -> Table | None:
    if not found:
        return None
    averages = any(gain.task is None for gain in found)
    flagged = any(gain.flagged for gain in found)
    rows = []
    for gain in found:
        scale = w.scale_of(gain.metric)
        row = [
            *lead.cells(gain.pair, gain.task or "", ""),
            Cell(w.sentence_case(gain.comparison.effect)),
            Cell(comparison_text(gain.comparison)),
            _difference(gain.mean, scale, w.DAGGER if gain.flagged else ""),
        ]
        if flagged:
            row.append(_difference(gain.unflagged, scale))
        row += [_difference(gain.lowest, scale), _difference(gain.highest, scale)]
        row += [w.count(len(gain.values)), w.count(gain.above_zero)]
        if averages:
            row += [w.count(len(gain.tasks)), w.count(len(gain.seeds))]
        else:
            row.append(Cell(each_seed(gain)))
        rows.append(tuple(row))
    columns = [
        Column("effect", "What changes", numeric=False),
        Column("comparison", "Paired difference", numeric=False),
        Column("mean", "Mean"),
        *((Column("unflagged", "Without flagged pairs"),) if flagged else ()),
        Column("lowest", "Lowest"),
        Column("highest", "Highest"),
        Column("n", "Pairs"),
        Column("above_zero", "Above zero"),
    ]
    if averages:
        columns += [Column("tasks", "Tasks"), Column("seeds", "Seeds")]
    else:
        columns.append(Column("each", "Each seed", numeric=False))
    return Table(
        key,
        title,
        (*lead.columns, *columns),
        tuple(rows),
        "One model minus the model that differs from it in one thing only, paired by task and "
        "seed wherever both have a score; above zero is better, whichever way the metric runs. No "
        "difference here was tested for significance.",
        dagger_notes(rows),
        heads=len(lead.columns) + 1,
        folded=folded,
    )


def _difference(value: float | None, scale: w.Scale, mark: str = "") -> Cell:
    return Cell(scale.write(value, signed=True), value, mark=mark)


def each_seed(gain: Gain) -> str:
    """The difference of every seed of one task, with an unbroken name and number each."""
    scale = w.scale_of(gain.metric)
    pairs = zip(gain.seeds, gain.values, strict=True)
    return "; ".join(
        f"seed{w.NBSP}{seed}:{w.NBSP}{scale.write(value, signed=True)}" for seed, value in pairs
    )


def comparison_text(comparison: PairedArms) -> str:
    return f"{w.arm_name(comparison.arm)} {w.MINUS} {w.arm_name(comparison.base)}"
