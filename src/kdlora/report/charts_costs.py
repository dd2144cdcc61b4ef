"""Figures of cost: every cost by model, score per parameter, parameters by rank, reductions."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlora.report import words as w
from kdlora.report.cost_tables import COST_NAMES, savings
from kdlora.report.gains import Facts
from kdlora.report.grammar import dots, heat_map, shade, trends
from kdlora.report.parts import Cell, Column, Figure, Table
from kdlora.report.statistics import COSTS, Statistics
from kdlora.report.tables import PAIR
from kdlora.report.theme import Logs
from kdlora.report.tidy import groups, names
from kdlora.spec.names import split_label


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    own = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    return own.drop_duplicates(["pair", "run_id"])


def by_model(facts: Facts) -> Figure | None:
    """Each cost of each pair and model: mean over all done runs, on log scales."""
    runs = _runs(facts.frame)
    pairs = names(facts.frame, "pair")
    panels = []
    for column in COSTS:
        known = runs[runs[column] > 0]
        if known["arm"].nunique() < 2:
            continue
        name, unit = COST_NAMES[column]
        factor = 1e-6 if column == "trainable_params" else 1.0
        for pair in pairs:
            own = known[known["pair"] == pair]
            rows = pd.DataFrame([
                {"arm": arm, "label": w.short_arm_name(str(arm)), "x": found.mean() * factor,
                 "low": found.min() * factor, "high": found.max() * factor,
                 "Model": w.arm_name(str(arm)), "Runs": len(found),
                 name: f"{w.significant(found.mean() * factor)} {unit}"}
                for arm, found in own.groupby("arm", sort=False)[column]
            ])  # fmt: skip
            if len(rows) < 2:
                continue
            order = names(facts.frame, "arm", pair=pair)
            place = {arm: i for i, arm in enumerate(order)}
            rows = rows.iloc[rows["arm"].map(place).argsort()]
            title = f"{name} · {pair}" if len(pairs) > 1 else name
            alt_text = f"Dot plot of {name.lower()} by model on {pair}, on a log scale."
            panels.append(dots(f"cost_{column}_{pair}", title, alt_text, rows,
                               x=f"{name}, {unit} (log scale)", log=True))  # fmt: skip
    if not panels:
        return None
    n = sorted(set(runs.groupby(["pair", "arm"]).size()))
    caption = (
        f"Means over all done runs (n = {_range(n)} a model), lines from the lowest to the highest "
        "run: tasks differ in what they cost."
    )
    return Figure("costs", "What each model costs", caption, tuple(panels), ("costs",))


def costs_table(facts: Facts) -> Table | None:
    """The numbers behind `by_model`."""
    runs = _runs(facts.frame)
    used = [c for c in COSTS if (runs[c] > 0).any()]
    if not used:
        return None
    rows = []
    for (pair, arm), own in groups(runs, "pair", "arm"):
        cells = []
        for column in used:
            found = own.loc[own[column] > 0, column]
            if found.empty:
                cells.append(Cell(w.NONE))
                continue
            per = 1e6 if column == "trainable_params" else 1.0
            mean = w.number(float(found.mean()), per=per)
            low, high = (w.significant(float(v) / per) for v in (found.min(), found.max()))
            sub = f"{low} to {high}" if low != high else ""
            extra = {"low": float(found.min()), "high": float(found.max()), "n": len(found)}
            cells.append(Cell(mean.text, mean.value, sub, extra=extra))
        rows.append((Cell(pair), Cell(w.arm_name(arm), arm), w.count(len(own)), *cells))
    return Table(
        "costs",
        "Costs of each pair and model",
        (PAIR, Column("model", "Model", numeric=False), Column("runs", "Runs"),
         *(Column(c, *COST_NAMES[c]) for c in used)),
        tuple(rows),
        "Mean over all done runs, below it the lowest and the highest.",
        heads=2,
        folded=True,
    )  # fmt: skip


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def per_parameter(stats: Statistics) -> Figure | None:
    """Score for every million trained parameters."""
    found = [x for x in stats.per_cost if x.column == "trainable_params"]
    if len(found) < 2:
        return None
    rows = pd.DataFrame([
        {"arm": x.arm, "label": w.short_arm_name(x.arm), "x": 1e6 * x.score_per_unit,
         "Model": w.arm_name(x.arm), "Score for a million": w.significant(1e6 * x.score_per_unit)}
        for x in found
    ])  # fmt: skip
    title = "Score per million trained parameters"
    alt_text = f"{title}, best first: {w.join(list(rows['label']))}."
    panel = dots("per_parameter", title, alt_text, rows,
                 x="Points per million trained parameters (log scale)", log=True)  # fmt: skip
    cells = w.plural(found[0].n_cells, "shared cell")
    caption = (
        f"Mean score over geometric mean parameters (n = {cells}). A small denominator flatters: "
        "read it beside the trade-off."
    )
    return Figure("per_parameter", title, caption, (panel,), ("per_cost",))


def by_rank(facts: Facts) -> tuple[Figure, Table] | None:
    """Trained parameters against the adapter's rank, where a study has several ranks."""
    runs = _runs(facts.frame)
    known = runs[(runs["rank"] > 0) & (runs["trainable_params"] > 0)]
    known = known.assign(base=[split_label(arm)[0] for arm in known["arm"]])
    panels, rows = [], []
    for pair, own in groups(known, "pair"):
        means = own.groupby(["base", "rank"], sort=False)["trainable_params"].mean().reset_index()
        means = means[means.groupby("base")["rank"].transform("nunique") > 1]
        if means.empty:
            continue
        means = means.sort_values(["base", "rank"])
        drawn = pd.DataFrame([
            {"arm": base, "x": rank, "y": params / 1e6, "label": w.short_arm_name(base),
             "Model": w.arm_name(base), "Rank": f"{rank:g}",
             "Trained parameters": f"{w.significant(params / 1e6)} M"}
            for base, rank, params in means.itertuples(index=False, name=None)
        ])  # fmt: skip
        panels.append(_rank_panel(str(pair), drawn))
        rows += [
            (Cell(str(pair)), Cell(w.arm_name(base), base), Cell(f"{rank:g}", rank),
             w.number(params, per=1e6))
            for base, rank, params in means.itertuples(index=False, name=None)
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
    caption = f"Means over runs (n = {len(known)} runs in all); both axes are logarithmic."
    return Figure("by_rank", "Trained parameters by rank", caption, tuple(panels),
                  ("by_rank",)), table  # fmt: skip


def _rank_panel(pair: str, rows: pd.DataFrame):
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
        f"by_rank_{pair}", pair, alt_text, rows, x=x, y=y, low=up.low, high=up.high, log=True
    )


def reductions(facts: Facts, reference: str) -> Figure | None:
    """What models save against the reference: models by pairs, a panel a cost."""
    found = savings(facts, reference)
    pairs = names(facts.frame, "pair")
    panels = []
    used = [c for c in COSTS if any(c in own for own in found.values())]
    arms = list(dict.fromkeys(arm for _, arm in found))
    layouts = (
        [(COST_NAMES[c][0], [(pair, (pair, c)) for pair in pairs]) for c in used]
        if len(pairs) > 1
        else [("Less than the reference", [(COST_NAMES[c][0], (pairs[0], c)) for c in used])]
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
