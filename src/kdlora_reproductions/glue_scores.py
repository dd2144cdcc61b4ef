"""Report 000: the published GLUE scores, their averages, drops and surprises."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.compare import compare_many
from kdlora.evidence.result import Rules
from kdlora_reproductions.rows import SHOWN, comparison_table, significant
from kdlora_reproductions.tables import (
    Contradiction,
    PublishedClaim,
    PublishedReport,
    PublishedTable,
    Sound,
    long,
    make_claims,
    make_table,
)

STRATEGIES = ("FFT", "LoRA", "KD-LoRA")
DROPS = (("FFT", "LoRA"), ("FFT", "KD-LoRA"), ("LoRA", "KD-LoRA"))
SOURCE = "paper"
Drops = dict[str, pd.DataFrame]


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores in points, tasks by (family, strategy), in the published order."""
    points = frame.assign(points=(frame["score"] * 100).round(6))
    tasks, families = list(dict.fromkeys(frame["Task"])), list(dict.fromkeys(frame["pair"]))
    table = points.pivot(index="Task", columns=["pair", "strategy"], values="points")
    columns = pd.MultiIndex.from_product([families, STRATEGIES], names=["family", "strategy"])
    return table.reindex(index=tasks, columns=columns)


def half_up(values: pd.Series, digits: int = 1) -> float:
    """The mean of printed decimals, rounded half up: 84.05 is 84.1, whatever floats say."""
    numbers = [Decimal(str(round(float(v), 6))) for v in values]
    mean = sum(numbers, Decimal(0)) / len(numbers)
    return float(mean.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))


def report(
    frame: pd.DataFrame, aggregates: pd.DataFrame, rng: np.random.Generator, rules: Rules
) -> PublishedReport:
    """`frame` and `aggregates` are the imported table of scores."""
    scores = score_table(frame)
    drops = drop_tables(scores)
    return PublishedReport(
        "000",
        "GLUE scores of full fine-tuning, LoRA and KD-LoRA",
        "Averages and differences of the published scores; every value is the median of the best "
        "6 of about 25 configurations, so none of them carries an uncertainty.",
        tables=_tables(scores, drops, aggregates),
        claims=_claims(scores, drops),
        contradictions=_contradictions(scores, drops),
        sound=_sound(frame, rng, rules),
        figures=_figures(scores),
    )


def drop_tables(scores: pd.DataFrame) -> Drops:
    """ "A to B" -> tasks by families, A minus B in points."""
    families = list(dict.fromkeys(scores.columns.get_level_values("family")))
    return {
        f"{a} to {b}": pd.DataFrame(
            {f: (scores[(f, a)] - scores[(f, b)]).round(6) for f in families}
        )
        for a, b in DROPS
    }


def pooled(table: pd.DataFrame) -> np.ndarray:
    """All task by family differences of one comparison. [tasks * families]"""
    return table.to_numpy(float).ravel()


def _tables(
    scores: pd.DataFrame, drops: Drops, aggregates: pd.DataFrame
) -> tuple[PublishedTable, ...]:
    means = scores.mean().rename("Score").to_frame()
    stated = _score_row(aggregates)
    recomputed = {" ".join(key): half_up(scores[key]) for key in scores.columns}
    score_row = pd.DataFrame({"Score": stated, "Mean, half up": recomputed}).reindex(
        list(recomputed)
    )
    spread = pd.DataFrame.from_dict(
        {
            f"{a} → {b.replace('-', chr(0x2011))}": {
                "Mean Drop (pp)": pooled(drops[f"{a} to {b}"]).mean(),
                "Std Dev": pooled(drops[f"{a} to {b}"]).std(ddof=0),
                "Sample Std Dev": pooled(drops[f"{a} to {b}"]).std(ddof=1),
            }
            for a, b in DROPS
        },
        orient="index",
    )
    detailed = pd.DataFrame(
        {
            f"{family}_{name.replace(' ', '_').replace('-', '_')}": table[family]
            for name, table in drops.items()
            for family in table.columns
        }
    )
    head = scores.head(5).copy()
    head.columns = pd.Index([" ".join(key) for key in scores.columns])
    n_tasks, n = len(scores), drops["FFT to LoRA"].size
    return (
        make_table(
            "000.avg_scores",
            "Average scores per model family and strategy",
            long(means, n_tasks),
            source=SOURCE,
            rule="plain mean of the 10 rows of tasks; MNLI counts twice, WNLI once",
        ),
        make_table(
            "000.score_row",
            "Overall averages (the table's own Score row)",
            long(score_row, n_tasks),
            source=SOURCE,
            rule="copied; the second column is the mean of the rows, rounded half up",
        ),
        make_table(
            "000.drops",
            "Average drops across all tasks",
            long(spread, n),
            source=SOURCE,
            rule="mean and population standard deviation over tasks x families",
            note="Std Dev divides by n. The sample's standard deviation stands beside it.",
        ),
        make_table(
            "000.detailed_drops",
            "Drops by task",
            long(detailed, 1),
            source=SOURCE,
            rule="first strategy minus second, points",
        ),
        make_table(
            "000.appendix",
            "First rows of the table",
            long(head, 1),
            source=SOURCE,
            rule="the first 5 rows as published",
        ),
    )


