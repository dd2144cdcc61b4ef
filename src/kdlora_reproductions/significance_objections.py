"""Report 001 against its own data: contradictions, with the numbers that are right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlora.evidence.paired_tests import adjust
from kdlora_reproductions.significance import (
    PARAMETER_BUG,
    VARIANTS,
    gains,
    per_parameter,
    split,
    welch,
)
from kdlora_reproductions.significance_claims import EXPECTED_KD
from kdlora_reproductions.tables import Contradiction

TWO = "The report joins numbers of two states of the data."


def contradictions(snapshots: Mapping[str, pd.DataFrame]) -> tuple[Contradiction, ...]:
    """Everything that the report says against the records or against itself."""
    return (
        *_irreproducible(snapshots),
        *_ranges(snapshots),
        *_counts(snapshots),
        *_two_snapshots(snapshots),
        *_method(snapshots),
    )


def _irreproducible(snapshots: Mapping[str, pd.DataFrame]) -> list[Contradiction]:
    lines = {name: gains(runs) for name, runs in snapshots.items()}
    a = snapshots["A574"]
    median = float(split(a)[0]["train_examples_per_s"].median())

    def of(line: str, part: int, digits: int = 2) -> dict[str, float]:
        return {name: round(lines[name][line][part], digits) for name in ("A574", "B742")}

    return [
        Contradiction(
            "001.2.3.fft_mem_MB",
            "FFT uses 1,745 MB",
            of("Memory Usage", 0, 1),
            "No mean or median of allocated or reserved memory over any family, task or seed "
            "gives it; the factor beside it does reproduce.",
        ),
        Contradiction(
            "001.2.3.peft_mem_MB",
            "PEFT uses 414 MB",
            of("Memory Usage", 1),
            "As for FFT: only the ratio of the two follows from the data.",
        ),
        Contradiction(
            "001.2.3.fft_thr",
            "FFT trains 168 examples/s",
            of("Throughput", 0),
            f"The mean is far from it; the median is {median:.1f}.",
        ),
        Contradiction(
            "001.2.3.peft_thr",
            "PEFT trains 1,223 examples/s",
            of("Throughput", 1),
            "No group of the report's own grouping has this mean.",
        ),
        Contradiction(
            "001.2.3.thr_x",
            "throughput grows 7.3 times",
            of("Throughput", 2, 3),
            "It is 1,223 / 168, and neither number reproduces.",
        ),
    ]


def _ranges(snapshots: Mapping[str, pd.DataFrame]) -> list[Contradiction]:
    cells, drops, ranked = {}, {}, {}
    for name, runs in snapshots.items():
        fft, peft = split(runs)
        means = peft.groupby(["variant", "strategy"])["score"].mean()
        cells[name] = [round(float(means.min()), 4), round(float(means.max()), 4)]
        fall = 100 * (fft["score"].mean() - peft.groupby("variant")["score"].mean())
        drops[name] = [round(float(fall.min()), 2), round(float(fall.max()), 2)]
        table = per_parameter(runs)["Performance/Parameter"].head(3)
        ranked[name] = [
            f"{v} {value:.4f}" for (v, _), value in zip(table.index, table, strict=True)
        ]
    return [
        Contradiction(
            "001.3.2.range",
            "PEFT scores range over 0.7237-0.7647",
            cells,
            "The lower end is the mean of all KD-LoRA runs; the lowest variant is far below.",
        ),
        Contradiction(
            "001.4.1.range",
            "drops of 4.8 to 15.8 points against FFT",
            drops,
            "The smallest drop of the report's own table 1.2 is rslora's; 4.8 is the smallest one "
            "that it calls significant.",
        ),
        Contradiction(
            "001.3.1.rank",
            "lora and rslora give the most score per parameter",
            ranked,
            "olora is second in both states of the data; the published table is not sorted.",
        ),
    ]


def _counts(snapshots: Mapping[str, pd.DataFrame]) -> list[Contradiction]:
    kd = {name: runs[runs["strategy"] == "KD-LoRA"] for name, runs in snapshots.items()}
    ratio = {
        name: round(gains(runs)["Trainable Parameters"][2] * PARAMETER_BUG, 2)
        for name, runs in snapshots.items()
    }
    per_task = kd["B742"]["task"].value_counts().sort_index()
    return [
        Contradiction(
            "001.5.1.missing",
            "486 KD-LoRA experiments are missing",
            {name: EXPECTED_KD - len(runs) for name, runs in kd.items()},
            f"{EXPECTED_KD} is how many were expected in all.",
        ),
        Contradiction(
            "001.5.1.pct",
            "121 of 486 (24 %)",
            {name: round(100 * len(runs) / EXPECTED_KD, 1) for name, runs in kd.items()},
            "Cut instead of rounded, and of the older state; the head of the report says 270.",
        ),
        Contradiction(
            "001.5.1.tasks",
            "KD-LoRA lacks cola and sst2 and has one seed",
            {"KD-LoRA runs by task, B742": {str(t): int(n) for t, n in per_task.items()}},
            "True of the older state only.",
        ),
        Contradiction(
            "001.5.2.units",
            "PEFT parameter counts are percentages",
            {"ratio of means": ratio},
            "They are millions for every strategy; multiplying them by 1.1 is an error that "
            "lowers every reduction.",
        ),
    ]


def _two_snapshots(snapshots: Mapping[str, pd.DataFrame]) -> list[Contradiction]:
    names = ("A574", "B742")
    lines = {name: gains(snapshots[name]) for name in names}
    p = {"mrlora": {}, "rslora": {}}  # type: dict[str, dict[str, float]]
    gap, best = {}, {}
    for name in names:
        fft, peft = split(snapshots[name])
        for variant, values in p.items():
            scores = peft.loc[peft["variant"] == variant, "score"]
            values[name] = round(welch(fft["score"], scores), 5)
        means = peft.groupby("strategy")["score"].mean()
        gap[name] = round(100 * float(means["LoRA-only"] - means["KD-LoRA"]), 3)
        by = peft[peft["strategy"] == "LoRA-only"].groupby("variant")["score"].mean()
        best[name] = str(by.idxmax())

    def factor(line: str) -> dict[str, float]:
        return {name: round(lines[name][line][2], 3) for name in names}

    return [
        Contradiction(
            "001.conflict.params", "224.6x and 226.7x fewer parameters",
            factor("Trainable Parameters"), TWO + " Both carry the factor 1.1.",
        ),
        Contradiction("001.conflict.time", "5.1x and 6.1x faster", factor("Training Time"), TWO),
        Contradiction("001.conflict.mem", "4.5x and 4.2x less memory", factor("Memory Usage"), TWO),
        Contradiction(
            "001.conflict.mrlora",
            "mrlora against FFT: p .0392, significant, and p .0542, not",
            {"mrlora": p["mrlora"], "rslora": p["rslora"]}, TWO + " rslora flips as well.",
        ),
        Contradiction("001.conflict.gap", "a gap of 3.69 and of 1.56 points", gap, TWO),
        Contradiction(
            "001.conflict.best", "mrlora is the best variant; rslora or olora is", best, TWO
        ),
    ]  # fmt: skip


def _method(snapshots: Mapping[str, pd.DataFrame]) -> list[Contradiction]:
    runs = snapshots["B742"]
    y = runs["score"]
    total = float(((y - y.mean()) ** 2).sum())

    def explained(columns: list[str]) -> float:
        inside = y - runs.groupby(columns)["score"].transform("mean")
        return 1 - float((inside**2).sum()) / total

    errors = []
    lora, kd = (runs[runs["strategy"] == s] for s in ("LoRA-only", "KD-LoRA"))
    for variant in sorted(set(kd["variant"])):
        a, b = (part.loc[part["variant"] == variant, "score"] for part in (lora, kd))
        errors.append(float(np.sqrt(a.var() / len(a) + b.var() / len(b))))
    # the difference found with 80 % power at 5 %: 2.8 standard errors
    found = [round(100 * 2.8 * e, 1) for e in (min(errors), max(errors))]
    return [
        Contradiction(
            "001.unpaired",
            "differences are not significant, so KD-LoRA may not lose",
            {
                "variance explained by task": round(explained(["task"]), 3),
                "by strategy and variant": round(explained(["strategy", "variant"]), 3),
                "detectable by the test, points": found,
            },
            "Runs of the same family, task and seed are compared as if they were unrelated, over "
            "different mixes of tasks; tasks make most of the spread, so the test could only see "
            "differences that large. Not seeing one is not equality.",
        ),
        Contradiction(
            "001.multiple",
            "15 tests, none corrected",
            {
                f"p against FFT after Holm, {name}": _holm_against_fft(part)
                for name, part in snapshots.items()
            },
            "Matthews, Pearson and accuracy are averaged, two strategies and two model sizes are "
            "pooled against FFT, and every test is taken alone. After Holm only adalora stays.",
        ),
    ]


def _holm_against_fft(runs: pd.DataFrame) -> dict[str, float]:
    """The report's own tests of the variants against FFT, corrected over the six."""
    fft, peft = split(runs)
    p = [welch(fft["score"], peft.loc[peft["variant"] == v, "score"]) for v in VARIANTS]
    return {
        v: float(f"{x:.6g}") for v, x in zip(VARIANTS, adjust(np.array(p), "holm"), strict=True)
    }
