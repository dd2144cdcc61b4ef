"""Do the verdicts of `kdlora compare` keep their error rates?

`python -m benchmarks.evidence_simulation [--studies 10000]` simulates studies with the tasks,
encoder pairs, seeds and holes of the 742 runs behind report 001, and compares LoRA with KD-LoRA for
six variants, as that report does. Arms differ from task to task at random: that is what makes runs
of one task dependent. Prints, with Monte-Carlo errors:

1. false positives of both claims (single, and any of six after Holm) under several kinds of noise;
2. the same of tests that carry no verdict, among them report 001's pooled unpaired Welch test;
3. power, coverage and wrong-sided verdicts at true differences of 0.5, 1, 2 and 5 points;
4. equivalence declared at a true difference equal to the margin (wrong) and at 0 (right);
5. coverage of bootstrap intervals, plain and expanded;
6. false positives in other designs, such as one task with five seeds;
7. Friedman's test over tasks and over blocks, and the mixed model.

Ends with exit code 1 if a promise is broken: verdicts false in at most 5 % and intervals that cover
93 to 97 %, each up to three Monte-Carlo errors. `benchmarks/evidence_simulation.txt` keeps a run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.simulated_studies import (
    Design,
    Effects,
    Rates,
    claim_rates,
    descriptive_rates,
    design,
    simulate,
)
from kdlora.evidence import intervals
from kdlora.evidence.mixed_model import mixed_model
from kdlora.evidence.result import Rules

VARIANTS = ("adalora", "dora", "lora", "mrlora", "olora", "rslora")
FAMILIES = ("bert", "deberta", "roberta")
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
SEEDS = (42, 123, 2024)
CONTRASTS = [(f"teacher/{v}", f"student/kd-{v}") for v in VARIANTS]
CHUNK = 1_000

# Moment estimates of the six real comparisons, AdaLoRA and the collapsed rsLoRA run apart.
REAL = Effects(task=2.7, block=3.6, run=2.4)
SETTINGS = {
    "as in the 742 runs": REAL,
    "even normal noise": Effects(uneven=0, collapse=0),
    "no task interaction": Effects(task=0),
    "strong task interaction": Effects(task=6, block=2),
    "no block interaction": Effects(block=0),
    "many collapsed runs": Effects(collapse=0.05),
    "skewed task effects": Effects(skewed=True),
}


def grid_742() -> pd.DataFrame:
    """The cells of the 742 runs: arm, role, pair, task, seed; 81 FFT, 391 LoRA, 270 KD-LoRA."""
    rows = []
    for task in TASKS:
        for pair in FAMILIES:
            for seed in SEEDS:
                rows.append(("teacher/fft", "teacher", pair, task, seed))
                for variant in VARIANTS:
                    if not _lora_hole(task, pair, seed, variant):
                        rows.append((f"teacher/{variant}", "teacher", pair, task, seed))
                    if seed == 42 or task in ("cola", "mnli", "sst2"):
                        rows.append((f"student/kd-{variant}", "student", pair, task, seed))
    return pd.DataFrame(rows, columns=["arm", "role", "pair", "task", "seed"])


def _lora_hole(task: str, pair: str, seed: int, variant: str) -> bool:
    """The 95 LoRA cells that were never run."""
    if seed == 123:
        return (task == "qqp" and variant == "mrlora") or (
            task == "stsb" and (pair == "deberta" or variant == "mrlora")
        )
    if seed != 2024:
        return False
    if task in ("cola", "sst2", "stsb"):
        return (pair, variant) != ("bert", "lora")
    if task == "qqp":
        return not (pair == "bert" and variant in ("lora", "dora", "olora", "adalora"))
    if task == "mnli":
        return pair == "deberta" or (pair, variant) == ("roberta", "mrlora")
    return variant == "mrlora"


def balanced(tasks: int, pairs: int, seeds: int) -> Design:
    """One comparison on a complete grid."""
    rows = [
        (arm, arm.split("/")[0], f"pair{p}", f"task{t}", s)
        for arm in ("teacher/lora", "student/kd-lora")
        for t in range(tasks)
        for p in range(pairs)
        for s in range(seeds)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "role", "pair", "task", "seed"])
    return design(frame, [("teacher/lora", "student/kd-lora")])


class Report:
    """Prints rows and remembers broken promises."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def at_most(self, what: str, rate: float, studies: int, limit: float = 0.05) -> str:
        error = np.sqrt(limit * (1 - limit) / studies)
        if rate > limit + 3 * error:
            self.broken.append(f"{what}: {rate:.4f} is above {limit}")
        return f"{rate:.4f}"

    def covers(self, what: str, rate: float, studies: int) -> str:
        error = 3 * np.sqrt(0.05 * 0.95 / studies)
        if not 0.93 - error <= rate <= 0.97 + error:
            self.broken.append(f"{what}: coverage {rate:.4f}")
        return f"{rate:.4f}"