def _score_row(aggregates: pd.DataFrame) -> dict[str, float]:
    if aggregates.empty:
        return {}
    names = aggregates["pair"].astype(str) + " " + aggregates["strategy"].astype(str)
    return dict(zip(names, (aggregates["score"] * 100).round(6), strict=True))


def _claims(scores: pd.DataFrame, drops: Drops) -> tuple[PublishedClaim, ...]:
    to_kd = _mean_drop(drops["FFT to KD-LoRA"])
    # sorted by size, ties in the order of the table
    order = to_kd.abs().sort_values(kind="stable")
    robust, sensitive = list(order.index[:3]), _largest(to_kd.abs(), 3)
    n = scores.columns.get_level_values("family").nunique()
    by_task: dict[str, tuple[float | str, int]] = {
        f"000.task_drop.{task}": (float(to_kd.get(task, np.nan)), n)
        for task in ("SST-2", "MRPC", "QQP", "RTE", "WNLI", "MNLI_m")
    }
    named: dict[str, tuple[float | str, int]] = {
        "000.robust_tasks": (", ".join(robust), n),
        "000.sensitive_tasks": (", ".join(sensitive), n),
    }
    rounded = pd.Series({key: half_up(scores[key]) for key in scores.columns})
    rounded.index = scores.columns
    families = rounded.groupby(level="family", sort=False).mean()
    strategies = rounded.groupby(level="strategy", sort=False).mean()
    best: dict[str, tuple[float | str, int]] = {
        "000.best_family": (float(families.max()), len(strategies)),
        "000.best_family_name": (str(families.idxmax()), len(strategies)),
        "000.best_strategy": (float(strategies.max()), len(families)),
        "000.best_strategy_name": (str(strategies.idxmax()), len(families)),
    }
    all_kd = pooled(drops["FFT to KD-LoRA"])
    under: dict[str, tuple[float | str, int]] = {
        "000.lora_under_fft": (_where(drops["FFT to LoRA"] > 2.0), len(all_kd)),
        "000.kd_over_lora": (_where(drops["LoRA to KD-LoRA"] < 0), len(all_kd)),
        "000.kd_over_fft": (_where(drops["FFT to KD-LoRA"] < 0), len(all_kd)),
    }
    return (
        *make_claims(by_task, source=SOURCE, rule="mean over families of FFT minus KD-LoRA"),
        *make_claims(named, source=SOURCE, rule="the three smallest and largest mean drops"),
        *make_claims(best, source=SOURCE, rule="mean of the rounded Score entries"),
        *make_claims(
            {"000.drop_fft_kd": (float(all_kd.mean()), len(all_kd))},
            source=SOURCE,
            rule="mean over tasks x families",
        ),
        *make_claims(under, source=SOURCE, rule="single cells, strictly beyond 2 or 0 points"),
    )


def _largest(values: pd.Series, n: int) -> list[str]:
    return [str(t) for t in values.sort_values(ascending=False, kind="stable").index[:n]]


