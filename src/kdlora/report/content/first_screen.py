"""What a page opens with beside its sentences and picture: one table, what to doubt, what to do.

All else is folded. What stands here stands nowhere else on the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from kdlora.choice.next_steps import to_use
from kdlora.choice.recommendation import Recommendation, Step
from kdlora.report.content import answer, data_checks, pair_answer, trust, which_to_ship
from kdlora.report.content.parts import ReportData
from kdlora.report.document import Finding, Source, Table

TOPIC = "Read with care"
MOST_ROWS = 8  # of the table; a longer one starts closed
LINE = 88  # characters of a comment


def table(d: ReportData) -> Table | None:
    """Which model for which use; where no model is to be chosen, what was compared."""
    return d.once("first table", lambda: _table(d))


def _table(d: ReportData) -> Table | None:
    if d.choices.found:
        return which_to_ship.recommended(d.choices.found, most_open=MOST_ROWS)
    if d.several:
        return answer.selection_table(d.evidence)
    return answer.summary(d.facts)


def unless_first(d: ReportData, made: Table | None) -> Table | None:
    """A table that stands in its own section unless the page opens with it."""
    try:
        first = table(d)
    except Exception:  # the first screen says why it has none
        first = None
    return None if made is None or (first is not None and first.key == made.key) else made


def care(d: ReportData) -> Finding | None:
    """What to doubt: what is not done, what the checks found, flags, and the data."""
    said = [found for found in _doubts(d) if found]
    if not said:
        return None
    tables = dict.fromkeys(key for found in said for key in found.tables)
    return Finding(TOPIC, " ".join(found.text for found in said), tuple(tables))


def _doubts(d: ReportData) -> Iterator[Finding | None]:
    yield trust.unfinished_runs(d.facts)
    yield answer.errors(d.stats) if d.stats else None
    flags = trust.flagged(d.facts)
    yield flags if flags is not None and flags.tables else None
    yield pair_answer.doubtful(d.facts)
    yield data_checks.first_doubt(d.looks)


def commands(d: ReportData) -> Source | None:
    """What to do next, as commands that can be copied."""
    lines: list[str] = []
    for step in dict.fromkeys(_steps(d)):
        lines += [f"# {line}" for line in textwrap.wrap(step.text, LINE - 2)]
        lines += [step.command] if step.command else []
    return Source("next", "What to do next", "\n".join(lines), "sh") if lines else None


def _steps(d: ReportData) -> Iterator[Step]:
    if trust.unfinished_runs(d.facts) is not None:
        yield Step("run", "Do the runs that are not done.", d.rerun)
    found = d.choices.found
    first = [one for one in found if one.task == found[0].task]
    yield from _of(first)


def _of(found: list[Recommendation]) -> Iterator[Step]:
    """What can be used as it is, what is worth an export, what would make the first choice surer;
    of one task.
    """
    first, steps = found[:1], [step for one in found for step in one.next_steps]
    for one in first:
        yield from to_use(one)
    yield from (step for step in steps if step.kind == "export")
    for one in first:
        yield from (step for step in one.next_steps if step.kind != "export")
