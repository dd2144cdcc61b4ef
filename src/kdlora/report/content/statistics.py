"""What was tested: comparisons and their verdicts, ranks, and the charts of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import altair as alt
import pandas as pd

from kdlora.evidence.claim import Claim
from kdlora.evidence.comparison import Comparison, made_scopes
from kdlora.evidence.questions import DISTILLATION, ON_TEACHER
from kdlora.evidence.ranks import Ranking
from kdlora.evidence.result import Rules, Scope
from kdlora.evidence.sentences import claim_notes, sample_text
from kdlora.evidence.study import Evidence
from kdlora.report import words as w
from kdlora.report.content.cells import MODEL, interval_cell, model_cell, p_cell, points_cell
from kdlora.report.content.verdicts import VERDICT_NOTE, question_name, verdict_text
from kdlora.report.document import Cell, Column, Figure, Finding, Panel, Table
from kdlora.report.render.colours import light
from kdlora.report.render.panels import ROW, tips
from kdlora.report.render.theme import WIDTH, chart_of, panel_spec


def tests(stats: Evidence) -> list[Finding]:
    """A sentence a comparison, for the section of statistics."""
    return [
        Finding(w.arm_name(c.a), verdict_text(c), ("comparisons",))
        for question, c in stats.comparisons
        if question in (DISTILLATION, ON_TEACHER)
    ]


def comparisons(stats: Evidence) -> Table | None:
    """Every comparison with its estimate, interval, corrected p and both verdicts."""
    found = stats.comparisons
    if not found:
        return None
    scopes, unit = made_scopes(c for _, c in found), _unit([c for _, c in found])
    rows = tuple(_comparison(question, c, scopes) for question, c in found)
    columns = (
        Column("question", "Question", numeric=False),
        Column("a", "Model", numeric=False),
        Column("b", "Against", numeric=False),
        Column("difference", "Difference", unit),
        Column("interval", "95 % interval", unit),
        Column("p", "p, corrected"),
        Column("sample", "Over", numeric=False),
        Column("runs", "Matched runs"),
        *(Column(scope.replace(" ", "_"), SCOPE_NAMES[scope], numeric=False) for scope in scopes),
        Column("detectable", "Detectable", unit),
    )
    rules = stats.rules
    return Table(
        "comparisons",
        "Paired comparisons and their verdicts",
        columns,
        rows,
        f"Model minus the other, paired by encoder pair, task and seed; above zero the first is "
        f"better. {_margin(found, rules)}, error rate "
        f"{100 * rules.alpha:g} %, {rules.correction.capitalize()} correction; detectable: the "
        f"smallest true difference found with {100 * rules.power:.0f} % power.",
        (VERDICT_NOTE, *_unmade(found), *_sample_notes(found)),
        heads=3,
    )


def _margin(found: Sequence[tuple[str, Comparison]], rules: Rules) -> str:
    """The margin of equivalence, which judges only differences in its own unit."""
    if any(c.unit == rules.margin_unit for _, c in found):
        return f"Equivalence margin {rules.margin:g} {rules.margin_unit}"
    return "No equivalence margin is set in this unit"


def _unit(found: Sequence[Comparison]) -> str:
    """The unit that all of them have, in words; "" where they have several."""
    units = {c.unit for c in found}
    only = units.pop() if len(units) == 1 else ""
    return w.metric_name(only) if only not in ("", w.POINTS) else only


SCOPE_NAMES: dict[Scope, str] = {
    "tasks like these": "On tasks like these",
    "these tasks": "On these tasks",
    "trained models": "As trained, on texts like these",
}


def _unmade(found: Sequence[tuple[str, Comparison]]) -> tuple[str, ...]:
    """What a wider claim would need, once for each reason."""
    reasons = [
        f"{SCOPE_NAMES[claim.scope]}: {claim.cannot}."
        for _, c in found
        for claim in c.claims.values()
        if not claim.made and not c.matched.reason
    ]
    return tuple(dict.fromkeys(reasons))


def _sample_notes(found: Sequence[tuple[str, Comparison]]) -> tuple[str, ...]:
    """What a reader must know of the samples of the claims."""
    notes = [
        f"{w.sentence_case(note)}."
        for _, c in found
        for claim in c.claims.values()
        for note in claim_notes(claim)
    ]
    return tuple(dict.fromkeys(notes))


def _comparison(question: str, c: Comparison, scopes: Sequence[Scope]) -> tuple[Cell, ...]:
    claim = c.claim
    sound, flagged = "", ""
    if c.n_flagged:
        flagged = f"{w.plural(c.n_flagged, 'pair')} with a flagged run"
    if c.n_flagged and c.unflagged is not None:
        sound = f"{w.signed_difference(c.unflagged, c.unit)} without flagged runs"
    runs = replace(w.count(c.n_runs), sub="; ".join(x for x in (flagged, *c.unequal) if x))
    return (
        Cell(question_name(question)), model_cell(c.a), model_cell(c.b),
        replace(points_cell(claim.difference, c.unit, signed=True), sub=sound),
        interval_cell(claim.low, claim.high, c.unit),
        p_cell(claim.p_corrected), Cell(sample_text(claim) or w.NONE),
        runs,
        *(_verdict_cell(c, c.claims[scope]) for scope in scopes),
        points_cell(claim.detectable, c.unit),
    )  # fmt: skip


def _verdict_cell(c: Comparison, claim: Claim) -> Cell:
    """The verdict of a claim, below it the interval that an equivalence rests on."""
    if not claim.made:
        return Cell(w.NONE)
    if claim.verdict != "equivalent":
        return Cell(claim.verdict)
    low, high = (w.in_unit(x, c.unit) for x in (claim.low_equivalence, claim.high_equivalence))
    return Cell(claim.verdict, sub=f"90 % interval {low} to {high}")


def forest(stats: Evidence) -> Figure | None:
    """Paired differences with intervals, a panel a question, over the equivalence margin."""
    panels = []
    for question, found in stats.families.items():
        rows = [_row(c, one=len({x.b for x in found}) == 1) for c in found]
        drawn = [row for row in rows if row]
        if drawn:
            unit = _unit(found)
            margin = stats.rules.margin if unit == stats.rules.margin_unit else 0.0
            panels.append(_forest_panel(question, pd.DataFrame(drawn), margin, unit))
    if not panels:
        return None
    sampled = {name for _, c in stats.comparisons for name in c.claim.basis.sampled}
    units = [name for name in ("tasks", "seeds", "texts") if name in sampled]
    n = sorted({c.n_runs for _, c in stats.comparisons if c.n_runs})
    counts = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}"
    rules, band = stats.rules, ""
    if any(c.unit == rules.margin_unit for _, c in stats.comparisons):
        band = f"The band is the equivalence margin, ±{rules.margin:g} {rules.margin_unit}. "
    caption = (
        f"Paired differences with 95 % intervals (n = {counts} matched runs; the interval is over "
        f"{w.join(units)}). {band}Filled: a verdict after correction; open: undecided, which "
        "does not mean equal. Intervals are not corrected; an equivalence rests on the narrower "
        "interval of 90 %."
    )
    return Figure("forest", "Paired differences", caption, tuple(panels), ("comparisons",))


def _row(c: Comparison, *, one: bool) -> dict | None:
    claim = c.claim
    if claim.difference is None or claim.low is None or claim.high is None:
        return None
    a, b = w.short_arm_name(c.a), w.short_arm_name(c.b)
    return {
        "label": a if one else f"{a} {w.MINUS} {b}",
        "x": claim.difference, "low": claim.low, "high": claim.high,
        "decided": c.verdict not in ("undecided", "cannot be said"),
        "Comparison": f"{w.arm_name(c.a)} {w.MINUS} {w.arm_name(c.b)}",
        "Difference": w.signed_difference(claim.difference, c.unit),
        "Interval": f"{w.in_unit(claim.low, c.unit)} to {w.in_unit(claim.high, c.unit)}",
        "Verdict": c.verdict, "Matched runs": c.n_runs,
    }  # fmt: skip


def _forest_panel(question: str, rows: pd.DataFrame, margin: float, unit: str) -> Panel:
    title = question_name(question)
    low, high = min(rows["low"].min(), -margin), max(rows["high"].max(), margin)
    room = 0.05 * (high - low)
    scale = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    what = f"Difference, {unit}" if unit else "Difference"
    axis = alt.Axis(title=f"{what}; right of zero the first is better", tickCount=7)
    x = alt.X("x:Q", scale=scale, axis=axis)
    y = alt.Y("label:N", sort=list(rows["label"]),
              axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=300))  # fmt: skip
    zone = chart_of(pd.DataFrame([{"a": -margin, "b": margin}]))
    band = zone.mark_rect(color=light("muted"), opacity=0.16, aria=False)
    zero = chart_of(pd.DataFrame([{"x": 0.0}])).mark_rule(color=light("muted"), aria=False)
    lines = chart_of(rows).mark_rule(color=light("accent"), strokeWidth=1.8, aria=False)
    layers = [
        band.encode(x=alt.X("a:Q", scale=scale), x2=alt.X2("b")),
        zero.encode(x=x),
        lines.encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high"), y=y),
    ]
    for decided in (True, False):
        part = rows[rows["decided"] == decided]
        if len(part):
            mark = chart_of(part).mark_point(
                size=70, opacity=1, shape="circle", color=light("accent"), strokeWidth=1.8,
                fill=light("accent" if decided else "card"),
            )  # fmt: skip
            layers.append(mark.encode(x=x, y=y, tooltip=tips(rows)))
    alt_text = f"Forest plot: {title.lower()}, one row each for {w.join(list(rows['label']))}."
    spec = panel_spec(layers, title, height=ROW * len(rows))
    return Panel(f"forest_{question}", title, alt_text, spec)


def ranks(stats: Evidence) -> Table | None:
    ranking = stats.ranks.get("tasks")
    if ranking is None or not ranking.average_rank:
        return None
    rows = tuple(
        (model_cell(arm), Cell(f"{rank:.2f}", rank)) for arm, rank in ranking.average_rank.items()
    )
    if ranking.critical_difference is not None:
        rows += (
            (Cell("Critical difference"), Cell(f"{ranking.critical_difference:.2f}",
                                               ranking.critical_difference)),
            (Cell("p of Friedman's test"), p_cell(ranking.p_friedman)),
        )  # fmt: skip
    if ranking.cannot:
        caption = f"No test of ranks: {ranking.cannot}."
    else:
        cd = ranking.critical_difference
        caption = (
            f"Friedman's test over {ranking.n} tasks: p {w.p_text(ranking.p_friedman)}. Ranks "
            f"that differ by less than {w.fixed(cd, 2)} (Nemenyi) are not told apart, which does "
            "not make them equal."
        )
    columns = (MODEL, Column("rank", "Average rank over tasks"))
    return Table("ranks", "Average ranks", columns, rows, caption, folded=True)


def critical_difference(stats: Evidence) -> Figure | None:
    """Average ranks over tasks; bars join models that Nemenyi's test does not tell apart."""
    ranking = stats.ranks.get("tasks")
    if ranking is None or ranking.critical_difference is None or len(ranking.average_rank) < 3:
        return None
    panel = _cd_panel(ranking)
    caption = (
        f"Average rank over {ranking.n} tasks (n = {ranking.n}), 1 is best. A bar joins models "
        f"whose ranks differ by less than the critical difference, "
        f"{w.fixed(ranking.critical_difference, 2)} "
        f"(Nemenyi): they are not told apart, which does not make them equal."
    )
    return Figure("critical_difference", "Ranks over tasks", caption, (panel,), ("ranks",))


