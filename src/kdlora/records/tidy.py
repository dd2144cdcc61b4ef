"""The tidy frame: a row a cell, and the columns that every reader may count on; normalised once.

A frame of our own records, of imported results or of a user becomes a `StudyFrame` at the door of
a command or of a public function, and everything behind that door reads it as it is:

    study = StudyFrame.of(frame)       # a StudyFrame is taken as it is

A *cell* is a pair, a task, an arm and a seed. A run that several cells share stands in each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from kdlora.errors import InputError, did_you_mean
from kdlora.records.predictions import SplitOutputs
from kdlora.records.record import NOT_DONE, casts_doubt
from kdlora.vocabulary.arm import SEEDLESS, Arm
from kdlora.vocabulary.metric import metric

KEYS = ("pair", "task", "arm", "seed")
# Columns by what they hold; all of them are there after `normalise`.
NAMES = ("run_id", "pair", "task", "arm", "role", "adaptation", "distillation", "status")
TEXTS = ("metric", "precision", "device", "attention", "encoder", "teacher", "student", "error",
         "teacher_run_id", "teacher_arm", "reference", "peak_memory_scope", "energy_method",
         "stopped", "targets", "windows")  # fmt: skip
NUMBERS = ("score", "selection_score", "direction", "rank", "alpha", "lr", "batch_size", "epochs",
           "max_length", "n_train", "n_selection", "n_report", "trainable_params", "total_params",
           "size_mb", "train_s", "train_examples_per_s", "peak_memory_mb", "forward_flops",
           "train_flops", "latency_p50_ms", "latency_p95_ms", "throughput_per_s",
           "speedup_latency", "energy_j", "agreement", "agreement_chance", "kappa",
           "agreement_lower", "agreement_upper", "teacher_score", "max_train",
           "temperature", "kd_weight", "inference_s", "windows_per_text")  # fmt: skip
TUPLES = ("flags", "flag_details", "flag_severities", "teacher_run_ids", "label_names")
DICTS = ("protocol", "environment", "per_class_f1", "per_label", "agreement_per_label")
UNNAMED, UNNUMBERED = "unnamed", -1  # pair and seed of rows that lack what others of their arm have
IMPOSSIBLE = "impossible:"  # flags a cell: "impossible:score"
AS_GIVEN = "as_given."  # what stood in such a cell: "as_given.score"
COLUMNS = (*NAMES, "seed", *TEXTS, *NUMBERS, *TUPLES, *DICTS)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class StudyFrame:
    """A frame that `normalise` made, and what was computed from it.

    `assumed` names the columns that the given frame lacked; see `normalise` for what then stands
    in them. `outputs` are the stored predictions on the report split by run id, as far as there
    are any (`records.predictions.RunOutputs` reads those of a folder).
    """

    table: pd.DataFrame
    assumed: tuple[str, ...] = ()
    outputs: Mapping[str, SplitOutputs] = field(default_factory=dict, repr=False)
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame | StudyFrame,
        outputs: Mapping[str, SplitOutputs] | None = None,
    ) -> StudyFrame:
        """The study of a frame, normalised unless it is one already."""
        if isinstance(frame, StudyFrame):
            return frame if outputs is None else replace(frame, outputs=outputs, _known={})
        given = own_names(frame)
        empty = [k for k in ("pair", "seed") if k in given and len(given) and given[k].isna().all()]
        assumed = [name for name in COLUMNS if name not in given]
        return cls(normalise(given), (*assumed, *empty), outputs or {})

    def require(self, *columns: str) -> None:
        """Raise InputError, all at once, for columns that the given frame lacked."""
        known = [str(c) for c in self.table.columns if c not in self.assumed]
        missing = [c for c in columns if c not in known]
        if missing:
            raise InputError(
                [f"the frame has no column '{c}'.{did_you_mean(c, known)}" for c in missing]
            )

    def where(self, rows: pd.Series | np.ndarray) -> StudyFrame:
        """The same with only the rows of a boolean mask."""
        return StudyFrame(self.table[np.asarray(rows, dtype=bool)], self.assumed, self.outputs)

    def has(self, column: str) -> bool:
        """Whether the column is there and holds something."""
        return column in self.table and bool(self.table[column].notna().any())

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, computed on the first call with this key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def ranks_apart(self) -> StudyFrame:
        """Runs of a cell that differ in the adapter's rank as arms of their own, by a label.

        Where most of an arm's cells have one rank, the arm of that rank keeps its name: a few runs
        of another rank rename nothing, and are told apart in the blocks that have both, too.
        """
        return self.once("ranks apart", self._ranks_apart)

    def _ranks_apart(self) -> StudyFrame:
        table = self.table
        in_block = table.groupby(["pair", "task", "arm"])["rank"].transform("nunique") > 1
        if not in_block.any():
            return self
        in_cell = table.groupby(list(KEYS))["rank"].transform("nunique") > 1
        ranked = table["arm"].isin(set(table.loc[in_block, "arm"])) & table["rank"].notna()
        usual = _usual_ranks(table[ranked])
        told = {arm for arm, rank in usual.items() if rank is not None}
        ranked &= table["arm"].isin(told | set(table.loc[in_cell, "arm"]))
        if not ranked.any():
            return self
        arms = [
            str(Arm.read(arm).with_label(f"rank {rank:g}")) if own and rank != usual[arm] else arm
            for arm, rank, own in zip(table["arm"], table["rank"], ranked, strict=True)
        ]
        return StudyFrame(in_reading_order(table.assign(arm=arms)), self.assumed, self.outputs)


def _usual_ranks(table: pd.DataFrame) -> dict[str, float | None]:
    """Arm -> the rank of which it has more than twice the cells of any other, or None."""
    cells = table[[*KEYS, "rank"]].drop_duplicates().groupby(["arm", "rank"]).size()
    found: dict[str, float | None] = {}
    for arm, counts in cells.groupby(level="arm"):
        first, *rest = counts.droplevel("arm").sort_values(ascending=False).items()
        found[str(arm)] = float(first[0]) if all(first[1] > 2 * n for _, n in rest) else None  # type: ignore[arg-type]
    return found


def normalise(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all `COLUMNS`, one row a cell and run, in reading order.

    Numbers are floats (NaN: not known), names and texts objects (None: not known), flags tuples.
    What the frame does not say is filled in: `role`, `adaptation` and `distillation` from the arm,
    "done" for a status, "all" for a pair or a task and 0 for a seed. `any_pair` and `any_seed` tell
    of rows whose arm never has the value while others have one, or has no use for a seed: they
    stand beside every pair, or every seed. Where an arm has pairs elsewhere, its rows without one
    are a pair of their own, `UNNAMED`, and those without a seed one seed, `UNNUMBERED`. `flagged`:
    the run carries a flag that is more than information.
    Cells that a flag calls impossible are empty, and stand in columns such as `as_given.score`.
    """
    frame = own_names(frame)
    columns = {str(name): frame[name] for name in frame}
    columns |= {name: numeric(frame, name) for name in NUMBERS}
    columns |= {name: _objects(frame, name) for name in (*NAMES, *TEXTS)}
    columns |= {name: _holding(frame, name, (tuple, list)) for name in TUPLES}
    columns |= {name: _holding(frame, name, (dict,)) for name in DICTS}
    columns |= _keys(frame, columns)
    data = _without_impossible(pd.DataFrame(columns))
    data["flagged"] = [
        any(map(casts_doubt, severities({"flags": own, "flag_severities": levels})))
        for own, levels in zip(data["flags"], data["flag_severities"], strict=True)
    ]
    data.columns = data.columns.astype(object)  # looked up by far faster than Arrow's strings
    return in_reading_order(data.drop_duplicates([*KEYS, "run_id", "rank"]))


