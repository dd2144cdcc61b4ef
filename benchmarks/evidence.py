"""Do the claims of `kdlora compare` hold at the rates they promise?

Studies with a known truth go through the public `compare_many`, and each claim that is made is held
against that truth, scope by scope:

- false: how often a difference is declared that is not there, at 5 %;
- wrong equivalence: how often models that are exactly a margin apart are called equivalent (the
  margin is six true standard errors, so that the test has a chance);
- family: how often any comparison of a question with several, none of which differs, is declared
  different after correction;
- coverage of the 95 % interval as it is printed;
- power at the difference which an oracle that knows the variances finds in 80 %;
- made: how often there is a claim at all, which hangs on the design: 0 or 100 %.

Estimates move with the difference and their errors do not (a property test of the estimator), so
that a study without a difference also tells what one with a difference would have given.

Every design is one line in a file, and what is there is not simulated again: a run that was ended
by its minutes goes on where it stopped. The page says which designs it lacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.results import write_results
from benchmarks.simulated_studies import METRIC, Design, Drawn, draw
from kdlora.evidence.claim import Claim
from kdlora.evidence.compare import compare_many
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.questions import ask
from kdlora.evidence.result import SCOPES, TASKS_LIKE_THESE, TRAINED_MODELS, Rules, Scope
from kdlora.evidence.verdicts import difference_p, equivalence_p

STUDIES = 2_000
BATCH = {False: 25, True: 10}  # studies in a frame: without and with predictions
ALPHA = 0.05
ORACLE = 2.8016  # standard errors that a z test at 5 % finds in 80 %
MARGIN = 6.0  # standard errors
ERRORS = 3.0  # Monte-Carlo errors that a rate may be off
COVERS = (0.93, 0.97)
LINES = Path("results/evidence.jsonl")

# As in the 742 runs of report 001: what tasks, pairs on tasks and runs add to a difference.
REAL: dict[str, Any] = {"task": 2.7, "block": 3.6, "noise": 2.4}


def _many(base: Design, name: str, values: Iterable[Any], what: str) -> list[Design]:
    return [replace(base, **{"name": what.format(v), name: v}) for v in values]


def designs() -> list[Design]:
    """What is simulated: first the failures that were found before, then ordinary designs."""
    beside = Design("", tasks=4, seeds=3, one_seed_tasks=1)
    two = Design("", tasks=9, seeds=2)
    common = Design("", tasks=9, seed_correlation=0.15)
    text = Design("", texts=1000)
    return [
        *_many(beside, "uneven", (1.5, 2, 3, 5), "a task of one run beside three, noise x{}"),
        replace(beside, name="a task of one run among nine, noise x5", tasks=9, uneven=5),
        *_many(two, "uneven", (1, 5, 10), "9 tasks, 2 seeds, one task's noise x{}"),
        *_many(replace(two, tasks=3), "uneven", (1, 5, 10), "3 tasks, 2 seeds, one noise x{}"),
        Design("3 tasks, 3 pairs share a teacher, 3 seeds", 3, 3, 3, shared=True),
        Design("1 task, 4 pairs share a teacher, 5 seeds", 1, 4, 5, shared=True),
        Design("9 tasks, 3 pairs share a teacher, 3 seeds", 9, 3, 3, **REAL, shared=True),
        replace(common, name="9 tasks, 3 pairs, 1 seed, correlated", pairs=3),
        replace(common, name="9 tasks, 3 pairs, 1 seed, correlated, as in 742", pairs=3, **REAL),
        replace(common, name="9 tasks, 1 seed, correlated"),
        replace(common, name="9 tasks, 2 seeds, correlated", seeds=2),
        replace(common, name="9 tasks, 3 pairs, 3 seeds, correlated", pairs=3, seeds=3),
        replace(common, name="9 tasks, 3 seeds, correlated twice as much", seeds=3,
                seed_correlation=0.3),
        replace(common, name="9 tasks, 2 seeds, correlated twice as much", seeds=2,
                seed_correlation=0.3),
        *_many(text, "texts", (300, 1000, 3000), "1 task, 1 seed, {} texts"),
        replace(text, name="1 task, 1 seed, 300 texts, 99 % right", texts=300, accuracy=0.99),
        replace(text, name="1 task, 1 seed, 300 texts, macro-F1", texts=300,
                prior=(0.85, 0.1, 0.05)),
        replace(text, name="1 task, 3 seeds, 1000 texts", seeds=3, seed_spread=0.7),
        replace(text, name="1 task, 5 seeds, 300 texts", seeds=5, seed_spread=0.7, texts=300),
        replace(text, name="1 task, 3 seeds, 3000 texts, little else", seeds=3, texts=3000),
        replace(text, name="3 tasks, 2 seeds, 300 texts", tasks=3, seeds=2, seed_spread=0.7,
                texts=300),
        replace(text, name="3 tasks, 1 seed, 300 texts", tasks=3, texts=300),
        *(Design(f"{t} task{'s' * (t > 1)}, {p} pair{'s' * (p > 1)}, {s} seeds", t, p, s, **REAL)
          for t, p, s in ((1, 1, 3), (1, 2, 5), (2, 1, 3), (3, 2, 3), (5, 4, 3), (6, 1, 3),
                          (9, 1, 5), (9, 3, 3), (9, 4, 2))),
        *(Design(f"{t} task{'s' * (t > 1)}, 1 pair, 1 seed", t, **REAL) for t in (6, 9)),
        Design("9 tasks, 3 seeds, each task its own", 9, 1, 3, uneven=5, own_seeds=True),
        Design("3 tasks, 3 seeds, ties", 3, 1, 3, noise=2.0, grid=2.0),
        Design("9 tasks, 3 seeds, ties", 9, 1, 3, noise=2.0, grid=2.0),
        Design("3 tasks, 3 seeds, ceiling", 3, 1, 3, noise=4.0, ceiling=76.0),
        Design("3 tasks, 3 seeds, heavy tails", 3, 1, 3, tails=3.0),
        Design("9 tasks, 1 seed, heavy tails", 9, 1, 1, tails=3.0),
        Design("9 tasks, 3 pairs, 3 seeds, collapsed runs", 9, 3, 3, collapse=0.02),
        Design("3 tasks, 3 seeds, one task's noise x10", 3, 1, 3, uneven=10),
        replace(text, name="1 task, 1 seed, 10000 texts", texts=10_000),
        Design("1 task, 2 teachers of 3 students, 3 seeds", 1, 6, 3, teachers=2),
        Design("9 tasks, 2 teachers of 2 students, 3 seeds", 9, 4, 3, teachers=2, **REAL),
        replace(text, name="1 task, 2 teachers of 3 students, 1 seed, 500 texts", pairs=6,
                teachers=2, texts=500),
        replace(text, name="1 task, 2 teachers of 3 students, 3 seeds, 500 texts", pairs=6,
                teachers=2, seeds=3, texts=500, seed_spread=0.7),
        Design("3 tasks, 3 seeds, 6 models", 3, 1, 3, arms=6),
        replace(text, name="1 task, 1 seed, 1000 texts, 4 models", arms=4),
        Design("9 tasks, 3 seeds, 4 models", 9, 1, 3, arms=4, **REAL),
        Design("3 tasks, 2 seeds, 6 models", 3, 1, 2, arms=6),
        replace(text, name="1 task, 3 seeds, 500 texts, 3 models", texts=500, seeds=3, arms=3,
                seed_spread=0.7),
    ]  # fmt: skip


def measure(design: Design, studies: int = STUDIES, seed: int = 0) -> dict[str, Any]:
    """The rates of a design, scope by scope."""
    rng = np.random.default_rng(seed)
    metric = "points" if design.texts else METRIC
    correction: Literal["holm", "none"] = "holm" if design.arms > 1 else "none"
    rules = Rules(draws=0, permutations=0, correction=correction, margin_unit=metric)
    found: list[tuple[Comparison, dict[Scope, float]]] = []
    left = studies
    while left:
        n = min(left, BATCH[bool(design.texts)])
        drawn = draw(design, n, rng)
        made = _judged(drawn, design.arms, rng, rules)
        found += zip(made, _truths(drawn), strict=True)
        left -= n
    leading = [c.claim.scope for c, _ in found if c.claim.made]
    return {
        "design": asdict(design),
        "studies": studies,
        "seed": seed,
        "useful": len(leading) / studies,
        "leading": max(set(leading), key=leading.count) if leading else None,
        "scopes": {scope: _rates(found, scope, design.arms) for scope in SCOPES},
    }


def _judged(
    drawn: Drawn, arms: int, rng: np.random.Generator, rules: Rules
) -> list[Comparison]:  # fmt: skip
    """The comparisons of all studies; those of a study are one question."""
    if arms == 1:
        return list(compare_many(drawn.study, drawn.contrasts, rng=rng, rules=rules))
    asked = {
        f"study {i}": drawn.contrasts[i : i + arms] for i in range(0, len(drawn.contrasts), arms)
    }
    found = ask(drawn.study, asked, rng=rng, rules=rules)
    return [c for comparisons in found.values() for c in comparisons]


def _truths(drawn: Drawn) -> Iterator[dict[Scope, float]]:
    for models, tasks in zip(drawn.models, drawn.tasks, strict=True):
        yield {
            TASKS_LIKE_THESE: drawn.population,
            "these tasks": float(tasks),
            TRAINED_MODELS: float(models),
        }


def _rates(
    found: list[tuple[Comparison, dict[Scope, float]]], scope: Scope, arms: int = 1
) -> dict[str, float] | None:
    """None where the design allows no such claim."""
    all_claims = [c.claims[scope] for c, _ in found]
    claims = [(c, truth[scope]) for c, (_, truth) in zip(all_claims, found, strict=True) if c.made]
    if not claims:
        return None
    truths = np.array([truth for _, truth in claims])
    difference, low, high, se, df = (
        np.array([getattr(claim, name) for claim, _ in claims])
        for name in ("difference", "low", "high", "se", "df")
    )
    off, covered = difference - truths, (low <= truths) & (truths <= high)
    p = difference_p(off, se, df)
    exact = np.array([claim.p if truth == 0 else np.nan for claim, truth in claims])
    p = np.where(np.isfinite(exact), exact, p)
    true_se = float(off.std())
    seen = difference_p(off + ORACLE * true_se, se, df) <= ALPHA
    margin = MARGIN * true_se
    return {
        "made": len(claims) / len(found),
        "false": float((p <= ALPHA).mean()),
        "wrong_equivalence": float((equivalence_p(off + margin, se, df, margin) <= ALPHA).mean()),
        "coverage": float(covered.mean()),
        "power": float((seen & (off + ORACLE * true_se > 0)).mean()),
        "true_se": true_se,
        **({"family": _in_families(all_claims, arms)} if arms > 1 and not truths.any() else {}),
    }


def _in_families(claims: Sequence[Claim], arms: int) -> float:
    """How often any of the comparisons that are corrected together declares a difference.

    A comparison without a claim declares none.
    """
    told = np.array([claim.verdict in ("superior", "inferior") for claim in claims])
    return float(told.reshape(-1, arms).any(1).mean())


def broken(line: dict[str, Any]) -> list[str]:
    """The promises that a design breaks, beyond the Monte-Carlo error.

    Intervals that cover more than they say are named, too, but are no broken promise.
    """
    found = []
    for scope, rates in line["scopes"].items():
        if rates is None:
            continue
        error = ERRORS * np.sqrt(ALPHA * (1 - ALPHA) / (line["studies"] * rates["made"]))
        for name in ("false", "wrong_equivalence", "family"):
            if rates.get(name, 0.0) > ALPHA + error:
                found.append(f"{line['design']['name']}, {scope}: {name} {rates[name]:.3f}")
        if rates["coverage"] < COVERS[0] - error:
            found.append(f"{line['design']['name']}, {scope}: coverage {rates['coverage']:.3f}")
    return found


def simulate(
    path: Path, studies: int = STUDIES, *, minutes: float = 1e9, seed: int = 0
) -> list[dict[str, Any]]:
    """The lines of all designs; those that `path` holds are taken from there.

    After so many minutes no further design is begun.
    """
    end = time.monotonic() + 60 * minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    known = {
        _key(Design(**line["design"]), line["studies"], line["seed"]): line
        for line in map(json.loads, text.splitlines())
    }
    lines = []
    for design in designs():
        key = _key(design, studies, seed)
        if key not in known and time.monotonic() >= end:
            continue
        if key not in known:
            known[key] = measure(design, studies, seed)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(design.name, known[key]["scopes"], flush=True)
        lines.append(known[key])
    return lines


def _key(design: Design, studies: int, seed: int) -> str:
    """What tells lines apart; a field that came later is in a line only where it is used."""
    return json.dumps([asdict(design), studies, seed])


def page(lines: list[dict[str, Any]]) -> str:
    """The table of the designs that are done."""
    if not lines:
        return "# How often the verdicts are right\n\nNothing is simulated yet.\n"
    head = (
        "# How often the verdicts are right\n\n"
        f"`python -m benchmarks evidence`: {lines[0]['studies']:,} simulated studies a row, judged "
        "by the public compare. A rate has a Monte-Carlo error of "
        f"{100 * np.sqrt(ALPHA * (1 - ALPHA) / lines[0]['studies']):.1f} points. Wanted: false "
        "and wrong equivalence at most 5 %, coverage of 93 to 97 %; the oracle's power is 80 %. A "
        "scope that a design does not allow has no row; the widest one carries the verdict. Noise "
        "is that of a difference of two runs. Where a question asks about several models, "
        "all alike, the column family says how often any of them is declared different after "
        "correction.\n\n"
        "| design | claim | false | wrong equivalence | coverage | power | family |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for line in lines:
        name = line["design"]["name"]
        for scope, rates in line["scopes"].items():
            if rates:
                cells = [f"{100 * rates[k]:.1f} %"
                         for k in ("false", "wrong_equivalence", "coverage", "power")]  # fmt: skip
                cells.append(f"{100 * rates['family']:.1f} %" if "family" in rates else "")
                rows.append(f"| {name} | {scope} | {' | '.join(cells)} |")
                name = ""
        if not any(line["scopes"].values()):
            rows.append(f"| {name} | none | | | | | |")
    useful = sum(line["useful"] > 0.5 for line in lines)
    found = [problem for line in lines for problem in broken(line)]
    done = {line["design"]["name"] for line in lines}
    lacking = [design.name for design in designs() if design.name not in done]
    foot = f"\n\nNot yet simulated: {'; '.join(lacking)}." if lacking else ""
    foot += f"\n\nA claim is made in {useful} of {len(lines)} designs. " + (
        "Broken promises: " + "; ".join(found) + "." if found else "No promise is broken."
    )
    return head + "\n".join(rows) + foot + "\n"


def write(lines: list[dict[str, Any]], out: Path) -> None:
    write_results(out, "evidence", {"lines": lines}, page(lines))
