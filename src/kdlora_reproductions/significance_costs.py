"""Report 001's questions about costs, answered on matched runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlora.evidence.correlation import correlate
from kdlora.evidence.costs import cost_ratio
from kdlora.evidence.diagnosis.setup import device_counts, tokens_per_example
from kdlora.evidence.result import Rules
from kdlora_reproductions.rows import ratio_table
from kdlora_reproductions.significance import split
from kdlora_reproductions.tables import Sound

SOURCE = "B742"


def with_setup(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds what the logs imply: devices, padded length (tokens), examples/s per device."""
    devices = device_counts(runs)
    return runs.assign(
        devices=devices,
        tokens=tokens_per_example(runs),
        per_device_examples_per_s=runs["train_examples_per_s"] / devices,
    )


def correlations(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> Sound:
    _, peft = split(runs)
    columns = ["train_s", "train_flops", "train_examples_per_s", "peak_memory_mb",
               "trainable_params"]  # fmt: skip
    made = correlate(peft, columns, rng=rng, rules=rules)
    table = pd.DataFrame([c.to_dict() for c in made])
    largest = pd.to_numeric(table["within_pearson"], errors="coerce").abs().max()
    return Sound(
        "001.correlations",
        "Do costlier runs score better?",
        f"Within a task no cost correlates with the score by more than {largest:.2f} in size; the "
        "pooled correlations show which tasks are large.",
        table,
        SOURCE,
        len(peft),
        "Pearson after the mean of each task is taken off, PEFT runs",
        ("column", "n_runs", "pooled", "within_pearson", "within_spearman", "low", "high"),
    )


def costs(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> Sound:
    """FFT against all LoRA-only and all KD-LoRA runs, variant by variant and pooled."""
    peft = runs.assign(peft=runs["strategy"].where(runs["strategy"] != "FFT"))
    # full fine-tuning has no variant: its run stands beside every variant's of its cell
    fft = peft[peft["strategy"] == "FFT"].assign(arm="FFT", variant=None)
    names, ratios = [], []
    for strategy in ("LoRA-only", "KD-LoRA"):
        part = peft[peft["strategy"] == strategy].assign(arm=strategy)
        both = pd.concat([part, fft], ignore_index=True)
        for column, same in (
            ("peak_memory_mb", ()),
            ("trainable_params", ()),
            ("train_s", ()),
            ("train_s", ("tokens", "devices")),
            ("per_device_examples_per_s", ("tokens",)),
        ):
            names.append(f"{strategy} / FFT, {column}")
            ratios.append(
                cost_ratio(
                    both, strategy, "FFT", column, rng=rng, same=same, rules=rules,
                    keys=("pair", "task", "seed", "variant"),
                )
            )  # fmt: skip
    lora = peft[peft["strategy"] == "LoRA-only"].assign(arm="LoRA-only")
    kd = peft[peft["strategy"] == "KD-LoRA"].assign(arm="KD-LoRA")
    for column in ("peak_memory_mb", "trainable_params"):
        names.append(f"KD-LoRA / LoRA-only, {column}")
        ratios.append(
            cost_ratio(
                pd.concat([lora, kd], ignore_index=True), "KD-LoRA", "LoRA-only", column,
                rng=rng, rules=rules, keys=("pair", "task", "seed", "variant"),
            )
        )  # fmt: skip
    table = ratio_table(ratios, names)
    of = {
        str(name): (float(factor), float(ratio))
        for name, factor, ratio in zip(
            table["comparison"], table["factor"], table["ratio"], strict=True
        )
    }
    return Sound(
        "001.costs",
        "What does PEFT save?",
        f"Over matched runs: {of['LoRA-only / FFT, peak_memory_mb'][0]:.2f} times less allocated "
        f"memory (LoRA-only) and {of['KD-LoRA / FFT, peak_memory_mb'][0]:.2f} times (KD-LoRA); "
        "training speed per device at equal length "
        f"{of['LoRA-only / FFT, per_device_examples_per_s'][1]:.1f} and "
        f"{of['KD-LoRA / FFT, per_device_examples_per_s'][1]:.1f} times. "
        "KD-LoRA's costs leave out the teacher; hardware was not recorded.",
        table,
        SOURCE,
        int(table["n_pairs"].max()),
        "geometric mean over runs of the same family, task, seed (and variant)",
        ("comparison", "same", "n_pairs", "ratio", "low", "high", "factor"),
    )


def parameters(snapshots: Mapping[str, pd.DataFrame]) -> Sound:
    rows = []
    for name, runs in snapshots.items():
        fft, peft = split(runs)
        ratio = float(fft["params_m"].mean() / peft["params_m"].mean())
        rows.append({"snapshot": name, "n": len(runs), "fft_m": float(fft["params_m"].mean()),
                     "peft_m": float(peft["params_m"].mean()), "ratio_of_means": ratio,
                     "as_published": ratio / 1.1})  # fmt: skip
    table = pd.DataFrame(rows)
    return Sound(
        "001.parameters",
        "How many fewer parameters does PEFT train?",
        f"{table['ratio_of_means'].iloc[-1]:.1f} times (ratio of means, B742): counts are in "
        "millions for every strategy, and the factor 1.1 of the report is an error.",
        table,
        "A574, B742",
        int(table["n"].max()),
        "mean FFT parameters over mean PEFT parameters, as counted",
    )
