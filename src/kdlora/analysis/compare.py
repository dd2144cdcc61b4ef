"""Compare two arms, or many pairs of arms at once: evidence at three levels, one verdict.

The verdict is that of the claim *beyond* these tasks where six tasks or more were measured, and of
the claim *here* otherwise; both always stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdlora.analysis.claims import Claim, estimate_claim, judge
from kdlora.analysis.equivalence import Verdict
from kdlora.analysis.fairness import conditions_by_run, unequal_between
from kdlora.analysis.levels import Level, describe_levels
from kdlora.analysis.nested import MIN_TASKS
from kdlora.analysis.pairing import Matched, match_usable
from kdlora.analysis.power import Components, variance_components
from kdlora.analysis.results import Result, Rules, finite, plain
from kdlora.analysis.scores import KEYS, POINTS, Selection, usable_runs


@dataclass(frozen=True)
class Comparison(Result):
    """Arm a against arm b over the cells they share. Positive differences: a is better.

    `only_a`, `only_b`: cells that the other side lacks, which are not used. `unequal`: what else
    than the arm differs between paired runs.
    """

    a: str
    b: str
    score: str
    unit: str
    keys: tuple[str, ...]
    n_runs: int
    n_blocks: int
    n_tasks: int
    only_a: int
    only_b: int
    mean_a: float | None
    mean_b: float | None
    levels: dict[str, Level]
    here: Claim
    beyond: Claim
    components: Components | None
    by_task: dict[str, float]
    family_size: int
    rules: Rules
    notes: tuple[str, ...]
    matched: Matched = field(repr=False, compare=False)
    unequal: tuple[str, ...] = ()

    @property
    def claim(self) -> Claim:
        """The claim that carries the verdict: beyond these tasks where there are enough tasks."""
        return self.beyond if self.n_tasks >= MIN_TASKS else self.here

    @property
    def verdict(self) -> Verdict:
        return self.claim.verdict

    def to_dict(self) -> dict:
        """Also the verdict, the sentence and the cells used, as block -> other keys' values."""
        return {
            **super().to_dict(),
            "verdict": self.verdict,
            "scope": self.claim.scope,
            "sentence": sentence(self),
            "cells": plain(cells_used(self.matched)),
        }


def compare(
    frame: pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    block: Sequence[str] | None = None,
    score: str = "score",
    rules: Rules | None = None,
) -> Comparison:
    """Compare two arms on the cells they share.

    `score` may name any column of scores, such as `report.macro_f1`. What cannot be said is said
    in `notes` and in the claims' `cannot`; a missing arm is no error. Raises InputError for
    columns and keys that the frame lacks.
    """
    (made,) = compare_many(
        frame, [(a, b)], rng=rng, keys=keys, block=block, score=score, rules=rules
    )
    return made


def compare_many(
    frame: pd.DataFrame,
    contrasts: Sequence[tuple[str | Selection, str | Selection]],
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    block: Sequence[str] | None = None,
    score: str = "score",
    rules: Rules | None = None,
) -> tuple[Comparison, ...]:
    """Compare many pairs of arms; p-values are corrected over all of them, scope by scope."""
    rules = rules or Rules()
    usable, notes = usable_runs(frame, score)
    matched = [
        match_usable(usable, notes, a, b, keys=keys, block=block, score=score) for a, b in contrasts
    ]
    claims = {
        scope: judge(
            [estimate_claim(m, scope) for m in matched], scope, [m.unit for m in matched], rules
        )
        for scope in ("here", "beyond")
    }
    generators = rng.spawn(len(matched)) if matched else []
    table = conditions_by_run(usable)
    return tuple(
        _comparison(m, here, beyond, len(matched), rules, generator, table)
        for m, here, beyond, generator in zip(
            matched, claims["here"], claims["beyond"], generators, strict=True
        )
    )


def _comparison(
    matched: Matched,
    here: Claim,
    beyond: Claim,
    family: int,
    rules: Rules,
    rng: np.random.Generator,
    table: pd.DataFrame,
) -> Comparison:
    d = matched.differences
    levels, components, by_task = {}, None, {}
    n_blocks = n_tasks = 0
    if len(d):
        nesting = matched.nesting
        n_blocks, n_tasks = nesting.n_blocks, nesting.n_tasks
        levels = describe_levels(d, nesting, rules, rng)
        components = variance_components(d, nesting)
        names = matched.cells["task"].astype(str).unique()
        by_task = dict(zip(names, nesting.task_means(d).tolist(), strict=True))
    notes = [*matched.notes, *([matched.reason] if matched.reason else [])]
    unequal = tuple(unequal_between(table, matched.cells))
    notes += [f"unequal conditions: {text}" for text in unequal]
    if here.replicates == "runs" and here.verdict != "cannot be said":
        notes.append("the claim here holds for these encoder pairs: seeds are its replicates")
    return Comparison(
        matched.a, matched.b, matched.score, matched.unit, matched.keys, len(d), n_blocks, n_tasks,
        matched.only_a, matched.only_b,
        finite(matched.cells["score_a"].mean()) if len(d) else None,
        finite(matched.cells["score_b"].mean()) if len(d) else None,
        levels, here, beyond, components, by_task, family, rules, tuple(notes), matched,
        unequal,
    )  # fmt: skip


def sentence(c: Comparison) -> str:
    """The verdict as a sentence, with its numbers, its scope and what stands behind it."""
    claim = c.claim
    if claim.verdict == "cannot be said":
        return f"{c.a} against {c.b}: cannot be said. {claim.cannot[:1].upper()}{claim.cannot[1:]}."
    unit = "pp" if c.unit == POINTS else c.unit
    scope = "on tasks like these" if claim.scope == "beyond" else "on these tasks"
    numbers = (
        f"{claim.difference:+.2f} {unit} [{claim.low:.2f}, {claim.high:.2f}], "
        f"{claim.n_units} {claim.replicates}, p {claim.p_corrected:.2g}"
    )
    if claim.verdict == "undecided":
        seen = f"{100 * c.rules.power:.0f} % power from {claim.detectable:.1f} {unit} on"
        text = f"{c.a} and {c.b}: undecided {scope} ({numbers}; {seen})"
    elif claim.verdict == "equivalent":
        text = f"{c.a} is equivalent to {c.b} within ±{c.rules.margin:g} {unit} {scope} ({numbers})"
    else:
        text = f"{c.a} is {claim.verdict} to {c.b} {scope} ({numbers})"
    if claim.verdict == "undecided" and c.here.verdict not in ("undecided", "cannot be said"):
        text += f"; on these tasks themselves: {c.here.verdict}"
    return text + "."


def cells_used(matched: Matched) -> dict[str, list]:
    """Block -> what the runs in it are told apart by (seeds as a rule), for the record."""
    inside = [k for k in matched.keys if k not in matched.block] or list(matched.block)
    used: dict[str, list] = {}
    columns = [matched.cells[k].astype(object).tolist() for k in (*matched.block, *inside)]
    for row in zip(*columns, strict=True):
        label = "/".join(map(str, row[: len(matched.block)]))
        rest = row[len(matched.block) :]
        used.setdefault(label, []).append(rest[0] if len(rest) == 1 else list(rest))
    return used
