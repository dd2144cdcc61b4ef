"""Arms that differ in more than they are compared for: batch, length, settings, controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.diagnosis.finding import (
    DiagnosisFinding,
    counts,
    has,
    is_done,
    listed,
    runs,
    strategy,
)
from kdlora.evidence.diagnosis.public_facts import shape_of
from kdlora.records.fairness import CONDITIONS, trained
from kdlora.records.tidy import numeric
from kdlora.vocabulary.arm import Arm, uncontrolled

MAX_DEVICES = 64


def training_rows(frame: pd.DataFrame) -> pd.Series:
    """Training examples of each run: recorded, or speed * time / epochs, as a Trainer logs them.

    The value logged for one run carries the rounding of its speed; the median of a task is exact.
    """
    passes = numeric(frame, "epochs")
    logged = numeric(frame, "train_examples_per_s") * numeric(frame, "train_s") / passes
    n = numeric(frame, "n_train").where(lambda v: v.notna(), logged)
    if "task" not in frame:
        return n.round()
    return n.groupby(frame["task"]).transform("median").round()


def device_counts(frame: pd.DataFrame) -> pd.Series:
    """Devices (or accumulation steps) g with steps = epochs * ceil(n / (batch_size * g)).

    NaN where the steps are not logged or no whole g up to 64 explains them.
    """
    facts = [numeric(frame, c) for c in ("train_steps", "batch_size", "epochs")]
    steps, batch, epochs, n = (
        column.to_numpy(float)[:, None] for column in (*facts, training_rows(frame))
    )
    devices = np.arange(1, MAX_DEVICES + 1)
    fits = np.abs(epochs * np.ceil(n / (batch * devices)) - steps) < 0.5  # [runs, devices]
    smallest = np.where(fits.any(1), devices[fits.argmax(1)], np.nan)
    return pd.Series(smallest, index=frame.index)


def tokens_per_example(frame: pd.DataFrame) -> pd.Series:
    """Padded length that the logged training FLOPs imply, a power of two, or NaN.

    A Trainer logs 6 * parameters outside the embeddings * tokens (Kaplan et al. 2020); the blocks
    of a known encoder have 12 * layers * hidden² parameters. Lengths more than a fifth away from a
    power of two (padded per batch, or other FLOPs) are not told.
    """
    if not has(frame, "encoder", "train_flops"):
        return pd.Series(np.nan, index=frame.index)
    shapes = {e: shape_of(e) for e in frame["encoder"].dropna().unique()}
    weights = frame["encoder"].map(
        {e: shape.block_parameters() for e, shape in shapes.items() if shape}
    )
    per_example = numeric(frame, "train_flops") / (training_rows(frame) * numeric(frame, "epochs"))
    length = per_example / (6 * pd.to_numeric(weights))
    nearest = 2.0 ** length.where(length > 0).map(np.log2).round()
    return nearest.where((length / nearest - 1).abs() < 0.2)


def batches(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Global batch sizes that differ between arms although the setting is the same."""
    frame = frame[is_done(frame)]
    devices = device_counts(frame)
    known = devices.notna()
    if devices[known].nunique() < 2:
        return
    part = frame[known].assign(strategy=lambda f: strategy(f))
    effective = (devices * numeric(frame, "batch_size"))[known]
    by_strategy = _table(part["strategy"], devices[known])
    usual = {name: max(found, key=lambda g: found[g]) for name, found in by_strategy.items()}
    told = "; ".join(
        f"{name}: " + ", ".join(f"{g} devices in {n} runs" for g, n in found.items())
        for name, found in by_strategy.items()
    )
    between = len(set(usual.values())) > 1
    yield DiagnosisFinding(
        "batch_mixture",
        "error" if between else "warning",
        f"The optimizer steps show different numbers of devices or accumulation steps ({told}): "
        f"global batches of {', '.join(str(int(b)) for b in sorted(set(effective)))} examples"
        + (
            ". Arms differ in batch, steps and hardware, not only in method."
            if between
            else " within the same arms."
        ),
        runs(part, devices[known].ne(part["strategy"].map(usual))),
        {
            "devices_by_strategy": by_strategy,
            "effective_batch": counts(effective.astype(int)),
        },
    )


