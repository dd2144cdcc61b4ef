"""Figures of what was tested: the forest of paired differences, the critical-difference diagram."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd

from kdlora.analysis.compare import Comparison
from kdlora.analysis.ranks import Ranking
from kdlora.report import words as w
from kdlora.report.evidence_tables import question_name
from kdlora.report.grammar import ROW, tips
from kdlora.report.palette import light
from kdlora.report.parts import Figure, Panel
from kdlora.report.statistics import Statistics
from kdlora.report.theme import WIDTH, chart_of, panel_spec


def forest(stats: Statistics) -> Figure | None:
    """Paired differences with intervals, a panel a question, over the equivalence margin."""
    panels = []
    for question, found in stats.families.items():
        rows = [_row(c, one=len({x.b for x in found}) == 1) for c in found]
        drawn = [row for row in rows if row]
        if drawn:
            panels.append(_forest_panel(question, pd.DataFrame(drawn), stats.rules.margin))
    if not panels:
        return None
    units = sorted({c.claim.replicates for _, c in stats.comparisons if c.claim.replicates})
    n = sorted({c.n_runs for _, c in stats.comparisons if c.n_runs})
    counts = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}"
    caption = (
        f"Paired differences with 95 % intervals (n = {counts} matched runs; the interval is over "
        f"{w.join(units)}). The band is the equivalence margin, ±{stats.rules.margin:g} "
        f"{stats.rules.margin_unit}. Filled: a verdict after correction; open: undecided, which "
        "does not mean equal. Intervals are not corrected."
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
        "Difference": f"{w.fixed(claim.difference, 1, signed=True)} points",
        "Interval": f"{w.fixed(claim.low, 1)} to {w.fixed(claim.high, 1)}",
        "Verdict": c.verdict, "Matched runs": c.n_runs,
    }  # fmt: skip


def _forest_panel(question: str, rows: pd.DataFrame, margin: float) -> Panel:
    title = question_name(question)
    low, high = min(rows["low"].min(), -margin), max(rows["high"].max(), margin)
    room = 0.05 * (high - low)
    scale = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    axis = alt.Axis(title="Difference, points; right of zero the first is better", tickCount=7)
    x = alt.X("x:Q", scale=scale, axis=axis)
    y = alt.Y("label:N", sort=list(rows["label"]),
              axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=300))  # fmt: skip
    zone = chart_of(pd.DataFrame([{"a": -margin, "b": margin}]))
    band = zone.mark_rect(color=light("muted"), opacity=0.16, aria=False)
    zero = chart_of(pd.DataFrame([{"x": 0.0}])).mark_rule(color=light("muted"), aria=False)
    lines = chart_of(rows).mark_rule(color=light("accent"), strokeWidth=1.8, aria=False)
    layers = [
        band.encode(x=alt.X("a:Q", scale=scale), x2="b"),
        zero.encode(x=x),
        lines.encode(x=alt.X("low:Q", scale=scale), x2="high", y=y),
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
    spec = panel_spec(alt.layer(*layers), title, height=ROW * len(rows))
    return Panel(f"forest_{question}", title, alt_text, spec)


def critical_difference(stats: Statistics) -> Figure | None:
    """Average ranks over tasks; bars join models that Nemenyi's test does not tell apart."""
    ranking = stats.ranks
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
        .encode(x=alt.X("a:Q", scale=scale), x2="b", y=y),
        chart_of(ruler).mark_text(align="left", dx=5, color=muted, aria=False)
        .encode(x=alt.X("b:Q", scale=scale), y=y, text="label:N"),
        chart_of(rows.assign(up=top + 0.6)).mark_rule(color=light("line"), aria=False)
        .encode(x=x, y=y, y2="up"),
        chart_of(rows).mark_point(size=60, filled=True, color=light("accent"), opacity=1)
        .encode(x=x, y=y, tooltip=tips(rows)),
    ]  # fmt: skip
    if len(bars):
        thick = chart_of(bars).mark_rule(color=ink, strokeWidth=4, opacity=0.7, aria=False)
        layers.insert(2, thick.encode(x=alt.X("a:Q", scale=scale), x2="b", y=y))
    middle = sum(ends) / 2
    sides: tuple[tuple[pd.Series, Literal["left", "right"], int], ...] = (
        (rows["x"] <= middle, "left", 9),
        (rows["x"] > middle, "right", -9),
    )
    for part, align, dx in sides:
        if part.any():
            text = chart_of(rows[part]).mark_text(align=align, baseline="middle", dx=dx,
                                                  color=ink, aria=False)  # fmt: skip
            layers.append(text.encode(x=x, y=y, text="label:N"))
    alt_text = (
        "Critical-difference diagram of average ranks, best first: "
        f"{w.join([w.short_arm_name(a) for a in order])}."
    )
    height = 19 * (len(order) + 1.5 + 0.7 * len(ranking.groups)) + 20
    spec = panel_spec(alt.layer(*layers), "Ranks over tasks", width=1.5 * WIDTH, height=height)
    return Panel("critical_difference", "Ranks over tasks", alt_text, spec)
