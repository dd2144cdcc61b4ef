"""The user's own files as a task: a first look, labels resolved, everything checked.

Every problem of both files is found before anything is raised, so that one look mends them all. The
first look (`check_own_task`) is part of `kdlora plan` and needs neither numpy nor pandas.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdlora.data.label_sets import check_label_sets, joined_labels, label_sets, told
from kdlora.errors import DataError, Problems, did_you_mean
from kdlora.spec.run import DistilledRun, FileTeacherRun, Run
from kdlora.spec.sections import OwnTask, stated_kind
from kdlora.tables.reader import (
    FileTable,
    column_problems,
    is_missing,
    is_structured,
    name_rows,
    open_table,
    read_table,
    texts_of,
)
from kdlora.tables.templates import columns_of
from kdlora.vocabulary.metric import metric, metrics_of
from kdlora.vocabulary.task import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    TASKS,
    Kind,
    Task,
    as_number,
    class_name,
)

if TYPE_CHECKING:
    from kdlora.data.examples import Examples, Loaded

_MOST_CLASSES = 50
_SHOWN = 10
HELD_OUT = "held out of train"  # instead of a file, as the source of a report split
_LARGEST = (2 - 2.0**-23) * 2.0**127  # of float32


def infer_kind(values: Sequence[Any]) -> Kind:
    """Regression if most labels are numbers with a fraction, or all are numbers and some are so."""
    numbers = [as_number(value) for value in values]
    fractional = sum(x is not None and not float(x).is_integer() for x in numbers)
    if fractional and (None not in numbers or fractional > len(values) / 2):
        return REGRESSION
    return CLASSIFICATION


def check_classes(values: Sequence[Any], names: Sequence[str], *, stated: bool) -> list[str]:
    """Problems of the train file's classes. `stated`: the user said that these are classes."""
    if len(names) == 1:
        return [f"only one class, '{names[0]}': there is nothing to tell apart"]
    numeric = all(as_number(name) is not None for name in names)
    ask = "set `kind: regression` if they are scores" if numeric else "check the label column"
    if len(names) > len(values) / 2:
        return [f"{len(names):,} different labels in {len(values):,} rows are no classes: {ask}"]
    if len(names) > _MOST_CLASSES and not stated:
        return [
            f"{len(names):,} different labels ({show(names)}): {ask}, or set `kind: "
            "classification` if they are classes"
        ]
    return []


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Classes that differ in nothing that is seen at a glance, beside each other.

    That is in capitals, in the Unicode form of a letter, in blanks or in characters without width.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(at_a_glance(name), []).append(name)
    return [same for same in alike.values() if len(same) > 1]


def alike_notes(names: Iterable[str], title: str) -> list[str]:
    """What is said of them; `title` names their column."""
    return [
        f"{title}: the classes {' and '.join(map(repr, alike))} look alike and are kept apart"
        for alike in look_alikes(names)
    ]


def at_a_glance(name: str) -> str:
    """A name without what is not seen at a glance; two that look alike become the same."""
    letters = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c for c in letters if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(seen.split())


