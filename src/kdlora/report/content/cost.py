"""Efficiency: what each model costs, and what it saves."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlora.evidence import run_costs
from kdlora.evidence.gains import Facts
from kdlora.evidence.study import COSTS
from kdlora.records.tidy import names
from kdlora.report import words as w
from kdlora.report.content.cells import (
    MODEL,
    PAIR,
    Lead,
    cost_cell,
    dagger_notes,
    model_cell,
    resumed_by_model,
    resumed_note,
    time_cell,
)
from kdlora.report.document import Cell, Column, Figure, Finding, Panel, Table
from kdlora.report.render.panels import YAxis, dots, heat_map, shade, trends
from kdlora.report.render.theme import Logs
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.quantity import QUANTITIES, Quantity, quantity


def trained_share(facts: Facts) -> Finding | None:
    """How few parameters the adapters train."""
    alike: dict[tuple[str, str], list[str]] = {}
    for found in facts.outcomes.values():
        for outcome in found:
            few, whole = (w.amount(outcome.costs[c]) for c in ("trainable_params", "total_params"))
            adapted = Arm.read(outcome.arm).has_adapter
            if adapted and few.value is not None and whole.value is not None:
                arms = alike.setdefault((few.text, whole.text), [])
                arms += [name for name in [w.phrase(outcome.arm)] if name not in arms]
    if not alike:
        return None
    parts = [f"{w.join(arms)}: {few} of {whole}" for (few, whole), arms in alike.items()]
    text = f"Parameters that are trained, of all: {'; '.join(parts)}."
    return Finding("Few are trained", text, ("efficiency",))


# What can be measured of a model, in the order of its table.
EFFICIENCY = tuple(
    QUANTITIES[column]
    for column in (
        "trainable_params", "total_params", "size_mb", "train_s", "peak_memory_mb", "train_flops",
        "forward_flops", "latency_p50_ms", "latency_p95_ms", "throughput_per_s", "speedup_latency",
        "energy_j",
    )
)  # fmt: skip

COST_CAPTION = (
    "Size, FLOPs, latency and throughput are those of the merged model, MB is a million bytes; how "
    "they were measured stands in the next table. A dash: not measured."
)


def _measured(frame: pd.DataFrame) -> list[Quantity]:
    """The columns that anybody could measure."""
    return [one for one in EFFICIENCY if frame[one.column].notna().any()]


def efficiency(facts: Facts) -> Table | None:
    """What every model costs, over the shared blocks, as in the summary."""
    if not facts.outcomes:
        return None
    lead, measured = Lead(facts.frame, task=False), _measured(facts.frame)
    rows = [
        (
            *lead.cells(pair, "", o.arm),
            w.count(o.score.n),
            *(cost_cell(one, o) for one in measured),
        )
        for pair, found in facts.outcomes.items()
        for o in found
    ]
    return Table(
        "efficiency",
        "What each model costs",
        (*lead.columns, Column("runs", "Runs"), *map(w.head, measured)),
        tuple(rows),
        f"Means over the same runs as above. {COST_CAPTION}",
        dagger_notes(rows),
        heads=len(lead.columns),
    )


def efficiency_by_task(facts: Facts) -> Table | None:
    """The same for all done runs of every task, where that is not the same."""
    lead = Lead(facts.frame)
    done = facts.frame[facts.frame["status"] == "done"]
    if done.empty or (facts.outcomes and not lead.task):
        return None
    measured = _measured(done)
    means = run_costs.means_by_task(facts.frame, [one.column for one in measured])
    resumed = resumed_by_model(facts.frame, "pair", "task", "arm")
    rows = [
        (
            *lead.cells(pair, task, arm),
            w.count(n),
            *(
                time_cell(
                    w.measured(one, values[one.column]),
                    resumed.get((pair, task, arm), ()) if one.column == "train_s" else (),
                )
                for one in measured
            ),
        )
        for (pair, task, arm), (n, values) in means.items()
    ]
    return Table(
        "efficiency_by_task",
        "What each model costs, task by task",
        (*lead.columns, Column("runs", "Runs"), *map(w.head, measured)),
        tuple(rows),
        f"Means over all done runs. {COST_CAPTION}",
        dagger_notes(rows),
        heads=len(lead.columns),
        folded=bool(facts.outcomes),
    )


def savings_table(facts: Facts, reference: str) -> Table | None:
    """What each model saves against the reference: geometric mean over matched tasks and seeds."""
    found = savings(facts, reference)
    used = [c for c in COSTS if any(c in own for own in found.values())]
    if not used:
        return None
    rows = tuple(
        (Cell(pair), model_cell(arm),
         *(Cell(w.fixed(own[c], 1), own[c]) if c in own else Cell(w.NONE) for c in used))
        for (pair, arm), own in found.items()
    )  # fmt: skip
    return Table(
        "reductions",
        f"What each model saves against {w.arm_name(reference)}",
        (PAIR, MODEL, *(Column(c, quantity(c).label, "% less") for c in used)),
        rows,
        "Geometric mean over runs matched by task and seed; negative where the model costs more. "
        "Unequal conditions are named under Can it be trusted.",
        heads=2,
        folded=True,
    )


def savings(facts: Facts, reference: str) -> dict[tuple[str, str], dict[str, float]]:
    """(pair, arm) -> cost -> per cent saved against the reference in the same blocks."""
    return run_costs.savings(facts.frame, reference, COSTS)


def costs_figure(facts: Facts) -> Figure | None:
    """Each cost of each pair and model: mean over all done runs, on log scales."""
    found = run_costs.cost_ranges(facts.frame, COSTS)
    pairs = names(facts.frame, "pair")
    panels = []
    for column in COSTS:
        if len({arm for (_, arm), own in found.items() if column in own}) < 2:
            continue
        name, unit = quantity(column).label, quantity(column).cost_unit
        factor = 1 / quantity(column).per
        for pair in pairs:
            known = {arm: own[column] for (p, arm), own in found.items()
                     if p == pair and column in own}  # fmt: skip
            rows = pd.DataFrame([
                {"arm": arm, "label": w.short_arm_name(arm), "x": one.mean * factor,
                 "low": one.low * factor, "high": one.high * factor,
                 "Model": w.arm_name(arm), "Runs": one.n,
                 name: f"{w.significant(one.mean * factor)} {unit}"}
                for arm in names(facts.frame, "arm", pair=pair) if (one := known.get(arm))
            ])  # fmt: skip
            if len(rows) < 2:
                continue
            title = f"{name} · {pair}" if len(pairs) > 1 else name
            alt_text = f"Dot plot of {name.lower()} by model on {pair}, on a log scale."
            panels.append(dots(f"cost_{column}_{pair}", title, alt_text, rows,
                               x=f"{name}, {unit} (log scale)", log=True))  # fmt: skip
    if not panels:
        return None
    n = sorted(set(run_costs.run_counts(facts.frame).values()))
    caption = (
        f"Means over all done runs (n = {_range(n)} a model), lines from the lowest to the highest "
        "run: tasks differ in what they cost." + resumed_note(facts.frame)
    )
    return Figure("costs", "What each model costs", caption, tuple(panels), ("costs",))


def costs_table(facts: Facts) -> Table | None:
    """The numbers behind `costs_figure`."""
    found = run_costs.cost_ranges(facts.frame, COSTS)
    used = [c for c in COSTS if any(c in own for own in found.values())]
    if not used:
        return None
    counts = run_costs.run_counts(facts.frame)
    resumed = resumed_by_model(facts.frame, "pair", "arm")
    rows = []
    for (pair, arm), own in found.items():
        cells = []
        for column in used:
            if column not in own:
                cells.append(Cell(w.NONE))
                continue
            one = own[column]
            per = quantity(column).per
            mean = w.number(one.mean, per=per)
            low, high = (w.significant(value / per) for value in (one.low, one.high))
            sub = f"{low} to {high}" if low != high else ""
            extra = {"low": one.low, "high": one.high, "n": one.n}
            cell = Cell(mean.text, mean.value, sub, extra=extra)
            broken = resumed.get((pair, arm), ()) if column == "train_s" else ()
            cells.append(time_cell(cell, broken))
        rows.append((Cell(pair), Cell(w.arm_name(arm), arm), w.count(counts[pair, arm]), *cells))
    return Table(
        "costs",
        "Costs of each pair and model",
        (PAIR, Column("model", "Model", numeric=False), Column("runs", "Runs"),
         *(Column(c, quantity(c).label, quantity(c).cost_unit) for c in used)),
        tuple(rows),
        "Mean over all done runs, below it the lowest and the highest.",
        dagger_notes(rows),
        heads=2,
        folded=True,
    )  # fmt: skip


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def by_rank(facts: Facts) -> tuple[Figure, Table] | None:
    """Trained parameters against the adapter's rank, where a study has several ranks."""
    found, n = run_costs.parameters_by_rank(facts.frame)
    panels, rows = [], []
    for pair, means in found.items():
        drawn = pd.DataFrame([
            {"arm": base, "x": rank, "y": params / 1e6, "label": w.short_arm_name(base),
             "Model": w.arm_name(base), "Rank": f"{rank:g}",
             "Trained parameters": f"{w.significant(params / 1e6)} M"}
            for base, rank, params in means
        ])  # fmt: skip
        panels.append(_rank_panel(str(pair), drawn))
        rows += [
            (Cell(str(pair)), Cell(w.arm_name(base), base), Cell(f"{rank:g}", rank),
             w.number(params, per=1e6))
            for base, rank, params in means
        ]  # fmt: skip
    if not panels:
        return None
    table = Table(
        "by_rank",
        "Trained parameters by rank",
        (PAIR, Column("model", "Model", numeric=False), Column("rank", "Rank"),
         Column("trainable_params", "Trained parameters", "M")),
        tuple(rows), heads=2, folded=True,
    )  # fmt: skip
    caption = f"Means over runs (n = {n} runs in all); both axes are logarithmic."
    return Figure("by_rank", "Trained parameters by rank", caption, tuple(panels),
                  ("by_rank",)), table  # fmt: skip


