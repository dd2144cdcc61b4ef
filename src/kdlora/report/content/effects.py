"""The tables of what each step gains or costs, on average and task by task."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.evidence.gains import Facts, Gain, PairedArms
from kdlora.records.tidy import names
from kdlora.report import words as w
from kdlora.report.content.tables import Lead, dagger_notes
from kdlora.report.document import Cell, Column, Table


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
        row += [_difference(min(gain.values), scale), _difference(max(gain.values), scale)]
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