def own_name(column: str) -> str:
    """The name that a column has here: a pair of encoders may be called a family, too."""
    return "pair" if column == "family" else column


def own_names(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame by its own names of columns, unless it has a pair already."""
    return frame if "pair" in frame else frame.rename(columns=own_name)


def _keys(frame: pd.DataFrame, columns: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """The columns that name a run, filled in where the frame does not say."""
    found: dict[str, pd.Series] = {"arm": columns["arm"].map(str, na_action="ignore")}
    for name in ("role", "adaptation", "distillation"):
        found[name] = _told_by_arm(columns["arm"], columns[name], name)
    status = columns["status"]
    found["status"] = status.where(status.isin(NOT_DONE), "done").astype(object)
    rows = pd.Series([f"row {i}" for i in range(len(frame))], index=frame.index, dtype=object)
    found["run_id"] = columns["run_id"].where(columns["run_id"].notna(), rows)
    for name in ("pair", "task"):
        values = columns[name]
        found[name] = values if values.notna().any() else values.map(lambda _: "all")
    seeds = frame["seed"] if "seed" in frame else pd.Series(0, index=frame.index)
    if seeds.isna().all():
        seeds = pd.Series(0, index=frame.index)
    for name, values in (("pair", found["pair"]), ("seed", seeds)):
        found[f"any_{name}"] = beside_every(pd.DataFrame({**found, name: values}), name)
    found["pair"] = found["pair"].mask(found["any_pair"], "all")
    found["pair"] = found["pair"].where(found["pair"].notna(), UNNAMED)
    lacking = seeds.isna()
    if lacking.any() or seeds.dtype.kind == "f":
        seeds = seeds.mask(lacking, UNNUMBERED).mask(lacking & found["any_seed"], 0)
        whole = pd.to_numeric(seeds, errors="coerce")
        if (whole == whole.round()).all():
            seeds = whole.astype(int)
    found["seed"] = seeds
    return found


def _told_by_arm(arms: pd.Series, given: pd.Series, name: str) -> pd.Series:
    """What is given, and where nothing is, what the arm says of itself."""
    read = {arm: getattr(Arm.read(arm), name) for arm in arms.dropna().unique()}
    return given.where(given.notna(), arms.map(read))


def beside_every(frame: pd.DataFrame, column: str) -> pd.Series:
    """Which rows stand beside every "pair", or every "seed".

    Those of an arm that never has one, and of an arm that has no use for a seed.
    """
    if f"any_{column}" in frame:
        return frame[f"any_{column}"]
    never = frame[column].isna().groupby(frame["arm"]).transform("all").eq(True)
    if column != "seed":
        return never
    adaptation = _told_by_arm(frame["arm"], _objects(frame, "adaptation"), "adaptation")
    return never | adaptation.isin(SEEDLESS)


def _without_impossible(data: pd.DataFrame) -> pd.DataFrame:
    """The cells that a flag calls impossible moved to columns of their own."""
    places: dict[str, list[int]] = {}
    for row, flags in enumerate(data["flags"]):
        for flag in flags:
            if str(flag).startswith(IMPOSSIBLE):
                places.setdefault(str(flag).removeprefix(IMPOSSIBLE), []).append(row)
    for column, rows in places.items():
        if column not in data:
            continue
        mask = np.zeros(len(data), dtype=bool)
        mask[rows] = True
        data[f"{AS_GIVEN}{column}"] = as_given(data, column).where(mask)
        data[column] = data[column].mask(mask, np.nan)
    return data


def as_given(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats, with the cells that `normalise` took for impossible."""
    found = numeric(frame, column)
    return found.where(found.notna(), numeric(frame, f"{AS_GIVEN}{column}"))


def numeric(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where absent or unreadable."""
    if column not in frame:
        return pd.Series(np.nan, index=frame.index, dtype=float)
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


def _objects(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        return pd.Series(None, index=frame.index, dtype=object)
    values = frame[name].astype(object)
    return values.where(values.notna(), None)


def _holding(frame: pd.DataFrame, name: str, kind: tuple[type, ...]) -> pd.Series:
    values = frame[name] if name in frame else [None] * len(frame)
    known = [v if isinstance(v, kind) else kind[0]() for v in values]
    return pd.Series(known, index=frame.index, dtype=object)


def plain_strings() -> ContextDecorator:
    """Meanwhile pandas keeps texts as Python's strings: of dozens of rows, Arrow's cost more."""
    return cast(ContextDecorator, pd.option_context("mode.string_storage", "python"))


def tidy(frame: pd.DataFrame | StudyFrame) -> pd.DataFrame:
    """The table of a study as it is described: ranks apart, and one metric a task.

    Rows without an arm or a task are left out. Raises InputError where there is nothing to
    describe, or where a task is scored by two metrics.
    """
    study = StudyFrame.of(frame)
    study.require("arm")
    return study.once("tidy", lambda: _tidy(study))


def _tidy(study: StudyFrame) -> pd.DataFrame:
    table = study.ranks_apart().table
    named = table["arm"].notna() & table["task"].notna()
    table = table if named.all() else table[named].reset_index(drop=True)
    if table.empty:
        raise InputError("the study has no cells: there is nothing to report")
    metrics = table.dropna(subset=["metric"]).groupby("task", sort=False)["metric"].unique()
    twice = [
        f"task '{task}' is scored by {' and '.join(sorted(found))}: a report compares one metric"
        for task, found in metrics.items()
        if len(found) > 1
    ]
    if twice:
        raise InputError(twice)
    return table


def in_reading_order(data: pd.DataFrame) -> pd.DataFrame:
    """Rows by pair and task as they come first, arms from teacher to baseline, then by seed."""
    arms = sorted(set(data["arm"].dropna()), key=lambda arm: Arm.read(arm).sort_key())
    order = {name: {value: i for i, value in enumerate(dict.fromkeys(data[name].dropna()))}
             for name in ("pair", "task")}  # fmt: skip
    order["arm"] = {arm: i for i, arm in enumerate(arms)}
    places = pd.DataFrame({name: data[name].map(known) for name, known in order.items()})
    places["seed"] = data["seed"]
    places = places.reset_index(drop=True).sort_values([*order, "seed"], kind="stable")
    return data.iloc[places.index].reset_index(drop=True)


def severities(row: dict[str, Any]) -> tuple[str, ...]:
    """One severity a flag; one that is not stated counts as a warning."""
    given = tuple(row["flag_severities"])
    return given + ("warning",) * (len(row["flags"]) - len(given))


def rows_of(frame: pd.DataFrame, *columns: str) -> list[dict[str, Any]]:
    """The rows as dicts; of a wide frame `columns` name what is read, and the others cost nothing.

    A column that the frame lacks is absent.
    """
    frame = frame[[name for name in columns if name in frame]] if columns else frame
    # pandas' own `to_dict` makes a series of every column, which takes five times as long
    named, rows = list(frame.columns), frame.to_numpy(dtype=object)
    return [dict(zip(named, map(_plain, row), strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    """A cell as Python has it."""
    if isinstance(value, np.generic):
        return value.item()
    return None if value is pd.NA else value


def groups(
    frame: pd.DataFrame, *by: str, columns: Collection[str] | None = None
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The groups of a frame in reading order; the key is a tuple, or a value for one column.

    `columns` are all that the groups need to have; without those they lack, hundreds of groups of
    a wide frame are made many times as fast.
    """
    if columns is not None:
        frame = frame[list(dict.fromkeys([*by, *columns]))]
    return iter(frame.groupby(list(by) if len(by) > 1 else by[0], sort=False))


def places(frame: pd.DataFrame, *by: str) -> Iterator[tuple[Any, np.ndarray]]:
    """The same groups as the places of their rows, for what needs a column or two of each.

    To take hundreds of frames apart costs more than all that is computed of them.
    """
    numbers = frame.groupby(list(by), sort=False).ngroup().fillna(-1).to_numpy(int)
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 0) :]  # rows without a key come first: -1
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    keys = [frame[key].to_numpy() for key in by]
    for rows in np.split(order, starts[1:]) if len(order) else ():
        key = tuple(column[rows[0]] for column in keys)
        yield key if len(by) > 1 else key[0], rows


