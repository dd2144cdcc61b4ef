"""What a study holds before anything is averaged: blocks, holes, duplicates, unbalanced mixes.

A cell is one arm under one combination of the factors (pair, task, seed). Nothing here looks at
whether scores are good; it says which averages and comparisons the data can carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import pandas as pd

from kdlora.evidence.result import Result
from kdlora.evidence.scores import KEYS
from kdlora.records.tidy import StudyFrame, places, rows_of, severities
from kdlora.vocabulary.arm import Arm

SETTINGS = ("rank", "alpha", "lr", "batch_size", "epochs", "max_length", "precision", "targets")
UNEVEN = 0.02  # a share of a task that differs by more between arms is an unbalanced mix


@dataclass(frozen=True)
class Coverage(Result):
    """Which cells of the grid are there. Frames have one row per cell, block, arm or setting.

    factors: the columns that make a cell, besides the arm.
    expected, present: numbers of cells; present counts each cell once, whatever its duplicates.
    holes: arm + factors of cells that are expected and not done.
    stopped: arm + factors of cells that an early decision ended; they are not expected.
    duplicates: arm + factors + settings + n of runs that share all of these.
    varied: settings with several values within one arm and cell: filter before comparing.
    blocks: the factors without the seed, with `arms` (done in all their seeds) and `complete`.
    shares: arm by task, the share of each task among the arm's runs (rows sum to 1).
    pooled: per arm n, pooled_mean, balanced_mean (mean of task means of block means) and
        shared_mean (over the cells that every listed arm has), in the native unit of the scores.
    shared: the factor values of the cells in which every arm is present.
    unbalanced: sentences about mixes that a pooled mean would hide.
    """

    factors: tuple[str, ...]
    arms: tuple[str, ...]
    expected: int
    present: int
    holes: pd.DataFrame = field(compare=False)
    duplicates: pd.DataFrame = field(compare=False)
    varied: tuple[str, ...]
    blocks: pd.DataFrame = field(compare=False)
    shares: pd.DataFrame = field(compare=False)
    pooled: pd.DataFrame = field(compare=False)
    shared: pd.DataFrame = field(compare=False)
    unbalanced: tuple[str, ...]
    stopped: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)

    @property
    def complete(self) -> bool:
        return self.holes.empty

    def sentences(self) -> list[str]:
        """What a reader should know, most important first."""
        if not self.expected:
            return ["No cell is known: nothing can be said of this study."]
        done = f"{self.present} of {self.expected} cells ({self.present / self.expected:.2%}) done"
        arms = f"{len(self.arms)} arm{'s' * (len(self.arms) != 1)}"
        lines = [f"{done} in {arms}; factors {', '.join(self.factors)}."]
        if not self.holes.empty:
            by_arm = self.holes["arm"].value_counts()
            lines.append("Holes: " + ", ".join(f"{arm} {n}" for arm, n in by_arm.items()) + ".")
        if not self.stopped.empty:
            by_arm = self.stopped["arm"].value_counts()
            lines.append(
                "Stopped early by successive halving: "
                + ", ".join(f"{arm} {n}" for arm, n in by_arm.items())
                + ". No holes, but these arms' means are over the blocks in which they were among "
                "the better ones."
            )
        if not self.duplicates.empty:
            n = int(self.duplicates["n"].sum() - len(self.duplicates))
            lines.append(f"{n} runs repeat a cell with the same settings.")
        if self.varied:
            lines.append(
                f"Several settings in one cell: {', '.join(self.varied)}. Choose one, as in "
                "arm,rank=8, before comparing."
            )
        whole = int(self.blocks["complete"].sum()) if len(self.blocks) else 0
        lines.append(
            f"{whole} of {len(self.blocks)} blocks are complete; "
            f"{len(self.shared)} cells are shared by all arms."
        )
        return [*lines, *self.unbalanced]


def coverage(frame: StudyFrame | pd.DataFrame) -> Coverage:
    """Compare what is done with what is expected.

    Rows whose status is "missing" or "failed" are expected cells; where a frame has none of those,
    the grid is every arm under every combination of the pairs, tasks and seeds that the frame shows
    (a frame of foreign results cannot know what was planned).
    """
    study = StudyFrame.of(frame)
    study.require("arm", "task")
    keys = [k for k in KEYS if k not in study.assumed and study.has(k)]
    frame = study.table[study.table["arm"].notna()]
    named = sorted(set(frame["arm"]))
    done = frame[frame["status"].eq("done")]
    cells = ["arm", *keys]
    present = done[cells].drop_duplicates()
    planned = len(done) < len(frame)
    grid = frame[cells].drop_duplicates() if planned else expected_grid(frame, keys)
    stopped = frame.loc[frame["status"].eq("stopped"), cells].drop_duplicates()
    grid = _without(grid, stopped, cells)
    holes = _without(grid, present, cells)
    inside = _without(present, _without(present, grid, cells), cells)
    blocks = _blocks(grid, holes, keys)
    duplicates, varied = _duplicates(done, cells)
    compared = [a for a in named if not _is_seedless(a)]
    shared = cells_of_all(done, compared, keys)
    shares = task_shares(done)
    return Coverage(
        factors=tuple(keys),
        arms=tuple(named),
        expected=len(grid),
        present=len(inside),
        holes=holes.sort_values(cells, ignore_index=True),
        duplicates=duplicates,
        varied=varied,
        blocks=blocks,
        shares=shares,
        pooled=pooled_against_balanced(done, shared, keys),
        shared=shared,
        unbalanced=_mixes(shares, done, keys),
        stopped=stopped.sort_values(cells, ignore_index=True),
    )


def expected_grid(frame: pd.DataFrame, factors: Sequence[str] = KEYS) -> pd.DataFrame:
    """Every arm under every combination of the factor values seen. Columns: arm + factors.

    Baselines and teachers given fine-tuned have no seeds to vary: they are expected where they
    stand.
    """
    keys = list(factors)
    fixed = frame["arm"].map(_is_seedless).astype(bool)
    varied = frame[~fixed]
    if varied.empty:
        return frame[["arm", *keys]].drop_duplicates(ignore_index=True)
    levels = [sorted(varied["arm"].unique()), *(_levels(varied[k]) for k in keys)]
    product = pd.MultiIndex.from_product(levels, names=["arm", *keys]).to_frame(index=False)
    as_they_are = frame.loc[fixed, ["arm", *keys]].drop_duplicates()
    return pd.concat([product, as_they_are], ignore_index=True)


def cells_of_all(
    frame: pd.DataFrame, arms: Iterable[str], factors: Sequence[str] = KEYS
) -> pd.DataFrame:
    """Factor values of the cells in which every one of `arms` is done, sorted. May be empty."""
    arms, keys = list(dict.fromkeys(arms)), list(factors)
    inside = frame[frame["arm"].isin(arms)]
    found = inside[["arm", *keys]].drop_duplicates().groupby(keys, dropna=False).size()
    whole = found[found == len(arms)] if arms else found.iloc[:0]
    return whole.index.to_frame(index=False).sort_values(keys, ignore_index=True)


def task_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Arm by task: which part of an arm's runs each task makes up. Rows sum to 1."""
    counts = pd.crosstab(frame["arm"], frame["task"])
    return counts.div(counts.sum(axis=1), axis=0)


