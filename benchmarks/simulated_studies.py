"""Simulated studies with a known truth: do the verdicts keep their error rates?

A simulated score is, in points,

    score = task + pair on task + arm + (arm x task) + (arm x block) + run noise [+ collapse]

where the interaction of arm and task is random: that is what makes runs of one task dependent and
what tests of runs or blocks overlook. `Effects` are given on the scale of a difference of two arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence import paired_tests
from kdlora.evidence.estimator import Nesting, estimate
from kdlora.evidence.pairing import match_usable
from kdlora.evidence.result import Result, Rules
from kdlora.evidence.scores import usable_runs
from kdlora.evidence.verdicts import verdicts_of


@dataclass(frozen=True)
class Effects:
    """Standard deviations of a difference of two arms, in points.

    task: arm x task, of which the share `shared` is common to all arms of a role (a small encoder
    suffers on the same tasks under every adapter); block: arm x pair x task; run: noise of a
    difference of two runs, uneven over tasks by a lognormal factor of spread `uneven`. With
    probability `collapse` a run falls by `fall` points, whatever its arm. `skewed` draws task
    effects of one role from a centred exponential distribution instead of a normal one.
    """

    task: float = 2.7
    block: float = 3.6
    run: float = 2.4
    shared: float = 0.5
    uneven: float = 0.5
    collapse: float = 0.01
    fall: float = 25.0
    skewed: bool = False


@dataclass(frozen=True)
class Design:
    """The rows of a study and how the two sides of each contrast are matched in it."""

    frame: pd.DataFrame
    contrasts: tuple[tuple[str, str], ...]
    rows_a: tuple[np.ndarray, ...]
    rows_b: tuple[np.ndarray, ...]
    nestings: tuple[Nesting, ...]


def design(frame: pd.DataFrame, contrasts: Sequence[tuple[str, str]]) -> Design:
    """Match the contrasts once; `frame` [rows] has arm, role, pair, task, seed and no scores."""
    frame = frame.reset_index(drop=True).assign(score=0.0)
    usable, _ = usable_runs(frame)
    columns = ["arm", "pair", "task", "seed"]
    place = {key: i for i, key in enumerate(frame[columns].itertuples(index=False, name=None))}
    a_rows, b_rows, nestings = [], [], []
    for a, b in contrasts:
        matched = match_usable(usable, [], a, b)
        cells = list(matched.cells[["pair", "task", "seed"]].itertuples(index=False, name=None))
        a_rows.append(np.array([place[(a, *cell)] for cell in cells]))
        b_rows.append(np.array([place[(b, *cell)] for cell in cells]))
        nestings.append(matched.nesting)
    return Design(frame, tuple(contrasts), tuple(a_rows), tuple(b_rows), tuple(nestings))


@dataclass(frozen=True)
class Simulated:
    """Scores [studies, rows] and, by contrast, differences [studies, cells] and the true mean
    difference on the tasks of each study [studies]; `nominal` is the one on tasks like these."""

    nominal: float
    scores: np.ndarray
    differences: tuple[np.ndarray, ...]
    here: tuple[np.ndarray, ...]


def simulate(
    plan: Design,
    studies: int,
    rng: np.random.Generator,
    *,
    difference: float = 0.0,
    effects: Effects | None = None,
) -> Simulated:
    """Draw studies in which the first arm of every contrast is `difference` points better."""
    effects = effects or Effects()
    frame = plan.frame
    task, tasks = pd.factorize(frame["task"])
    role, roles = pd.factorize(frame["role"])
    arm, arms = pd.factorize(frame["arm"])
    block, blocks = pd.factorize(frame["task"].astype(str) + "/" + frame["pair"].astype(str))
    per_arm = 1 / np.sqrt(2)  # a difference holds two of each effect

    own = np.sqrt(1 - effects.shared) * rng.standard_normal((studies, len(arms), len(tasks)))
    common = np.sqrt(effects.shared) * rng.standard_normal((studies, len(roles), len(tasks)))
    if effects.skewed:
        own[:] = common[:] = 0
        common[:, 0] = np.sqrt(2) * (rng.exponential(1.0, (studies, len(tasks))) - 1)
    interaction = effects.task * per_arm * (own[:, arm, task] + common[:, role, task])
    noise = effects.run * per_arm * rng.standard_normal((studies, len(frame)))
    noise *= np.exp(effects.uneven * rng.standard_normal((studies, len(tasks))))[:, task]
    noise -= effects.fall * (rng.random(noise.shape) < effects.collapse)
    scores = 75 + 14 * rng.standard_normal((studies, len(tasks)))[:, task]
    scores += 4 * rng.standard_normal((studies, len(blocks)))[:, block]
    scores += interaction + noise
    by_block = rng.standard_normal((studies, len(arms), len(blocks)))
    by_block = effects.block * per_arm * by_block[:, arm, block]
    scores += by_block
    better = frame["arm"].isin([a for a, _ in plan.contrasts]).to_numpy()
    scores[:, better] += difference

    differences, here = [], []
    for a, b, nesting in zip(plan.rows_a, plan.rows_b, plan.nestings, strict=True):
        differences.append(scores[:, a] - scores[:, b])
        true = interaction[:, a] - interaction[:, b]
        if nesting.replicates("here") == "runs":  # then the claim is on these pairs too
            true = true + by_block[:, a] - by_block[:, b]
        here.append(difference + nesting.task_means(true).mean(-1))
    return Simulated(difference, scores, tuple(differences), tuple(here))


@dataclass(frozen=True)
class Rates(Result):
    """How often claims of one scope were made in simulated studies, and how well they held.

    significant: single tests with p <= alpha (averaged over contrasts); any_significant: studies
    with any corrected p <= alpha; superior, inferior, equivalent: single verdicts of a family of
    one; any_equivalent: studies with any such verdict after correction; coverage: intervals that
    hold the true difference.
    """

    scope: str
    studies: int
    contrasts: int
    significant: float
    any_significant: float
    superior: float
    inferior: float
    equivalent: float
    any_equivalent: float
    coverage: float


def claim_rates(plan: Design, drawn: Simulated, rules: Rules, *, centred: bool = False) -> tuple:
    """Rates of the claims beyond and here, by the functions that `compare` uses.

    `centred` moves each study's differences so that their true mean on its own tasks is the
    nominal one: then a claim here has a null to be false of.
    """
    rates = []
    studies = len(drawn.scores)
    nominal = drawn.nominal
    for scope in ("beyond", "here"):
        estimates, truths = [], []
        for d, here, nesting in zip(drawn.differences, drawn.here, plan.nestings, strict=True):
            shift = (here - nominal)[:, None] if centred and scope == "here" else 0.0
            estimates.append(estimate(d - shift, nesting, scope))
            truths.append(here if scope == "here" and not centred else np.full(studies, nominal))
        mean, se, df = (
            np.stack([getattr(e, name) for e in estimates], axis=-1)
            for name in ("mean", "se", "df")
        )
        truth = np.stack(truths, axis=-1)
        p, q, p_corrected, q_corrected, _ = verdicts_of(mean, se, df, rules)
        half = stats.t.ppf(1 - rules.alpha / 2, df) * se
        significant = p <= rules.alpha
        rates.append(
            Rates(
                scope,
                studies,
                len(plan.contrasts),
                significant=float(significant.mean()),
                any_significant=float((p_corrected <= rules.alpha).any(-1).mean()),
                superior=float((significant & (mean > 0)).mean()),
                inferior=float((significant & (mean < 0)).mean()),
                equivalent=float((q <= rules.alpha).mean()),
                any_equivalent=float((q_corrected <= rules.alpha).any(-1).mean()),
                coverage=float((np.abs(mean - truth) <= half).mean()),
            )
        )
    return tuple(rates)


def descriptive_rates(
    plan: Design, drawn: Simulated, rng: np.random.Generator, alpha: float = 0.05
) -> dict[str, tuple[float, float]]:
    """Rejections by tests that carry no verdict: (single, any of the family after Holm).

    The pooled unpaired Welch test of report 001 is among them.
    """
    made: dict[str, list[np.ndarray]] = {}

    def add(name: str, p: np.ndarray) -> None:
        made.setdefault(name, []).append(p)

    arms = plan.frame["arm"].to_numpy()
    for (a, b), d, nesting in zip(plan.contrasts, drawn.differences, plan.nestings, strict=True):
        pooled = stats.ttest_ind(
            drawn.scores[:, arms == a], drawn.scores[:, arms == b], axis=1, equal_var=False
        )
        add("pooled unpaired Welch (report 001)", pooled.pvalue)
        levels = {"runs": d, "blocks": nesting.block_means(d), "tasks": nesting.task_means(d)}
        for level, values in levels.items():
            add(f"{level}: paired t", paired_tests.t_test(values)[1])
            add(f"{level}: Wilcoxon", paired_tests.wilcoxon_p(values))
        add("tasks: sign-flip permutation", paired_tests.sign_flip_p(levels["tasks"], rng)[0])
    rates = {}
    for name, columns in made.items():
        p = np.stack(columns, axis=-1)
        family = (paired_tests.adjust(p, "holm") <= alpha).any(-1)
        rates[name] = (float((p <= alpha).mean()), float(family.mean()))
    return rates