def _cd_panel(ranking: Ranking) -> Panel:
    cd = ranking.critical_difference or 0.0
    order = list(ranking.average_rank)
    rows = pd.DataFrame([
        {"x": ranking.average_rank[arm], "row": float(i), "label": w.short_arm_name(arm),
         "Model": w.arm_name(arm), "Average rank": f"{ranking.average_rank[arm]:.2f}"}
        for i, arm in enumerate(order)
    ])  # fmt: skip
    top = -1.4 - 0.7 * len(ranking.groups)
    bars = pd.DataFrame([
        {"a": ranking.average_rank[g[0]] - 0.05, "b": ranking.average_rank[g[-1]] + 0.05,
         "row": top + 1.2 + 0.7 * i}
        for i, g in enumerate(ranking.groups)
    ])  # fmt: skip
    ruler = pd.DataFrame([{"a": 1.0, "b": 1.0 + cd, "row": top, "label": "critical difference"}])
    ends = [0.7, max(ranking.k, 1 + cd) + 0.3]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    axis = alt.Axis(title="Average rank (1 is best)", orient="top", tickMinStep=1, grid=False)
    x = alt.X("x:Q", scale=scale, axis=axis)
    bottom = len(order) - 0.4
    y = alt.Y("row:Q", axis=None,
              scale=alt.Scale(domain=[top - 0.6, bottom], reverse=True, nice=False))  # fmt: skip
    ink, muted = light("ink"), light("muted")
    layers = [
        chart_of(ruler).mark_rule(color=muted, strokeWidth=2, aria=False)
        .encode(x=alt.X("a:Q", scale=scale), x2=alt.X2("b"), y=y),
        chart_of(ruler).mark_text(align="left", dx=5, color=muted, aria=False)
        .encode(x=alt.X("b:Q", scale=scale), y=y, text=alt.Text("label:N")),
        chart_of(rows.assign(up=top + 0.6)).mark_rule(color=light("line"), aria=False)
        .encode(x=x, y=y, y2=alt.Y2("up")),
        chart_of(rows).mark_point(size=60, filled=True, color=light("accent"), opacity=1)
        .encode(x=x, y=y, tooltip=tips(rows)),
    ]  # fmt: skip
    if len(bars):
        thick = chart_of(bars).mark_rule(color=ink, strokeWidth=4, opacity=0.7, aria=False)
        layers.insert(2, thick.encode(x=alt.X("a:Q", scale=scale), x2=alt.X2("b"), y=y))
    middle = (ends[0] + ends[1]) / 2
    sides: tuple[tuple[pd.Series, Literal["left", "right"], int], ...] = (
        (rows["x"] <= middle, "left", 9),
        (rows["x"] > middle, "right", -9),
    )
    for part, align, dx in sides:
        if part.any():
            text = chart_of(rows[part]).mark_text(align=align, baseline="middle", dx=dx,
                                                  color=ink, aria=False)  # fmt: skip
            layers.append(text.encode(x=x, y=y, text=alt.Text("label:N")))
    alt_text = (
        "Critical-difference diagram of average ranks, best first: "
        f"{w.join([w.short_arm_name(a) for a in order])}."
    )
    height = 19 * (len(order) + 1.5 + 0.7 * len(ranking.groups)) + 20
    spec = panel_spec(layers, "Ranks over tasks", width=1.5 * WIDTH, height=height)
    return Panel("critical_difference", "Ranks over tasks", alt_text, spec)
