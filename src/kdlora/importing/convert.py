"""From a foreign table, as it is, to the tidy frame: melt, rename, convert, name the arms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.importing import read as foreign
from kdlora.importing.mapping import ColumnMapping, Mapping, to_numbers
from kdlora.records.plausible import as_fractions, flag_impossible, impossible_values
from kdlora.spec.fingerprint import hash_json
from kdlora.vocabulary.arm import GIVEN_TEACHER, ROLES, Arm, teaching_arm
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.task import TASKS

TEXT = (
    "task", "pair", "arm", "metric", "encoder", "teacher", "student", "precision", "device",
    "peak_memory_scope",
)  # fmt: skip
INTEGERS = ("seed", "rank", "batch_size", "epochs", "max_length", "n_report", "n_classes")
FIRST = (
    "run_id", "pair", "task", "role", "adaptation", "distillation", "arm", "seed", "rank",
    "alpha", "lr", "batch_size", "epochs", "max_length", "precision", "device", "encoder",
    "teacher", "student", "teacher_run_id", "metric", "direction", "score", "selection_score",
)  # fmt: skip
LAST = ("flags", "status", "source")


@dataclass(frozen=True)
class Imported:
    """A foreign table as a tidy frame, with what was noticed on the way."""

    frame: pd.DataFrame
    aggregates: pd.DataFrame  # tidy rows that sum others up ("Score"); no runs
    problems: tuple[str, ...]
    kept: tuple[str, ...]  # foreign columns that live on under their own names
    mapping: Mapping
    source: str
    sha256: str


def tidy(table: pd.DataFrame, mapping: Mapping, path: Path) -> Imported:
    """Apply a mapping to a table that `foreign` read from `path`.

    Raises InputError when the task, arm, metric or score cannot be read at all; anything wrong
    with single cells is named in `problems`.
    """
    problems: list[str] = []
    if mapping.melt:
        table = _melt(table, mapping, path)
    missing = [
        f"the mapping '{mapping.name}' reads '{target}' from {' or '.join(column.source)}, "
        f"which {path.name} does not have"
        for target, column in [*mapping.columns.items(), ("arm", mapping.arm)]
        if column is not None and target in ("task", "score", "arm", "metric")
        if not any(source in table for source in column.source)
    ]
    if missing:
        raise InputError([*missing, f"columns found: {', '.join(map(str, table.columns))}"])

    aggregate = pd.Series(False, index=table.index)
    for name, values in mapping.aggregates.items():
        if name in table:
            aggregate |= table[name].astype(str).isin(values)
    sha = foreign.fingerprint(path)
    frame = _convert(table[~aggregate], mapping, problems)
    aggregates = _convert(table[aggregate], mapping, [])
    kept = [str(c) for c in table.columns if c not in {*mapping.consumed(), foreign.ROW}]
    for part in (frame, aggregates):
        rows = table.loc[part.index]
        for name in kept:
            part[name if name not in part else f"source.{name}"] = rows[name]
        part["status"] = "done"
        part["source"] = [f"{path.name}, {row}, sha256 {sha[:12]}" for row in rows[foreign.ROW]]
    frame = _identify(_unranked_once(frame, mapping).reset_index(drop=True), mapping)
    units = {name: column.unit for name, column in mapping.columns.items()}
    frame, per_cent = as_fractions(frame, units)
    aggregates, _ = as_fractions(aggregates, units)
    problems += per_cent
    impossible = impossible_values(frame)
    frame["flags"] = flag_impossible(frame, impossible)
    problems += [
        f"{p.column}: {p.sentence} ({len(p.rows)} rows, first: {frame['source'].iloc[p.rows[0]]})"
        for p in impossible
    ]
    return Imported(
        frame=frame[_order(frame)],
        aggregates=aggregates.reset_index(drop=True),
        problems=tuple(problems),
        kept=tuple(kept),
        mapping=mapping,
        source=path.name,
        sha256=sha,
    )


def _convert(table: pd.DataFrame, mapping: Mapping, problems: list[str]) -> pd.DataFrame:
    """The columns that the mapping names, in tidy units, with the axes and the score."""
    out = pd.DataFrame(index=table.index)
    for target, column in mapping.columns.items():
        if any(source in table for source in column.source):
            out[target] = _column(table, target, column, problems)
    nothing = pd.Series(pd.NA, table.index, dtype=object)
    arms = _text(table, mapping.arm) if mapping.arm else out.get("arm", nothing)
    out = out.assign(**_axes(arms, mapping, problems))
    for target, value in mapping.set.items():
        out[target] = value
    _score(out, table, mapping, problems)
    return out


def _melt(table: pd.DataFrame, mapping: Mapping, path: Path) -> pd.DataFrame:
    assert mapping.melt is not None
    names = pd.Series([c for c in table.columns if c != foreign.ROW])
    groups = names.str.extract(mapping.melt.columns)
    wide = names[groups.notna().any(axis=1)].tolist()
    if not wide:
        raise InputError(
            f"{path.name}: no column is named like {mapping.melt.columns!r}; "
            f"columns found: {', '.join(names)}"
        )
    long = table.melt(
        id_vars=[c for c in table.columns if c not in wide],
        value_vars=wide,
        var_name="__column",
        value_name=mapping.melt.value,
    )
    parts = groups.assign(__column=names).set_index("__column")
    long = long.join(parts, on="__column")
    long[foreign.ROW] = long[foreign.ROW] + ", column " + long["__column"].astype(str)
    return long.drop(columns="__column")


def _text(table: pd.DataFrame, column: ColumnMapping) -> pd.Series:
    """First non-empty source, renamed by `values`; templates are filled from the row."""
    values = pd.Series(pd.NA, index=table.index, dtype=object)
    for source in column.source:
        if source in table:
            values = values.where(values.notna(), table[source].astype(object))
    if not column.values:
        return values

    def renamed(index: Any) -> Any:
        value = values[index]
        if pd.isna(value):
            return value
        template = column.values.get(str(value), column.values.get("*", str(value)))
        if "{" not in template:
            return template
        try:
            return template.format_map({str(k): v for k, v in table.loc[index].items()})
        except KeyError as error:
            raise InputError(
                f"the mapping's value '{template}' needs the column {error}, which is not there"
            ) from None

    return pd.Series([renamed(i) for i in table.index], index=table.index, dtype=object)


def _column(
    table: pd.DataFrame, target: str, column: ColumnMapping, problems: list[str]
) -> pd.Series:
    if target in TEXT:
        return _text(table, column).astype(object)
    raw = pd.Series(pd.NA, index=table.index, dtype=object)
    present = [s for s in column.source if s in table]
    if len(present) == 1:
        raw = table[present[0]]
    else:
        for source in present:
            raw = raw.where(raw.notna(), table[source].astype(object))
    if column.series:
        return _series(raw, target, problems)
    if column.values:
        raw = _text(table, column)
    numbers, bad = to_numbers(raw, target, unit=column.unit)
    for reason, rows in bad.items():
        cell = raw.iloc[rows[0]]
        where = table[foreign.ROW].iloc[rows[0]]
        problems.append(f"{target}: {cell!r} {reason} ({len(rows)} rows, first: {where}); left out")
    if target in INTEGERS and numbers.notna().all() and np.isfinite(numbers).all():
        whole = numbers.round()
        if (whole == numbers).all():
            return whole.astype("int64")
    return numbers


def _series(raw: pd.Series, target: str, problems: list[str]) -> pd.Series:
    cells: list[tuple[float, ...] | None] = []
    bad = 0
    for cell in raw:
        if cell is None or (not isinstance(cell, list | tuple | np.ndarray) and pd.isna(cell)):
            cells.append(None)
            continue
        items = cell.split() if isinstance(cell, str) else np.atleast_1d(cell)
        try:
            cells.append(tuple(float(item) for item in items))
        except (TypeError, ValueError):
            bad += 1
            cells.append(None)
    if bad:
        problems.append(f"{target}: {bad} rows hold something else than numbers; left out")
    return pd.Series(cells, index=raw.index, dtype=object)


def _axes(arms: pd.Series, mapping: Mapping, problems: list[str]) -> dict[str, pd.Series]:
    """role, adaptation and distillation of each arm's name; an arm must have a role."""
    parsed: dict[str, Arm] = {}
    wrong: list[str] = []
    for name in arms.dropna().unique():
        parsed[name] = arm = Arm.read(name)
        if arm.role not in (*ROLES, "baseline") or not arm.adaptation:
            wrong.append(str(name))
    if wrong:
        raise InputError(
            f"the mapping '{mapping.name}' does not say which arm these are: "
            f"{', '.join(repr(w) for w in wrong[:8])}; give each under `arm: values:` as "
            "role/adaptation, such as teacher/fft or student/kd-lora"
        )
    if arms.isna().any():
        problems.append(f"arm: {int(arms.isna().sum())} rows say nothing of their arm")
    axes = {"arm": arms.astype(object)}
    for part in ("role", "adaptation", "distillation"):
        named = {name: getattr(arm, part) for name, arm in parsed.items()}
        axes[part] = arms.map(named).astype(object)
    return axes


