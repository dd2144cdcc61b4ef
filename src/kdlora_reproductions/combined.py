"""Report 002: scores of one study joined with costs of another."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdlora.vocabulary.task import GLUE
from kdlora_reproductions.inputs import snapshot_of
from kdlora_reproductions.rank_costs import cost_table, speedups
from kdlora_reproductions.rank_costs_sound import METHODS
from kdlora_reproductions.tables import (
    Contradiction,
    PublishedClaim,
    PublishedReport,
    PublishedTable,
    Sound,
    long,
    make_claims,
    make_table,
    printed_cell,
    rows_of,
)

SOURCE = "C1103"
STRATEGIES = ("FFT", *METHODS)
FAMILIES = {"bert": "BERT-base", "roberta": "RoBERTa-base", "deberta": "DeBERTa-v3-base"}
MRLORA = ("mrlora", "mrlora-rs")  # the variants whose trainings the report pools
MB_PER_GB = 1024  # as the report divides


def report(
    frame: pd.DataFrame, runs: pd.DataFrame | None, published: pd.DataFrame | None = None
) -> PublishedReport:
    """`frame` is the table of costs; `runs` the trainings; `published` the table of scores.

    The nine scores behind the report are means over the trainings of the snapshot C1103. Where
    `runs` holds these they are computed; else they are taken as printed, and only the arithmetic
    on them is checked.
    """
    costs = cost_table(frame)
    scores, lacking = ({}, "") if runs is None else glue_scores_of(runs)
    combined = combined_table(costs, scores)
    runs = runs if runs is not None and has_costs(runs) else None
    return PublishedReport(
        "002",
        "Scores and costs combined",
        "GLUE scores of MrLoRA trainings divided by the published costs of plain LoRA.",
        tables=_tables(combined, scores, lacking),
        claims=_claims(combined),
        contradictions=_contradictions(combined, costs, runs, published),
        sound=() if runs is None else (_measured(runs),),
        figures=_figures(combined),
    )


Scores = dict[tuple[str, str], tuple[float, int]]  # family, strategy -> score, runs


def glue_scores_of(runs: pd.DataFrame) -> tuple[Scores, str]:
    """The report's nine scores of the trainings that it used; none and why where they lack some.

    FFT are all full fine-tunings, LoRA and KD-LoRA the trainings with MrLoRA in both its variants
    and at all ranks. Only the snapshot C1103 has the variant mrlora-rs.
    """
    variant = runs["adaptation"].astype(str).str.replace("_", "-")
    if not variant.eq(MRLORA[1]).any():
        return {}, f"no training with {MRLORA[1]}, which only the snapshot C1103 has"
    mrlora = variant.isin(MRLORA)
    kd = runs["distillation"].eq("kd")
    of = {"FFT": runs["arm"].eq("teacher/fft"), "LoRA": mrlora & ~kd, "KD-LoRA": mrlora & kd}
    scores: Scores = {}
    absent = []
    for pair, family in FAMILIES.items():
        for strategy, chosen in of.items():
            part = runs[chosen & runs["pair"].eq(pair) & runs["score"].notna()]
            tasks = sorted(set(GLUE) - set(part["task"]))
            mismatched = "report_mismatched.accuracy" in part and bool(
                part.loc[part["task"] == "mnli", "report_mismatched.accuracy"].notna().any()
            )
            if tasks or not mismatched:
                absent.append(f"{family} {strategy}: {', '.join(tasks) or 'MNLI mismatched'}")
            else:
                scores[family, strategy] = glue_mean(part), len(part)
    return ({}, f"no training of {'; '.join(absent)}") if absent else (scores, "")


def has_costs(runs: pd.DataFrame) -> bool:
    """Whether trainings say what they cost."""
    return all(c in runs and runs[c].notna().any() for c in ("trainable_params", "peak_memory_mb"))


def combined_table(costs: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Indexed by (family, strategy), with the columns of the report; scores as given or printed."""
    rows = {}
    for family, strategy, row in rows_of(costs):
        if scores:
            score, _ = scores[family, strategy]
        else:
            score, _ = printed_cell("002.combined", f"{row['model']} | {strategy}", "GLUE Score")
        params, memory, time = (float(row[c]) for c in ("Rank 8", "Memory Usage", "Inference Time"))
        rows[(family, strategy)] = {
            "Model": row["model"],
            "GLUE Score": score,
            "Parameters (M)": params,
            "Memory Usage": memory,
            "Inference Time": time,
            "Score per Param (per M)": score / params,
            "Score per Memory (per GB)": score / (memory / MB_PER_GB),
            "Score per Time (per s)": score / time,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["family", "strategy"])
    return table


