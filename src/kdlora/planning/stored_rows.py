"""What a study keeps of the rows of its tasks: texts, and what sorts them into slices."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlora.data.checks.tokens import read_tokenizers, token_lengths
from kdlora.data.examples import Examples, TaskData
from kdlora.data.own_task import HELD_OUT
from kdlora.planning.data_looks import Rules
from kdlora.records.rows import TaskRows, make_rows, write_rows
from kdlora.spec.plan import Plan
from kdlora.spec.run import EncoderRun, Run
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import is_missing, is_structured, open_table, read_table, text_of
from kdlora.tables.templates import columns_of
from kdlora.vocabulary.task import as_number

MOST_VALUES = 20  # different values of a column that sorts rows into slices; numbers are binned
_SCRIPT_LETTERS = 200  # of a text, that tell its script


def keep_rows(
    plan: Plan, loaded: Mapping[str, TaskData], root: Path, *, texts: bool, rules: Rules
) -> None:
    """Write the rows of every task that is read below a study's folder, with or without texts."""
    runs: dict[str, list[Run]] = {name: [] for name in loaded}
    for run in plan.runs:
        if run.task.name in runs:
            runs[run.task.name].append(run)
    for name, data in loaded.items():
        write_rows(rows_of(data, runs[name], texts=texts, rules=rules), root, name)


def rows_of(data: TaskData, runs: Sequence[Run], *, texts: bool, rules: Rules) -> TaskRows:
    """All rows of a task. Tokens are those of a student's input, counted on the report split."""
    parts = data.splits()
    tokens = {name: np.full(len(part), np.nan) for name, part in parts.items()}
    readers = [r for r in runs if isinstance(r, EncoderRun)]
    student = next((r for r in readers if r.role == "student"), next(iter(readers), None))
    if student is not None:
        training = student.training
        wanted = [(student.encoder, training.max_length, training.windows)]
        tokenizers, _ = read_tokenizers(wanted, rules)
        if tokenizers and len(parts["report"]):
            tokens["report"] = token_lengths(tokenizers[0].tokenizer, parts["report"].texts) * 1.0
    facts = pd.DataFrame(
        {
            "split": [name for name, part in parts.items() for _ in range(len(part))],
            "example_id": np.concatenate([part.ids for part in parts.values()]).astype(str),
            "number": np.concatenate([_numbers(part) for part in parts.values()]),
            "tokens": np.concatenate(list(tokens.values())),
            "script": [
                script_of(row) for p in parts.values() for row in zip(*p.texts, strict=True)
            ],
        }
    )
    own = runs[0].task.own if runs else None
    columns = _further_columns(own, data) if own is not None else {}
    kept = {
        name: [text for part in parts.values() for text in part.texts[place]]
        for place, name in enumerate(data.task.texts)
        if texts
    }
    return make_rows(facts, kept, columns)


def _numbers(part: Examples) -> np.ndarray:
    return np.full(len(part), np.nan) if part.numbers is None else part.numbers.astype(np.float64)


def script_of(texts: Sequence[str]) -> str:
    """The script of most letters, as Unicode names it: Latin, Cyrillic, Cjk; "none" without any."""
    letters = [c for text in texts for c in text[: 4 * _SCRIPT_LETTERS] if c.isalpha()]
    if all(c.isascii() for c in letters):
        return "Latin" if letters else "none"
    names = (unicodedata.name(c, "unknown").split()[0] for c in letters[:_SCRIPT_LETTERS])
    return Counter(names).most_common(1)[0][0].capitalize()


def _further_columns(own: OwnTask, data: TaskData) -> dict[str, list[Any]]:
    """The other columns of a task's files that sort rows into slices, for the rows of all splits.

    Those hold numbers, or few different values. Others, free texts and names among them, are left.
    """
    files = {"train": Path(own.train), "report": Path(own.eval) if own.eval else Path(own.train)}
    if own.eval and data.task.reports.get("report") == HELD_OUT:
        files["report"] = files["train"]
    used = {*columns_of(own.text), *own.text, *own.label_columns, own.id}
    present = [set(open_table(path).columns) for path in files.values()]
    names = sorted(set.intersection(*present) - used)
    if not names:
        return {}
    cells = {path: _cells(path, names) for path in set(files.values())}
    carved = "report" if not len(data.train) else "train"  # the file that selection came from
    source = {"train": files["train"], "selection": files[carved]}
    found: dict[str, list[Any]] = {name: [] for name in names}
    for split, part in data.splits().items():
        rows = cells[source.get(split, files["report"])]
        numbers = [] if part.numbers is None else part.numbers.tolist()
        for name in names:
            found[name] += [rows[name].get(n) for n in numbers] or [None] * len(part)
    return {name: kept for name, values in found.items() if (kept := _sortable(values))}


def _cells(path: Path, names: Sequence[str]) -> dict[str, dict[int, Any]]:
    table = read_table(path, names)
    return {n: dict(zip(table.numbers, table.columns[n], strict=True)) for n in names}


def _sortable(values: Sequence[Any]) -> list[Any] | None:
    """Values as numbers, or as a few texts; None for a column that sorts rows into no slices."""
    if any(is_structured(value) for value in values):
        return None
    written = [None if is_missing(value) else text_of(value).strip() for value in values]
    different = {value for value in written if value is not None}
    if 1 < len(different) <= MOST_VALUES:
        return written
    numbers = [None if value is None else as_number(value) for value in written]
    known = [x for x in numbers if x is not None and np.isfinite(x)]
    is_id = len(different) == len(values) and all(float(x).is_integer() for x in known)
    if len(different) < 2 or is_id or len(known) < sum(value is not None for value in written):
        return None
    return numbers