def lengths(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Sequence lengths that differ between arms, or between seeds of the same arm."""
    frame = frame[is_done(frame)]
    tokens = tokens_per_example(frame)
    known = tokens.notna()
    if tokens[known].nunique() < 2:
        return
    part = frame[known].assign(strategy=lambda f: strategy(f), tokens=tokens[known].astype(int))
    by_strategy = _table(part["strategy"], part["tokens"])
    long = int(part["tokens"].max())
    alone = [
        f"{pair} {arm}" if pair else str(arm)
        for (pair, arm), group in part.groupby(
            [part["pair"] if "pair" in part else pd.Series("", part.index), "arm"], dropna=False
        )
        if len(group) > 2 and (group["tokens"] == long).all()
    ]
    told = "; ".join(
        f"{name}: " + ", ".join(f"{t} tokens in {n} runs" for t, n in found.items())
        for name, found in by_strategy.items()
    )
    whole = f" All runs of {listed(alone)} have {long}." if alone else ""
    reserved = numeric(part, "reserved_memory_mb")
    memory = {
        f"{name}, {t} tokens": float(group.median())
        for (name, t), group in reserved.groupby([part["strategy"], part["tokens"]])
        if group.notna().any()
    }
    costs = (
        " Reserved memory (median MB): " + ", ".join(f"{k} {v:,.0f}" for k, v in memory.items())
        if memory
        else ""
    )
    yield DiagnosisFinding(
        "length_mixture",
        "error",
        f"The logged FLOPs show different padded lengths ({told}).{whole} Time, FLOPs and memory "
        f"compare lengths, not methods.{costs}{'.' if costs else ''}",
        runs(part, part["tokens"] == long),
        {
            "tokens_by_strategy": by_strategy,
            "only_longest": alone,
            "reserved_mb": memory,
            "by_pair": {str(k): counts(g["tokens"]) for k, g in part.groupby("pair")}
            if "pair" in part
            else {},
        },
    )


def settings(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Settings that differ between the arms of a comparison, and facts that nobody recorded."""
    frame = frame[is_done(frame) & trained(frame)]
    if frame.empty or "arm" not in frame:
        return
    for one in CONDITIONS:
        if not one.across_tasks or not has(frame, column := one.field):
            continue
        text = frame[column].map(_as_text).where(frame[column].notna())
        by_arm: dict[Any, tuple[str, ...]] = {
            arm: tuple(sorted(set(group.dropna()))) for arm, group in text.groupby(frame["arm"])
        }
        by_arm = {arm: found for arm, found in by_arm.items() if found}
        if len(set(by_arm.values())) > 1:
            told = "; ".join(f"{arm}: {', '.join(found)}" for arm, found in by_arm.items())
            yield DiagnosisFinding(
                "setting_differs",
                "warning",
                f"{one.title} differs between arms ({told}): they are compared "
                "for more than their method.",
                (),
                {"column": column, "by_arm": {str(arm): list(v) for arm, v in by_arm.items()}},
            )
        elif any(len(found) > 1 for found in by_arm.values()):
            yield DiagnosisFinding(
                "setting_varies",
                "info",
                f"{one.title} varies within arms: {', '.join(next(iter(by_arm.values())))}.",
                (),
                {"column": column},
            )
    absent = [c for c in ("precision", "device") if not has(frame, c)]
    if absent and has(frame, "train_s"):
        yield DiagnosisFinding(
            "not_recorded",
            "warning",
            f"{' and '.join(absent)} of the trainings {'was' if len(absent) == 1 else 'were'} not "
            "recorded: times and memory may come from different machines.",
            (),
            {"columns": absent},
        )


def controls(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Distilled students without undistilled ones: what distillation gives cannot be told."""
    if not has(frame, "role", "distillation", "adaptation"):
        return
    done = frame[is_done(frame)]
    arms = _as_arms(done)
    alone = uncontrolled(arms.unique())
    if alone:
        lacking = sorted({Arm.read(arm).adaptation for arm in alone})
        yield DiagnosisFinding(
            "no_control_arm",
            "warning",
            f"No student without distillation for {', '.join(lacking)}: the effect of distillation "
            "and that of a smaller encoder cannot be told apart.",
            runs(done, arms.isin(alone)),
            {"adaptations": lacking},
        )


def _as_arms(frame: pd.DataFrame) -> pd.Series:
    """What each row is on the axes, as its columns say, with the label that its name has."""
    axes = frame.reindex(columns=["role", "adaptation", "distillation", "arm"]).astype(object)
    found = [
        str(Arm(str(role), str(adaptation), str(distillation), Arm.read(name).label))
        for role, adaptation, distillation, name in axes.fillna("").to_numpy()
    ]
    return pd.Series(found, frame.index, dtype=object)


def _table(strategies: pd.Series, values: pd.Series) -> dict[str, dict[int, int]]:
    """strategy -> value -> number of runs."""
    found: dict[str, dict[int, int]] = {}
    for name, value in zip(strategies, values.astype(int), strict=True):
        counted = found.setdefault(str(name), {})
        counted[int(value)] = counted.get(int(value), 0) + 1
    return {name: dict(sorted(counted.items())) for name, counted in sorted(found.items())}


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
