"""The Pareto set over any axes, and how sure its members are of their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence import intervals
from kdlora.evidence.aggregates import shared_cells
from kdlora.evidence.costs import shared_costs
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import KEYS, Selection, usable_runs
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.quantity import directions

# More is better: +1; less is better: -1. Costs are averaged on the log scale.
AXES = {"score": 1, **directions(("trainable_params", "size_mb", "latency_p50_ms"))}


@dataclass(frozen=True)
class Point(Result):
    """One method: its value on every axis, whether nothing beats it, and how often that holds.

    `on_front_share`: share of bootstrap draws (of tasks, or of the cells of a single task) in which
    no other method is at least as good on every axis and better on one.
    """

    arm: str
    values: dict[str, float]
    on_front: bool
    on_front_share: float | None
    dominated_by: tuple[str, ...]


@dataclass(frozen=True)
class Front(Result):
    """All methods, those on the front first."""

    axes: dict[str, int]
    n_cells: int
    n_tasks: int
    resampled: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    cannot: str = ""


def dominates(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[..., methods, axes] -> [..., i, j]: whether method i dominates method j."""
    turned = values * directions
    better = turned[..., :, None, :] - turned[..., None, :, :]
    scale = 1e-12 * np.maximum(np.abs(turned).max(axis=(-1, -2), keepdims=True), 1.0)
    scale = scale[..., None]
    return (better >= -scale).all(-1) & (better > scale).any(-1)


def pareto_front(
    frame: StudyFrame | pd.DataFrame,
    arms: Sequence[str | Selection] | None = None,
    *,
    rng: np.random.Generator,
    axes: Mapping[str, int] | None = None,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
) -> Front:
    """Methods that no other one dominates, over the cells that all share on all axes.

    `axes` maps columns to directions; "score" stands for the score column (points, mean), others
    are averaged geometrically. Raises InputError for unknown columns and directions.
    """
    rules = rules or Rules()
    study = StudyFrame.of(frame)
    axes = dict(axes or {k: v for k, v in AXES.items() if k == "score" or study.has(k)})
    wrong = [f"axis '{k}': direction {v}; expected 1 or -1" for k, v in axes.items()
             if v not in (1, -1)]  # fmt: skip
    if wrong or not axes:
        raise InputError(wrong or "no axis given", where="Pareto set")
    scores, notes = usable_runs(study, score)
    tables, reasons = [], []
    names = list(arms) if arms else sorted(map(str, scores["arm"].unique()))
    for axis in axes:
        table = (
            shared_cells(study, names, keys=keys, score=score)
            if axis == "score"
            else shared_costs(study, axis, names, keys=keys)
        )
        tables.append(table)
        if table.reason:
            reasons.append(f"{axis}: {table.reason}")
    empty = Front(axes, 0, 0, "", (), tuple(notes))
    if reasons:
        return replace(empty, cannot="; ".join(reasons))
    both = tables[0].table.index
    for table in tables[1:]:
        both = both.intersection(table.table.index, sort=False)
    if not len(both):
        return replace(empty, cannot="no cell has every arm on every axis")
    cube = np.stack([t.table.loc[both].to_numpy(float) for t in tables], axis=-1)
    directions = np.array(list(axes.values()))
    tasks = pd.factorize(both.get_level_values("task").astype(str))[0]
    weights = replace(tables[0], table=tables[0].table.loc[both]).weights
    means = np.tensordot(weights, cube, 1)
    beaten = dominates(means, directions)
    share, resampled = _share_on_front(cube, weights, tasks, directions, rules, rng)
    real = means.copy()
    for i, axis in enumerate(axes):
        real[:, i] = means[:, i] if axis == "score" else np.exp(means[:, i])
    labels = tables[0].arms
    points = [
        Point(
            name,
            dict(zip(axes, real[i].tolist(), strict=True)),
            not beaten[:, i].any(),
            float(share[i]) if share is not None else None,
            tuple(labels[j] for j in np.flatnonzero(beaten[:, i])),
        )
        for i, name in enumerate(labels)
    ]
    points.sort(key=lambda p: (not p.on_front, -(p.on_front_share or 0)))
    return Front(axes, len(both), int(tasks.max()) + 1, resampled, tuple(points), tables[0].notes)


def _share_on_front(
    cube: np.ndarray,
    weights: np.ndarray,
    tasks: np.ndarray,
    directions: np.ndarray,
    rules: Rules,
    rng: np.random.Generator,
) -> tuple[np.ndarray | None, str]:
    """Share of draws [methods] on the front; `cube` [cells, methods, axes], `weights` [cells]."""
    n_tasks = int(tasks.max()) + 1
    by_task = n_tasks >= 2
    units = tasks if by_task else np.arange(len(cube))
    count = int(units.max()) + 1
    if count < intervals.FEW or not rules.draws:
        return None, ""
    sums = np.zeros((count, *cube.shape[1:]))
    np.add.at(sums, units, weights[:, None, None] * cube)
    sizes = np.bincount(units, weights)
    methods, axes = cube.shape[1:]
    kept = np.zeros(methods)
    draws = intervals.affordable(rules.draws, methods * methods * axes)
    chunk = max(1, 2_000_000 // (methods * methods * axes))
    for start in range(0, draws, chunk):
        i = rng.integers(0, count, (min(chunk, draws - start), count))
        means = sums[i].sum(1) / sizes[i].sum(1)[:, None, None]
        kept += (~dominates(means, directions).any(-2)).sum(0)
    return kept / draws, "tasks" if by_task else "cells"
