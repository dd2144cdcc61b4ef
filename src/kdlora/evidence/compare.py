"""Compare two arms, or many pairs of arms at once: evidence at three levels, one verdict.

There are three levels, never mixed: runs, blocks (means over the seeds of an encoder pair on a
task) and tasks (means over blocks). Tests of runs or of blocks take those as independent, which
they are not: they describe, and carry no verdict (`claims` does).

The verdict is that of the claim *beyond* these tasks where six tasks or more were measured, and of
the claim *here* otherwise; both always stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence import intervals, paired_tests
from kdlora.evidence.estimator import MIN_TASKS, Nesting
from kdlora.evidence.pairing import Matched, match_usable
from kdlora.evidence.power import Components, variance_components
from kdlora.evidence.result import Result, Rules, finite, plain
from kdlora.evidence.scores import KEYS, Selection, usable_runs
from kdlora.evidence.verdicts import Claim, Verdict, estimate_claim, judge
from kdlora.records.fairness import FIELDS, conditions
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.metric import POINTS

_LONG = ("versions",)  # whose values are too long to be read in a sentence


def conditions_by_run(study: StudyFrame) -> pd.DataFrame:
    """`conditions` of every finished run, by run id."""
    runs = study.table[study.table["status"].eq("done")].drop_duplicates("run_id")
    return conditions(runs).set_axis(runs["run_id"].astype(str))


def unequal_between(table: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """Sentences on the conditions in which paired runs differ, field by field.

    `table` is that of `conditions_by_run`; `cells` has the columns run_a and run_b (see
    `pairing.Matched`). Of a side that averages several runs the first one speaks for them.
    """
    known = set(table.index)
    pairs = [
        (str(a), str(b))
        for a, b in zip(cells["run_a"], cells["run_b"], strict=True)
        if str(a) in known and str(b) in known
    ]
    sentences = []
    for column, name in FIELDS.items():
        values = table[column].to_dict()
        differing = [
            (values[a], values[b])
            for a, b in pairs
            if values[a] is not None and values[b] is not None and values[a] != values[b]
        ]
        if not differing:
            continue
        a, b = differing[0]
        shown = "" if column in _LONG else f" ({a} against {b})"
        sentences.append(f"{name} differs in {len(differing)} of {len(pairs)} paired cells{shown}")
    return sentences


@dataclass(frozen=True)
class Level(Result):
    """Differences of one level (a minus b), each taken as an independent value.

    `low`, `high`: interval of the mean over these values (the bootstrap, or Student's for few);
    `low_tasks`, `high_tasks`: the same with whole tasks as units (runs and blocks only).
    """

    level: str
    n: int
    mean: float | None = None
    median: float | None = None
    sd: float | None = None
    d_z: float | None = None
    rank_biserial: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    t: float | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p_permutation: float | None = None
    permutations: int = 0  # drawn patterns; 0 when all were listed
    low: float | None = None
    high: float | None = None
    low_tasks: float | None = None
    high_tasks: float | None = None
    cannot: str = ""


def describe_levels(
    differences: np.ndarray, nesting: Nesting, rules: Rules, rng: np.random.Generator
) -> dict[str, Level]:
    """Classical paired statistics of runs, of block means and of task means."""
    blocks = nesting.block_means(differences)
    task_of_block = np.repeat(np.arange(nesting.n_tasks), nesting.blocks_per_task)
    return {
        "runs": _level("runs", differences, nesting.task_of_run(), rules, rng),
        "blocks": _level("blocks", blocks, task_of_block, rules, rng),
        "tasks": _level("tasks", nesting.task_means(differences), None, rules, rng),
    }


def _level(
    name: str,
    values: np.ndarray,
    clusters: np.ndarray | None,
    rules: Rules,
    rng: np.random.Generator,
) -> Level:
    n, sign = len(values), np.sign(np.round(values, 10))  # 0 up to rounding is a tie
    known: dict[str, Any] = {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "wins": int((sign > 0).sum()),
        "ties": int((sign == 0).sum()),
        "losses": int((sign < 0).sum()),
    }
    if n < 2:
        return Level(name, n, **known, cannot=f"one value: no test of {name}")
    if paired_tests.no_spread(values):
        return Level(name, n, **known, sd=0.0, cannot="all differences are equal: no test of them")
    t, p_t = paired_tests.t_test(values)
    p_permutation, drawn = paired_tests.sign_flip_p(values, rng, rules.permutations)
    known |= {
        "sd": float(values.std(ddof=1)),
        "d_z": paired_tests.cohens_dz(values),
        "rank_biserial": finite(paired_tests.rank_biserial(values)),
        "t": float(t),
        "p_t": float(p_t),
        "p_wilcoxon": finite(paired_tests.wilcoxon_p(values)),
        "p_permutation": finite(p_permutation),
        "permutations": drawn,
    }
    if rules.draws:
        low, high = intervals.of_mean(values, rules, rng)
        known |= {"low": low, "high": high}
        if clusters is not None and clusters[-1] > 0:
            low, high = intervals.of_clusters(values, clusters, rules, rng)
            known |= {"low_tasks": low, "high_tasks": high}
    smallest = 2.0 ** (1 - n)
    cannot = f"{n} values: no exact test can get below p = {smallest:.2g}" if n < 6 else ""
    return Level(name, n, **known, cannot=cannot)


@dataclass(frozen=True)
class Comparison(Result):
    """Arm a against arm b over the cells they share. Positive differences: a is better.

    `only_a`, `only_b`: cells that the other side lacks, which are not used. `unequal`: what else
    than the arm differs between paired runs. `question`: what it answers together with those of its
    family, where it is one of a study's own (see `questions`).
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
    question: str = ""

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
    frame: StudyFrame | pd.DataFrame,
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
    frame: StudyFrame | pd.DataFrame,
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
    study = StudyFrame.of(frame)
    usable, notes = usable_runs(study, score)
    sides: dict[str, tuple[pd.DataFrame, list[str]]] = {}
    matched = [
        match_usable(usable, notes, a, b, keys=keys, block=block, score=score, sides=sides)
        for a, b in contrasts
    ]
    claims = {
        scope: judge(
            [estimate_claim(m, scope) for m in matched], scope, [m.unit for m in matched], rules
        )
        for scope in ("here", "beyond")
    }
    generators = [intervals.stream(rng, m.a, m.b) for m in matched]
    table = study.once("conditions", lambda: conditions_by_run(study))
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
