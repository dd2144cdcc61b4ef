"""The tables of what costs buy: what is saved, score for what it costs, the Pareto sets."""

from __future__ import annotations

import math

import numpy as np

from kdlora.report import words as w
from kdlora.report.evidence_tables import model
from kdlora.report.gains import Facts
from kdlora.report.parts import Cell, Column, Table
from kdlora.report.statistics import COSTS, Statistics
from kdlora.report.tables import MODEL, PAIR
from kdlora.report.tidy import names

COST_NAMES = {
    "size_mb": ("Size", "MB"),
    "latency_p50_ms": ("Latency, median", "ms"),
    "trainable_params": ("Trained parameters", "M"),
    "peak_memory_mb": ("Peak memory", "MB"),
    "train_s": ("Training", "s"),
    "inference_s": ("Inference", "s"),
}
PER = {"trainable_params": 1e6}


def reductions(facts: Facts, reference: str) -> Table | None:
    """What each model saves against the reference: geometric mean over matched tasks and seeds."""
    found = savings(facts, reference)
    used = [c for c in COSTS if any(c in own for own in found.values())]
    if not used:
        return None
    rows = tuple(
        (Cell(pair), model(arm),
         *(Cell(w.fixed(own[c], 1), own[c]) if c in own else Cell(w.NONE) for c in used))
        for (pair, arm), own in found.items()
    )  # fmt: skip
    return Table(
        "reductions",
        f"What each model saves against {w.arm_name(reference)}",
        (PAIR, MODEL, *(Column(c, COST_NAMES[c][0], "% less") for c in used)),
        rows,
        "Geometric mean over runs matched by task and seed; negative where the model costs more. "
        "Unequal conditions are named under Can it be trusted.",
        heads=2,
        folded=True,
    )


def savings(facts: Facts, reference: str) -> dict[tuple[str, str], dict[str, float]]:
    """(pair, arm) -> cost -> per cent saved against the reference in the same blocks."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    frame = facts.frame
    own = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    for column in COSTS:
        known = own[own[column] > 0]
        logs = known.assign(log=np.log(known[column].to_numpy(float))).pivot_table(
            index=["pair", "task", "seed"], columns="arm", values="log", observed=True
        )
        if reference not in logs:
            continue
        ratio = logs.sub(logs[reference], axis=0).groupby("pair", sort=False).mean()
        for pair in names(facts.frame, "pair"):
            for arm in names(facts.frame, "arm", pair=pair):
                if arm != reference and pair in ratio.index and arm in ratio:
                    value = 100 * (1 - math.exp(float(ratio[arm][pair])))
                    if math.isfinite(value):
                        found.setdefault((pair, arm), {})[column] = value
    return found


def per_cost(stats: Statistics) -> Table | None:
    """Score for every unit of each cost."""
    used = [c for c in COSTS if any(x.column == c for x in stats.per_cost)]
    if not used:
        return None
    found = {(x.arm, x.column): x for x in stats.per_cost}
    arms = list(dict.fromkeys(x.arm for x in stats.per_cost))
    rows = []
    for arm in arms:
        cells = []
        for column in used:
            x = found.get((arm, column))
            cells.append(w.number(x.score_per_unit * PER.get(column, 1.0)) if x else Cell(w.NONE))
        rows.append((model(arm), *cells))
    return Table(
        "per_cost",
        "Score for what it costs",
        (MODEL, *(Column(c, COST_NAMES[c][0], f"points/{COST_NAMES[c][1]}") for c in used)),
        tuple(rows),
        "Mean score over geometric mean cost, on shared cells. A small denominator flatters: read "
        "it beside the trade-off.",
        folded=True,
    )


def pareto(stats: Statistics) -> Table | None:
    """Which models no other beats on score and one cost, and how surely."""
    used = [c for c, front in stats.fronts.items() if front.points]
    if not used:
        return None
    points_of = {c: {p.arm: p for p in stats.fronts[c].points} for c in used}
    arms = list(dict.fromkeys(arm for c in used for arm in points_of[c]))
    rows = []
    for arm in arms:
        cells = []
        for column in used:
            p = points_of[column].get(arm)
            if p is None:
                cells.append(Cell(w.NONE))
                continue
            share = p.on_front_share
            sub = "" if share is None else f"{100 * share:.0f} % of draws"
            extra = {"share": share}
            cells.append(Cell("yes" if p.on_front else "no", int(p.on_front), sub, extra=extra))
        rows.append((model(arm), *cells))
    how = {front.resampled for front in stats.fronts.values()} - {""}
    drawn = f" The share is of bootstrap draws of {w.join(sorted(how))}." if how else ""
    return Table(
        "pareto",
        "On the Pareto set of score and cost",
        (MODEL, *(Column(c, f"Score and {COST_NAMES[c][0].lower()}", numeric=False) for c in used)),
        tuple(rows),
        f"Yes where no other model is at least as good in both and better in one.{drawn}",
        folded=True,
    )
