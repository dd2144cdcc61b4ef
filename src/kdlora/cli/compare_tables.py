"""The tables of `kdlora compare` for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from kdlora.analysis.compare import Comparison
from kdlora.analysis.costs import Ratio
from kdlora.analysis.evidence import Evidence


def verdict_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """A row a comparison; what they share (b, the counts) stands below, to save width."""
    against = {c.b for c in comparisons}
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                  padding=(0, 1, 0, 0), caption_justify="left")  # fmt: skip
    table.add_column("a", no_wrap=True)
    if len(against) > 1:
        table.add_column("b", overflow="fold")
    for name in ("a - b", "interval", "p corr.", "needs"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("tasks like\nthese", "these\ntasks"):
        table.add_column(name, no_wrap=True)
    for c in comparisons:
        claim = c.claim
        said = claim.difference is not None
        table.add_row(
            c.a,
            *([c.b] if len(against) > 1 else []),
            f"{claim.difference:+.2f}" if said else "-",
            _span(claim.low, claim.high, 1) if said else "-",
            _p(claim.p_corrected),
            f"{claim.detectable:.1f}" if claim.detectable else "-",
            _word(c.beyond.verdict),
            _word(c.here.verdict),
        )
    counts = [
        f"{_range(values)} {name}"
        for name, values in (
            ("tasks", [c.n_tasks for c in comparisons]),
            ("blocks", [c.n_blocks for c in comparisons]),
            ("matched runs", [c.n_runs for c in comparisons]),
        )
    ]
    shared = [f"b is {next(iter(against))}"] if len(against) == 1 else []
    table.caption = "; ".join([*shared, ", ".join(counts)])
    return table


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def level_table(c: Comparison) -> Table:
    table = Table(title="evidence by level (description; runs and blocks are not independent)",
                  title_justify="left")  # fmt: skip
    for name in ("level", "n", "mean", "median", "d_z", "rank r", "+/=/-", "p t", "p Wilcoxon",
                 "p permut.", "bootstrap", "by task"):  # fmt: skip
        table.add_column(name, justify="left" if name == "level" else "right")
    for x in c.levels.values():
        table.add_row(
            x.level,
            str(x.n),
            _number(x.mean),
            _number(x.median),
            _number(x.d_z),
            _number(x.rank_biserial),
            f"{x.wins}/{x.ties}/{x.losses}",
            _p(x.p_t),
            _p(x.p_wilcoxon),
            _p(x.p_permutation),
            _span(x.low, x.high),
            _span(x.low_tasks, x.high_tasks),
        )
    return table


def example_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="the same examples, model against model (other seeds are other models)",
                  title_justify="left")  # fmt: skip
    for name in ("cell", "n", "a - b", "interval", "only a right", "only b right", "p corr.", ""):
        table.add_column(name)
    for r in rows:
        table.add_row(
            r["cell"],
            str(r["n"]),
            _number(r["difference"]),
            _span(r["low"], r["high"]),
            str(r.get("only_a_right", "")),
            str(r.get("only_b_right", "")),
            _p(r["p_corrected"]),
            r["cannot"],
        )
    return table


# What the columns of costs are called where 80 have to hold all of them.
COST_NAMES = {
    "trainable_params": "trained",
    "total_params": "params",
    "size_mb": "size",
    "peak_memory_mb": "memory",
    "train_s": "train s",
    "latency_p50_ms": "latency",
}


def method_table(e: Evidence) -> Table:
    """A row a method, two lines each: estimates above their intervals."""
    front = {p.arm: p for p in e.front.points} if e.front else {}
    ranks = e.ranks["tasks"].average_rank
    better = {i.a: i for i in e.improvements}
    table = _plain(f"methods on the {e.shared.n_cells} cells that all of them have")
    table.add_column("arm", overflow="fold")
    for name in ("mean", "IQM", "kept %", "rank", "beats", "front"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in e.aggregates:
        point = front.get(x.arm)
        improvement = better.get(x.arm)
        table.add_row(
            x.arm,
            _over(f"{x.mean:.1f}", _span(x.mean_low, x.mean_high, 1)),
            _over(f"{x.iqm:.1f}", _span(x.iqm_low, x.iqm_high, 1)),
            _over(f"{x.retention:.1f}", _span(x.retention_low, x.retention_high, 0))
            if x.retention else "-",
            f"{ranks[x.arm]:.1f}" if x.arm in ranks else "-",
            f"{100 * improvement.probability:.0f} %"
            if improvement and improvement.probability is not None else "-",
            f"{100 * point.on_front_share:.0f} %"
            if point and point.on_front_share is not None else "-",
        )  # fmt: skip
    ranking = e.ranks["tasks"]
    notes = [
        f"kept: of the score of {e.reference}; rank: average over tasks;",
        f"beats: chance that a run beats one of {e.reference} in the same block;",
        "front: share of bootstrap draws on the Pareto set",
    ]
    if ranking.critical_difference:
        notes.append(
            f"ranks within {ranking.critical_difference:.2f} are not told apart (Nemenyi, "
            f"{ranking.n} tasks); Friedman p {_p(ranking.p_friedman)}"
        )
    elif ranking.cannot:
        notes.append(f"no test of ranks: {ranking.cannot}")
    table.caption = "\n".join(notes)
    return table


def ratio_table(e: Evidence) -> Table:
    """A row a method, two lines each: costs in per cent of the reference above their intervals."""
    table = _plain(f"cost in per cent of {e.reference} (geometric mean of matched runs)")
    columns = list(dict.fromkeys(r.column for r in e.ratios))
    table.add_column("arm", overflow="fold")
    for column in columns:
        table.add_column(COST_NAMES.get(column, column), justify="right", no_wrap=True)
    for arm in dict.fromkeys(r.a for r in e.ratios):
        found = {r.column: r for r in e.ratios if r.a == arm}
        table.add_row(arm, *(_cost(found.get(c)) for c in columns))
    if any(r.unlike for r in e.ratios):
        table.caption = "* some matched runs differ in " + ", ".join(
            sorted({name for r in e.ratios for name in r.unlike or {}})
        )
    return table


def _plain(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                 padding=(0, 1, 0, 0), caption_justify="left")  # fmt: skip


def _over(value: str, span: str) -> str:
    """A value above its interval, where there is one."""
    return f"{value}\n{span}" if span else value


def _cost(ratio: Ratio | None) -> str:
    if ratio is None or ratio.ratio is None:
        return "-"
    star = "*" if ratio.unlike else ""
    bounds = f"[{100 * ratio.low:.3g}, {100 * ratio.high:.3g}]" if ratio.low and ratio.high else ""
    return _over(f"{100 * ratio.ratio:.3g}{star}", bounds)


def _word(verdict: str) -> str:
    return "-" if verdict == "cannot be said" else verdict


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _span(low: float | None, high: float | None, digits: int = 2) -> str:
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
