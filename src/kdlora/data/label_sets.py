"""Sets of labels as files have them: a list a cell, names with a sign between, or 0/1 columns.

Which of these it is the study says; a cell that does not fit is a problem, never a guess. A row
without any label is a row. What is no statement at all (a null where a list is expected) is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kdlora.json_files import parse_json
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import FileTable, is_missing, name_rows
from kdlora.vocabulary.task import class_name

LabelSet = tuple[str, ...]
_YES_NO = {"1": True, "0": False, "true": True, "false": False}
_SHOWN = 3
_SEPARATORS = (*"|;,/+&", " and ")


class NoLabelSet(ValueError):
    """A cell that holds no set of labels."""


def label_sets(
    own: OwnTask, table: FileTable, *, may_lack: bool
) -> tuple[list[LabelSet | None], list[str], set[int]]:
    """The labels of each row, problems, and the numbers of the rows that these are about.

    Where rows of the file `may_lack` labels an empty cell is none, not an empty set; elsewhere, an
    empty cell of labels with a separator is a row without any label.
    """
    if own.label_columns_are_labels:
        return _of_columns(own, table)
    separator = own.label_separator
    empty = () if separator and not may_lack else None
    found: list[LabelSet | None] = []
    odd: list[tuple[int, Any, str]] = []
    for number, cell in zip(table.numbers, table.columns[own.label], strict=True):
        try:
            found.append(empty if is_missing(cell) else label_set(cell, separator))
        except NoLabelSet as error:
            found.append(None)
            odd.append((number, cell, str(error)))
    problems = []
    if odd:
        shown = ", ".join(dict.fromkeys(repr(cell) for _, cell, _ in odd[:_SHOWN]))
        problems.append(
            f"{table.path}: column '{own.label}' holds no set of labels in "
            f"{name_rows([number for number, _, _ in odd])}: {shown}. {odd[0][2]}"
        )
    return found, problems, {number for number, _, _ in odd}


def label_set(cell: Any, separator: str | None) -> LabelSet:
    """The labels that a cell names: a list, one in JSON, or names with a sign between.

    Raises NoLabelSet where it is none of these.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = _parsed(cell, separator)
    if isinstance(cell, list | tuple):
        return _named(cell)
    if separator is None:
        raise NoLabelSet(
            'Expected a list such as ["a", "b"], or [] for none; for names with a sign '
            "between set `label_separator`, for a 0/1 column a label `labels: [a, b]`"
        )
    return _named(str(cell).split(separator))


def _parsed(cell: str, separator: str | None) -> Any:
    """A list written as JSON; a text of another form stays as it is where a separator is set."""
    try:
        return parse_json(cell)
    except ValueError:
        if separator is not None:
            return cell
        raise NoLabelSet('This is no JSON: write ["a", "b"], with double quotes') from None


def _named(items: Sequence[Any]) -> LabelSet:
    """The names of the labels, without what is empty, such as after a last separator."""
    if odd := [item for item in items if isinstance(item, list | dict | bytes)]:
        raise NoLabelSet(f"{odd[0]!r} is no name of a label")
    return tuple(class_name(item) for item in items if not is_missing(item))


def _of_columns(
    own: OwnTask, table: FileTable
) -> tuple[list[LabelSet | None], list[str], set[int]]:
    """One column a label, 1 where a row has it."""
    problems, wrong = [], set[int]()
    cells = {name: table.columns[name] for name in own.label_columns}
    unsaid = [all(map(is_missing, row)) for row in zip(*cells.values(), strict=True)]
    read: dict[str, list[bool]] = {}
    for name, column in cells.items():
        answers = [None if is_missing(cell) else _yes_no(cell) for cell in column]
        rows = zip(table.numbers, answers, unsaid, column, strict=True)
        odd = [(n, cell) for n, answer, none, cell in rows if answer is None and not none]
        if odd:
            shown = ", ".join(dict.fromkeys(repr(cell) for _, cell in odd[:_SHOWN]))
            problems.append(
                f"{table.path}: column '{name}' is neither 0 nor 1 in "
                f"{name_rows([n for n, _ in odd])}: {shown}"
            )
            wrong |= {n for n, _ in odd}
        read[name] = [bool(answer) for answer in answers]
    found = [
        None if none else tuple(name for name, column in read.items() if column[i])
        for i, none in enumerate(unsaid)
    ]
    return found, problems, wrong


def _yes_no(cell: Any) -> bool | None:
    return _YES_NO.get(class_name(cell).lower())


def check_label_sets(
    own: OwnTask, names: Sequence[str], train: Sequence[LabelSet]
) -> Iterator[str]:
    """Problems of the labels of the rows by which a task is known."""
    if not any(train):
        yield "no row has any label: there is nothing to learn"
        return
    counts = {name: sum(name in row for row in train) for name in names}
    if empty := [name for name, n in counts.items() if not n]:
        yield f"no training row has the label {', '.join(empty)}: give it rows, or leave it out"
    if full := [name for name, n in counts.items() if n == len(train)]:
        yield f"every training row has the label {', '.join(full)}: it tells nothing, leave it out"
    if len(names) > len(train) / 2:
        yield (
            f"{len(names):,} different labels in {len(train):,} rows: check the label column"
            + (" and label_separator" if own.label_separator else "")
        )


def told(names: Sequence[str], rows: Sequence[LabelSet]) -> str:
    """What sets of labels were read, in words."""
    without = sum(not row for row in rows)
    mean = sum(map(len, rows)) / len(rows)
    return (
        f"{len(names)} label{'s' * (len(names) != 1)} ({mean:.2f} a row; {without:,} of "
        f"{len(rows):,} rows have none)"
    )


def joined_labels(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """The separator and the tags, if classes look like sets of tags: ``price|service``.

    They do if all that one joins are names of classes as well; or if two names or more join what
    are, for the greater part, names of classes, or what stands first in one name and later in
    another.
    """
    for separator in _SEPARATORS:
        split = {name: _tags(name, separator) for name in names}
        joined = [tags for tags in split.values() if len(tags) > 1]
        if not joined or not all(all(tags) for tags in joined):
            continue
        alone = {tags[0] for tags in split.values() if len(tags) == 1}
        first, later = {tags[0] for tags in joined}, {tag for tags in joined for tag in tags[1:]}
        parts = first | later
        if len(joined) == 1 and not parts <= alone:
            continue
        if len(parts & alone) >= len(parts) / 2 or len(first & later) >= len(parts) / 2:
            return separator, sorted(parts | alone)
    return None


def _tags(name: str, separator: str) -> list[str]:
    bare = name.strip()
    if bare[:1] in "[({" and bare[-1:] in "])}":  # a list that was written as text
        bare = bare[1:-1]
    return [part.strip(" '\"") for part in bare.split(separator)]
