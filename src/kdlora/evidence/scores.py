"""Scores made comparable: finished and finite, more is better, in points; and naming some of them.

Scores are turned by their metric's direction and put in points (hundredths) where the metric is
shown so (`vocabulary.metric`). Whatever is left out is named in a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.errors import InputError, did_you_mean
from kdlora.evidence.result import Rules
from kdlora.records.plausible import LARGEST
from kdlora.records.subset import absent, having, unseen
from kdlora.records.tidy import UNNAMED, UNNUMBERED, StudyFrame, directions, own_name
from kdlora.vocabulary.arm import matching
from kdlora.vocabulary.metric import POINTS, Metric, metric

KEYS = ("pair", "task", "seed")


@dataclass(frozen=True)
class Selection:
    """An arm (or a pattern such as ``student/kd-*``) and further columns' values.

    A pattern means the average over its arms, in cells where all of them are present.
    """

    arm: str
    where: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str | Selection) -> Selection:
        """Read ``arm[,column=value...]``, e.g. ``student/kd-lora,rank=8,pair=bert``."""
        if isinstance(text, Selection):
            return text
        # a value may hold commas (targets=query,value), and a label an equals sign
        arm, *filters = (part.strip() for part in re.split(r",(?=[^][,=]+=)", text))
        if not arm or "," in arm:
            raise InputError(
                f"cannot read '{text}': write arm or arm,column=value, such as student/kd-lora or "
                "student/kd-lora,rank=8"
            )
        pairs = (f.split("=", 1) for f in filters)
        return cls(arm, tuple((own_name(k.strip()), v.strip()) for k, v in pairs))

    def __str__(self) -> str:
        return ",".join([self.arm, *(f"{k}={v}" for k, v in self.where)])

    def arms(self, known: Iterable[str]) -> list[str]:
        """The arms of these that are meant."""
        return matching([self.arm], map(str, known))

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows meant. Raises InputError for a column that the frame lacks."""
        return frame[self.mask(frame)]

    def mask(self, frame: pd.DataFrame) -> pd.Series:
        """Which rows are meant. Raises InputError for a column that the frame lacks."""
        chosen = frame["arm"].isin(self.arms(frame["arm"].unique()))
        for column, value in self.where:
            if why := absent(frame, column):
                raise InputError(f"'{self}': {why}")
            chosen &= having(frame[column], value)
        return chosen

    def faults(self, frame: pd.DataFrame) -> list[str]:
        """What of it names nothing in a whole study, in which runs that are still to do count."""
        return [
            absent(frame, column) or unseen(frame[column], value)
            for column, value in self.where
            if column not in frame or not having(frame[column], value).any()
        ]


