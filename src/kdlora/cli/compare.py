"""`kdlora compare`: paired comparisons with verdicts, and the methods of a study side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.cells import cell_len
from rich.table import Table

from kdlora.cli.options import too_small
from kdlora.cli.part import Where, Without
from kdlora.cli.study import StudyFolder
from kdlora.cli.terminal import say_json, terminal
from kdlora.errors import Problems
from kdlora.vocabulary.arm import wrapped
from kdlora.vocabulary.metric import POINTS, decimals_in, metric
from kdlora.vocabulary.p_value import p_text
from kdlora.vocabulary.quantity import quantity

if TYPE_CHECKING:
    import numpy as np

    from kdlora.evidence.comparison import Comparison, Level
    from kdlora.evidence.costs import Ratio
    from kdlora.evidence.power import SeedsNeeded
    from kdlora.evidence.result import Rules
    from kdlora.evidence.study import Evidence


_HEADS = {
    "tasks like these": "tasks like\nthese",
    "these tasks": "these\ntasks",
    "trained models": "as trained,\nother texts",
}


def verdict_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """A row a comparison, the interval below its estimate; what they share stands below the table.

    Estimates are those of the widest claim that is made; a scope in which none is has no column.
    Where none is made at all, the difference of these runs stands alone.
    Names fold, numbers never do: with many scopes p stands below the interval.
    """
    from kdlora.evidence.comparison import made_scopes

    against = {c.b for c in comparisons}
    scopes = made_scopes(comparisons)
    stacked = len(scopes) > 2
    table = _plain(title)
    table.add_column("a", overflow="fold")
    if len(against) > 1:
        table.add_column("b", overflow="fold")
    for name in ("a - b", *(() if stacked else ("p corr.", "needs"))):
        table.add_column(name, justify="right", no_wrap=True)
    for scope in scopes:
        table.add_column(_HEADS[scope], no_wrap=True)
    for c in comparisons:
        claim = c.claim
        plain = c.levels["tasks"].mean if c.levels else None
        known = plain if claim.difference is None else claim.difference
        digits = decimals_in(c.unit)
        estimate = _over(
            "-" if known is None else f"{known:+.{max(digits, 2)}f}",
            _span(claim.low, claim.high, digits),
        )
        needs = f"{claim.detectable:.{digits}f}" if claim.detectable else "-"
        p = _p(claim.p_corrected)
        table.add_row(
            wrapped(c.a),
            *([wrapped(c.b)] if len(against) > 1 else []),
            *([_over(estimate, f"p {p}")] if stacked else [estimate, p, needs]),
            *(_word(c.claims[scope].verdict) for scope in scopes),
        )
    counts = [
        f"{_range(values)} {name if max(values) != 1 else name.removesuffix('s')}"
        for name, values in (
            ("tasks", [c.n_tasks for c in comparisons]),
            ("blocks", [c.n_blocks for c in comparisons]),
            ("matched runs", [c.n_runs for c in comparisons]),
        )
    ]
    shared = [f"b is {next(iter(against))}"] if len(against) == 1 else []
    table.caption = "; ".join([*shared, ", ".join(counts)])
    return table


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def level_table(c: Comparison) -> Table:
    """A column a level, a row a statistic."""
    table = _plain("evidence by level (description; runs and blocks are not independent)")
    table.add_column("")
    for level in c.levels:
        table.add_column(level, justify="right", no_wrap=True)
    rows: dict[str, Callable[[Level], str]] = {
        "n": lambda x: str(x.n),
        "mean": lambda x: _number(x.mean),
        "median": lambda x: _number(x.median),
        "d_z": lambda x: _number(x.d_z),
        "rank r": lambda x: _number(x.rank_biserial),
        "better/tied/worse": lambda x: f"{x.wins}/{x.ties}/{x.losses}",
        "p of t": lambda x: _p(x.p_t),
        "p of Wilcoxon": lambda x: _p(x.p_wilcoxon),
        "p of permutation": lambda x: _p(x.p_permutation),
        "interval": lambda x: _span(x.low, x.high),
        "interval over tasks": lambda x: _span(x.low_tasks, x.high_tasks),
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(x) for x in c.levels.values()))
    return table


def example_table(rows: list[dict[str, Any]]) -> Table:
    table = _plain("the same examples, model against model (other seeds are other models)")
    table.add_column("cell", overflow="fold")
    for name in ("n", "a - b", "right alone,\na and b", "p corr."):
        table.add_column(name, justify="right", no_wrap=True)
    reasons = any(r["cannot"] for r in rows)
    if reasons:
        table.add_column("", overflow="fold")
    for r in rows:
        alone = [str(r[k]) for k in ("only_a_right", "only_b_right") if r.get(k) is not None]
        table.add_row(
            r["cell"],
            str(r["n"]),
            _over(_number(r["difference"]), _span(r["low"], r["high"])),
            " and ".join(alone) or "-",
            _p(r["p_corrected"]),
            *([r["cannot"]] if reasons else []),
        )
    return table


def method_table(e: Evidence) -> Table:
    """A row a method, two lines each: estimates above their intervals."""
    from kdlora.evidence.sentences import POOLED
    from kdlora.report.words import share_scope

    front = {p.arm: p for p in e.front.points} if e.front else {}
    ranks = e.ranks["tasks"].average_rank
    better = {i.a: i for i in e.improvements}
    first = e.aggregates[0]
    unit = e.shared.unit
    cells = f"{e.shared.n_cells} cells" if e.shared.n_cells != 1 else "one cell"
    table = _plain(f"methods on the {cells} that all of them have")
    table.add_column("arm", overflow="fold")
    for name in ("mean", "IQM", "kept %", "rank", "beats", "front"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in e.aggregates:
        point = front.get(x.arm)
        improvement = better.get(x.arm)
        table.add_row(
            wrapped(x.arm),
            _mean(unit, x.mean, x.mean_low, x.mean_high),
            _mean(unit, x.iqm, x.iqm_low, x.iqm_high),
            _over(f"{x.retention:.1f}", _span(x.retention_low_tasks, x.retention_high_tasks, 0))
            if x.retention is not None else "-",
            f"{ranks[x.arm]:.1f}" if x.arm in ranks else "-",
            f"{100 * improvement.probability:.0f} %"
            if improvement and improvement.probability is not None else "-",
            f"{100 * point.on_front_share:.0f} %"
            if point and point.on_front_share is not None else "-",
        )  # fmt: skip
    ranking = e.ranks["tasks"]
    told = first.retention is not None
    scope = share_scope(first.share_tasks, first.n_tasks) if told else ""
    notes = [
        f"kept: of the score of {e.reference}{scope}, interval over tasks; rank: average over "
        "tasks;",
        f"beats: chance that a run beats one of {e.reference} in the same block;",
        "front: share of bootstrap draws on the Pareto set",
        f"intervals of means: Student's over {first.over_seeds} seeds"
        if first.over_seeds
        else first.cannot,
    ]
    notes = [note for note in [*notes, POOLED if e.shared.uneven else ""] if note]
    if ranking.critical_difference:
        notes.append(
            f"ranks within {ranking.critical_difference:.2f} are not told apart (Nemenyi, "
            f"{ranking.n} tasks); Friedman p {_p(ranking.p_friedman)}"
        )
    elif ranking.cannot:
        notes.append(f"no test of ranks: {ranking.cannot}")
    table.caption = "\n".join(notes)
    return table


def apart_table(e: Evidence) -> Table:
    """A row a method that has too few cells to stand among the others."""
    from kdlora.report.words import share_scope

    table = _plain(f"methods apart, each on the cells that it shares with {e.reference}")
    table.add_column("arm", overflow="fold")
    for name in ("mean", "reference", "kept %", "cells", "tasks"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in e.apart:
        table.add_row(
            wrapped(x.arm), _mean(e.shared.unit, x.mean),
            _mean(e.shared.unit, x.reference_mean) if x.reference_mean is not None else "-",
            _over(f"{x.retention:.1f}", share_scope(x.share_tasks, x.n_tasks).strip())
            if x.retention is not None else "-",
            str(x.n_cells), str(x.n_tasks),
        )  # fmt: skip
    return table


def ratio_tables(e: Evidence, width: int) -> list[Table]:
    """A row a method, two lines each: costs in per cent of the reference above their intervals.

    As many tables as it takes for names and numbers to stand whole in so many characters.
    """
    title = f"cost in per cent of {e.reference} (geometric mean of matched runs)"
    found = {(r.a, r.column): r for r in e.ratios}
    arms = list(dict.fromkeys(r.a for r in e.ratios))
    costs = {
        column: [_cost(found.get((arm, column))) for arm in arms]
        for column in dict.fromkeys(r.column for r in e.ratios)
    }
    heads = {column: quantity(column).short or column for column in costs}
    names = max(_widest(wrapped(arm).split()) for arm in arms)
    groups: list[list[str]] = []
    left = 0
    for column, cells in costs.items():
        needed = _widest([heads[column], *"\n".join(cells).splitlines()]) + 1
        if not groups or needed > left:
            groups.append([])
            left = width - names - 1
        groups[-1].append(column)
        left -= needed
    tables: list[Table] = []
    for columns in groups:
        tables.append(_plain(title if not tables else "the same, further costs"))
        tables[-1].add_column("arm", overflow="fold")
        for column in columns:
            tables[-1].add_column(heads[column], justify="right", no_wrap=True)
        for arm, *cells in zip(arms, *(costs[column] for column in columns), strict=True):
            tables[-1].add_row(wrapped(arm), *cells)
    if any(r.unlike for r in e.ratios):
        tables[-1].caption = "* some matched runs differ in " + ", ".join(
            sorted({name for r in e.ratios for name in r.unlike or {}})
        )
    return tables


def _plain(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                 padding=(0, 1, 0, 0), caption_justify="left")  # fmt: skip


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts))


def _over(value: str, span: str) -> str:
    """A value above its interval, where there is one."""
    return f"{value}\n{span}" if span else value


def _mean(unit: str, mean: float, low: float | None = None, high: float | None = None) -> str:
    """A mean as its metric has it: with more being worse, values are held the other way."""
    upward, digits = 1 if unit == POINTS else metric(unit).direction, decimals_in(unit)
    low, high = [None if end is None else upward * end for end in (low, high)][::upward]
    return _over(f"{upward * mean:.{digits}f}", _span(low, high, digits))


def _cost(ratio: Ratio | None) -> str:
    if ratio is None or ratio.ratio is None:
        return "-"
    star = "*" if ratio.unlike else ""
    bounds = f"[{100 * ratio.low:.3g}, {100 * ratio.high:.3g}]" if ratio.low and ratio.high else ""
    return _over(f"{100 * ratio.ratio:.3g}{star}", bounds)


def _word(verdict: str) -> str:
    return "-" if verdict == "cannot be said" else verdict


def _p(value: float | None) -> str:
    return "-" if value is None else p_text(value, below="<")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _span(low: float | None, high: float | None, digits: int = 2) -> str:
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


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
    where: Where = None,
    without: Without = None,
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
        str | None, typer.Option(help="Arm that all others are held against; default the teacher.")
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

    from kdlora import api
    from kdlora.cli.progress import waiting
    from kdlora.evidence.result import Rules
    from kdlora.evidence.scores import unit_problems
    from kdlora.evidence.teacher import why_untaught
    from kdlora.records.frame import load_frame
    from kdlora.records.predictions import RunOutputs
    from kdlora.records.study_folder import find_study
    from kdlora.records.subset import subset
    from kdlora.records.tidy import StudyFrame

    problems, rules = Problems(), Rules()
    with problems.caught():
        rules = Rules(
            alpha=alpha,
            margin=margin,
            margin_unit=margin_unit,
            correction=correction,  # type: ignore[arg-type]
            draws=max(draws, 100),  # fewer are told below
        )
    problems.add(*too_small(("draws", draws, 100), ("seed", seed, 0)))
    if wish is not None and not (math.isfinite(wish) and wish > 0):
        problems.add(f"--wish is {wish:g}; expected a difference above 0")
    frame, part = load_frame(study), ""
    with problems.caught():
        problems.add(*unit_problems(frame, margin_unit, score))
    with problems.caught():
        frame, part = subset(frame, where or (), without or ())
    problems.raise_any()
    options: dict[str, Any] = {
        "keys": tuple(k.strip() for k in pair.split(",") if k.strip()),
        "score": score, "rules": rules, "seed": seed, "reference": reference,
    }  # fmt: skip
    runs = StudyFrame.of(frame, RunOutputs(find_study(study), "report"))
    made: Sequence[Comparison]
    if named := bool(a or b or budget):
        with waiting("comparing", hidden=as_json):
            made = api.compare_arms(runs, a or (), b or (), budget=budget, **options)
        rest: dict[str, Any] = {}
        told = reference or made[0].b
    else:
        with waiting("comparing", hidden=as_json):
            evidence = api.compare(runs, **options)
        made = list({(c.a, c.b): c for _, c in evidence.comparisons}.values())
        rest = evidence.to_dict()
        told = evidence.reference
    rng = np.random.default_rng(seed)
    wishes = [_seeds_needed(c, wish) if wish is not None else None for c in made]
    tested = [_test_examples(study, c, rng) if examples else None for c in made]
    if as_json:
        rows = [
            {**c.to_dict(), "seeds_needed": w.to_dict() if w else None, "examples": e or []}
            for c, w, e in zip(made, wishes, tested, strict=True)
        ]
        rest.pop("families", None)  # the same comparisons, question by question
        head = {
            "part": part,
            "reference": told,
            "rules": made[0].rules.to_dict() if made else None,
        }
        say_json({**head, "comparisons": rows, **rest})
        return
    if part:
        terminal().print(part, soft_wrap=True)
    asked = [
        [*([_seeds_line(w, wish)] if wish is not None else []), *_examples_shown(e)]
        for w, e in zip(wishes, tested, strict=True)
    ]
    if named:
        _show_comparisons(made, asked)
        return
    _show_evidence(evidence)
    for c, shown in zip(made, asked, strict=True):
        if shown:
            terminal().print(f"\n{c.a} against {c.b}", soft_wrap=True)
        for item in shown:
            terminal().print(item, soft_wrap=isinstance(item, str))
    if reference is None and (why := why_untaught(frame)):
        terminal().print(f"note: {why}; compared with {evidence.reference}", soft_wrap=True)


def _seeds_needed(c: Comparison, wish: float) -> SeedsNeeded | None:
    from kdlora.evidence.power import seeds_needed

    if c.components is None:
        return None
    return seeds_needed(
        c.components, wish, scope=c.claim.scope, alpha=c.rules.alpha, power=c.rules.power
    )


def _seeds_line(needed: SeedsNeeded | None, wish: float) -> str:
    """How many seeds would show the wished difference, or that it cannot be told."""
    if needed is None:
        return f"  how many seeds would show a difference of {wish:g}: nothing tells their spread"
    found = f"{needed.seeds} seeds per block would show a difference of {needed.wished:g}"
    return f"  {needed.reason or found}"


def _examples_shown(rows: list[dict[str, Any]] | None) -> list[str | Table]:
    """The tests of the stored predictions, where they were asked for."""
    if rows is None:
        return []
    return [example_table(rows) if rows else "  no cell of which both runs stored predictions"]


def _show_comparisons(made: Sequence[Comparison], asked: Sequence[Sequence[str | Table]]) -> None:
    """The comparisons that were named, each with what was asked of it besides."""
    from kdlora.evidence.comparison import sentence

    console = terminal()
    console.print(verdict_table(made, "Comparisons"))
    for c, shown in zip(made, asked, strict=True):
        console.print(f"\n{sentence(c)}", soft_wrap=True)
        if c.levels:
            console.print(level_table(c))
        for item in shown:
            console.print(item, soft_wrap=isinstance(item, str))
        if c.only_a or c.only_b:
            console.print(f"  unmatched, so not used: {c.only_a} cells of a, {c.only_b} of b")
        for note in c.notes:
            console.print(f"  note: {note}", soft_wrap=True)
    _rules_line(console, made[0].rules, {c.unit for c in made})


def _test_examples(study: Path, c: Comparison, rng: np.random.Generator) -> list[dict[str, Any]]:
    """McNemar or the paired bootstrap in every cell whose two runs stored their predictions."""
    import numpy as np

    from kdlora.evidence.paired_tests import adjust
    from kdlora.evidence.prediction_tests import compare_predictions
    from kdlora.records.predictions import read_outputs

    rows: list[dict[str, Any]] = []
    for cell in c.matched.cells.to_dict("records"):
        runs = [str(cell[f"run_{side}"]) for side in "ab"]
        stored = read_outputs(study, runs, "report")
        if not all(run in stored for run in runs):
            continue
        place = "/".join(str(cell[k]) for k in c.keys)
        a, b = (stored[run] for run in runs)
        rows.append({"cell": place, **compare_predictions(a, b, rng=rng, rules=c.rules).to_dict()})
    found = np.array([r.get("p") for r in rows], dtype=float)
    p = adjust(found, c.rules.correction)
    for row, q in zip(rows, p, strict=True):
        row["p_corrected"] = float(q) if q == q else None
    return rows


def _show_evidence(e: Evidence) -> None:
    console = terminal()
    for question, comparisons in e.families.items():
        console.print(verdict_table(comparisons, question))
    unsaid = [c for cs in e.families.values() for c in cs if not c.claim.made]
    for why in dict.fromkeys(c.claim.cannot for c in unsaid if not c.matched.reason):
        text = f"Where there is no verdict, it cannot be said: {why}."
        console.print(text, soft_wrap=True)
    if e.aggregates:
        console.print(method_table(e))
    else:
        console.print(f"No table of methods: {e.shared.reason}.", soft_wrap=True)
    if e.apart:
        console.print(apart_table(e))
    if e.ratios:
        for table in ratio_tables(e, console.width):
            console.print(table)
    if e.front and e.front.cannot:
        console.print(f"No Pareto set: {e.front.cannot}.", soft_wrap=True)
    notes = [n for cs in e.families.values() for c in cs for n in c.notes]
    for note in dict.fromkeys([*notes, *e.shared.notes]):
        console.print(f"note: {note}", soft_wrap=True)
    if e.unfinished:
        unfinished = ", ".join(e.unfinished)
        console.print(
            f"note: without a finished run, so not compared: {unfinished}", soft_wrap=True
        )
    _rules_line(console, e.rules, {c.unit for cs in e.families.values() for c in cs})


def _rules_line(console: Any, rules: Rules, units: set[str]) -> None:
    """What the numbers mean; of points and their margin only where some are in points."""
    hundredths = "Points are hundredths of the metric; " if POINTS in units else ""
    equivalence = ""
    if rules.margin_unit in units:
        equivalence = f", equivalence within ±{rules.margin:g} {rules.margin_unit}"
    signs = "positive means a is better."
    console.print(
        f"{hundredths}{signs if hundredths else signs.capitalize()} Verdicts at "
        f"{100 * rules.alpha:g} % after {rules.correction}{equivalence}; needs: the smallest true "
        f"difference found with {100 * rules.power:.0f} % power.",
        soft_wrap=True,
    )
