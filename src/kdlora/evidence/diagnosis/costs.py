"""Costs that contradict themselves: bimodal speeds, and parameter counts that no rank explains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.diagnosis.finding import (
    DiagnosisFinding,
    config_columns,
    counts,
    has,
    is_done,
    listed,
    runs,
    strategy,
)
from kdlora.evidence.diagnosis.public_facts import adapter_parameters, outputs_of, shape_of
from kdlora.evidence.diagnosis.setup import device_counts, tokens_per_example
from kdlora.records.tidy import numeric

NOISY = 1.3  # ratio of speeds between seeds that one machine does not explain
SAME = 0.02  # a count within 2 % of its formula fits (tables print two or three digits)


def throughput(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Training speeds of the same configuration that differ from seed to seed."""
    frame = frame[is_done(frame)]
    if not has(frame, "train_examples_per_s"):
        return
    # per device where the device count can be told, as logged otherwise
    devices = device_counts(frame).fillna(1.0)
    keys = config_columns(frame)
    part = frame[keys].assign(
        strategy=strategy(frame),
        speed=numeric(frame, "train_examples_per_s") / devices,
        devices=devices,
        tokens=tokens_per_example(frame).fillna(0),
        seed=frame.get("seed", 0),
    )
    part = part[part["speed"] > 0]
    groups = part.groupby([*keys, "devices", "tokens"], dropna=False)["speed"]
    size, ratio = groups.transform("size"), groups.transform("max") / groups.transform("min")
    repeated = groups.agg(["size", "max", "min"])
    repeated = repeated[repeated["size"] > 1]
    ratios = repeated["max"] / repeated["min"]
    noisy = int((ratios > NOISY).sum())
    if not noisy:
        return
    affected = part[(size > 1) & (ratio > NOISY)]
    slow, fast, slow_seeds = _modes(affected, [*keys, "devices", "tokens"])
    yield DiagnosisFinding(
        "bimodal_throughput",
        "warning",
        f"{noisy} of {len(ratios)} configurations that were run more than once differ by more than "
        f"{NOISY:g}x in training speed per device between seeds, up to {ratios.max():.1f}x "
        f"(medians of the slow and fast runs: {slow:.0f} and {fast:.0f} examples/s). The runs come "
        "from different or shared machines: compare speeds only within one.",
        runs(frame, frame.index.isin(affected.index)),
        {
            "configurations": len(ratios),
            "noisy": noisy,
            "largest_ratio": float(ratios.max()),
            "slow_median": slow,
            "fast_median": fast,
            "slow_by_seed": slow_seeds,
            "by_strategy": counts(
                affected.drop_duplicates([*keys, "devices", "tokens"])["strategy"]
            ),
        },
    )


def _modes(affected: pd.DataFrame, keys: list[str]) -> tuple[float, float, dict[str, int]]:
    """Split each configuration at its largest gap; medians of the two sides, seeds of the slow."""
    slow: list[float] = []
    fast: list[float] = []
    seeds: list[object] = []
    for _, group in affected.groupby(keys, dropna=False):
        ordered = group.sort_values("speed")
        speeds = ordered["speed"].tolist()
        gap = int(np.argmax([b / a for a, b in pairwise(speeds)])) + 1
        slow += speeds[:gap]
        fast += speeds[gap:]
        seeds += ordered["seed"].tolist()[:gap]
    return float(np.median(slow)), float(np.median(fast)), counts(pd.Series(seeds, dtype=object))


