"""Report 001: the numbers in its prose, each from the state of the data that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy import stats

from kdlora_reproductions.significance import (
    FAMILY_PAIRS,
    NAMES,
    VARIANTS,
    gains,
    group_means,
    per_parameter,
    split,
    welch,
)
from kdlora_reproductions.tables import PublishedClaim, make_claims

EXPECTED_CELLS = 3 * 9 * 3 * 13  # families x tasks x seeds x arms
EXPECTED_KD = 3 * 9 * 3 * 6
CORRELATED = {
    "train_s": "001.2.2.train_time",
    "params_m": "001.2.2.P",
    "peak_memory_mb": "001.2.2.avg_memory_allocated_mb",
    "train_examples_per_s": "001.2.2.train_samples_per_second",
    "train_flops": "001.2.2.total_flos",
}


def claims(snapshots: Mapping[str, pd.DataFrame]) -> tuple[PublishedClaim, ...]:
    """All numbers of the report's prose, by the snapshot they come from."""
    a, b = snapshots["A574"], snapshots["B742"]
    found: list[PublishedClaim] = []

    def add(source: str, rule: str, values: Mapping[str, tuple[Any, int]]) -> None:
        found.extend(make_claims(values, source=source, rule=rule))

    n = len(b)
    counts = {f"001.hdr.{f}": (int((b["pair"] == f).sum()), n) for f in NAMES}
    for name, strategy in (("fft", "FFT"), ("lora", "LoRA-only"), ("kd", "KD-LoRA")):
        counts[f"001.hdr.{name}"] = (int((b["strategy"] == strategy).sum()), n)
    add("B742", "count", {"001.hdr.n": (n, n), **counts})
    add("B742", "runs of 1,053 expected", {"001.hdr.completion": (100 * n / EXPECTED_CELLS, n)})

    fft, peft = split(b)
    by = {key: group["score"] for key, group in b.groupby(["strategy", "variant"])}
    means = b.groupby("strategy")["score"].mean()
    gap = 100 * float(means["LoRA-only"] - means["KD-LoRA"])
    add(
        "B742",
        "mean of all runs",
        {
            "001.exec.lora": (float(means["LoRA-only"]), int((b["strategy"] == "LoRA-only").sum())),
            "001.exec.kd": (float(means["KD-LoRA"]), int((b["strategy"] == "KD-LoRA").sum())),
            "001.exec.gap": (gap, len(peft)),
            **{f"001.exec.lora.{v}": (float(by["LoRA-only", v].mean()), len(by["LoRA-only", v]))
               for v in ("mrlora", "olora", "rslora")},
            **{f"001.exec.kd.{v}": (float(by["KD-LoRA", v].mean()), len(by["KD-LoRA", v]))
               for v in ("mrlora", "rslora", "lora")},
            "001.exec.lora_order": (_best_three(by, "LoRA-only"), len(peft)),
            "001.exec.kd_order": (_best_three(by, "KD-LoRA"), len(peft)),
        },
    )  # fmt: skip
    factors = gains(b)
    add(
        "B742",
        "ratio of means over runs; parameters of PEFT times 1.1 (the report's error)",
        {
            "001.exec.params": (factors["Trainable Parameters"][2], n),
            "001.exec.mem": (factors["Memory Usage"][2], n),
            "001.exec.time": (factors["Training Time"][2], n),
        },
    )
    p_fft = {v: welch(fft["score"], peft.loc[peft["variant"] == v, "score"]) for v in VARIANTS}
    p_kd = {v: welch(by["LoRA-only", v], by["KD-LoRA", v]) for v in VARIANTS}
    p_family = [
        welch(b.loc[b["pair"] == x, "score"], b.loc[b["pair"] == y, "score"])
        for x, y in FAMILY_PAIRS
    ]
    add(
        "B742",
        "Welch's t test, unpaired, uncorrected",
        {
            "001.exec.mrlora_p": (p_fft["mrlora"], n),
            "001.exec.all_below_fft": (_yes(max(p_fft.values()) < 0.05), n),
            "001.exec.lora_kd_none": (_yes(min(p_kd.values()) >= 0.05), len(peft)),
            "001.exec.families_none": (_yes(min(p_family) >= 0.05), n),
        },
    )
    found.extend(_claims_of_a574(a))
    return tuple(found)


