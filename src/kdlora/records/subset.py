"""A part of a study: what `--where` keeps and `--without` drops, for every command that reads it.

    where task=rte, where task=mrpc, without student/dora, without pair=bert

Values of one column are alternatives, all columns must hold; `*` stands for anything. What is left
out is said wherever the rest is shown. What `column=value` means is decided here, for the arms that
`kdlora compare` is given (`evidence.scores.Selection`) as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.records.tidy import beside_every, own_name, own_names
from kdlora.vocabulary.arm import Arm, expression, matching

OF_ADAPTERS = ("rank", "alpha", "targets")  # what a fully fine-tuned model has none of
_TOLD = 40  # values that a message lists at most


@dataclass(frozen=True)
class StudyPart:
    """The part of a study that is asked for: these tasks (default all), and see `subset`."""

    tasks: Sequence[str] = ()
    where: Sequence[str] = ()
    without: Sequence[str] = ()


def subset(
    frame: pd.DataFrame, where: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[pd.DataFrame, str]:
    """The rows that are asked for, and a sentence on what was left out ("" where nothing is).

    Args:
        where: ``column=value`` or an arm; rows to which a column does not apply (the rank of a
            fully fine-tuned model, the seed of a baseline, the pair of an arm without) stay.
        without: an arm, a pattern of arms or ``column=value``.

    Raises InputError, with all problems at once, for what names nothing, and where nothing is left.
    """
    if not where and not without:
        return frame, ""
    frame = own_names(frame)
    problems = Problems()
    kept: dict[str, np.ndarray] = {}
    dropped = np.zeros(len(frame), bool)
    for text in where:
        found = _rows(frame, text, problems)
        if found is not None:
            column, rows = found
            kept[column] = kept.get(column, _free(frame, column)) | rows
    for text in without:
        found = _rows(frame, text, problems)
        if found is not None:
            dropped |= found[1]
    problems.raise_any()
    chosen = ~dropped
    for rows in kept.values():
        chosen &= rows
    told = _told(where, without)
    if not chosen.any():
        raise InputError(f"no run is left {told}")
    runs = frame["run_id"] if "run_id" in frame else pd.Series(frame.index, frame.index)
    n, total = runs[chosen].nunique(), runs.nunique()
    return frame[chosen], f"Of a part of the study, {told}: {n:,} of its {total:,} runs."


def _told(where: Sequence[str], without: Sequence[str]) -> str:
    parts = [f"with {', '.join(where)}"] * bool(where)
    parts += [f"without {', '.join(without)}"] * bool(without)
    return " and ".join(parts)


def _rows(frame: pd.DataFrame, text: str, problems: Problems) -> tuple[str, np.ndarray] | None:
    """The column that `text` is about, and the rows [n] that it names."""
    arms = list(map(str, frame["arm"].dropna().unique())) if "arm" in frame else []
    named = matching([text.strip()], arms)
    if named:
        return "arm", frame["arm"].isin(named).to_numpy()
    column, sign, value = (part.strip() for part in text.partition("="))
    column = own_name(column)
    if not sign:
        problems.add(
            f"'{text}' is no arm here, nor column=value such as task=rte.{did_you_mean(text, arms)}"
        )
    elif why := absent(frame, column):
        problems.add(f"'{text}': {why}")
    else:
        found = having(frame[column], value)
        if found.any():
            return column, found
        problems.add(f"'{text}': {unseen(frame[column], value)}")
    return None


def having(column: pd.Series, value: str) -> np.ndarray:
    """Which rows have this value, as text or as a number (42 is 42.0), or fit its `*`."""
    texts = column.map(_shown)
    found = texts.eq(value)
    if "*" in value:
        form = expression(value)
        found |= texts.map(lambda text: form.fullmatch(text) is not None)
    with suppress(ValueError):
        found |= pd.to_numeric(column, errors="coerce") == float(value)
    return (found & column.notna()).to_numpy(bool)


def absent(frame: pd.DataFrame, column: str) -> str:
    """That the column is not there, and which one may be meant; "" where it is there."""
    known = map(str, frame)
    return "" if column in frame else f"no column '{column}'.{did_you_mean(column, known)}"


def unseen(column: pd.Series, value: str) -> str:
    """That no row has the value, and which one may be meant."""
    known = sorted({_shown(v) for v in column.dropna()})
    more = did_you_mean(value, known) if 0 < len(known) <= _TOLD else ""
    return f"no row has it.{more}"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _free(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Rows to which a column does not apply."""
    if column in OF_ADAPTERS:
        adapted = frame["arm"].map(lambda arm: Arm.read(arm).has_adapter)
        return (frame[column].isna() & ~adapted).to_numpy(bool)
    if column in ("pair", "seed"):
        return beside_every(frame, column).to_numpy(bool)
    return np.zeros(len(frame), bool)
