"""What runs cost, described: means and ranges over done runs, savings in matched runs.

All functions take a tidy frame (`records.tidy.tidy`); of costs only values above zero are known.
Nothing here is tested: `costs` has ratios with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.records.tidy import groups, mean, names, numeric, places
from kdlora.vocabulary.arm import Arm


@dataclass(frozen=True)
class CostRange:
    """Mean, lowest and highest value of a cost over `n` runs, in the unit of its column."""

    mean: float
    low: float
    high: float
    n: int


def encoder_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """The done runs of encoders, each once a pair."""
    own = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    return own.drop_duplicates(["pair", "run_id"])


def run_counts(frame: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(pair, arm) -> the number of done runs."""
    return {key: len(own) for key, own in groups(encoder_runs(frame), "pair", "arm")}


def cost_ranges(
    frame: pd.DataFrame, columns: Sequence[str]
) -> dict[tuple[str, str], dict[str, CostRange]]:
    """(pair, arm) -> cost -> its range over all done runs; one that was not measured is absent."""
    own = encoder_runs(frame)
    values = {column: numeric(own, column).to_numpy() for column in columns}
    found: dict[tuple[str, str], dict[str, CostRange]] = {}
    for key, rows in places(own, "pair", "arm"):
        measured = {column: all_[rows][all_[rows] > 0] for column, all_ in values.items()}
        found[key] = {
            column: CostRange(mean(costs), float(costs.min()), float(costs.max()), len(costs))
            for column, costs in measured.items()
            if len(costs)
        }
    return found


def means_by_task(
    frame: pd.DataFrame, columns: Sequence[str]
) -> dict[tuple[str, str, str], tuple[int, dict[str, float]]]:
    """(pair, task, arm) -> the number of done runs and the mean of each column over them."""
    done = frame[frame["status"] == "done"].drop_duplicates(["pair", "task", "arm", "run_id"])
    values = {column: numeric(done, column).to_numpy() for column in columns}
    return {
        key: (len(rows), {column: mean(own[rows]) for column, own in values.items()})
        for key, rows in places(done, "pair", "task", "arm")
    }


def savings(
    frame: pd.DataFrame, reference: str, columns: Sequence[str]
) -> dict[tuple[str, str], dict[str, float]]:
    """(pair, arm) -> cost -> per cent saved against the reference: geometric mean over the runs
    that are matched by task and seed."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    own = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    for column in columns:
        known = own[own[column] > 0]
        logs = known.assign(log=np.log(known[column].to_numpy(float))).pivot_table(
            index=["pair", "task", "seed"], columns="arm", values="log", observed=True
        )
        if reference not in logs:
            continue
        ratio = logs.sub(logs[reference], axis=0).groupby("pair", sort=False).mean()
        for pair in names(frame, "pair"):
            for arm in names(frame, "arm", pair=pair):
                if arm != reference and pair in ratio.index and arm in ratio:
                    value = 100 * (1 - math.exp(float(ratio[arm][pair])))
                    if math.isfinite(value):
                        found.setdefault((pair, arm), {})[column] = value
    return found


def parameters_by_rank(
    frame: pd.DataFrame,
) -> tuple[dict[str, list[tuple[str, float, float]]], int]:
    """pair -> (arm without its label, rank, mean of the trained parameters), by arm and rank.

    Only arms of which a pair has several ranks. Also the number of runs that have a rank.
    """
    runs = encoder_runs(frame)
    known = runs[(runs["rank"] > 0) & (runs["trainable_params"] > 0)]
    known = known.assign(base=[str(Arm.read(arm).plain) for arm in known["arm"]])
    found = {}
    for pair, own in groups(known, "pair"):
        means = own.groupby(["base", "rank"], sort=False)["trainable_params"].mean().reset_index()
        means = means[means.groupby("base")["rank"].transform("nunique") > 1]
        if len(means):
            rows = means.sort_values(["base", "rank"]).itertuples(index=False, name=None)
            found[str(pair)] = list(rows)
    return found, len(known)


# The same architecture, merged, on one machine: its latency should not differ by more than this.
STEADY = 1.25


def unsteady_encoders(frame: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Encoders whose runs, which are as fast whatever their weights, differ in latency: the name,
    the lowest and the highest median in ms."""
    runs = frame[(frame["status"] == "done") & frame["encoder"].notna()]
    runs = runs[runs["latency_p50_ms"] > 0].drop_duplicates("run_id")
    found = []
    for (encoder, *_), own in groups(runs, "encoder", "precision", "device"):
        low, high = float(own["latency_p50_ms"].min()), float(own["latency_p50_ms"].max())
        if high > STEADY * low:
            found.append((encoder, low, high))
    return found


def unlike_protocol(frame: pd.DataFrame) -> list[str]:
    """The parts of the measurement's protocol that differ between encoders, but for what follows
    from a model's own speed and place."""
    known = [protocol for protocol in encoder_runs(frame)["protocol"] if protocol]
    keys = dict.fromkeys(key for protocol in known for key in protocol)
    return [
        key
        for key in keys
        if len({str(protocol.get(key)) for protocol in known}) > 1
        and not (key.endswith("repeats") or key in ("interleaved", "measured"))
    ]