def check_unknown(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Classes of a held-out file that the train file lacks."""
    unknown = Counter(class_name(value) for value in values)
    for name in names:
        del unknown[name]
    if not unknown:
        return []
    listed = show([f"'{name}' ({count:,} rows)" for name, count in sorted(unknown.items())])
    return [f"labels that the train file lacks: {listed}. It knows {show(names)}"]


def check_numbers(values: Sequence[Any], rows: Sequence[int]) -> list[str]:
    """Problems of regression labels; `rows` are their row numbers."""
    numbers = [as_number(value) for value in values]
    bad = [i for i, x in enumerate(numbers) if x is None or not abs(x) <= _LARGEST]
    if not bad:
        return []
    examples = show(list(dict.fromkeys(f"'{values[i]}'" for i in bad)), 3)
    return [
        f"labels that are not finite numbers, in {name_rows([rows[i] for i in bad])}: {examples}"
    ]


def show(items: Sequence[str], most: int = _SHOWN) -> str:
    """Items with commas between, at most ten."""
    rest = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def wanted_columns(own: OwnTask) -> list[str]:
    """The columns that a task names. Raises DataError if it uses one for two things."""
    names = [*own.text, *own.label_columns, *([own.id] if own.id else [])]
    inside = [name for name in columns_of(own.text) if name not in own.text]
    if told := [name for name in (*own.label_columns, own.id) if name in inside]:
        raise DataError(f"text must not hold the label or the id: {', '.join(map(str, told))}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"text, label and id must be different columns; named twice: {twice[0]}")
    return names


def check_teaching_files(run: Run) -> list[str]:
    """What is wrong with a run's unlabelled texts and its teacher's file, as headers tell."""
    wanted: list[tuple[str, Sequence[str]]] = []
    if isinstance(run, DistilledRun):
        wanted += [(source.file, source.text) for source in run.unlabelled if not source.of_train]
    if isinstance(run, FileTeacherRun):
        source, task = run.outputs, TASKS.get(run.task.name)
        keys = (source.id,) if source.id else source.text
        named = list(source.columns.values())
        if task is not None or source.kind == "labels":
            named = source.answer_columns(task.label_names if task is not None else ())
        wanted.append((source.file, (*keys, *named)))
    return [p for name, columns in wanted for p in column_problems(Path(name), columns)]


def check_own_task(own: OwnTask) -> list[str]:
    """What is wrong with a task's files as far as their beginnings tell; empty if nothing is.

    Finds missing and empty files, unknown kinds, broken encodings and wrong columns. What only
    the whole file can tell (labels, ragged lines) is found by `load_task`.
    """
    try:
        wanted = wanted_columns(own)
    except DataError as error:
        return error.problems
    problems = column_problems(Path(own.train), _required(own, wanted))
    return problems + (column_problems(Path(own.eval), wanted) if own.eval is not None else [])


def _required(own: OwnTask, wanted: Sequence[str]) -> list[str]:
    """The columns that the training file must have: without labels its rows are mere texts."""
    if own.missing_labels == "error":
        return list(wanted)
    return [name for name in wanted if name not in own.label_columns]


_LEAST_ROWS = 16


@dataclass(frozen=True)
class _Rows:
    """Rows of one file that hold a text, with their numbers in the file (the first is 1)."""

    path: Path
    texts: tuple[list[str], ...]
    labels: list[Any]
    keys: list[str] | None
    numbers: list[int]
    dropped: int = 0  # rows of the file that hold none

    @property
    def labelled(self) -> list[int]:
        """The places of the rows that have a label."""
        return [i for i, label in enumerate(self.labels) if not is_missing(label)]

    def at(self, index: Sequence[int]) -> _Rows:
        return _Rows(
            self.path,
            tuple([column[i] for i in index] for column in self.texts),
            [self.labels[i] for i in index],
            None if self.keys is None else [self.keys[i] for i in index],
            [self.numbers[i] for i in index],
            self.dropped,
        )


def load_own(own: OwnTask) -> Loaded:
    """Read and check a task of own files. Raises DataError with all that is wrong with them."""
    from kdlora.data.examples import Loaded

    problems, notes = Problems(), list[str]()
    wanted = wanted_columns(own)
    files: dict[str, _Rows] = {}
    for part, name in (("train", own.train), ("eval", own.eval)):
        if name is not None:
            with problems.caught():
                may_lack = part == "train" and own.missing_labels == "rest"
                table = _read(own, Path(name), wanted, may_lack=may_lack)
                files[part] = _checked_rows(own, table, problems, notes, may_lack=may_lack)
    problems.add(*_shared_keys(files))
    if "train" not in files:
        problems.raise_any(DataError)

    train, held_out = files["train"], files.get("eval")
    gold = _gold(own, train, held_out)
    if len(gold.labels) < _LEAST_ROWS:
        problems.add(
            f"{train.path} holds {len(gold.labels)} usable rows; at least {_LEAST_ROWS} are needed"
            if own.missing_labels == "error"
            else f"there are {len(gold.labels)} rows with a label; at least {_LEAST_ROWS} are "
            f"needed, to select and to report on: in {own.label_title} of the training file, or "
            "in a held-out file (eval)"
        )
    if not gold.labels:
        problems.raise_any(DataError)
    kind = _stated(own) or infer_kind(gold.labels)
    names = own.label_columns if own.label_columns_are_labels else kind.names(gold.labels)
    if grades := _grades_of(own, kind):
        names = _in_order(grades, names, gold, problems)
    problems.add(*_PROBLEMS[kind](own, names, gold, held_out))
    positive = _check_metric(own, kind, names, problems)
    problems.raise_any(DataError)

    if kind.several:
        notes.append(f"{own.label_title}: {told(names, gold.labels)}: {show(names)}")
    elif own.kind == "auto":
        what = f"{len(names)} classes: {show(names)}" if names else "numbers (regression)"
        notes.append(f"column '{own.label}' was read as {what}")
    notes += alike_notes(names, own.label_title)
    task = Task(
        name=own.name,
        kind=kind,
        texts=own.text,
        label_names=names,
        primary=own.metric or kind.default_metric,
        positive=positive,
        graded=grades is not None,
        reports={"report": "eval" if held_out else HELD_OUT},
        label=", ".join(own.label_columns),
    )
    reports = {"report": _examples(task, held_out)} if held_out else {}
    rest = None
    if own.missing_labels == "rest":
        without = sorted({*range(len(train.labels))} - {*train.labelled})
        rest = _examples(task, train, without)
        notes.append(
            f"{train.path}: {len(without):,} of {len(train.labels):,} rows have no label and are "
            "learnt from the teacher alone"
        )
    dropped = sum(part.dropped for part in files.values())
    learnt = _examples(task, train, train.labelled)
    return Loaded(task, learnt, reports, tuple(notes), rest, dropped)


def _stated(own: OwnTask) -> Kind | None:
    """The kind of task that a study says, where it does."""
    return stated_kind(own) or (CLASSIFICATION if own.class_names else None)


def _read(own: OwnTask, path: Path, wanted: Sequence[str], *, may_lack: bool) -> FileTable:
    """The wanted columns of a file; of one that may lack labels the column may be missing."""
    if not may_lack or not {*own.label_columns}.isdisjoint(open_table(path).columns):
        return read_table(path, wanted)
    table = read_table(path, _required(own, wanted))
    without = {name: [None] * len(table) for name in own.label_columns}
    return replace(table, columns={**table.columns, **without})


def _gold(own: OwnTask, train: _Rows, held_out: _Rows | None) -> _Rows:
    """The rows by whose labels the task is known: of the training file, where all have one.

    Where some may lack theirs, a class may stand in the held-out file alone.
    """
    rows = train.at(train.labelled)
    if own.missing_labels == "error" or held_out is None:
        return rows
    return replace(
        rows,
        labels=[*rows.labels, *held_out.labels],
        numbers=[*rows.numbers, *held_out.numbers],
    )


def _checked_rows(
    own: OwnTask, table: FileTable, problems: Problems, notes: list[str], *, may_lack: bool
) -> _Rows:
    """The rows with a text and a label; what is wrong with the others goes to the problems.

    Where rows `may_lack` a label they stay without one.
    """
    texts = tuple(_text_column(table, name, problems) for name in own.text)
    keys = _keys(table, own.id, problems) if own.id else None
    values, odd = _labels(own, table, problems, may_lack=may_lack)
    numbers = table.numbers
    unsaid = [n for n, value in zip(numbers, values, strict=True) if is_missing(value)]
    missing = [] if may_lack else [number for number in unsaid if number not in odd]
    if missing:
        problems.add(
            f"{table.path}: no label in {name_rows(missing)} of {len(table):,} "
            f"(the first row after the header is row 1){_maybe_several(own, values)}"
        )
    blank = [[not text.strip() for text in column] for column in texts]
    empty = [all(fields) for fields in zip(*blank, strict=True)]
    dropped = [number for number, is_empty in zip(numbers, empty, strict=True) if is_empty]
    if len(dropped) == len(table):
        problems.add(f"{table.path}: column '{own.text[0]}' is empty in every row")
    elif dropped:
        notes.append(f"{table.path}: dropped {name_rows(dropped)}, which hold no text")
    for name, column in zip(own.text, blank, strict=True):
        partly = [n for n, b, e in zip(numbers, column, empty, strict=True) if b and not e]
        if partly:
            notes.append(f"{table.path}: column '{name}' is empty in {name_rows(partly)}")
    rows = _Rows(table.path, texts, values, keys, numbers, len(dropped))
    skip = {*missing, *dropped, *odd}
    return rows.at([i for i, n in enumerate(numbers) if n not in skip]) if skip else rows


def _maybe_several(own: OwnTask, labels: Sequence[Any]) -> str:
    """What to do about rows without a label, if the others look as if texts may have several."""
    if _stated(own) is not None:
        return ""
    found = joined_labels(sorted({class_name(x) for x in labels if not is_missing(x)}))
    return (
        f". Others look like several labels in one: with --label-separator '{found[0]}' "
        "(`label_separator` in the study file) an empty cell is a text without any"
        if found
        else ""
    )


def _labels(
    own: OwnTask, table: FileTable, problems: Problems, *, may_lack: bool
) -> tuple[list[Any], set[int]]:
    """What the rows' labels are, and the numbers of the rows whose cell holds none of the kind."""
    if _stated(own) is MULTILABEL:
        sets, wrong, odd = label_sets(own, table, may_lack=may_lack)
        problems.add(*wrong)
        name = _namer(own, table, [label for row in sets for label in row or ()], problems)
        return [None if row is None else tuple(map(name, row)) for row in sets], odd
    values = table.columns[own.label]
    structured = table.where(own.label, is_structured)
    if structured:
        problems.add(
            f"{table.path}: column '{own.label}' holds no single label in {name_rows(structured)}. "
            "Where a text may have several labels, set `kind: multilabel`"
        )
    name = _namer(own, table, [value for value in values if not is_missing(value)], problems)
    return [value if is_missing(value) else name(value) for value in values], {*structured}


def _namer(
    own: OwnTask, table: FileTable, found: Sequence[Any], problems: Problems
) -> Callable[[Any], Any]:
    """From a label to the name that `own.labels` gives it, if it does."""
    if not own.class_names:
        return lambda value: value
    names = {class_name(key): name for key, name in own.class_names.items()}
    for truth in {"true", "false"} & set(names):  # a study says true where a file has True
        names = {truth.title(): names[truth], truth.upper(): names[truth], **names}
    unnamed = sorted({class_name(value) for value in found} - set(names))
    if unnamed:
        problems.add(
            f"{table.path}: `labels` has no name for {show(unnamed)} of column '{own.label}'"
        )
    return lambda value: names.get(class_name(value), value)


def _text_column(table: FileTable, name: str, problems: Problems) -> list[str]:
    """One column as texts; numbers alone are none."""
    texts, odd = texts_of(table.path, name, table.columns[name], table.numbers)
    problems.add(*odd)
    filled = [text for text in texts if text.strip()]
    if filled and not odd and all(as_number(text) is not None for text in filled):
        likely = ", ".join(_likely_texts(table))
        hint = f" Columns that look like text: {likely}" if likely else ""
        problems.add(f"{table.path}: column '{name}' holds numbers, not text.{hint}")
    return texts


def _likely_texts(table: FileTable) -> list[str]:
    """Which columns of the file look like text: mostly strings of several words."""
    names = [name for name in table.present if table.present.count(name) == 1]
    rows, _ = open_table(table.path).sample(names)
    several = [[isinstance(v, str) and len(v.split()) > 1 for v in values] for _, values in rows]
    shares = zip(*several, strict=True)
    return [name for name, seen in zip(names, shares, strict=True) if sum(seen) > len(seen) / 2]


def _keys(table: FileTable, column: str, problems: Problems) -> list[str]:
    """The id column as strings; empty and repeated ids are problems."""
    values = table.columns[column]
    missing = table.where(column, is_missing)
    if missing:
        problems.add(f"{table.path}: no id in {name_rows(missing)} (column '{column}')")
    keys = [class_name(value) for value in values]
    counts = Counter(k for k, v in zip(keys, values, strict=True) if not is_missing(v))
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        problems.add(f"{table.path}: ids in column '{column}' repeat: {show(repeated, 5)}")
    return keys


def _shared_keys(files: dict[str, _Rows]) -> list[str]:
    """Ids that stand in both files would let a teacher's signal reach the wrong row."""
    if len(files) < 2 or files["train"].keys is None:
        return []
    shared = sorted(set(files["train"].keys) & set(files["eval"].keys or []))
    if not shared:
        return []
    return [
        f"{len(shared):,} ids stand in both {files['train'].path} and {files['eval'].path}: "
        f"{show(shared, 5)}. Make them unique, or leave `id` out: the texts then serve as ids"
    ]


def _class_problems(
    own: OwnTask, names: tuple[str, ...], train: _Rows, held_out: _Rows | None
) -> list[str]:
    stated = stated_kind(own) is CLASSIFICATION
    found = {train.path: check_classes(train.labels, names, stated=stated)}
    # many unknown labels follow from labels that are no classes; one problem is enough
    if held_out and not found[train.path]:
        found[held_out.path] = check_unknown(held_out.labels, names)
    return _of_column(own, found)


def _number_problems(
    own: OwnTask, names: tuple[str, ...], train: _Rows, held_out: _Rows | None
) -> list[str]:
    files = [train, held_out] if held_out else [train]
    found = {rows.path: check_numbers(rows.labels, rows.numbers) for rows in files}
    if not found[train.path] and len({as_number(value) for value in train.labels}) == 1:
        found[train.path].append(f"every label is {train.labels[0]}: there is nothing to learn")
    return _of_column(own, found)


def _label_problems(
    own: OwnTask, names: tuple[str, ...], train: _Rows, held_out: _Rows | None
) -> list[str]:
    found = {train.path: list(check_label_sets(own, names, train.labels))}
    if held_out and not found[train.path]:
        known = [label for row in held_out.labels for label in row]
        found[held_out.path] = check_unknown(known, names)
    return _of_column(own, found)


def _of_column(own: OwnTask, found: dict[Path, list[str]]) -> list[str]:
    return [
        f"{path}: {own.label_title}: {problem}"
        for path, problems in found.items()
        for problem in problems
    ]


# What is wrong with the labels of both files, by kind of task.
_PROBLEMS = {
    CLASSIFICATION: _class_problems,
    REGRESSION: _number_problems,
    MULTILABEL: _label_problems,
}


def _grades_of(own: OwnTask, kind: Kind) -> Literal["integers"] | tuple[str, ...] | None:
    """What the study file says of grades; who asks for a metric of grades means integers."""
    if own.grades is None and own.metric and kind.name in metric(own.metric).graded_kinds:
        return "integers"
    return own.grades


def _in_order(
    grades: Literal["integers"] | tuple[str, ...],
    names: tuple[str, ...],
    rows: _Rows,
    problems: Problems,
) -> tuple[str, ...]:
    """The classes from the lowest grade to the highest; what are no grades is told."""
    if isinstance(grades, tuple):
        grades = tuple(class_name(name) for name in grades)
        unknown = [name for name in grades if name not in names]
        problems.add(
            *(f"grades: no row has the label '{n}'.{did_you_mean(n, names)}" for n in unknown)
        )
        if left := [name for name in names if name not in grades]:
            problems.add(f"grades lacks {show(left)}: name all classes, the lowest first")
        return names if unknown or left else grades
    numbers = [as_number(name) for name in names or rows.labels]
    whole = [x for x in numbers if x is not None and x.is_integer()]
    if len(whole) < len(numbers):
        odd = [str(n) for n, x in zip(names or rows.labels, numbers, strict=True) if x not in whole]
        more = _NAMED if names else ". Leave `grades` out, and score by mae, rmse or a correlation"
        problems.add(f"grades are integers; no such: {show(list(dict.fromkeys(odd)), 3)}{more}")
    elif names and whole[-1] - whole[0] + 1 != len(whole):
        problems.add(
            f"grades are integers without a gap, but the labels are {show(names)}: a step between "
            f"neighbours would count 1 whatever they are{_NAMED}"
        )
    return names


_NAMED = ". If their order is meant alone, list them: grades: [lowest, ..., highest]"


def _check_metric(
    own: OwnTask, kind: Kind, names: tuple[str, ...], problems: Problems
) -> str | None:
    """The positive class as the labels name it; what is wrong with it or the metric is told."""
    if own.metric and kind.name not in metric(own.metric).kinds:
        problems.add(
            f"metric '{own.metric}' does not fit {kind}, which {own.label_title} calls for: "
            f"choose among {', '.join(metrics_of(kind.name, positive=True, graded=True))}"
        )
    positive = None if own.positive is None else class_name(own.positive)
    if own.metric and metric(own.metric).needs_positive and positive is None:
        problems.add(
            f"metric '{own.metric}' is of one class: name it as `positive`, or use macro_f1"
        )
    if positive is not None and kind.several:
        problems.add(
            f"positive '{own.positive}' is given, but every label of kind multilabel is scored"
        )
    elif positive is not None and kind.numeric:
        problems.add(f"positive '{own.positive}' is given, but the labels are numbers")
    elif positive is not None and positive not in names:
        problems.add(
            f"positive '{own.positive}' is not among the labels.{did_you_mean(positive, names)}"
        )
    return positive


def _examples(task: Task, rows: _Rows, chosen: Sequence[int] | None = None) -> Examples:
    """The rows, or the chosen ones: all of them with a label, or all without.

    Ids are those of the whole file, so that no two rows of it share one.
    """
    import numpy as np

    from kdlora.data.examples import Examples, ids_of_keys, ids_of_texts

    if rows.keys is None:
        ids = ids_of_texts(task.name, rows.texts)
    else:
        ids = ids_of_keys(task.name, rows.keys)
    chosen = range(len(ids)) if chosen is None else chosen
    part = rows.at(chosen)
    if len(part.labelled) == len(part.labels):
        labels = task.kind.decode(part.labels, task.label_names)
    else:
        labels = task.kind.unlabelled(len(part.labels), task.num_outputs)
    numbers = np.array(part.numbers, dtype=np.int64)
    return Examples(ids[list(chosen)], part.texts, labels, numbers)
