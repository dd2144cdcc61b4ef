"""The frame of a study as every part of a report reads it: complete columns, in reading order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.vocabulary.arm import SEEDLESS, Arm, labelled

REQUIRED = ("run_id", "arm", "role", "adaptation", "status")
# What results from elsewhere may lack, and what then stands for it.
ASSUMED: dict[str, Any] = {"pair": "all", "task": "all", "seed": 0}
TEXTS = ("metric", "precision", "device", "attention", "encoder", "teacher", "student", "error",
         "teacher_run_id", "teacher_arm", "reference", "peak_memory_scope", "energy_method",
         "stopped", "targets", "distillation")  # fmt: skip
NUMBERS = ("score", "selection_score", "direction", "rank", "alpha", "lr", "batch_size", "epochs",
           "max_length", "n_train", "n_selection", "n_report", "trainable_params", "total_params",
           "size_mb", "train_s", "train_examples_per_s", "peak_memory_mb", "forward_flops",
           "train_flops", "latency_p50_ms", "latency_p95_ms", "throughput_per_s",
           "speedup_latency", "energy_j", "agreement", "agreement_chance", "kappa",
           "agreement_lower", "agreement_upper", "teacher_score", "max_train",
           "temperature", "kd_weight", "inference_s")  # fmt: skip
KEYS = ("run_id", "pair", "task", "arm", "role", "adaptation", "status")
TUPLES = ("flags", "flag_details", "flag_severities", "teacher_run_ids")
DICTS = ("protocol", "environment", "per_class_f1")


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a cell in reading order (pairs and tasks as given, arms from teacher to baseline).

    Absent columns are filled with what means "not known"; `flagged` says whether a run carries a
    flag that is more than information. Raises InputError when there is nothing to report, or when
    a task is scored by two metrics.
    """
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise InputError(f"the frame lacks the columns {', '.join(missing)}: it is no study")
    if frame.empty:
        raise InputError("the study has no cells: there is nothing to report")
    data = _told_apart(frame)
    for name in NUMBERS:
        values = data[name] if name in data else pd.Series(np.nan, index=data.index)
        data[name] = pd.to_numeric(values, errors="coerce").astype(float)
    for name in TEXTS:
        values = data[name] if name in data else pd.Series(None, index=data.index)
        data[name] = values.astype(object).where(values.notna(), None)
    for name in KEYS:  # as objects: their comparisons are many and cheap
        data[name] = data[name].astype(object)
    for names, kind in ((TUPLES, (tuple, list)), (DICTS, (dict,))):
        for name in names:
            values = data[name] if name in data else pd.Series(None, index=data.index)
            known = [v if isinstance(v, kind) else kind[0]() for v in values]
            data[name] = pd.Series(known, index=data.index, dtype=object)
    data["flagged"] = [any(level != "info" for level in severities(row)) for row in rows_of(data)]
    arms = sorted(set(data["arm"]), key=lambda arm: Arm.read(arm).sort_key())
    order = {arm: place for place, arm in enumerate(arms)}
    places = {
        column: {name: place for place, name in enumerate(dict.fromkeys(data[column]))}
        for column in ("pair", "task")
    }
    data["_pair"], data["_task"] = (
        data["pair"].map(places["pair"]),
        data["task"].map(places["task"]),
    )
    data["_arm"] = data["arm"].map(order)
    data = data.sort_values(["_pair", "_task", "_arm", "seed"], kind="stable")
    metrics = {task: sorted(set(own["metric"].dropna())) for task, own in groups(data, "task")}
    twice = [
        f"task '{task}' is scored by {' and '.join(found)}: a report compares one metric"
        for task, found in metrics.items()
        if len(found) > 1
    ]
    if twice:
        raise InputError(twice)
    return data.drop(columns=["_pair", "_task", "_arm"]).reset_index(drop=True)


def _told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and run. Runs of a cell that differ in rank become arms of their own."""
    data = frame.copy()
    for name, assumed in ASSUMED.items():
        known = name in data and data[name].notna().any()
        data[name] = data[name].fillna(assumed) if known else assumed
    cell = ["pair", "task", "arm", "seed"]
    data = data.drop_duplicates([*cell, "run_id"]).copy()
    if "rank" in data:
        several = data.groupby(cell)["rank"].transform("nunique") > 1
        arms = set(data.loc[several, "arm"])
        ranked = data["arm"].isin(arms) & data["rank"].notna()
        data["arm"] = [
            labelled(str(arm), f"rank {rank:g}") if own else arm
            for arm, rank, own in zip(data["arm"], data["rank"], ranked, strict=True)
        ]
    return data


def severities(row: dict[str, Any]) -> tuple[str, ...]:
    """One severity a flag; one that is not stated counts as a warning."""
    given = tuple(row["flag_severities"])
    return given + ("warning",) * (len(row["flags"]) - len(given))


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts."""
    return frame.to_dict("records")  # type: ignore[return-value]


def groups(frame: pd.DataFrame, *by: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The groups of a frame in reading order; the key is a tuple, or a value for one column."""
    return iter(frame.groupby(list(by) if len(by) > 1 else by[0], sort=False))


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells that are done and have a score."""
    return frame[(frame["status"] == "done") & np.isfinite(frame["score"])]


def names(frame: pd.DataFrame, column: str, *, pair: str | None = None) -> list[str]:
    """The values of a column in reading order, of one pair or of all."""
    values = frame[column] if pair is None else frame.loc[frame["pair"] == pair, column]
    return list(dict.fromkeys(values))


def seeds_of(frame: pd.DataFrame) -> list[int]:
    """The seeds of the arms that have one."""
    return sorted({int(seed) for seed in frame.loc[~frame["adaptation"].isin(SEEDLESS), "seed"]})


def metric_of(frame: pd.DataFrame, task: str) -> tuple[str, int]:
    """A task's metric and direction, from its done cells; ("", +1) where none is done."""
    known = (frame["task"].to_numpy() == task) & frame["metric"].notna().to_numpy()
    if not known.any():
        return "", 1
    first = int(known.argmax())
    direction = float(frame["direction"].to_numpy()[first])
    return str(frame["metric"].iat[first]), -1 if direction < 0 else 1