def finished_runs(
    frame: StudyFrame | pd.DataFrame, column: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Finished runs with a finite number in `column` as `value`; notes on what was left out.

    A run that stands beside every pair or seed has none of its own here. Raises InputError for a
    column that is not there.
    """
    study = StudyFrame.of(frame)
    return study.once(("finished", column), lambda: _finished(study, column))


def _finished(study: StudyFrame, column: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    study.require("arm", "task", column)
    frame, notes = study.table, []
    nameless = frame["arm"].isna() | frame["task"].isna()
    if nameless.any():
        notes.append(f"{int(nameless.sum())} rows without an arm or a task: left out")
        frame = frame[~nameless]
    notes += _unfinished(frame)
    frame = frame[frame["status"].eq("done")]
    values = numbers(frame[column])
    finite = np.isfinite(values)
    if not finite.all():
        notes.append(f"{_runs(frame[~finite])} without a finite {column}: left out")
    frame = frame[finite]
    for key, value in (("pair", UNNAMED), ("seed", UNNUMBERED)):
        alone = frame[key].eq(value)
        if alone.any():
            notes.append(
                f"{_runs(frame[alone])} without a {key}, where others of their arms have one: "
                f"compared with one another alone, as {key} {value}"
            )
    own = {
        key: frame[key].astype(object).mask(frame[f"any_{key}"], None)
        for key in ("pair", "seed")
        if frame[f"any_{key}"].any() and not frame[f"any_{key}"].all()
    }
    return frame.assign(**own, value=values[finite]), tuple(notes)


def unit_problems(frame: StudyFrame | pd.DataFrame, margin_unit: str, score: str) -> list[str]:
    """Why a margin in this unit would judge nothing; none for points, which need not be there."""
    if margin_unit == POINTS:
        return []
    names = map(str, _metric_names(StudyFrame.of(frame).table, score).dropna().unique())
    known = {POINTS, *(metric(name).unit if metric(name).name else score for name in names)}
    if margin_unit in known:
        return []
    return [f"margin_unit is '{margin_unit}'.{did_you_mean(margin_unit, known)}"]


def check_rules(frame: StudyFrame | pd.DataFrame, rules: Rules, score: str) -> None:
    """Raises InputError for a margin that would judge nothing."""
    if problems := unit_problems(frame, rules.margin_unit, score):
        raise InputError(problems, where="rules of the comparison")


def usable_runs(
    frame: StudyFrame | pd.DataFrame, score: str = "score"
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Finished runs with `value` in `unit` (points or the metric's own) and more being better.

    The metric says which, whatever the scores are; what it cannot be is left out. Raises
    InputError for a column that is not there.
    """
    study = StudyFrame.of(frame)
    return study.once(("usable", score), lambda: _usable(study, score))


def _usable(study: StudyFrame, score: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    frame, found = finished_runs(study, score)
    frame, notes = frame.assign(metric=_metric_names(frame, score)), list(found)
    known = {str(name): metric(str(name)) for name in frame["metric"].unique()}
    of_row = [known[str(name)] for name in frame["metric"]]
    frame["unit"] = [one.unit if one.name else score for one in of_row]
    values = frame["value"].to_numpy(float)
    possible = np.array([one.possible(v) for one, v in zip(of_row, values, strict=True)], bool)
    factor = np.array([one.factor for one in of_row])
    frame["value"] = values * factor * _directions(frame, of_row, score, notes)
    for name, rows in frame[~possible].groupby("metric"):
        low, high = known[str(name)].low, known[str(name)].high
        notes.append(
            f"{_runs(rows)} with a {score} that {name} cannot have (it lies in [{low:g}, "
            f"{high:g}]; per cents are divided by 100 at import): left out"
        )
    return frame[possible], tuple(notes)


def stopped_somewhere(frame: StudyFrame | pd.DataFrame) -> set[str]:
    """Arms that an early decision ended in some cell: in the others they are a chosen few, so
    tables of cells that all arms share are made without them."""
    table = StudyFrame.of(frame).table
    return set(table.loc[table["status"].eq("stopped"), "arm"])


def _unfinished(frame: pd.DataFrame) -> list[str]:
    """Notes on cells without a result: those still to do, and those stopped on purpose."""
    notes = []
    open_ = int(frame["status"].isin(["missing", "failed"]).sum())
    if open_:
        notes.append(f"{open_} cells have no finished run")
    stopped = frame[frame["status"].eq("stopped")]
    if len(stopped):
        notes.append(
            f"{len(stopped)} cells were stopped early by successive halving "
            f"({', '.join(f'{arm} {n}' for arm, n in stopped['arm'].value_counts().items())}): "
            "these arms have scores only where they were among the better ones on the selection "
            "split, which flatters them"
        )
    return notes


def _directions(
    frame: pd.DataFrame, metrics: list[Metric], score: str, notes: list[str]
) -> np.ndarray:
    """+1 or -1 [rows]: as the frame states, else as the metric says, else +1 with a note."""
    if score in ("score", "selection_score"):
        direction = directions(frame).to_numpy(float)
    else:
        direction = np.array([one.direction if one.is_known else np.nan for one in metrics], float)
    unknown = sorted({str(m) or score for m in frame["metric"][np.isnan(direction)]})
    if unknown:
        notes.append(f"more is taken to be better for {', '.join(unknown)}")
    return np.where(np.isnan(direction), 1.0, direction)


def _metric_names(frame: pd.DataFrame, score: str) -> pd.Series:
    """The metric in each row: of a column such as `report.macro_f1` it is its last part."""
    if "." in score:
        return pd.Series(score.rsplit(".", 1)[1], index=frame.index, dtype=object)
    return frame["metric"].where(frame["metric"].notna(), "")


def _runs(rows: pd.DataFrame) -> str:
    """How many runs these are, and the first of them."""
    places = labels(rows[:3], ("arm", *KEYS))
    return f"{len(rows)} runs ({', '.join(places)}{', ...' if len(rows) > 3 else ''})"


def numbers(column: pd.Series) -> np.ndarray:
    """A column as floats: NaN where it holds no number or a huge one, 0 where it is tiny."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    values = np.where(np.abs(values) < LARGEST, values, np.nan)
    return np.where(np.abs(values) < 1 / LARGEST, 0.0, values)


def labels(frame: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Rows as text, `value/value/...`."""
    parts = [map(str, frame[c]) for c in columns]
    return ["/".join(row) for row in zip(*parts, strict=True)]
