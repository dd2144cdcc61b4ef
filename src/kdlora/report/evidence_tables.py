"""The tables of what was tested: comparisons, averages with intervals, ranks, costs, doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdlora.analysis.compare import Comparison
from kdlora.report import words as w
from kdlora.report.parts import Cell, Column, Table
from kdlora.report.statistics import Statistics
from kdlora.report.tables import MODEL, PAIR

VERDICT_NOTE = (
    "A verdict is about the paired difference after correction within its question. Undecided "
    "means that these runs cannot tell, not that the two are equal; equivalent means that a "
    "difference beyond the margin is ruled out."
)


def model(arm: str) -> Cell:
    return Cell(w.arm_name(arm), arm)


def points(value: float | None, *, signed: bool = False) -> Cell:
    """A cell of a number that is in points already."""
    return Cell(w.fixed(value, 1, signed=signed), value)


def p_value(p: float | None) -> Cell:
    if p is None:
        return Cell(w.NONE)
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def interval(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell(w.NONE)
    text = f"{w.fixed(low, 1)} to {w.fixed(high, 1)}"
    return Cell(text, text, extra={"low": low, "high": high})


def comparisons(stats: Statistics) -> Table | None:
    """Every comparison with its estimate, interval, corrected p and both verdicts."""
    found = stats.comparisons
    if not found:
        return None
    rows = tuple(_comparison(question, c) for question, c in found)
    columns = (
        Column("question", "Question", numeric=False),
        Column("a", "Model", numeric=False),
        Column("b", "Against", numeric=False),
        Column("difference", "Difference", "points"),
        Column("interval", "95 % interval", "points"),
        Column("p", "p, corrected"),
        Column("tasks", "Tasks"),
        Column("blocks", "Blocks"),
        Column("runs", "Matched runs"),
        Column("beyond", "On tasks like these", numeric=False),
        Column("here", "On these tasks", numeric=False),
        Column("detectable", "Detectable", "points"),
    )
    rules = stats.rules
    return Table(
        "comparisons",
        "Paired comparisons and their verdicts",
        columns,
        rows,
        f"Model minus the other, paired by encoder pair, task and seed; above zero the first is "
        f"better. Equivalence margin {rules.margin:g} {rules.margin_unit}, error rate "
        f"{100 * rules.alpha:g} %, {rules.correction.capitalize()} correction; detectable: the "
        f"smallest true difference found with {100 * rules.power:.0f} % power.",
        (VERDICT_NOTE,),
        heads=3,
    )


def _comparison(question: str, c: Comparison) -> tuple[Cell, ...]:
    claim = c.claim
    return (
        Cell(question_name(question)), model(c.a), model(c.b),
        points(claim.difference, signed=True), interval(claim.low, claim.high),
        p_value(claim.p_corrected), w.count(c.n_tasks), w.count(c.n_blocks),
        replace(w.count(c.n_runs), sub="; ".join(c.unequal)),
        Cell(c.beyond.verdict, sub=c.beyond.cannot), Cell(c.here.verdict, sub=c.here.cannot),
        points(claim.detectable),
    )  # fmt: skip


def question_name(question: str) -> str:
    against = question.removeprefix("against ")
    if against != question:
        return f"Against {w.arm_name(against)}"
    return w.sentence_case(question)


def averages(stats: Statistics) -> Table | None:
    """Mean score of every model with its interval, pair by pair and over all."""
    parts = [*stats.by_pair.items()]
    if len(parts) > 1 and stats.overall:
        parts.append(("all pairs", stats.overall))
    rows = tuple(
        (Cell(pair), model(x.arm), points(x.mean), interval(x.mean_low, x.mean_high),
         points(x.iqm), points(x.retention), interval(x.retention_low, x.retention_high),
         w.count(x.n_cells), w.count(x.n_tasks))
        for pair, found in parts for x in found
    )  # fmt: skip
    if not rows:
        return None
    columns = (
        PAIR, MODEL, Column("mean", "Mean", "points"), Column("interval", "95 % interval"),
        Column("iqm", "Interquartile mean", "points"),
        Column("retention", "Of the reference", "%"), Column("retention_interval", "95 % interval"),
        Column("cells", "Shared cells"), Column("tasks", "Tasks"),
    )  # fmt: skip
    return Table(
        "averages",
        "Average scores with intervals",
        columns,
        rows,
        f"Over the cells (pair, task, seed) that all models of the row's group share; best first. "
        f"Intervals resample cells within tasks, so they speak of these tasks. The reference is "
        f"{w.arm_name(stats.reference)}.",
        (f"No average over all pairs: {stats.shared.reason}.",) if stats.shared.reason else (),
        heads=2,
        folded=True,
    )


def ranks(stats: Statistics) -> Table | None:
    ranking = stats.ranks
    if ranking is None or not ranking.average_rank:
        return None
    rows = tuple(
        (model(arm), Cell(f"{rank:.2f}", rank)) for arm, rank in ranking.average_rank.items()
    )
    if ranking.critical_difference is not None:
        rows += (
            (Cell("Critical difference"), Cell(f"{ranking.critical_difference:.2f}",
                                               ranking.critical_difference)),
            (Cell("p of Friedman's test"), p_value(ranking.p_friedman)),
        )  # fmt: skip
    if ranking.cannot:
        caption = f"No test of ranks: {ranking.cannot}."
    else:
        cd = ranking.critical_difference
        p = p_value(ranking.p_friedman).text
        sign = "" if p.startswith("<") else "= "
        caption = (
            f"Friedman's test over {ranking.n} tasks: p {sign}{p}. Ranks that differ by less than "
            f"{w.fixed(cd, 2)} (Nemenyi) are not told apart, which does not make them equal."
        )
    columns = (MODEL, Column("rank", "Average rank over tasks"))
    return Table("ranks", "Average ranks", columns, rows, caption, folded=True)


def selection(stats: Statistics) -> Table | None:
    """How far the choice of the checkpoint explains what distilled students lose."""
    if stats.selection is None:
        return None
    rows = []
    pairs = zip(stats.selection.chosen, stats.selection.last, strict=True)
    for chosen, last in pairs:
        a, b = chosen.claim.difference, last.claim.difference
        from_choice = None if a is None or b is None else a - b
        rows.append((
            model(chosen.a), model(chosen.b), points(a, signed=True),
            interval(chosen.claim.low, chosen.claim.high), points(b, signed=True),
            interval(last.claim.low, last.claim.high), points(from_choice, signed=True),
            w.count(chosen.n_runs),
        ))  # fmt: skip
    kept = [c.claim.difference for c in told_apart(stats.selection.chosen)]
    after = [
        last.claim.difference
        for chosen, last in zip(stats.selection.chosen, stats.selection.last, strict=True)
        if chosen.verdict == "inferior"
    ]
    if kept and all(v is not None for v in (*kept, *after)):
        means = [sum(v) / len(v) for v in (kept, after)]  # type: ignore[arg-type]
        rows.append((
            Cell("Mean of those told apart"), Cell(w.NONE), points(means[0], signed=True),
            Cell(w.NONE), points(means[1], signed=True), Cell(w.NONE),
            Cell(w.fixed(means[0] - means[1], 1, signed=True), means[0] - means[1],
                 sub=f"{100 * (1 - means[1] / means[0]):.0f} % of the gap"),
            Cell(w.NONE),
        ))  # fmt: skip
    columns = (
        MODEL,
        Column("against", "Against", numeric=False),
        Column("chosen", "As reported", "points"),
        Column("chosen_interval", "95 % interval"),
        Column("last", "At the last epoch", "points"),
        Column("last_interval", "95 % interval"),
        Column("from_choice", "From the choice", "points"),
        Column("runs", "Matched runs"),
    )
    return Table(
        "selection",
        "What the choice of the checkpoint did",
        columns,
        tuple(rows),
        "The same matched runs, once with the checkpoint that was chosen and reported and once "
        "with the last epoch, which no choice touches.",
        heads=2,
    )


def told_apart(found: Sequence[Comparison]) -> list[Comparison]:
    return [c for c in found if c.verdict == "inferior"]


def doubts(stats: Statistics) -> Table | None:
    """Everything that the checks of the whole study found."""
    if not stats.doubts:
        return None
    rows = tuple(
        (Cell(d.severity), Cell(d.name.replace("_", " ").replace(":", " ")), Cell(d.sentence),
         w.count(d.n) if d.n else Cell(w.NONE))
        for d in stats.doubts
    )  # fmt: skip
    columns = (
        Column("severity", "Severity", numeric=False),
        Column("check", "Check", numeric=False),
        Column("found", "What was found", numeric=False),
        Column("runs", "Runs"),
    )
    return Table(
        "doubts",
        "What a reader must know before believing it",
        columns,
        rows,
        "An error: numbers do not measure what they are said to. A warning: a comparison that "
        "uses them misleads.",
        heads=2,
    )