def _tables(combined: pd.DataFrame, scores: Scores, lacking: str) -> tuple[PublishedTable, ...]:
    named = combined.copy()
    named.index = pd.MultiIndex.from_tuples(
        [(row["Model"], strategy) for _, strategy, row in rows_of(combined)]
    )
    named = named.drop(columns="Model")
    metrics = ["GLUE Score", "Parameters (M)", "Score per Param (per M)", "Memory Usage",
               "Inference Time"]  # fmt: skip
    values = long(named, 1)
    if scores:
        counts = {f"{row['Model']} | {s}": scores[f, s][1] for f, s, row in rows_of(combined)}
        of_runs = values["column"].eq("GLUE Score")
        values["n"] = values["n"].mask(of_runs, values["key"].map(counts))
    else:
        values["slack"] = [
            _rounding(key, float(value)) if column.startswith("Score per") else 0.0
            for key, column, value in values[["key", "column", "value"]].to_numpy()
        ]
        values["given"] = values["column"] == "GLUE Score"
    shown = values[values["column"].isin(metrics)]
    note = "The scores are given, not recomputed: their snapshot is not at hand"
    note = f"{note} ({lacking})." if lacking else f"{note}."
    if scores:
        note = "The scores are recomputed from the trainings of the snapshot C1103."
    rule = "score / million parameters, / (MB / 1024), / s; costs from the paper's table at rank 8"
    return (
        make_table("002.combined", "Combined dataset", values,
                   source="C1103", rule=rule, note=note),
        make_table("002.metrics", "Efficiency and accuracy", shown,
                   source="C1103", rule=rule, note=note),
    )  # fmt: skip


def _rounding(key: str, value: float) -> float:
    """What the printed score's own rounding does to a number divided from it."""
    score, half = printed_cell("002.combined", key, "GLUE Score")
    return half * value / score


def _claims(combined: pd.DataFrame) -> tuple[PublishedClaim, ...]:
    score = combined["GLUE Score"].groupby(level="strategy").mean()
    params = combined["Parameters (M)"].groupby(level="strategy").mean()
    time = combined["Inference Time"].groupby(level="strategy").mean()
    n = len(combined) // len(STRATEGIES)
    return (
        *make_claims(
            {
                "002.drop_fft_lora": (float(score["FFT"] - score["LoRA"]), n),
                "002.drop_fft_kd": (float(score["FFT"] - score["KD-LoRA"]), n),
                "002.drop_lora_kd": (float(score["LoRA"] - score["KD-LoRA"]), n),
            },
            source=SOURCE,
            rule="difference of family means",
        ),
        *make_claims(
            {
                "002.params_lora": (100 * float(1 - params["LoRA"] / params["FFT"]), n),
                "002.params_kd": (100 * float(1 - params["KD-LoRA"] / params["FFT"]), n),
                "002.speed_lora": (float(time["FFT"] / time["LoRA"]), n),
                "002.speed_kd": (float(time["FFT"] / time["KD-LoRA"]), n),
            },
            source="paper",
            rule="ratio of means over families",
        ),
    )