def pooled_against_balanced(
    frame: pd.DataFrame, shared: pd.DataFrame, factors: Sequence[str] = KEYS
) -> pd.DataFrame:
    """Per arm: the mean over all runs beside means that do not depend on which runs exist."""
    keys = list(factors)
    if "score" not in frame:
        return pd.DataFrame(columns=["arm", "n", "pooled_mean", "balanced_mean", "shared_mean"])
    scored = frame.assign(score=pd.to_numeric(frame["score"], errors="coerce"))
    blocks = ["arm", *(k for k in keys if k != "seed")]
    balanced = scored.groupby(blocks, dropna=False)["score"].mean()
    by_task = balanced.groupby(["arm", "task"]).mean() if "task" in blocks else balanced
    inside = scored.merge(shared, on=keys, how="inner") if len(shared) else scored.iloc[:0]
    table = scored.groupby("arm")["score"].agg(n="size", pooled_mean="mean")
    table["balanced_mean"] = by_task.groupby("arm").mean()
    table["shared_mean"] = inside.groupby("arm")["score"].mean()
    return table.reset_index()


def _is_seedless(arm: str) -> bool:
    read = Arm.read(arm)
    return read.is_baseline or read.is_seedless


def _levels(column: pd.Series) -> list:
    return sorted(column.dropna().unique().tolist(), key=lambda v: (str(type(v)), v))