def mean(values: np.ndarray) -> float:
    """The mean of what is known, to the last bit as pandas has it; NaN where nothing is."""
    known = ~np.isnan(values)
    n = int(known.sum())
    return float(np.where(known, values, 0.0).sum() / n) if n else float("nan")


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells that are done and have a score."""
    return frame[(frame["status"] == "done") & np.isfinite(frame["score"])]


def names(frame: pd.DataFrame, column: str, *, pair: str | None = None) -> list[str]:
    """The values of a column in reading order, of one pair or of all."""
    values = frame[column] if pair is None else frame.loc[frame["pair"] == pair, column]
    return values.unique().tolist()


def seeds_of(frame: pd.DataFrame) -> list[int]:
    """The seeds of the arms that have one."""
    return sorted({int(seed) for seed in frame.loc[~frame["any_seed"], "seed"]})


def directions(frame: pd.DataFrame) -> pd.Series:
    """+1 where more is better, -1 where less is, of each row's metric; NaN where nothing tells.

    As the row states, else as another row of its task and metric states, else as the metric says.
    """
    stated = numeric(frame, "direction")
    stated = stated.where(stated.isin([1.0, -1.0]))
    if "metric" not in frame or stated.notna().all():
        return stated
    own = [frame[key] for key in ("task", "metric") if key in frame]
    stated = stated.fillna(stated.groupby(own, dropna=False).transform("first"))
    known = {name: metric(name) for name in frame["metric"].unique()}
    said = {name: float(m.direction) if m.is_known else np.nan for name, m in known.items()}
    return stated.fillna(frame["metric"].map(said).astype(float))


def metrics_of(frame: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Each task's metric and direction, from its done cells; ("", +1) where none is done."""
    found: dict[str, tuple[str, int]] = dict.fromkeys(names(frame, "task"), ("", 1))
    if "metric" not in frame:
        return found
    columns = [name for name in ("task", "metric", "direction") if name in frame]
    rows = frame[columns].iloc[np.flatnonzero(frame["metric"].notna())]
    signs, stated = directions(rows).to_numpy(), rows["metric"].to_numpy()
    first: dict[Any, int] = {}  # arrays and a dict, as dozens of tables ask for this
    for i, task in enumerate(rows["task"].to_numpy()):
        first.setdefault(task, i)
    for task, i in first.items():
        found[task] = str(stated[i]), -1 if signs[i] == -1 else 1
    return found


def metric_of(frame: pd.DataFrame, task: str) -> tuple[str, int]:
    """That of one task. For several ask `metrics_of`, which reads the frame once."""
    return metrics_of(frame).get(task, ("", 1))