def correlations(runs: pd.DataFrame) -> dict[str, float]:
    """Pearson's correlation of score and cost over PEFT runs, all tasks pooled."""
    _, peft = split(runs)
    return {
        column: float(stats.pearsonr(peft["score"], peft[column]).statistic)
        for column in CORRELATED
    }


def _claims_of_a574(a: pd.DataFrame) -> list[PublishedClaim]:
    found: list[PublishedClaim] = []
    fft, peft = split(a)
    means = a.groupby("strategy")["score"].mean()
    memory = peft.groupby("strategy")["peak_memory_mb"].mean()
    groups = group_means(a)["Performance"]
    drops = fft["score"].mean() - peft.groupby("variant")["score"].mean()
    gain = gains(a)
    pairs = correlations(a)
    ranked = per_parameter(a)
    best = [v for v, s in ranked.index if s == "LoRA-only"][:2]
    kd = a[a["strategy"] == "KD-LoRA"]
    olora = float(groups["olora", "LoRA-only"])

    def add(rule: str, values: Mapping[str, tuple[Any, int]]) -> None:
        found.extend(make_claims(values, source="A574", rule=rule))

    add(
        "Pearson over PEFT runs, tasks pooled",
        {CORRELATED[column]: (value, len(peft)) for column, value in pairs.items()},
    )
    parameters, memory_x, time = (
        gain[k] for k in ("Trainable Parameters", "Memory Usage", "Training Time")
    )
    add(
        "means over runs and their ratio; parameters of PEFT times 1.1 (the report's error)",
        {
            "001.2.3.fft_params": (parameters[0], len(fft)),
            "001.2.3.peft_params": (parameters[1], len(peft)),
            "001.2.3.params_x": (parameters[2], len(a)),
            "001.2.3.mem_x": (memory_x[2], len(a)),
            "001.2.3.fft_time": (time[0], len(fft)),
            "001.2.3.peft_time": (time[1], len(peft)),
            "001.2.3.time_x": (time[2], len(a)),
            "001.3.2.params_share": (100 * parameters[1] / parameters[0], len(a)),
            "001.3.1.best": (", ".join(best), len(peft)),
        },
    )
    add(
        "mean of all runs",
        {
            "001.4.1.gap": (100 * float(means["LoRA-only"] - means["KD-LoRA"]), len(peft)),
            "001.4.1.kdmem": (100 * float(1 - memory["KD-LoRA"] / memory["LoRA-only"]), len(peft)),
            "001.3.2.kd_floor": (float(means["KD-LoRA"]), len(kd)),
            "001.3.2.range_high": (float(groups.max()), len(peft)),
            "001.3.2.fft": (float(fft["score"].mean()), len(fft)),
            "001.3.2.olora_ret": (100 * olora / float(fft["score"].mean()), len(a)),
            "001.4.1.drop_low": (100 * float(drops.min()), len(a)),
            "001.4.1.drop_high": (100 * float(drops.max()), len(a)),
        },
    )
    absent = sorted(set(fft["task"]) - set(kd["task"]))
    add(
        "count",
        {
            "001.5.1.kd121": (len(kd), len(kd)),
            "001.5.1.kd_percent": (100 * len(kd) / EXPECTED_KD, len(kd)),
            "001.5.1.missing": (EXPECTED_KD - len(kd), len(kd)),
            "001.5.1.tasks_absent": (", ".join(absent), len(kd)),
        },
    )
    return found


def _best_three(by: Mapping[Any, pd.Series], strategy: str) -> str:
    means = {v: by[strategy, v].mean() for v in VARIANTS}
    return ", ".join(sorted(means, key=lambda v: -means[v])[:3])


def _yes(holds: bool) -> str:
    return "Yes" if holds else "No"