def _score(out: pd.DataFrame, table: pd.DataFrame, mapping: Mapping, problems: list[str]) -> None:
    """Fill in metric, direction, score and the metric's own column, each from the others."""
    tasks = out.get("task", pd.Series(pd.NA, out.index, dtype=object))
    if "metric" not in out and tasks.notna().any():
        known = {name: task.primary for name, task in TASKS.items()} | mapping.metric_of_task
        out["metric"] = tasks.map(lambda name: known.get(str(name)))
        unknown = sorted({str(n) for n in tasks[out["metric"].isna()].dropna()})
        if unknown:
            problems.append(
                f"metric: not known for the tasks {', '.join(unknown)}; "
                "name it under `metric_of_task`"
            )
    if "metric" not in out:
        return
    metrics = out["metric"]
    out["direction"] = metrics.map(lambda m: metric(str(m)).direction).astype("int64")
    for name in metrics.dropna().unique():
        column = f"report.{name}"
        mine = metrics == name
        if column not in out and "score" in out:
            out[column] = out["score"].where(mine)
        if "score" not in out:
            out["score"] = np.nan
        if column in out:
            out["score"] = out["score"].where(~(mine & out["score"].isna()), out[column])
    if "epoch_scores" not in out:
        _history_of_primary(out, table, mapping)