def _mean_drop(table: pd.DataFrame) -> pd.Series:
    """Mean over families by task."""
    return pd.Series(table.to_numpy(float).mean(axis=1), index=table.index)


def _where(holds: pd.DataFrame) -> str:
    """ "family: task, task; family: task" of the cells for which something holds."""
    found = {family: holds.index[holds[family]].astype(str) for family in holds.columns}
    return "; ".join(f"{family}: {', '.join(t)}" for family, t in found.items() if len(t))


def _contradictions(scores: pd.DataFrame, drops: Drops) -> tuple[Contradiction, ...]:
    cells = drops["FFT to KD-LoRA"]
    wnli = {str(f): float(cells[f].get("WNLI", np.nan)) for f in cells.columns}
    without = _mean_drop(cells.drop(index="WNLI", errors="ignore"))
    found = [
        Contradiction(
            "000.percent",
            "drops printed with a % sign",
            {"unit": "percentage points"},
            "They are differences of scores in points; relative drops are larger for low scores.",
        ),
        Contradiction(
            "000.std",
            "Std Dev of the drops",
            {name: round(float(pooled(table).std(ddof=1)), 5) for name, table in drops.items()},
            "The printed values divide by n; a sample's standard deviation divides by n - 1.",
        ),
    ]
    if "WNLI" in scores.index:
        largest = max(wnli, key=lambda family: abs(wnli[family]))
        others = ", ".join(f"{v:.1f}" for family, v in wnli.items() if family != largest)
        majority = int((np.abs(scores.loc["WNLI"].to_numpy(float) - 100 * 40 / 71) < 0.05).sum())
        found.append(
            Contradiction(
                "000.wnli",
                "WNLI is among the tasks most sensitive to distillation",
                {
                    "drop by family": wnli,
                    "most sensitive without WNLI": _largest(without.abs(), 3),
                },
                f"One cell ({largest}, {wnli[largest]:.1f} points) makes it; the others are "
                f"{others}. {majority} of {scores.shape[1]} scores of WNLI are the share of its "
                "larger class.",
            )
        )
    return tuple(found)


def _sound(frame: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> tuple[Sound, ...]:
    contrasts = [
        ("teacher/fft", "teacher/lora"),
        ("teacher/fft", "student/kd-lora"),
        ("teacher/lora", "student/kd-lora"),
    ]
    names = [f"{a} - {b}" for a, b in DROPS]
    found = []
    for label, part in (
        ("all tasks", frame),
        ("without WNLI", frame[frame["task"] != "wnli"]),
    ):
        made = compare_many(part, contrasts, rng=rng, keys=("pair", "task"), rules=rules)
        table = comparison_table(made, names)
        clear = significant(table, "p_t_runs")
        beyond = significant(table, "holm_p_t_tasks")
        found.append(
            Sound(
                f"000.paired.{label.replace(' ', '_')}",
                f"Do the strategies differ ({label})?",
                f"Paired over cells: {'; '.join(clear) or 'none'} at p < .05 (t). Over tasks, "
                f"after Holm: {'; '.join(beyond) or 'none'}. Each value is a median of chosen "
                "configurations, so this is the spread over tasks and families, not over seeds.",
                table,
                SOURCE,
                int(table["n_runs"].max()),
                "paired differences of the same family and task",
                SHOWN,
            )
        )
    return tuple(found)


def _figures(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The data of the bar chart, the heat maps and the line plots, tidy."""
    columns: list[Any] = scores.columns.tolist()
    tidy = pd.DataFrame(
        [
            {"Task": task, "family": family, "strategy": strategy, "score": score}
            for (family, strategy), column in zip(columns, scores.to_numpy(float).T, strict=True)
            for task, score in zip(scores.index, column, strict=True)
        ]
    )
    means = tidy.groupby(["family", "strategy"], sort=False)["score"].mean().reset_index()
    figures = {"bar_avg_scores": means}
    for family, part in tidy.groupby("family", sort=False):
        name = str(family).replace("/", "_")
        figures[f"heatmap_{name}"] = part.reset_index(drop=True)
        figures[f"line_trends_{name}"] = part.reset_index(drop=True)
    return figures