def pooled(
    plan: Design, studies: int, rng: np.random.Generator, *, centred: bool = True, **options
) -> tuple[Rates, Rates]:
    """Rates over chunks of studies, so that memory stays small."""
    sizes = [min(CHUNK, studies - start) for start in range(0, studies, CHUNK)]
    parts = [
        claim_rates(plan, simulate(plan, size, rng, **options), Rules(), centred=centred)
        for size in sizes
    ]
    names = ("significant", "any_significant", "superior", "inferior", "equivalent",
             "any_equivalent", "coverage")  # fmt: skip
    result = []
    for scope in range(2):
        rows = [part[scope] for part in parts]
        mean = {n: float(np.average([getattr(r, n) for r in rows], weights=sizes)) for n in names}
        result.append(Rates(rows[0].scope, studies, rows[0].contrasts, **mean))
    return result[0], result[1]


def line(*cells: object, widths: Iterable[int]) -> None:
    print("  ".join(f"{c!s:<{w}}" if i == 0 else f"{c!s:>{w}}"
                    for i, (c, w) in enumerate(zip(cells, widths, strict=True))))  # fmt: skip


def null_table(plan: Design, studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n1. No true difference: false positives of the claims ({studies} studies, six "
          "comparisons each)")  # fmt: skip
    widths = (26, 8, 10, 14, 10)
    line("noise", "claim", "single", "any of 6, Holm", "coverage", widths=widths)
    for name, effects in SETTINGS.items():
        for rates in pooled(plan, studies, rng, effects=effects):
            what = f"{name}, {rates.scope}"
            line(
                name,
                rates.scope,
                report.at_most(what, rates.significant, studies),
                report.at_most(f"{what}, any", rates.any_significant, studies),
                report.covers(what, rates.coverage, studies),
                widths=widths,
            )


def descriptive_table(plan: Design, studies: int, rng: np.random.Generator) -> None:
    print(f"\n2. The same null ({studies} studies): tests that carry no verdict, and why")
    collected: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, studies, CHUNK):
        drawn = simulate(plan, min(CHUNK, studies - start), rng, effects=REAL)
        for name, rates in descriptive_rates(plan, drawn, rng).items():
            collected.setdefault(name, []).append(rates)
    line("test", "single", "any of 6, Holm", widths=(40, 10, 14))
    for name, rates in collected.items():
        single, family = np.mean(rates, axis=0)
        line(name, f"{single:.4f}", f"{family:.4f}", widths=(40, 10, 14))


