"""`kdlora compare`: paired comparisons with verdicts, and the methods of a study side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdlora.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

    from kdlora.analysis.compare import Comparison
    from kdlora.analysis.evidence import Evidence
    from kdlora.analysis.power import SeedsNeeded
    from kdlora.analysis.results import Rules

StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="The folder of a study, or of imported results.")
]
A = Annotated[
    list[str] | None,
    typer.Option("--a", help="Arm, pattern (student/kd-*) or arm,column=value; many times."),
]
B = Annotated[list[str] | None, typer.Option("--b", help="What it is compared with; many times.")]


def compare(
    study: StudyFolder,
    a: A = None,
    b: B = None,
    pair: Annotated[
        str, typer.Option(help="What paired runs share; several runs of a cell are averaged.")
    ] = "pair,task,seed",
    score: Annotated[
        str, typer.Option(help="Column to compare, e.g. report.macro_f1; default the primary one.")
    ] = "score",
    where: Annotated[
        list[str] | None, typer.Option(help="Keep only rows with column=value; many times.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Drop rows with column=value; many times.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Differences within it are equivalent.")] = 1.0,
    margin_unit: Annotated[
        str, typer.Option(help="Unit of the margin: points, or a metric such as rmse.")
    ] = "points",
    alpha: Annotated[float, typer.Option(help="Error rate; intervals have 1 - alpha.")] = 0.05,
    correction: Annotated[
        str, typer.Option(help="Over many comparisons: holm, bh, none.")
    ] = "holm",
    wish: Annotated[
        float | None, typer.Option(help="Say how many seeds would show a difference of this size.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Arm that all others are held against; default teacher/fft.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Compare only runs of like cost (within 10 %), e.g. trainable_params."),
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Also test the stored predictions, run by run.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Compare arms on the cells they share, with corrected tests and a verdict in words.

    Without --a and --b: every arm against the reference, what distillation gains, and all methods
    side by side.
    """
    import numpy as np

    from kdlora.analysis.compare import compare_many
    from kdlora.analysis.results import Rules
    from kdlora.store.frame import load_frame

    rules = Rules(
        alpha=alpha,
        margin=margin,
        margin_unit=margin_unit,
        correction=correction,  # type: ignore[arg-type]
        draws=draws,
    )
    keys = tuple(k.strip() for k in pair.split(",") if k.strip())
    frame = _filtered(load_frame(study), where or [], without or [])
    rng = np.random.default_rng(seed)
    if a or b or budget:
        contrasts = _contrasts(frame, a or [], b or [], reference)
        if budget:
            frame = _same_budget(frame, contrasts, budget, keys)
        made = compare_many(frame, contrasts, rng=rng, keys=keys, score=score, rules=rules)
        wishes = [_seeds_needed(c, wish) if wish is not None else None for c in made]
        tested = [_test_examples(study, c, rng) if examples else [] for c in made]
        if as_json:
            rows = [
                {**c.to_dict(), "seeds_needed": w.to_dict() if w else None, "examples": e}
                for c, w, e in zip(made, wishes, tested, strict=True)
            ]
            print(json.dumps(rows, indent=1))
        else:
            _show_comparisons(made, wishes, tested)
        return
    from kdlora.analysis.evidence import gather

    _check_arms(frame, [reference] if reference else [])
    evidence = gather(frame, rng=rng, reference=reference, keys=keys, score=score, rules=rules)
    if as_json:
        print(json.dumps(evidence.to_dict(), indent=1))
        return
    _show_evidence(evidence)


def _filtered(frame: pd.DataFrame, where: list[str], without: list[str]) -> pd.DataFrame:
    """Rows with all of `where` and none of `without`. Raises InputError for what it cannot read."""
    from kdlora.analysis.scores import equals

    problems = []
    if "family" in frame and "pair" not in frame:
        frame = frame.rename(columns={"family": "pair"})
    for text, keep in [*((w, True) for w in where), *((w, False) for w in without)]:
        column, sign, value = text.partition("=")
        column = "pair" if column == "family" else column
        if not sign:
            problems.append(f"cannot read '{text}': write column=value, such as task=wnli")
        elif column not in frame:
            problems.append(f"no column '{column}'.{did_you_mean(column, frame.columns)}")
        else:
            frame = frame[equals(frame[column], value) == keep]
    if problems:
        raise InputError(problems)
    if frame.empty:
        raise InputError("no run is left after --where and --without")
    return frame


def _check_arms(frame: pd.DataFrame, names: list[str]) -> None:
    """Raise InputError, all at once, for arms that the study does not know at all."""
    from kdlora.analysis.scores import Selection

    arms = sorted(map(str, frame["arm"].unique()))
    unknown = [n for n in names if not Selection.parse(n).arms(arms)]
    if unknown:
        raise InputError([f"no arm '{n}' in this study.{did_you_mean(n, arms)}" for n in unknown])


