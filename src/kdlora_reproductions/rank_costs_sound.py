"""Report 003's questions answered by closed forms and by the trainings at hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdlora.evidence.diagnosis.public_facts import shape_of
from kdlora_reproductions.inputs import snapshot_of
from kdlora_reproductions.tables import Sound, rows_of

SOURCE = "paper"
METHODS = ("LoRA", "KD-LoRA")


def sound(costs: pd.DataFrame, runs: pd.DataFrame | None) -> tuple[Sound, ...]:
    """`costs` as `rank_costs.cost_table` gives it; `runs` are the imported trainings, if any."""
    rows = []
    ranks = [c for c in costs.columns if str(c).startswith("Rank ")]
    full = {family: row for family, method, row in rows_of(costs) if method == "FFT"}
    for family, method, row in rows_of(costs):
        shape = shape_of(row["model"])
        if method not in METHODS or shape is None:
            continue
        for column in ranks:
            exact = (shape.query_value(int(column.split()[1])) + shape.head(2)) / 1e6
            fft = float(full[family][column])
            rows.append({"family": family, "method": method, "rank": column,
                         "published_m": float(row[column]), "exact_m": exact,
                         "published_over_exact": float(row[column]) / exact,
                         "reduction_published": 1 - float(row[column]) / fft,
                         "reduction_exact": 1 - exact / fft})  # fmt: skip
    table = pd.DataFrame(rows)
    found = [
        Sound(
            "003.parameters",
            "How many parameters does LoRA on query and value train?",
            "Exactly layers * 2 * rank * 2 * hidden and the head (two classes): "
            f"{table['published_over_exact'].min():.1f} to "
            f"{table['published_over_exact'].max():.1f} times fewer than published, where a dense "
            "head (RoBERTa, DistilBERT, DistilRoBERTa) makes the low end.",
            table,
            SOURCE,
            len(table),
            "closed form by the encoder's shape",
        )
    ]
    if runs is not None and len(runs):
        found.append(_measured(costs, runs))
    return tuple(found)


def _measured(costs: pd.DataFrame, runs: pd.DataFrame) -> Sound:
    """Published memory beside what the 742 trainings allocated."""
    families = {"bert": "BERT-base", "roberta": "RoBERTa-base", "deberta": "DeBERTa-v3-base"}
    method = np.select(
        [runs["arm"].eq("teacher/fft"), runs["arm"].eq("teacher/lora"),
         runs["arm"].eq("student/kd-lora")], ["FFT", *METHODS], ""
    )  # fmt: skip
    part = runs.assign(family=runs["pair"].map(families), method=method)
    part = part[part["method"].ne("") & part["family"].notna()]
    groups = part.groupby(["family", "method"])
    table = pd.DataFrame(
        {
            "n": groups.size(),
            "memory_least_mb": groups["peak_memory_mb"].min(),
            "memory_median_mb": groups["peak_memory_mb"].median(),
            "memory_most_mb": groups["peak_memory_mb"].max(),
            "trained_m": groups["trainable_params"].median() / 1e6,
        }
    ).join(costs[["Memory Usage", "Rank 8"]])
    table = table.rename(columns={"Memory Usage": "published_mb", "Rank 8": "published_m"})
    table = table.reset_index()
    peft = table[table["method"] != "FFT"]
    close = (peft["memory_median_mb"] / peft["published_mb"] - 1).abs().max()
    fft = table[table["method"] == "FFT"]
    ratio = (fft["memory_median_mb"] / fft["published_mb"]).median()
    return Sound(
        "003.measured",
        "Do the trainings measure the published memory?",
        f"For LoRA and KD-LoRA within {close:.1%}; FFT allocated {ratio:.2f} times what is "
        "published (two devices, gradient buckets).",
        table,
        snapshot_of(runs),
        int(table["n"].sum()),
        "allocated at the end of each epoch, mean over epochs; median over runs of rank 8",
    )
