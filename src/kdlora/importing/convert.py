"""From a foreign table, as it is, to the tidy frame: melt, rename, convert, name the arms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlora.errors import InputError, Problems
from kdlora.importing import read as foreign
from kdlora.importing.mapping import ColumnMapping, Mapping
from kdlora.importing.numbers import (
    INTEGERS,
    Decimal,
    is_nothing,
    plain_text,
    table_decimal,
    to_numbers,
)
from kdlora.records.plausible import as_fractions, flag_impossible, impossible_values
from kdlora.spec.fingerprint import hash_json
from kdlora.vocabulary.arm import GIVEN_TEACHER, ROLES, Arm, teaching_arm
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.task import TASKS

TEXT = (
    "task", "pair", "arm", "metric", "encoder", "teacher", "student", "precision", "device",
    "peak_memory_scope", "status", "error", "run_id", "teacher_run_id", "flags",
    "flag_severities",
)  # fmt: skip
# What trackers call a run's state -> what a record calls it.
STATES = {
    **dict.fromkeys(("done", "finished", "complete", "completed", "success", "succeeded"), "done"),
    **dict.fromkeys(("failed", "failure", "crashed", "killed", "error", "oom", "aborted",
                     "canceled", "cancelled", "out of memory", "diverged", "timeout"), "failed"),
    **dict.fromkeys(("missing", "running", "pending", "queued", "scheduled", "preempted",
                     "preempting"), "missing"),
    "stopped": "stopped",
}  # fmt: skip
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
    if mapping.melt:
        table = _melt(table, mapping, path)
    wrong = Problems()
    _require_columns(table, mapping, path, wrong)
    aggregate = pd.Series(False, index=table.index)
    for name, values in mapping.aggregates.items():
        if name in table:
            aggregate |= table[name].astype(str).isin(values)
    elsewhere = mapping.decimal or _decimal_of(table)
    reading = _Reading(mapping, elsewhere, wrong)
    frame = reading.convert(table[~aggregate])
    of_aggregates = _Reading(mapping, elsewhere, wrong)
    aggregates = of_aggregates.convert(table[aggregate])
    wrong.raise_any()
    sha = foreign.fingerprint(path)
    kept = [str(c) for c in table.columns if c not in {*mapping.consumed(), foreign.ROW}]
    for part in (frame, aggregates):
        rows = table.loc[part.index]
        for name in kept:
            own = name not in part and name not in (*LAST, "run_id")
            part[name if own else f"source.{name}"] = rows[name]
        if "status" not in part:
            part["status"] = "done"
            if path.is_file() and "score" in part:
                told = reading if part is frame else of_aggregates
                part["status"] = told.states_of_scores(part, rows)
        part["source"] = [f"{path.name}, {row}, sha256 {sha[:12]}" for row in rows[foreign.ROW]]
    frame["flags"] = _flags(frame, reading.flags)
    if "flag_severities" in frame:
        frame["flag_severities"] = frame["flag_severities"].map(_listed)
    frame = _identify(_unranked_once(frame, mapping).reset_index(drop=True), mapping)
    units = {name: column.unit for name, column in mapping.columns.items()}
    frame, per_cent = as_fractions(frame, units)
    aggregates, _ = as_fractions(aggregates, units)
    impossible = impossible_values(frame.drop(columns="flags"))
    frame["flags"] = flag_impossible(frame, impossible)
    named = [
        f"{p.column}: {p.sentence} ({_rows(len(p.rows))}, first: "
        f"{frame['source'].iloc[p.rows[0]]}); flagged, in no mean"
        for p in impossible
    ]
    return Imported(
        frame=frame[_order(frame)],
        aggregates=aggregates.reset_index(drop=True),
        problems=tuple(dict.fromkeys([*reading.notes, *per_cent, *named])),
        kept=tuple(kept),
        mapping=mapping,
        source=path.name,
        sha256=sha,
    )


def _flags(frame: pd.DataFrame, found: dict[Any, list[str]]) -> pd.Series:
    """The flags of each row; a score and the column of its metric are the same number."""
    given = frame["flags"] if "flags" in frame else pd.Series("", frame.index, dtype=object)
    metrics = frame["metric"] if "metric" in frame else pd.Series(None, frame.index, dtype=object)
    flags = []
    for index, cell, name in zip(frame.index, given, metrics, strict=True):
        own = [*_listed(cell), *found.get(index, [])]
        both = {"impossible:score", f"impossible:report.{name}"}
        flags.append(tuple(dict.fromkeys([*own, *(sorted(both) if both & set(own) else ())])))
    return pd.Series(flags, frame.index, dtype=object)


def _listed(cell: Any) -> tuple[str, ...]:
    """The names of a cell such as "diverged, barely_trained"."""
    return () if is_nothing(cell) else tuple(filter(None, re.split(r"[,\s]+", str(cell))))


def _rows(n: int) -> str:
    return f"{n} row{'s' * (n != 1)}"


def _require_columns(table: pd.DataFrame, mapping: Mapping, path: Path, wrong: Problems) -> None:
    """Raise InputError for a task, arm, metric or score that no column of the table gives."""
    for target, column in [*mapping.columns.items(), ("arm", mapping.arm)]:
        if column is None or target not in ("task", "score", "arm", "metric"):
            continue
        if not any(source in table for source in column.source):
            wrong.add(
                f"the mapping '{mapping.name}' reads '{target}' from "
                f"{' or '.join(column.source)}, which {path.name} does not have"
            )
    if wrong:
        wrong.add(f"columns found: {', '.join(c for c in map(str, table) if c != foreign.ROW)}")
        if mapping.path or path.is_dir():
            wrong.add(
                "in a folder these stand in the files, or in the paths that `path: (?P<task>...)` "
                "takes apart; names such as rte-kd-lora-seed1 are understood without it"
            )
    wrong.raise_any()


def _decimal_of(table: pd.DataFrame) -> Decimal | None:
    """How the table as a whole writes decimals."""
    texts = [
        [cell for cell in table[name] if isinstance(cell, str)]
        for name in table
        if not pd.api.types.is_numeric_dtype(table[name]) and name != foreign.ROW
    ]
    fractions = any(
        pd.api.types.is_float_dtype(table[name]) and (table[name].dropna() % 1 != 0).any()
        for name in table
    )
    # numbers that were read as such already had points
    return table_decimal([*texts, ["0.5"]] if fractions else texts)


@dataclass
class _Reading:
    """One table read by one mapping, and what was noticed on the way.

    `notes` are told and kept with the import; `wrong` is what keeps the table from being read;
    `flags` are those of single rows, by their index; `written` the cells of columns that hold more
    than a number.
    """

    mapping: Mapping
    elsewhere: Decimal | None
    wrong: Problems
    notes: list[str] = field(default_factory=list)
    flags: dict[Any, list[str]] = field(default_factory=dict)
    written: dict[str, pd.Series] = field(default_factory=dict, repr=False)

    def convert(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns that the mapping names, in tidy units, with the axes and the score."""
        out = pd.DataFrame(index=table.index)
        for target, column in self.mapping.columns.items():
            if any(source in table for source in column.source):
                out[target] = self.column(table, target, column)
        out = out.assign(**{f"{name}.as_written": cells for name, cells in self.written.items()})
        nothing = pd.Series(pd.NA, table.index, dtype=object)
        arms = self.text(table, self.mapping.arm) if self.mapping.arm else out.get("arm", nothing)
        if not self.mapping.arm and "arm" in self.mapping.set:
            arms = pd.Series(str(self.mapping.set["arm"]), table.index, dtype=object)
        out = out.assign(**self.axes(arms))
        for target, value in self.mapping.set.items():
            if target != "arm":
                out[target] = value
        if "status" in out:
            out["status"] = self.states(out["status"])
        self.score(out, table)
        return out

    def text(self, table: pd.DataFrame, column: ColumnMapping) -> pd.Series:
        """What a column says, renamed by `values`; templates are filled from the row."""
        values = _joined(table, column)
        if not column.values:
            return values

        def renamed(index: Any) -> Any:
            value = values[index]
            if is_nothing(value):
                return pd.NA
            template = column.values.get(str(value), column.values.get("*", str(value)))
            if "{" not in template:
                return template
            row = {str(k): _plain(v) for k, v in table.loc[index].items()}
            try:
                return template.format_map(row)
            except KeyError as error:
                self.wrong.add(
                    f"the mapping's value '{template}' needs the column {error}, which is not there"
                )
            except (ValueError, IndexError, AttributeError) as error:
                self.wrong.add(f"the mapping's value '{template}' cannot be filled in: {error}")
            return pd.NA

        return pd.Series([renamed(i) for i in table.index], index=table.index, dtype=object)

    def column(self, table: pd.DataFrame, target: str, column: ColumnMapping) -> pd.Series:
        """A column's texts, series or numbers; what cannot be read becomes a note."""
        if target in TEXT:
            return self.text(table, column).astype(object)
        if column.series:
            return _series(_joined(table, column), target, self.notes)
        present = [s for s in column.source if s in table]
        one = len(present) == 1 and not column.values
        raw = table[present[0]] if one else self.text(table, column)
        if self.scores_tell_states and _is_score(target):
            ended = raw.map(lambda cell: _state_of(cell) is not None).astype(bool)
            raw = raw.mask(ended) if ended.any() else raw
        found = to_numbers(
            raw,
            target,
            unit=column.unit,
            decimal=column.decimal or self.mapping.decimal,
            elsewhere=self.elsewhere,
        )
        places = table[foreign.ROW]
        for reason, rows in found.problems.items():
            where = f"{_rows(len(rows))}, first: {places.iloc[rows[0]]}"
            self.notes.append(f"{target}: {raw.iloc[rows[0]]!r} {reason} ({where}); left out")
        self.notes += found.notes
        if found.beside:
            self.written[target] = raw.where(raw.notna(), None).astype(object)
            self.notes.append(
                f"{target}: {raw.iloc[found.beside[0]]!r} and other cells "
                f"({len(found.beside)} in all) hold a second number, which is no run's: the first "
                f"is read, and the cells are kept as '{target}.as_written'"
            )
        if found.doubtful:
            for position in found.doubtful:
                self.flags.setdefault(raw.index[position], []).append(f"impossible:{target}")
            self.notes.append(
                f"{target}: {raw.iloc[found.doubtful[0]]!r} among per cents is a fraction, perhaps "
                f"({_rows(len(found.doubtful))}, first: {places.iloc[found.doubtful[0]]}); "
                "flagged, in no mean"
            )
        numbers = found.values
        if target in INTEGERS and numbers.notna().all() and np.isfinite(numbers).all():
            whole = numbers.round()
            if (whole == numbers).all() and (whole.abs() < 2**53).all():
                return whole.astype("int64")
        return numbers

    def axes(self, arms: pd.Series) -> dict[str, pd.Series]:
        """role, adaptation and distillation of each arm's name; an arm must have a role."""
        arms = arms.map(lambda arm: None if is_nothing(arm) else str(arm).strip()).astype(object)
        parsed = {name: Arm.read(name) for name in arms.dropna().unique()}
        unread = [
            repr(name)
            for name, arm in parsed.items()
            if arm.role not in (*ROLES, "baseline") or not arm.adaptation
        ]
        if unread:
            more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
            self.wrong.add(
                f"the mapping '{self.mapping.name}' does not say which arm these are: "
                f"{', '.join(unread[:8])}{more}; give each under `arm: values:` as "
                "role/adaptation, such as teacher/fft or student/kd-lora"
            )
        if arms.isna().any():
            self.notes.append(f"arm: {_rows(int(arms.isna().sum()))} without an arm: in no mean")
        axes = {"arm": arms}
        for part in ("role", "adaptation", "distillation"):
            named = {name: getattr(arm, part) for name, arm in parsed.items()}
            axes[part] = arms.map(named).astype(object)
        return axes

    def states(self, told: pd.Series) -> pd.Series:
        """What a tracker says of its runs as the states of records; an empty cell is done."""
        found = told.map(lambda s: "done" if is_nothing(s) else STATES.get(str(s).strip().lower()))
        unknown = sorted({repr(str(s)) for s in told[found.isna()]})
        if unknown:
            self.wrong.add(
                f"status: {', '.join(unknown[:8])} is no state that is known; give each under "
                "`status: {from: COLUMN, values: {...}}` as done, failed, missing or stopped"
            )
        ended = found[found.ne("done")].value_counts()
        for state, n in ended.items():
            self.notes.append(f"status: {_rows(int(n))} {state}; in no mean")
        return found.astype(object)

    @property
    def scores_tell_states(self) -> bool:
        """Whether a score's cell may say how its run ended, for nothing else does."""
        return "status" not in {*self.mapping.columns, *self.mapping.set}

    def states_of_scores(self, out: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
        """done, missing where the cell of the score is empty, failed where it says "OOM".

        A run whose metric has no column at all is done, and lacks its score.
        """
        cells = pd.Series(pd.NA, table.index, dtype=object)
        has_column = pd.Series(False, table.index)
        metrics = out.get("metric", cells)
        for target, column in self.mapping.columns.items():
            if target == "score" or target.startswith("report."):
                own = metrics.eq(target.removeprefix("report.")).fillna(False).astype(bool)
                own |= target == "score"
                has_column |= own
                cells = cells.where(cells.notna() | ~own, _joined(table, column))
        unread = out["score"].isna() & has_column
        told = [
            "done" if not missing else "missing" if is_nothing(cell) else _state_of(cell) or "done"
            for cell, missing in zip(cells, unread, strict=True)
        ]
        return self.states(pd.Series(told, out.index, dtype=object))

    def score(self, out: pd.DataFrame, table: pd.DataFrame) -> None:
        """Fill in metric, direction, score and the metric's own column, each from the others."""
        tasks = out.get("task", pd.Series(pd.NA, out.index, dtype=object))
        if "metric" not in out and tasks.notna().any():
            known = {name: task.primary for name, task in TASKS.items()}
            known |= self.mapping.metric_of_task
            out["metric"] = tasks.map(lambda name: known.get(str(name))).astype(object)
            unknown = sorted({str(n) for n in tasks[out["metric"].isna()].dropna()})
            if unknown:
                self.notes.append(
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
            selected = f"selection.{name}"
            if selected in out:
                chosen = out.get("selection_score", pd.Series(np.nan, out.index))
                out["selection_score"] = chosen.where(~mine | chosen.notna(), out[selected])
        if "epoch_scores" not in out:
            _history_of_primary(out, table, self.mapping)


def _is_score(target: str) -> bool:
    return target == "score" or target.startswith(("report.", "selection."))


def _state_of(cell: Any) -> str | None:
    """What a word in a score's cell says of its run, such as "OOM"; None for numbers and others."""
    if not isinstance(cell, str):
        return None
    return STATES.get(re.sub(r"[-_\s]+", " ", plain_text(cell).lower()).strip(" ."))


def _joined(table: pd.DataFrame, column: ColumnMapping) -> pd.Series:
    """The first source that says something, or all of them side by side."""
    present = [table[source] for source in column.source if source in table]
    values = pd.Series(pd.NA, index=table.index, dtype=object)
    if column.join is not None:
        rows = zip(*present, strict=True)
        cells = [[_plain(c) for c in row if not is_nothing(c)] for row in rows]
        texts = [column.join.join(map(str, row)) if row else pd.NA for row in cells]
        return pd.Series(texts, index=table.index, dtype=object)
    for source in present:
        values = values.where(values.notna(), source.astype(object))
    return values


def _plain(cell: Any) -> Any:
    """8.0 as 8: whole numbers of a column that has empty cells are floats in pandas."""
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


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
    if "run_id" in frame and frame["run_id"].notna().all():
        if not frame["run_id"].is_unique:
            twice = frame.loc[frame["run_id"].duplicated(), "run_id"].iloc[0]
            raise InputError(
                f"run_id: {twice!r} stands in several rows; map a column of unique ids"
            )
    else:
        frame = frame.assign(run_id=ids)
    keys = list(mapping.teacher_run)
    if "teacher_run_id" in frame:
        return frame
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