def _contrasts(
    frame: pd.DataFrame, a: list[str], b: list[str], reference: str | None
) -> list[tuple[str, str]]:
    """All of `a` against all of `b`; without b the reference, without a every other arm."""
    from kdlora.analysis.evidence import default_reference

    arms = sorted(map(str, frame["arm"].unique()))
    b = b or [reference or default_reference(arms)]
    a = a or [arm for arm in arms if arm not in b]
    _check_arms(frame, [*a, *b])
    contrasts = [(x, y) for x in a for y in b if x != y]
    if not contrasts:
        raise InputError("--a and --b name the same arm: there is nothing to compare")
    return contrasts


def _same_budget(
    frame: pd.DataFrame, contrasts: list[tuple[str, str]], column: str, keys: tuple[str, ...]
) -> pd.DataFrame:
    """The runs of like cost. Raises InputError where there are none, or for many comparisons."""
    from kdlora.analysis.costs import budget_matched

    if len(contrasts) > 1:
        raise InputError("--budget picks runs for one comparison: give one --a and one --b")
    kept, budget = budget_matched(frame, *contrasts[0], column=column, keys=keys)
    if budget.cannot:
        raise InputError(f"no comparison at the same budget: {budget.cannot}")
    return kept


def _seeds_needed(c: Comparison, wish: float) -> SeedsNeeded | None:
    from kdlora.analysis.power import seeds_needed

    if c.components is None:
        return None
    return seeds_needed(
        c.components, wish, scope=c.claim.scope, alpha=c.rules.alpha, power=c.rules.power
    )


def _show_comparisons(
    made: Sequence[Comparison],
    wishes: Sequence[SeedsNeeded | None],
    tested: Sequence[list[dict[str, Any]]],
) -> None:
    from kdlora.analysis.compare import sentence
    from kdlora.cli import compare_tables as tables

    console = _console()
    console.print(tables.verdict_table(made, "Comparisons"))
    for c, w, e in zip(made, wishes, tested, strict=True):
        console.print(f"\n{sentence(c)}", soft_wrap=True)
        if c.levels:
            console.print(tables.level_table(c))
        if w:
            found = f"{w.seeds} seeds per block would show a difference of {w.wished:g}"
            console.print(f"  {w.reason or found}", soft_wrap=True)
        if e:
            console.print(tables.example_table(e))
        if c.only_a or c.only_b:
            console.print(f"  unmatched, so not used: {c.only_a} cells of a, {c.only_b} of b")
        for note in c.notes:
            console.print(f"  note: {note}", soft_wrap=True)
    _rules_line(console, made[0].rules)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False)  # brackets are an arm's label


def _test_examples(study: Path, c: Comparison, rng: np.random.Generator) -> list[dict[str, Any]]:
    """McNemar or the paired bootstrap in every cell whose two runs stored their predictions."""
    import numpy as np

    from kdlora.analysis.example_tests import compare_predictions
    from kdlora.analysis.paired_tests import adjust
    from kdlora.store.predictions import read_predictions

    rows: list[dict[str, Any]] = []
    for cell in c.matched.cells.to_dict("records"):
        folders = [study / "runs" / str(cell[f"run_{side}"]) for side in "ab"]
        if not all((f / "predictions.parquet").is_file() for f in folders):
            continue
        frames = [read_predictions(f).frame for f in folders]
        kept = [f[f["split"] == "report"] for f in frames]
        place = "/".join(str(cell[k]) for k in c.keys)
        rows.append({"cell": place, **compare_predictions(*kept, rng=rng, rules=c.rules).to_dict()})
    found = np.array([r.get("p") for r in rows], dtype=float)
    p = adjust(found, c.rules.correction)
    for row, q in zip(rows, p, strict=True):
        row["p_corrected"] = float(q) if q == q else None
    return rows


def _show_evidence(e: Evidence) -> None:
    from kdlora.cli import compare_tables as tables

    console = _console()
    for question, comparisons in e.families.items():
        console.print(tables.verdict_table(comparisons, question))
    if e.aggregates:
        console.print(tables.method_table(e))
    else:
        console.print(f"No table of methods: {e.shared.reason}.", soft_wrap=True)
    if e.ratios:
        console.print(tables.ratio_table(e))
    if e.front and e.front.cannot:
        console.print(f"No Pareto set: {e.front.cannot}.", soft_wrap=True)
    notes = [n for cs in e.families.values() for c in cs for n in c.notes]
    for note in dict.fromkeys([*notes, *e.shared.notes]):
        console.print(f"note: {note}", soft_wrap=True)
    _rules_line(console, e.rules)


def _rules_line(console: Any, rules: Rules) -> None:
    console.print(
        f"Points are hundredths of the metric; positive means a is better. Verdicts at "
        f"{100 * rules.alpha:g} % after {rules.correction}, equivalence within "
        f"±{rules.margin:g} {rules.margin_unit}; needs: the smallest true difference found with "
        f"{100 * rules.power:.0f} % power.",
        soft_wrap=True,
    )