def _without(left: pd.DataFrame, right: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Rows of `left` that `right` does not have. Missing keys equal one another."""
    marked = left[on].merge(right[on].drop_duplicates(), on=on, how="left", indicator="side")
    return marked.loc[marked["side"] == "left_only", on].reset_index(drop=True)


def _blocks(grid: pd.DataFrame, holes: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    block = [k for k in keys if k != "seed"]
    if grid.empty or not block:
        return pd.DataFrame(columns=[*block, "expected", "holes", "complete"])
    table = grid.groupby(block, dropna=False).size().rename("expected").to_frame()
    table["holes"] = holes.groupby(block, dropna=False).size().reindex(table.index, fill_value=0)
    table["complete"] = table["holes"] == 0
    return table.reset_index()


def _duplicates(done: pd.DataFrame, cells: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Runs alike in everything that is set, and settings that vary within a cell."""
    if "run_id" in done:  # a plan names the one run of a seedless baseline once for every seed
        done = done.drop_duplicates([*cells, "run_id"])
    settings = [s for s in SETTINGS if s in done and done[s].notna().any()]
    counts = done.groupby([*cells, *settings], dropna=False).size().rename("n").reset_index()
    within = done.groupby(cells, dropna=False)[settings].nunique() if settings else pd.DataFrame()
    varied = tuple(s for s in settings if (within[s] > 1).any())
    return counts[counts["n"] > 1].reset_index(drop=True), varied


def _mixes(shares: pd.DataFrame, done: pd.DataFrame, keys: list[str]) -> tuple[str, ...]:
    """Which tasks weigh differently in different arms, in words."""
    trained = shares[[not _is_seedless(a) for a in shares.index]]
    lines = []
    if len(trained) > 1 and len(trained.columns) > 1:
        spread = trained.max() - trained.min()
        worst = str(spread.idxmax())
        uneven = int((spread > UNEVEN).sum())
        if uneven:
            column = trained[worst]
            low, high = str(column.idxmin()), str(column.idxmax())
            lines.append(
                f"The mix of tasks differs between arms for {uneven} tasks, most for {worst}: "
                f"{column.max():.1%} of {high}, {column.min():.1%} of "
                f"{low}. Means over all runs compare different tasks; use shared cells."
            )
    if "seed" in keys:
        seeds = done.groupby(["arm", *(k for k in keys if k != "seed")], dropna=False)["seed"]
        per_block = seeds.nunique()
        if len(per_block) and per_block.min() != per_block.max():
            lines.append(
                f"Blocks have between {per_block.min()} and {per_block.max()} seeds; "
                "a mean over runs weighs blocks by their seeds."
            )
    if "metric" in done:
        metrics = sorted(map(str, done["metric"].dropna().unique()))
        if len(metrics) > 1:
            lines.append(
                f"Scores mix {', '.join(metrics)}: their mean is a summary, not a measurement."
            )
    return tuple(lines)


@dataclass(frozen=True)
class CellCounts:
    """How many cells are planned, and what became of them; `flagged` and `unscored` are done."""

    planned: int = 0
    done: int = 0
    failed: int = 0
    missing: int = 0
    stopped: int = 0
    flagged: int = 0
    unscored: int = 0

    def __add__(self, other: CellCounts) -> CellCounts:
        return CellCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def count_cells(cells: pd.DataFrame) -> CellCounts:
    """Of the rows of a tidy frame (`records.tidy.tidy`)."""
    columns = (cells["status"], cells["flagged"].astype(bool), cells["score"].isna())
    return _counts(*(column.to_numpy() for column in columns))


def _counts(status: np.ndarray, flagged: np.ndarray, unscored: np.ndarray) -> CellCounts:
    by_status, done = Counter(status), status == "done"
    ended = ("done", "failed", "stopped")
    return CellCounts(
        planned=len(status),
        missing=len(status) - sum(by_status[one] for one in ended),
        flagged=int((flagged & done).sum()),
        unscored=int((unscored & done).sum()),
        **{one: by_status[one] for one in ended},
    )


def counts_by_cell(frame: pd.DataFrame) -> dict[tuple[str, str, str], CellCounts]:
    """(pair, arm, task) -> its counts."""
    status, flagged = frame["status"].to_numpy(), frame["flagged"].to_numpy(bool)
    unscored = frame["score"].isna().to_numpy()
    return {
        key: _counts(status[rows], flagged[rows], unscored[rows])
        for key, rows in places(frame, "pair", "arm", "task")
    }


def size_of_full_grid(frame: pd.DataFrame) -> int:
    """Runs that every model on every pair, task and seed of a tidy frame would make; those of the
    frame where it has seedless ones, as only a plan knows them and has all its cells."""
    return len(frame) if frame["any_seed"].any() else len(expected_grid(frame))


def flag_counts(frame: pd.DataFrame) -> Counter[tuple[str, str]]:
    """(flag, severity) -> the number of runs of a tidy frame that carry it."""
    return Counter(
        pair
        for row in rows_of(frame.drop_duplicates("run_id"), "flags", "flag_severities")
        for pair in dict.fromkeys(zip(row["flags"], severities(row), strict=False))
    )


def flagged_runs(frame: pd.DataFrame) -> int:
    """Runs that carry a flag which is more than information."""
    return int(frame.drop_duplicates("run_id")["flagged"].sum())
