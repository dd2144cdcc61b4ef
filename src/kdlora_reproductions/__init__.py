"""The five published reports, regenerated from imported records, each beside the sound answer.

    reproduction = reproduce(read_inputs("reference/"))
    reproduction.numbers()         # every number: printed, recomputed, source, n, rule

Report 000 (scores), 001 (significance), 002 (scores and costs joined), 003 (costs by rank) and
004 (a matrix of teachers and students). What does not reproduce is reported as not reproducing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.result import Result, Rules
from kdlora_reproductions import (
    combined,
    glue_scores,
    rank_costs,
    significance,
    significance_claims,
    significance_objections,
    significance_sound,
    teacher_matrix,
)
from kdlora_reproductions.inputs import KINDS, Inputs, read_inputs
from kdlora_reproductions.tables import (
    CELL_COLUMNS,
    SOURCES,
    Contradiction,
    PublishedClaim,
    PublishedReport,
    PublishedTable,
    Sound,
)


@dataclass(frozen=True)
class Reproduction(Result):
    """The reports that could be regenerated, and why others could not."""

    reports: tuple[PublishedReport, ...]
    skipped: dict[str, str]
    sources: tuple[tuple[str, str, str], ...]
    problems: tuple[str, ...]
    seed: int
    rules: Rules

    def numbers(self) -> pd.DataFrame:
        """Every number of every report with the column `report` before `CELL_COLUMNS`."""
        parts = [r.numbers().assign(report=r.id) for r in self.reports]
        if not parts:
            return pd.DataFrame(columns=["report", *CELL_COLUMNS])
        return pd.concat(parts, ignore_index=True)[["report", *CELL_COLUMNS]]

    def summary(self) -> list[dict[str, Any]]:
        """Per report: how many printed numbers there are and how many were reproduced."""
        rows = []
        for report in self.reports:
            checked = report.numbers()["reproduced"].dropna().astype(bool)
            rows.append(
                {
                    "report": report.id,
                    "title": report.title,
                    "printed": len(checked),
                    "reproduced": int(checked.sum()),
                    "contradictions": len(report.contradictions),
                    "sound_answers": len(report.sound),
                }
            )
        return rows


REPORTS = ("000", "001", "002", "003", "004")


def reproduce(
    inputs: Inputs,
    *,
    seed: int = 0,
    rules: Rules | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Reproduction:
    """Regenerate every report whose inputs are there. The same seed gives the same numbers.

    `on_step` is told of each of `REPORTS` before it is made or left out. Raises InputError for
    trainings that are those of the study and lack some of its groups.
    """
    rules = rules or Rules()
    generators = iter(np.random.default_rng(seed).spawn(2))
    rng_scores, rng_runs = next(generators), next(generators)
    reports: list[PublishedReport] = []
    skipped: dict[str, str] = {}
    on_step("000")
    if inputs.scores is not None:
        row = inputs.score_row if inputs.score_row is not None else inputs.scores.iloc[:0]
        reports.append(glue_scores.report(inputs.scores, row, rng_scores, rules))
    else:
        skipped["000"] = _needs("scores")
    on_step("001")
    if inputs.runs is None:
        skipped["001"] = _needs("runs")
    elif lacks := significance.lacks_snapshots(inputs.runs):
        skipped["001"] = lacks
    else:
        reports.append(_significance(inputs.runs, rng_runs, rules))
    on_step("002")
    if inputs.costs is not None:
        reports.append(combined.report(inputs.costs, inputs.runs, inputs.scores))
        on_step("003")
        costed = inputs.runs is not None and combined.has_costs(inputs.runs)
        reports.append(rank_costs.report(inputs.costs, inputs.runs if costed else None))
    else:
        skipped |= {"002": _needs("costs"), "003": _needs("costs")}
    on_step("004")
    if inputs.matrix is not None:
        reports.append(teacher_matrix.report(inputs.matrix))
    else:
        skipped["004"] = _needs("matrix")
    return Reproduction(tuple(reports), skipped, inputs.sources, inputs.problems, seed, rules)


def _needs(name: str) -> str:
    return f"needs {KINDS[name][2]} ({' or '.join(KINDS[name][1])})"


def _significance(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> PublishedReport:
    snapshots = significance.prepare(runs)
    return PublishedReport(
        "001",
        "Efficiency and significance of the trainings",
        "The report joins two states of the data: most tables come from 574 trainings although "
        "its head says 742.",
        tables=significance.tables(snapshots),
        claims=significance_claims.claims(snapshots),
        contradictions=significance_objections.contradictions(snapshots),
        sound=significance_sound.sound(snapshots, rng, rules),
        figures=significance.figures(snapshots["A574"]),
    )


__all__ = [
    "REPORTS",
    "SOURCES",
    "Contradiction",
    "Inputs",
    "PublishedClaim",
    "PublishedReport",
    "PublishedTable",
    "Reproduction",
    "Sound",
    "read_inputs",
    "reproduce",
]
