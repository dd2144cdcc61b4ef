"""The two supplementary tables that report 001 names, as LaTeX for \\input."""

from __future__ import annotations

import pandas as pd

from kdlora.report.document import Cell, Column, Table
from kdlora.report.render.latex import render_latex
from kdlora_reproductions.tables import PublishedReport, PublishedTable, Sound

EFFICIENCY = "supplementary_table_efficiency.tex"
TESTS = "supplementary_table_statistical_tests.tex"
_TESTED = ("001.1.1", "001.1.2", "001.1.3")


def supplements(report: PublishedReport) -> dict[str, str]:
    """File name -> LaTeX; nothing for a report that names no supplements."""
    tables = {table.id: table for table in report.tables}
    if report.id != "001" or "001.2.1" not in tables:
        return {}
    sound = [item for item in report.sound if "holm_p_t_runs" in item.table]
    return {
        EFFICIENCY: render_latex(
            _efficiency(report.figures["efficiency_performance_scatter"], tables["001.2.1"])
        ),
        TESTS: "\n".join(
            render_latex(table)
            for table in (_as_published([tables[name] for name in _TESTED]), _paired(sound))
        ),
    }


def _text(value: object) -> Cell:
    return Cell(str(value), str(value))


def _number(value: float, digits: int) -> Cell:
    return Cell(f"{value:.{digits}f}", value) if value == value else Cell("\N{EN DASH}")


def _p(value: float) -> Cell:
    if value != value:
        return Cell("\N{EN DASH}")
    return Cell("<0.0001" if value < 1e-4 else f"{value:.4f}", value)


def _efficiency(groups: pd.DataFrame, published: PublishedTable) -> Table:
    """All variants and strategies with their number of runs; `groups` is what the scatter draws."""
    as_published = {
        key: value
        for key, column, value in published.cells[["key", "column", "value"]].to_numpy()
        if column == "Trainable Params (M)"
    }
    rows = []
    for row in groups.sort_values(["strategy", "variant"]).to_dict("records"):
        key = f"{row['variant']} | {row['strategy']}"
        n = int(row["n"])
        rows.append(
            (
                _text(row["variant"]),
                _text(row["strategy"]),
                Cell(str(n), n),
                _number(row["Performance"], 4),
                _number(row["Train Time (s)"], 1),
                _number(row["Trainable Params (M)"], 3),
                _number(float(as_published.get(key, float("nan"))), 3),
                _number(row["Memory (MB)"], 1),
                _number(row["Throughput (samples/s)"], 1),
            )
        )
    columns = (
        Column("variant", "Variant", numeric=False),
        Column("strategy", "Strategy", numeric=False),
        Column("n", "Runs"),
        Column("score", "Mean score"),
        Column("train_s", "Training", "s"),
        Column("params_m", "Parameters", "M"),
        Column("published_m", "as published", "M"),
        Column("memory_mb", "Memory", "MB"),
        Column("throughput", "Throughput", "samples/s"),
    )
    return Table(
        "supplementary_efficiency",
        "Efficiency of all variants and strategies",
        columns,
        tuple(rows),
        "Means over the runs of the snapshot of 574 trainings; memory is allocated at the end of "
        "each epoch, mean over epochs",
        notes=("The published parameters are 1.1 times too many: they were taken for per cents.",),
        heads=2,
    )


def _as_published(tables: list[PublishedTable]) -> Table:
    """The three tables of Welch tests: two means, their difference, p."""
    rows = []
    for table in tables:
        for key, part in table.cells.groupby("key", sort=False):
            values = dict(zip(part["column"], part["value"], strict=True))
            first, second = [float(v) for c, v in values.items() if str(c).endswith("Mean")]
            rows.append(
                (
                    _text(table.title),
                    _text(key),
                    _number(first, 4),
                    _number(second, 4),
                    _number(float(values["Difference"]), 4),
                    _p(float(values["p-value"])),
                    _text(values["Significant?"]),
                )
            )
    columns = (
        Column("question", "Question", numeric=False),
        Column("comparison", "Comparison", numeric=False),
        Column("a", "Mean 1"),
        Column("b", "Mean 2"),
        Column("difference", "Difference"),
        Column("p", "p (Welch)"),
        Column("significant", "p < 0.05", numeric=False),
    )
    return Table(
        "supplementary_tests",
        "Statistical tests as published",
        columns,
        tuple(rows),
        "Unpaired, two-sided, uncorrected; the groups cover different tasks and seeds",
        heads=2,
    )


def _paired(sound: list[Sound]) -> Table:
    """The paired comparisons that the data can carry, corrected within each question."""
    rows = []
    for item in sound:
        for row in item.table.to_dict("records"):
            rows.append(
                (
                    _text(item.question),
                    _text(row["comparison"]),
                    Cell(str(int(row["n_runs"])), int(row["n_runs"])),
                    _number(_float(row.get("difference")), 2),
                    _number(_float(row.get("low")), 2),
                    _number(_float(row.get("high")), 2),
                    _p(_float(row["holm_p_t_runs"])),
                    _p(_float(row["holm_p_t_tasks"])),
                )
            )
    columns = (
        Column("question", "Question", numeric=False),
        Column("comparison", "Comparison", numeric=False),
        Column("n", "Pairs"),
        Column("difference", "Difference", "points"),
        Column("low", "from"),
        Column("high", "to"),
        Column("p_runs", "p, runs"),
        Column("p_tasks", "p, tasks"),
    )
    return Table(
        "supplementary_paired_tests",
        "The same questions with paired tests",
        columns,
        tuple(rows),
        "Differences of the same family, task and seed; p of t tests over runs and over tasks, "
        "corrected after Holm within each question",
        heads=2,
    )


def _float(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]
