"""Where the student is wrong: its surest mistakes, labels to doubt, and scores by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kdlora.evidence.mistakes import OUT_OF_FOLD, RowOfInterest, TaskMistakes
from kdlora.evidence.slices import SliceScore
from kdlora.report import words as w
from kdlora.report.content.cells import TASK, p_cell, percent
from kdlora.report.document import Cell, Column, Finding, Link, Table

FIRST = 10  # rows that the report shows; the page of mistakes and the CSV have all
PAGE = "mistakes.html"  # beside the report
_SHOWN = 240  # characters of a text on a page; the CSV has all
_SPLITS = {"report": "report", "selection": "selection", OUT_OF_FOLD: "train"}


def findings(found: Sequence[TaskMistakes]) -> Iterator[Finding]:
    """What a reader in a hurry must know of the mistakes, task by task."""
    several = len(found) > 1
    for one in found:
        topic = f"Mistakes, {one.task}" if several else "Mistakes"
        if not one.is_regression:
            yield Finding(topic, told(one), ("mistakes", "label_errors"))
        yield Finding(f"Slices, {one.task}" if several else "Slices", told_slices(one), ("slices",))


def lacking(found: Mapping[str, str]) -> Iterator[Finding]:
    """Why there is no mistake of these tasks to show."""
    for task, why in found.items():
        yield Finding(f"Mistakes, {task}", f"None is shown: {why}.")


def told(one: TaskMistakes) -> str:
    """How many answers are wrong, and how many of them look like wrong labels."""
    student = w.sentence_case(w.phrase(one.arm))
    where = f", in {w.plural(len(one.mistakes), 'label')}" if one.several else ""
    said = [f"{student} answers {one.wrong:,} of {one.n:,} report rows wrong{where}."]
    if one.mistakes and "report" in one.checked:
        surest, doubted = len(one.surest), one.surest_suspected
        verb = "looks like a wrong label" if doubted == 1 else "look like wrong labels"
        judge = "by its own probabilities alone"
        if one.judge_right is not None:
            judge = f"to the teacher, who is right on {_share_right(one, one.judge_right)}"
        said.append(f"{doubted} of the {surest} most certain mistakes {verb} {judge}.")
    if OUT_OF_FOLD in one.checked:
        n = one.suspected(OUT_OF_FOLD)
        total = one.checked[OUT_OF_FOLD]
        judge = f"a linear model that is right on {_share_right(one, one.folds_right or 0)}"
        if one.several:
            labels = w.plural(n, "label")
            said.append(
                f"In {total:,} training rows other rows speak against {labels}, set or not set, by "
                f"{judge}."
            )
        else:
            verb = "has a label" if n == 1 else "have labels"
            said.append(
                f"{n:,} of {total:,} training rows {verb} that other rows speak against, by "
                f"{judge}."
            )
    if one.not_checked:
        said.append(f"{w.sentence_case(one.not_checked)}.")
    return " ".join(said)


def _share_right(one: TaskMistakes, share: float) -> str:
    """On how many rows a judge is right."""
    where = " in all their labels" if one.several else ""
    return f"{w.fixed(100 * share, 1)} % of them{where}"


def told_slices(one: TaskMistakes) -> str:
    """The slices that are worse than the rest, with their numbers; or that none is."""
    worse = one.worse
    tested = w.plural(one.tested, "slice")
    if not one.tested:
        return "No slice has rows enough to be held against the others."
    if not worse:
        least = min(
            (s for s in one.slices if s.detectable), key=lambda s: s.detectable or 0, default=None
        )
        seen = (
            ""
            if least is None
            else (
                f" The smallest difference that would have been found in 4 of 5 such studies is "
                f"{_difference(least)}, where {least.column} is {least.value}."
            )
        )
        return f"No slice is told apart as worse than the rest ({tested} tested, corrected).{seen}"
    what = "errs more" if one.is_regression else "is right less often"
    listed = w.join([_slice_told(s) for s in worse[:5]])
    more = f", and {len(worse) - 5} more" if len(worse) > 5 else ""
    return f"The student {what} where {listed}{more} ({tested} tested, corrected)."


def _slice_told(one: SliceScore) -> str:
    numbers = f"{_value(one, one.score)} against {_value(one, one.rest)}"
    return f"{one.column} is {one.value} ({numbers}, n = {one.n:,})"


def _difference(one: SliceScore) -> str:
    """The difference that would have been found, in points or in the unit of the errors."""
    if one.detectable is None:
        return w.NONE
    return w.significant(one.detectable) if one.is_error else f"{100 * one.detectable:.1f} points"


def _value(one: SliceScore, value: float | None) -> str:
    if value is None:
        return w.NONE
    return w.significant(value) if one.is_error else f"{w.fixed(100 * value, 1)} %"


def page(found: Sequence[TaskMistakes]) -> Link | None:
    """The page that has all of them."""
    if not any(one.mistakes or one.suspects for one in found):
        return None
    return Link("all_mistakes", "All mistakes and all labels to doubt, to sort", PAGE)


def mistakes(found: Sequence[TaskMistakes]) -> Table | None:
    """Every wrong answer, the surest first, with what the teacher says."""
    lead, of_task = _lead(found)
    texts = _has_texts(m.row for one in found for m in one.mistakes)
    rows = tuple(
        (
            *of_task(one), *_place(m.row), *_text(m.row, texts),
            Cell(one.named(m.label, m.about)), Cell(one.named(m.answer, m.about)),
            percent(m.confidence),
            Cell(w.NONE if m.teacher_answer is None else one.named(m.teacher_answer, m.about)),
            percent(m.teacher_confidence),
            Cell({None: w.NONE, True: "suspected", False: "no"}[m.suspected]),
        )
        for one in found for m in one.mistakes
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        *lead, *_row_columns(texts), Column("label", "Label", numeric=False),
        Column("student", "Student says", numeric=False), Column("confidence", "Confidence", "%"),
        Column("teacher", "Teacher says", numeric=False),
        Column("teacher_confidence", "Confidence", "%"),
        Column("suspected", "Label wrong?", numeric=False),
    )  # fmt: skip
    return Table(
        "mistakes",
        "The most certain mistakes",
        columns,
        rows,
        "Report rows that the student to ship answers wrong, the surest first, and what the model "
        "that taught it says. A label is suspected where the teacher's probabilities speak against "
        "it (confident learning, Northcutt et al. 2021).",
        most=FIRST,
    )


def label_errors(found: Sequence[TaskMistakes]) -> Table | None:
    """Labels that may be wrong, of all splits."""
    lead, of_task = _lead(found)
    texts = _has_texts(s.row for one in found for s in one.suspects)
    rows = tuple(
        (
            *of_task(one), Cell(_SPLITS[s.row.split]), *_place(s.row), *_text(s.row, texts),
            Cell(one.named(s.label, s.about)), Cell(one.named(s.likely, s.about)),
            percent(s.label_probability), percent(s.likely_probability),
        )
        for one in found for s in one.suspects
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        *lead, Column("split", "Split", numeric=False), *_row_columns(texts),
        Column("label", "Label", numeric=False), Column("likely", "Likelier", numeric=False),
        Column("label_probability", "Probability of the label", "%"),
        Column("likely_probability", "Of the likelier", "%"),
    )  # fmt: skip
    return Table(
        "label_errors",
        "Labels that may be wrong",
        columns,
        rows,
        "By probabilities of models that have not seen the label: on held-out rows the teacher "
        "(without one the student), on training rows a linear model on the untrained encoder's "
        "embeddings, each fold by the others. A suspicion is no proof: a model that is often wrong "
        "suspects often. Read the text.",
        most=FIRST,
    )


def slices(found: Sequence[TaskMistakes]) -> Table | None:
    """Scores of the student by slice, and which differ from the rest."""
    lead, of_task = _lead(found)
    rows = tuple((*of_task(one), *_slice_cells(s)) for one in found for s in one.slices)
    if not rows:
        return None
    columns = (
        *lead, Column("column", "By", numeric=False), Column("slice", "Slice", numeric=False),
        Column("n", "Rows"), Column("score", "Right, or mean error"), Column("rest", "The rest"),
        Column("p", "p, corrected"), Column("verdict", "Against the rest", numeric=False),
        Column("detectable", "Found from"),
    )  # fmt: skip
    return Table(
        "slices",
        "Scores by slice",
        columns,
        rows,
        "Of the student to ship on the report split, with 95 % intervals. Each slice is held "
        "against all other rows (Fisher's exact test; Welch's for errors); all tests of the table "
        "are corrected together by Holm. Numbers are cut in quarters. Slices of under 20 rows are "
        "not tested. A difference is found in 4 of 5 such studies from the size on that stands in "
        "the last column.",
        heads=len(lead) + 2,
    )


def _slice_cells(one: SliceScore) -> tuple[Cell, ...]:
    span = ""
    if one.low is not None and one.high is not None:
        span = f"{_value(one, one.low)} to {_value(one, one.high)}"
    score = Cell(_value(one, one.score), one.score, span, extra={"low": one.low, "high": one.high})
    return (
        Cell(one.column), Cell(one.value), w.count(one.n), score,
        Cell(_value(one, one.rest), one.rest), p_cell(one.p_adjusted),
        Cell(one.verdict), Cell(_difference(one), one.detectable),
    )  # fmt: skip


def _lead(
    found: Sequence[TaskMistakes],
) -> tuple[tuple[Column, ...], Callable[[TaskMistakes], tuple[Cell, ...]]]:
    """The column that names the task, and its cell, where there are several tasks."""
    several = len(found) > 1
    return (TASK,) * several, lambda one: (Cell(one.task, one.task),) * several


def _has_texts(rows: Iterator[RowOfInterest]) -> bool:
    return any(row.text is not None for row in rows)


def _row_columns(texts: bool) -> tuple[Column, ...]:
    text = (Column("text", "Text", numeric=False),) * texts
    return (Column("row", "Row"), *text)


def _place(row: RowOfInterest) -> tuple[Cell]:
    """The row's number in its file; its id where the number is not known."""
    if row.number is None:
        return (Cell(row.example_id),)
    return (Cell(f"{row.number:,}", row.number, extra={"example_id": row.example_id}),)


def _text(row: RowOfInterest, texts: bool) -> tuple[Cell, ...]:
    if not texts:
        return ()
    if row.text is None:
        return (Cell(w.NONE),)
    flat = " ".join(row.text.split())
    return (Cell(flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]} …", row.text),)
