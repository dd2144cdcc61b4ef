"""Compare two arms, or many pairs of arms at once: claims by scope, one verdict.

The verdict is that of the widest claim that the design allows: on tasks like these, on these tasks,
or of these trained models on texts like these (`evidence.verdicts`); all stand side by side.

The descriptions beside them are of three levels, never mixed: runs, blocks (means over the seeds of
an encoder pair on a task) and tasks (means over blocks). Their tests take runs or blocks as
independent, which they are not: they carry no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence import intervals, paired_tests
from kdlora.evidence.claim import Claim
from kdlora.evidence.comparison import Comparison, Level
from kdlora.evidence.estimator import Nesting
from kdlora.evidence.pairing import Matched, match_usable
from kdlora.evidence.power import variance_components
from kdlora.evidence.result import (
    Rules,
    Scope,
    finite,
)
from kdlora.evidence.scores import KEYS, Selection, usable_runs
from kdlora.evidence.sentences import claim_notes
from kdlora.evidence.texts import PairedRuns, StoredTexts, TextDifferences, text_differences
from kdlora.evidence.verdicts import judge_all
from kdlora.records.fairness import FIELDS, conditions
from kdlora.records.frame import positive_place
from kdlora.records.tidy import StudyFrame

_LONG = ("versions",)  # whose values are too long to be read in a sentence


def conditions_by_run(study: StudyFrame) -> dict[str, dict[str, Any]]:
    """`conditions` of every finished run: field -> run id -> value."""
    runs = study.table[study.table["status"].eq("done")].drop_duplicates("run_id")
    table = conditions(runs).set_axis(runs["run_id"].astype(str).tolist())
    return {column: {str(k): v for k, v in table[column].items()} for column in FIELDS}


def unequal_between(known: Mapping[str, Mapping[str, Any]], cells: pd.DataFrame) -> list[str]:
    """Sentences on the conditions in which paired runs differ, field by field.

    `known` is that of `conditions_by_run`; `cells` has the columns run_a and run_b (see
    `pairing.Matched`). Of a side that averages several runs the first one speaks for them.
    """
    runs = list(zip(cells["run_a"].astype(str), cells["run_b"].astype(str), strict=True))
    sentences = []
    for column, name in FIELDS.items():
        values = known[column]
        pairs = [(values[a], values[b]) for a, b in runs if a in values and b in values]
        differing = [(x, y) for x, y in pairs if x is not None and y is not None and x != y]
        if not differing:
            continue
        a, b = differing[0]
        shown = "" if column in _LONG else f" ({a} against {b})"
        sentences.append(f"{name} differs in {len(differing)} of {len(pairs)} paired cells{shown}")
    return sentences


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

    `score` may name any column of scores, such as `report.macro_f1`. Where the study has stored
    predictions (`StudyFrame.of(frame, outputs)`), texts are a sample, too. What cannot be said is
    said in `notes` and in the claims' `cannot`; a missing arm is no error. Raises InputError for
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
    sides: dict[str, tuple[pd.DataFrame, list[str]]] = study.once(("sides", score, *keys), dict)
    matched = [
        match_usable(usable, notes, a, b, keys=keys, block=block, score=score, sides=sides)
        for a, b in contrasts
    ]
    return compare_matched(study, matched, rng=rng, rules=rules)


def compare_matched(
    study: StudyFrame, matched: Sequence[Matched], *, rng: np.random.Generator, rules: Rules
) -> tuple[Comparison, ...]:
    """`compare_many` on runs that are matched already."""
    known = study.once("texts", lambda: StoredTexts(study.outputs))
    claims = judge_all(matched, [_texts(study, m, known) for m in matched], rules)
    generators = [intervals.stream(rng, m.a, m.b) for m in matched]
    conditions_of = study.once("conditions", lambda: conditions_by_run(study))
    flagged = study.once("flagged runs", lambda: _flagged_runs(study))
    return tuple(
        _beside_flags(_comparison(m, own, len(matched), rules, generator, conditions_of), flagged)
        for m, own, generator in zip(matched, claims, generators, strict=True)
    )


def _flagged_runs(study: StudyFrame) -> frozenset[str]:
    return frozenset(study.table.loc[study.table["flagged"], "run_id"].astype(str))


def _beside_flags(c: Comparison, flagged: frozenset[str]) -> Comparison:
    """With what is left of the difference without the runs that are flagged."""
    cells = c.matched.cells
    doubtful = pd.Series(
        [
            any(run in flagged for run, _ in (*a, *b))
            for a, b in zip(cells["runs_a"], cells["runs_b"], strict=True)
        ],
        index=cells.index,
        dtype=bool,
    )
    if not doubtful.any():
        return c
    rest = replace(c.matched, cells=cells[~doubtful].reset_index(drop=True))
    left = None
    if len(rest.cells):
        left = float(rest.nesting.task_means(rest.differences).mean())
    return replace(c, n_flagged=int(doubtful.sum()), unflagged=left)


def _texts(study: StudyFrame, matched: Matched, known: StoredTexts) -> TextDifferences | str:
    """The texts behind a comparison of scores on the report split."""
    column = matched.score
    if matched.reason or (column != "score" and not column.startswith("report.")):
        return f"the predictions behind {column} are not stored"
    positives = study.once(
        "positive classes",
        lambda: (
            {
                str(task): positive_place(rows)
                for task, rows in study.table.groupby("task", sort=False)
            }
            if "positive_class" in study.table
            else {}
        ),
    )
    cells = matched.cells
    columns = (cells[name] for name in ("task", "runs_a", "runs_b", "score_a", "score_b", "metric"))
    runs = [
        PairedRuns(str(task), a, b, float(x), float(y), str(name), positives.get(task))
        for task, a, b, x, y, name in zip(*columns, strict=True)
    ]
    return text_differences(runs, known)


def _comparison(
    matched: Matched,
    claims: dict[Scope, Claim],
    family: int,
    rules: Rules,
    rng: np.random.Generator,
    known: Mapping[str, Mapping[str, Any]],
) -> Comparison:
    d = matched.differences
    levels, components, by_task = {}, None, {}
    n_blocks = n_tasks = 0
    sides: tuple[float | None, float | None] = (None, None)
    if len(d):
        nesting = matched.nesting
        n_blocks, n_tasks = nesting.n_blocks, nesting.n_tasks
        levels = describe_levels(d, nesting, rules, rng)
        components = variance_components(d, nesting)
        scores = matched.cells[["score_a", "score_b"]].to_numpy(float).T
        sides = tuple(map(finite, nesting.task_means(scores).mean(-1)))  # type: ignore[assignment]
        names = matched.cells["task"].astype(str).unique()
        by_task = dict(zip(names, nesting.task_means(d).tolist(), strict=True))
    notes = [*matched.notes, *([matched.reason] if matched.reason else [])]
    unequal = tuple(unequal_between(known, matched.cells))
    notes += [f"unequal conditions: {text}" for text in unequal]
    notes += dict.fromkeys(note for claim in claims.values() for note in claim_notes(claim))
    return Comparison(
        matched.a, matched.b, matched.score, matched.unit, matched.keys, len(d), n_blocks, n_tasks,
        matched.only_a, matched.only_b,
        *sides,
        levels, claims, components, by_task, family, rules, tuple(notes), matched,
        unequal,
    )  # fmt: skip