def power_table(plan: Design, studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n3. True differences ({studies} studies, noise as in the 742 runs)")
    widths = (12, 8, 10, 14, 12, 10)
    line("difference", "claim", "power", "any of 6, Holm", "wrong side", "coverage", widths=widths)
    for difference in (0.5, 1.0, 2.0, 5.0):
        for rates in pooled(plan, studies, rng, centred=False, difference=difference):
            what = f"difference {difference}, {rates.scope}"
            line(
                difference,
                rates.scope,
                f"{rates.superior:.4f}",
                f"{rates.any_significant:.4f}",
                report.at_most(f"{what}, wrong side", rates.inferior, studies),
                report.covers(what, rates.coverage, studies),
                widths=widths,
            )


def equivalence_table(plan: Design, studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n4. Equivalent within ±1 point ({studies} studies)")
    widths = (26, 12, 8, 10, 14)
    line("noise", "difference", "claim", "single", "any of 6, Holm", widths=widths)
    calm = Effects(task=0.3, block=0.5, run=0.4, collapse=0)
    for name, effects in {"as in the 742 runs": REAL, "an eighth of it": calm}.items():
        for difference in (1.0, -1.0, 0.0):
            for rates in pooled(plan, studies, rng, difference=difference, effects=effects):
                what = f"equivalence at {difference}, {name}, {rates.scope}"
                shown = [f"{rates.equivalent:.4f}", f"{rates.any_equivalent:.4f}"]
                if difference:
                    shown = [
                        report.at_most(what, rates.equivalent, studies),
                        report.at_most(f"{what}, any", rates.any_equivalent, studies),
                    ]
                line(name, difference, rates.scope, *shown, widths=widths)


def bootstrap_table(plan: Design, studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n5. Coverage of 95 % bootstrap intervals of a difference ({studies} studies)")
    widths = (56, 10)
    line("resampled, and interval", "coverage", widths=widths)
    drawn = simulate(plan, studies, rng, effects=REAL)
    index = rng.integers(0, len(TASKS), (2_000, len(TASKS)))
    covered: dict[str, list[float]] = {}
    for d, nesting in zip(drawn.differences, plan.nestings, strict=True):
        tasks = nesting.task_means(d)
        means = np.stack([tasks[:, i].mean(1) for i in index])
        for kind, sizes in (("percentile", None), ("expanded", [len(TASKS)])):
            low, high = intervals.interval(means, sizes=sizes)
            covered.setdefault(f"tasks, for tasks like these, {kind}", []).append(
                float(((low <= 0) & (high >= 0)).mean())
            )
    a, b = _first_seed(plan)
    strata = np.repeat(np.arange(len(TASKS)), len(FAMILIES))
    for scores, truth in zip(drawn.scores[:500], drawn.here[0], strict=False):
        rows = (scores[a] - scores[b])[:, None]
        means = intervals.bootstrap_strata(rows, strata, lambda r: r.mean((1, 2)), 1_000, rng)
        for kind, sizes in (("percentile", None), ("expanded", [len(FAMILIES)] * len(TASKS))):
            low, high = intervals.interval(means, sizes=sizes)
            covered.setdefault(f"27 cells within tasks, for these tasks, {kind}", []).append(
                float(low <= truth <= high)
            )
    for name, hits in covered.items():
        rate, n = float(np.mean(hits)), 500 if "cells" in name else studies
        shown = report.covers(name, rate, n) if "expanded" in name else f"{rate:.4f}"
        line(f"{name}{' (used)' if 'expanded' in name else ''}", shown, widths=widths)


def _first_seed(plan: Design) -> tuple[np.ndarray, np.ndarray]:
    """Rows [27] of the first contrast's arms at seed 42, by task and pair."""
    frame = plan.frame
    sides = []
    for name in plan.contrasts[0]:
        rows = frame[(frame["arm"] == name) & (frame["seed"] == 42)]
        sides.append(rows.sort_values(["task", "pair"]).index.to_numpy())
    return sides[0], sides[1]


def design_table(studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n6. Other designs, no true difference ({studies} studies)")
    widths = (30, 8, 10, 10, 10)
    line("tasks x pairs x seeds", "claim", "error by", "single", "coverage", widths=widths)
    for shape in ((1, 1, 5), (1, 3, 5), (1, 8, 1), (3, 1, 3), (3, 3, 1), (3, 3, 3), (6, 1, 3),
                  (20, 2, 3)):  # fmt: skip
        plan = balanced(*shape)
        nesting = plan.nestings[0]
        # One comparison alone: even noise, for a t test of five runs is only right for that.
        effects = Effects(uneven=0, collapse=0)
        for rates in pooled(plan, studies, rng, effects=effects):
            if rates.scope == "beyond" and nesting.n_tasks < 6:
                continue
            what = f"design {shape}, {rates.scope}"
            line(
                " x ".join(map(str, shape)),
                rates.scope,
                nesting.replicates(rates.scope),  # type: ignore[arg-type]
                report.at_most(what, rates.significant, studies),
                report.covers(what, rates.coverage, studies)
                if shape != (3, 3, 1) else f"{rates.coverage:.4f}",
                widths=widths,
            )  # fmt: skip


def many_table(plan: Design, studies: int, rng: np.random.Generator, report: Report) -> None:
    print(f"\n7. Six equal LoRA variants: Friedman ({studies} studies), mixed model (100 studies)")
    line("test", "rejected", widths=(40, 10))
    frame = plan.frame
    arms = [f"teacher/{v}" for v in VARIANTS]
    first = frame[(frame["seed"] == 42) & frame["arm"].isin(arms)]
    order = first.sort_values(["arm", "task", "pair"]).index.to_numpy().reshape(6, 9, 3)
    drawn = simulate(plan, studies, rng, effects=REAL)
    table = drawn.scores[:, order]  # studies, arms, tasks, pairs
    for name, values in (
        ("Friedman over 9 tasks", table.mean(-1)),
        ("Friedman over 27 blocks (description)", table.reshape(studies, 6, 27)),
    ):
        p = stats.friedmanchisquare(*values.transpose(1, 0, 2), axis=1).pvalue
        rate = float((p <= 0.05).mean())
        shown = report.at_most(name, rate, studies) if "tasks" in name else f"{rate:.4f}"
        line(name, shown, widths=(40, 10))
    p_values = []
    for scores in drawn.scores[:100]:
        one = frame.assign(score=scores)
        fitted = mixed_model(one[one["arm"].isin(arms)], reference=arms[0])
        p_values += [m.p for m in fitted.arms if m.p is not None]
    rate = float(np.mean(np.array(p_values) <= 0.05))
    line("mixed model, single contrasts", report.at_most("mixed model", rate, 100),
         widths=(40, 10))  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000, help="simulated studies per row")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    rng = np.random.default_rng(options.seed)
    plan, report, n = design(grid_742(), CONTRASTS), Report(), options.studies
    print(f"Design: {len(plan.frame)} runs, {len(TASKS)} tasks, matched runs per comparison "
          f"{[len(d) for d in plan.rows_a]}; seed {options.seed}")  # fmt: skip
    print(f"One Monte-Carlo error of a rate of 5 %: {np.sqrt(0.05 * 0.95 / n):.4f}")
    tables: list[Callable[[], None]] = [
        lambda: null_table(plan, n, rng, report),
        lambda: descriptive_table(plan, n, rng),
        lambda: power_table(plan, n, rng, report),
        lambda: equivalence_table(plan, n, rng, report),
        lambda: bootstrap_table(plan, min(n, 2_000), rng, report),
        lambda: design_table(n, rng, report),
        lambda: many_table(plan, min(n, 2_000), rng, report),
    ]
    for table in tables:
        table()
    print(f"\n{time.perf_counter() - started:.0f} s")
    for problem in report.broken:
        print(f"BROKEN: {problem}")
    print("All promises kept." if not report.broken else f"{len(report.broken)} promises broken.")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