def _rank_panel(pair: str, rows: pd.DataFrame) -> Panel:
    across, up = Logs.over(rows["x"]), Logs.over(rows["y"])
    ranks = sorted(set(rows["x"]))
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", domain=[across.low, across.high], nice=False),
        axis=alt.Axis(title="Rank (log scale)", values=ranks, format="~g", grid=False),
    )
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[up.low, up.high], nice=False),
        axis=alt.Axis(title="Trained parameters, million (log scale)", values=up.ticks(),
                      format="~g"),
    )  # fmt: skip
    names_of = w.join(list(dict.fromkeys(rows["label"])))
    alt_text = f"Line chart of trained parameters by rank on {pair}: {names_of}."
    return trends(
        f"by_rank_{pair}", pair, alt_text, rows, x=x, y=YAxis(y, up.low, up.high, log=True)
    )


def savings_figure(facts: Facts, reference: str) -> Figure | None:
    """What models save against the reference: models by pairs, a panel a cost."""
    found = savings(facts, reference)
    pairs = names(facts.frame, "pair")
    panels = []
    used = [c for c in COSTS if any(c in own for own in found.values())]
    arms = list(dict.fromkeys(arm for _, arm in found))
    layouts = (
        [(quantity(c).label, [(pair, (pair, c)) for pair in pairs]) for c in used]
        if len(pairs) > 1
        else [("Less than the reference", [(quantity(c).label, (pairs[0], c)) for c in used])]
    )
    for title, columns in layouts:
        rows = []
        for name, (pair, cost) in columns:
            for arm in arms:
                value = found.get((pair, arm), {}).get(cost)
                if value is not None:
                    rows.append({
                        "column": name, "row": w.short_arm_name(arm),
                        "shade": shade(value / 100),
                        "label": w.fixed(value, 1), "Model": w.arm_name(arm), "Where": name,
                        "Saved": f"{w.fixed(value, 1)} %",
                    })  # fmt: skip
        if len(rows) > 1:
            alt_text = f"Heat map of per cent saved: {title.lower()}."
            key = f"reductions_{title}"
            panels.append(heat_map(key, title, alt_text, pd.DataFrame(rows)))
    if not panels:
        return None
    caption = (
        f"Per cent less than {w.arm_name(reference)}, geometric mean over runs matched by task and "
        "seed (n under Costs of each pair and model); negative where a model costs more."
    )
    return Figure("reductions", "What models save", caption, tuple(panels), ("reductions",))