def _contradictions(
    combined: pd.DataFrame,
    costs: pd.DataFrame,
    runs: pd.DataFrame | None,
    published: pd.DataFrame | None,
) -> tuple[Contradiction, ...]:
    first = combined.loc[next(iter(combined.index))[0]]
    other: dict[str, object] = {"report 002": first["GLUE Score"].round(3).to_dict()}
    if published is not None:
        bert = published[published["pair"] == published["pair"].iloc[0]]
        means = bert.groupby("strategy", sort=False)["score"].mean() * 100
        other["report 000"] = {str(k): round(float(v), 1) for k, v in means.items()}
    params = combined["Parameters (M)"].groupby(level="strategy").mean()
    reduction = {
        m: {
            "ratio of means": round(100 * float(1 - params[m] / params["FFT"]), 1),
            "mean of ratios": round(
                100 * float((1 - combined["Parameters (M)"].xs(m, level="strategy")
                             / combined["Parameters (M)"].xs("FFT", level="strategy")).mean()), 1),
        }
        for m in METHODS
    }  # fmt: skip
    time = combined["Inference Time"].groupby(level="strategy").mean()
    speed = {
        m: {
            "ratio of means": round(float(time["FFT"] / time[m]), 3),
            "mean of ratios": round(float(speedups(costs, m).mean()), 3),
        }
        for m in METHODS
    }
    measured: dict[str, object] = {"published, plain LoRA": 2.9}
    if runs is not None:
        mrlora = runs[runs["arm"] == "teacher/mrlora"].groupby("pair")["trainable_params"].median()
        measured["measured, MrLoRA"] = {str(k): round(float(v) / 1e6, 3) for k, v in mrlora.items()}
    return (
        Contradiction(
            "002.vs.000",
            "GLUE scores other than those of report 000",
            other,
            "Different studies: here means over seeds of MrLoRA trainings, there medians of the "
            "best published configurations, with other metrics for MRPC, QQP and STS-B.",
        ),
        Contradiction(
            "002.vs.003",
            "speed-ups of 0.95 and 1.37, reductions of 97.9 %",
            {"speed-up": speed, "parameter reduction, %": reduction},
            "This report divides means, report 003 averages ratios.",
        ),
        Contradiction(
            "002.join",
            "score per parameter of LoRA and KD-LoRA",
            measured,
            "The score is MrLoRA's (two variants, two ranks pooled), the parameters are the "
            "published ones of plain LoRA, themselves ten times too large.",
        ),
    )


def _measured(runs: pd.DataFrame) -> Sound:
    """Score per parameter and memory from the same runs: MrLoRA at rank 8 beside FFT."""
    arms = {"FFT": "teacher/fft", "LoRA": "teacher/mrlora", "KD-LoRA": "student/kd-mrlora"}
    part = runs[runs["arm"].isin(arms.values())]
    keys = ["pair", "task", "seed"]
    whole = part.groupby(keys)["arm"].transform("nunique") == len(arms)
    part = part[whole]
    rows = []
    for family, group in part.groupby("pair", sort=False):
        for strategy, arm in arms.items():
            mine = group[group["arm"] == arm]
            score = glue_mean(mine)
            params = float(mine["trainable_params"].mean()) / 1e6
            memory = float(mine["peak_memory_mb"].mean())
            rows.append({"family": family, "strategy": strategy, "arm": arm, "n": len(mine),
                         "score": score, "params_m": params, "memory_mb": memory,
                         "score_per_m": score / params,
                         "score_per_gb": score / (memory / MB_PER_GB)})  # fmt: skip
    table = pd.DataFrame(rows)
    per_m = table.groupby("strategy")["score_per_m"].mean().to_dict() if len(table) else {}
    return Sound(
        "002.measured",
        "Score per parameter and memory, both measured on the same runs?",
        (
            f"On shared cells: {per_m['FFT']:.4f} (FFT), {per_m['LoRA']:.2f} (MrLoRA) and "
            f"{per_m['KD-LoRA']:.2f} (KD with MrLoRA) per million parameters, mean of families. "
            "Inference time was not measured in these runs."
            if len(table)
            else "Cannot be said: no cell has FFT, MrLoRA and its distillation."
        ),
        table,
        snapshot_of(runs),
        int(table["n"].sum()) if len(table) else 0,
        "mean over the report's ten rows of the mean over runs, cells that all three have",
    )


def glue_mean(runs: pd.DataFrame) -> float:
    """The report's GLUE score: tasks weigh alike, and MNLI counts matched and mismatched."""
    rows = runs.groupby("task")["score"].mean().tolist()
    if "report_mismatched.accuracy" in runs:
        other = runs.loc[runs["task"] == "mnli", "report_mismatched.accuracy"].mean()
        rows += [float(other)] if np.isfinite(other) else []
    return float(np.mean(rows))


def _figures(combined: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The data of the scatters, the bars and the heat map (columns scaled to 0-1)."""
    flat = combined.reset_index()
    names = ["family", "strategy", "Model"]
    numbers = combined.drop(columns="Model").astype(float)
    scaled = (numbers - numbers.min()) / (numbers.max() - numbers.min())
    return {
        "scatter_params_vs_score": flat[[*names, "Parameters (M)", "GLUE Score"]],
        "scatter_time_vs_score": flat[[*names, "Inference Time", "GLUE Score"]],
        "bar_score_per_param": flat[[*names, "Score per Param (per M)"]],
        "heatmap_normalized": scaled.reset_index(),
    }