def _history_of_primary(out: pd.DataFrame, table: pd.DataFrame, mapping: Mapping) -> None:
    """A Trainer's history holds every metric; the one that makes the score is wanted."""
    cells: list[tuple[float, ...] | None] = [None] * len(out)
    for name in out["metric"].dropna().unique():
        column = mapping.columns.get(f"report.{name}")
        for source in column.source if column else ():
            history = f"history.{source}"
            if history in table:
                for position in np.flatnonzero((out["metric"] == name).to_numpy()):
                    text = table[history].iloc[position]
                    if isinstance(text, str) and cells[position] is None:
                        cells[position] = tuple(float(item) for item in text.split())
    if any(cell is not None for cell in cells):
        out["epoch_scores"] = pd.Series(cells, index=out.index, dtype=object)


def _unranked_once(frame: pd.DataFrame, mapping: Mapping) -> pd.DataFrame:
    """A full fine-tuning that a table repeats under every rank is one row without a rank."""
    if "rank" not in frame or not mapping.melt or "adaptation" not in frame:
        return frame
    unranked = frame["adaptation"].isin(mapping.unranked)
    frame = frame.assign(rank=frame["rank"].astype(float).where(~unranked))
    same = [c for c in frame.columns if c not in ("source", "epoch_scores", "epoch_losses")]
    return frame[~(unranked & frame.duplicated(subset=same))]


def _identify(frame: pd.DataFrame, mapping: Mapping) -> pd.DataFrame:
    """run_id of every row (its place in the source hashed) and of its teacher, where there is."""
    ids = [
        f"{_part(row.get('task'))}-{Arm.read(_part(row.get('arm'))).slug}"
        f"-s{_part(row.get('seed'))}-{hash_json(row['source'], 12)}"
        for row in frame[[c for c in ("task", "arm", "seed", "source") if c in frame]].to_dict(
            "records"
        )
    ]
    frame = frame.assign(run_id=ids)
    keys = list(mapping.teacher_run)
    if not keys or not set(keys) <= set(frame.columns):
        return frame
    arms = list(dict.fromkeys(frame["arm"].dropna()))
    teaches = str(teaching_arm(arms, given=str(GIVEN_TEACHER) in arms))
    teachers = frame[frame["arm"] == teaches].drop_duplicates(keys)
    by_key = dict(
        zip(teachers[keys].itertuples(index=False, name=None), teachers["run_id"], strict=True)
    )
    kd = (frame["distillation"] == "kd").to_numpy()
    found = [
        by_key.get(key) if distilled else None
        for key, distilled in zip(frame[keys].itertuples(index=False, name=None), kd, strict=True)
    ]
    return frame.assign(teacher_run_id=pd.Series(found, frame.index, dtype=object))


def _part(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "x"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _order(frame: pd.DataFrame) -> list[str]:
    first = [c for c in FIRST if c in frame]
    last = [c for c in LAST if c in frame]
    return [*first, *(c for c in frame.columns if c not in {*first, *last}), *last]
