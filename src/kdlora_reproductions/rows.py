"""The sound analyses in tables of one row a comparison, for all five reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdlora.evidence.comparison import Comparison, sentence
from kdlora.evidence.costs import Ratio
from kdlora.evidence.paired_tests import adjust

LEVELS = ("runs", "blocks", "tasks")
SHOWN = (
    "comparison", "n_runs", "difference", "low", "high", "low_tasks", "high_tasks",
    "holm_p_t_runs", "holm_p_wilcoxon_runs", "holm_p_t_blocks", "holm_p_t_tasks",
    "verdict_these_tasks", "verdict_tasks_like_these",
)  # fmt: skip


def comparison_table(comparisons: Sequence[Comparison], names: Sequence[str]) -> pd.DataFrame:
    """One row a comparison: difference in points, intervals, Holm-corrected p at three levels.

    `difference` is a minus b over matched runs; `low`, `high` resample runs, `low_tasks`,
    `high_tasks` whole tasks. p-values are two-sided, of the paired t test and Wilcoxon's signed
    ranks, corrected after Holm over the rows of this table, level by level.
    """
    rows: list[dict[str, Any]] = []
    for name, c in zip(names, comparisons, strict=True):
        row: dict[str, Any] = {"comparison": name, "a": c.a, "b": c.b, "n_runs": c.n_runs,
                               "n_blocks": c.n_blocks, "n_tasks": c.n_tasks}  # fmt: skip
        runs = c.levels.get("runs")
        if runs is not None:
            row |= {"mean_a": c.mean_a, "mean_b": c.mean_b, "difference": runs.mean,
                    "median": runs.median, "d_z": runs.d_z, "wins": runs.wins, "ties": runs.ties,
                    "losses": runs.losses, "low": runs.low, "high": runs.high,
                    "low_tasks": runs.low_tasks, "high_tasks": runs.high_tasks}  # fmt: skip
        for level in LEVELS:
            found = c.levels.get(level)
            row[f"p_t_{level}"] = found.p_t if found else None
            row[f"p_wilcoxon_{level}"] = found.p_wilcoxon if found else None
        row |= {"verdict_these_tasks": c.these_tasks.verdict,
                "verdict_tasks_like_these": c.tasks_like_these.verdict,
                "sentence": sentence(c)}  # fmt: skip
        rows.append(row)
    table = pd.DataFrame(rows)
    for test in ("p_t", "p_wilcoxon"):
        for level in LEVELS:
            p = pd.to_numeric(table[f"{test}_{level}"], errors="coerce").to_numpy(float)
            table[f"holm_{test}_{level}"] = adjust(p, "holm")
    return table


def ratio_table(ratios: Sequence[Ratio], names: Sequence[str]) -> pd.DataFrame:
    """One row a geometric mean ratio over matched runs; `factor` is how many times less a costs."""
    return pd.DataFrame(
        [
            {"comparison": name, "a": r.a, "b": r.b, "column": r.column, "n_pairs": r.n_pairs,
             "n_tasks": r.n_tasks, "ratio": r.ratio, "low": r.low, "high": r.high,
             "factor": r.factor, "same": ", ".join(r.same), "resampled": r.resampled,
             "cannot": r.cannot}
            for name, r in zip(names, ratios, strict=True)
        ]
    )  # fmt: skip


def significant(table: pd.DataFrame, column: str, alpha: float = 0.05) -> list[str]:
    """The comparisons whose p in `column` is below alpha, in their order."""
    p = pd.to_numeric(table[column], errors="coerce")
    return table.loc[p < alpha, "comparison"].astype(str).tolist()