def parameters(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Trainable parameters against what rank and the encoder's shape allow."""
    if not has(frame, "encoder", "trainable_params", "rank", "adaptation"):
        return
    part = _ranked(frame)
    if "targets" in part:  # our own records count the model itself, and name where adapters sit
        part = part[part["targets"].isna()]
    if "task" not in part:
        part = part.assign(task=None)
    fits: list = []
    too_many: list = []
    other_rank: dict[tuple[str, float, float], list] = {}
    alike = ["encoder", "task", "adaptation", "rank", "trainable_params"]
    key: Any
    for key, group in part.groupby(alike, dropna=False):
        verdict = _explain(*key)
        if verdict is None:
            continue
        kind, rank = verdict
        if kind == "fits":
            fits += list(group.index)
        elif kind == "too many":
            too_many += list(group.index)
        else:
            label = (str(key[2]), float(key[3]), rank)
            other_rank.setdefault(label, []).extend(group.index)
    for (adaptation, declared, real), index in other_rank.items():
        yield DiagnosisFinding(
            "rank_contradicted",
            "warning",
            f"{len(index)} {adaptation} runs declare rank {declared:g} and train the parameters of "
            f"rank {real:g}"
            + (" (its initial rank)" if adaptation == "adalora" else "")
            + ": the stated rank was not the one in effect.",
            runs(frame, frame.index.isin(index)),
            {"declared": declared, "in_effect": real, "fitting_runs": len(fits)},
        )
    if too_many:
        rows = frame.loc[too_many, ["encoder", "rank", "trainable_params"]]
        plain = [
            (str(encoder), float(rank), float(given), shape.query_value(float(rank)))
            for encoder, rank, given in rows.itertuples(index=False)
            if (shape := shape_of(encoder)) is not None
        ]
        encoder, rank, given, query_value = plain[0]
        all_linear = shape_of(encoder).all_linear(rank)  # type: ignore[union-attr]
        yield DiagnosisFinding(
            "parameters_contradict_shape",
            "error",
            f"{len(rows)} parameter counts are more than LoRA on every linear layer and a whole "
            f"head could train: {encoder} at rank {rank:g} is given {given / 1e6:.3g} M; query and "
            f"value need {query_value / 1e6:.3g} M, all linear layers {all_linear / 1e6:.3g} M.",
            runs(frame, frame.index.isin(too_many)),
            {"ratio_to_query_value": [given / least for _, _, given, least in plain]},
        )
    yield from _budgets(frame)


def _explain(
    encoder: object, task: object, adaptation: object, rank: float, given: float
) -> tuple[str, float] | None:
    """("fits" | "rank" | "too many", rank that fits); None where nothing is known."""
    shape, variant = shape_of(encoder), str(adaptation)
    if shape is None or adapter_parameters(shape, variant, rank) is None:
        return None
    outputs = outputs_of(task)
    heads = (shape.head(outputs),) if outputs else (0, shape.head(1), shape.head(2), shape.head(3))

    def adapters(r: float) -> float:
        return adapter_parameters(shape, variant, r) or 0.0

    if outputs:  # measured: the count is exact, or it is that of another rank
        exact = [r for r in range(1, 257) if adapters(r) + heads[0] == given]
        if exact:
            return ("fits", rank) if rank in exact else ("rank", float(exact[0]))
    elif any(abs(adapters(rank) + head - given) <= SAME * given for head in heads):
        return "fits", rank
    # adalora starts at up to twice its rank; mrlora's ranks sum to almost twice the first
    most = shape.all_linear(rank) * (2 if variant in ("adalora", "mrlora") else 1)
    if given > 1.02 * (most + max(*heads, shape.hidden**2)):
        return "too many", rank
    return None


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """Finished runs with a rank and a parameter count, both as numbers."""
    rank, given = numeric(frame, "rank"), numeric(frame, "trainable_params")
    usable = is_done(frame) & (rank > 0) & np.isfinite(rank) & (given > 0) & np.isfinite(given)
    return frame.assign(rank=rank, trainable_params=given)[usable]


def _budgets(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """The same rank is not the same budget; and a small student may train more than its teacher."""
    done = _ranked(frame)
    if done.empty or "seed" not in done:
        return
    place = [c for c in ("encoder", "task", "rank", "role", "distillation") if c in done]
    median = done.groupby([*place, "adaptation"])["trainable_params"].median().unstack()
    if "lora" in median:
        ratios = median.div(median["lora"], axis=0).drop(columns="lora").median().dropna()
        unequal = ratios[(ratios - 1).abs() > 0.05].sort_values(ascending=False)
        if len(unequal):
            yield DiagnosisFinding(
                "budget_differs",
                "warning",
                "At the same declared rank, "
                + ", ".join(f"{name} trains {r:.2f}x" for name, r in unequal.items())
                + " the parameters of lora (median over encoders and tasks): equal rank is not an "
                "equal budget.",
                (),
                {str(k): float(v) for k, v in unequal.items()},
            )
    if not has(done, "pair", "role"):
        return
    by_role = done.groupby(["pair", "adaptation", "role"])["trainable_params"].median().unstack()
    if {"teacher", "student"} <= set(by_role.columns):
        ratio = (by_role["student"] / by_role["teacher"]).dropna().groupby("pair").median()
        more = ratio[ratio > 1]
        if len(more):
            yield DiagnosisFinding(
                "student_trains_more",
                "info",
                "Students train more parameters than the PEFT of their teachers: "
                + listed(f"{pair} {r:.2f}x" for pair, r in more.items())
                + " (a head trained in full outweighs the adapters).",
                (),
                {str(pair): float(r) for pair, r in ratio.items()},
            )
