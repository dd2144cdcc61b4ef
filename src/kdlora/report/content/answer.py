"""The answer that a reader in a hurry wants: which model for which use, and what the tests carry.

With one pair the sentences are those of `pair_answer`; with several they are about all of them.
Every number stands in a table that the sentence names; "undecided" is never turned into "equal".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdlora.evidence import gains as g
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import SUMMARY_COSTS, OutcomeApart, outcome_metric
from kdlora.evidence.questions import DISTILLATION, ON_TEACHER
from kdlora.evidence.sentences import scope_text
from kdlora.evidence.study import Evidence
from kdlora.evidence.teacher import teacher_arm
from kdlora.records.tidy import names
from kdlora.report import words as w
from kdlora.report.content.cells import (
    ABOVE,
    MODEL,
    Lead,
    dagger_notes,
    interval_cell,
    mark_notes,
    marked,
    model_cell,
    points_cell,
)
from kdlora.report.content.gains import distillation
from kdlora.report.content.results import OUTCOME_COLUMNS, outcome_cells
from kdlora.report.content.verdicts import (
    decided_text,
    flag_text,
    told_apart,
    verdict_name,
    verdict_text,
    wider_text,
)
from kdlora.report.document import Cell, Column, Finding, Table, Tile
from kdlora.vocabulary.arm import Arm, uncontrolled
from kdlora.vocabulary.quantity import quantity

# A share near one of these is also said in words.
FRACTIONS = {0.25: "a quarter", 1 / 3: "a third", 0.5: "half", 2 / 3: "two thirds"}

NEAR = 0.06
SUSPECT = "selection_worse_than_chance"
LEAST_SHARE = 0.1  # of a gap that is worth a sentence


def headlines(facts: Facts, stats: Evidence) -> list[Finding]:
    """What holds over all pairs together, most wanted first."""
    made = (first(stats), distilled(stats), selection(stats), controls(facts), gain(stats),
            student(facts, stats))  # fmt: skip
    return [finding for finding in made if finding]


def first(stats: Evidence) -> Finding | None:
    """The model with the highest mean, and the one that comes next."""
    if len(stats.aggregates) < 2:
        return None
    best, second = stats.aggregates[:2]
    text = (
        f"{w.sentence_case(w.phrase(best.arm))} has the highest mean score, "
        f"{w.points_text(best.mean)}{w.span_text(best.mean_low, best.mean_high)} over "
        f"{w.plural(best.n_cells, 'shared cell')}; next comes {w.phrase(second.arm)} at "
        f"{w.points_text(second.mean)}{w.span_text(second.mean_low, second.mean_high)}."
        f"{_without_flags(stats, [best.arm, second.arm])}"
    )
    for _, c in stats.comparisons:
        if {c.a, c.b} == {best.arm, second.arm}:
            text += f" {verdict_text(c)}"
            break
    return Finding("For quality", text, ("averages", "comparisons"))


def distilled(stats: Evidence) -> Finding | None:
    """What the distilled student costs against the same adaptation on the teacher."""
    found = stats.families.get(ON_TEACHER, ())
    lost = told_apart(found)
    if not lost:
        return _undecided(found, "Distilled student against the teacher's own adapter")
    differences = sorted(-c.claim.difference for c in lost if c.claim.difference is not None)
    low, high = (w.fixed(v, 1) for v in (differences[0], differences[-1]))
    what = (
        "KD-LoRA on the student scores"
        if all((arm := Arm.read(c.a)).is_distilled and not arm.is_full for c in lost)
        else "The distilled student scores"
    )
    size = f"{low} points" if low == high else f"{low} to {high} points"
    variants = (
        f", in {len(lost)} of {len(found)} variants ({_listed(lost)})"
        if len(found) > 1
        else f" ({w.arm_name(lost[0].a)})"
    )
    worst = max(c.claim.p_corrected or 0 for c in lost)
    scope = scope_text(lost[0].claim)
    text = (
        f"{what} {size} below the same adapter on the teacher{variants}: inferior {scope}, "
        f"corrected p {w.p_text(worst)} at most."
    )
    rest = [c for c in found if c not in lost]
    if rest:
        kinds = [
            f"{w.arm_name(c.a).partition(', ')[2]} is {verdict_name(c)} "
            f"({w.signed_difference(c.claim.difference, c.unit)}"
            f"{w.span_text(c.claim.low, c.claim.high, c.unit)}"
            f"{flag_text(c)})"
            for c in rest
            if c.claim.difference is not None
        ]
        text += f" {w.join(kinds)}." if kinds else ""
    doubtful = [f"{w.arm_name(c.a)}{flag_text(c)}" for c in lost if c.n_flagged]
    text += f" Runs carry health flags: {'; '.join(doubtful)}." if doubtful else ""
    return Finding("What KD-LoRA costs", text, ("comparisons",))


def _listed(found: Sequence[Comparison]) -> str:
    return w.join([w.arm_name(c.a).partition(", ")[2].removeprefix("KD-") for c in found])


def selection(stats: Evidence) -> Finding | None:
    """How much of that loss the choice of the checkpoint made."""
    share = artefact_share(stats)
    if share is None:
        return None
    assert stats.checkpoints is not None
    chosen, last = stats.checkpoints.mean_gaps or (0.0, 0.0)
    near = min(FRACTIONS, key=lambda f: abs(f - share))
    words = f"About {FRACTIONS[near]} of it" if abs(near - share) <= NEAR else "A part of it"
    bad = next(d for d in stats.doubts if d.name == SUSPECT)
    text = (
        f"{words} ({100 * share:.0f} % of the gap) comes from how the checkpoints were chosen, not "
        f"from the method: at the last epoch, which no choice touches, the mean gap is "
        f"{w.fixed(last, 1)} instead of {w.fixed(chosen, 1)} points. {_cause(bad.evidence)}"
    )
    return Finding("How much is an artefact", text, ("selection", "doubts"))


def artefact_share(stats: Evidence) -> float | None:
    """Share of the mean gap that vanishes at the last epoch, where the choice is known as bad."""
    if stats.checkpoints is None or not any(d.name == SUSPECT for d in stats.doubts):
        return None
    share = stats.checkpoints.share
    return share if share >= LEAST_SHARE else None


def _cause(evidence: dict) -> str:
    return (
        f"The loss by which they were chosen picked the best epoch in "
        f"{100 * evidence['picked_best']:.0f}% of {evidence['runs']} distilled runs; chance is "
        f"{100 * evidence['chance']:.0f}%."
    )


def against_teacher(facts: Facts, stats: Evidence) -> Finding | None:
    """Whether the first student of the only pair is worse than its teacher, and by how much."""
    pair = names(facts.frame, "pair")[0]
    teacher, (students, _) = teacher_arm(facts.frame, pair), facts.students.get(pair, ([], ""))
    if not students or teacher is None:
        return None
    asked = (students[0].arm, teacher)
    found = next((c for _, c in stats.comparisons if (c.a, c.b) == asked), None)
    if found is None or not found.claim.made:
        return None
    text = f"{verdict_text(found)}{wider_text([found])}"
    return Finding("Is the student worse than its teacher?", text, ("comparisons",))


def gain(stats: Evidence) -> Finding | None:
    """What distillation adds to the same student, or why that cannot be said."""
    asked = stats.families.get(DISTILLATION, ())
    found = [c for c in asked if c.claim.difference is not None]
    if not found:
        reasons = dict.fromkeys(c.claim.cannot for c in asked if not c.matched.reason)
        text = f"It cannot be said: {'; '.join(reasons)}."
        return Finding("Does distillation help?", text, ("comparisons",)) if reasons else None
    parts = [
        f"{w.phrase(c.b)} by {w.signed_difference(c.claim.difference, c.unit)}"
        f"{w.span_text(c.claim.low, c.claim.high, c.unit)}: {verdict_name(c)} {scope_text(c.claim)}"
        f"{decided_text(c)}{flag_text(c)}"
        for c in found
    ]
    text = f"Distillation changes {'; '.join(parts)}.{wider_text(found)}"
    return Finding("Does distillation help?", text, ("comparisons",))


def gain_of_pair(facts: Facts, stats: Evidence) -> Finding | None:
    """The same for the only pair of a study; where nothing can be tested, what was measured."""
    told = gain(stats)
    described = distillation(facts, names(facts.frame, "pair")[0])
    if told is None or described is None or told.text.startswith("Distillation changes"):
        return told
    text = f"{described.text} Whether it helps: {told.text[0].lower()}{told.text[1:]}"
    return Finding(told.topic, text, (*described.tables, *told.tables))


def student(facts: Facts, stats: Evidence) -> Finding | None:
    """What the students that rank first score on the report split, which chooses none of them.

    Only where their runs are among those averaged: an average over other pairs is not theirs.
    """
    averages = {one.arm: one for one in stats.aggregates}
    ranked = [
        (found, found.first.arm)
        for found in facts.rankings.values()
        if found.first and found.first.arm in averages and stats.shared.holds(found.first.pairs)
    ]
    known = [averages[arm] for arm in dict.fromkeys(arm for _, arm in ranked)]
    if not known:
        return None
    parts = []
    for one in known:
        mean = f"{w.points_text(one.mean)}{w.span_text(one.mean_low, one.mean_high)}"
        if one.retention is not None:
            scope = w.share_scope(one.share_tasks, one.n_tasks)
            mean += f" ({w.fixed(one.retention, 1)} % of {w.phrase(stats.reference)}{scope})"
        parts.append(f"{w.phrase(one.arm)} {mean}")
    split = w.join(sorted({found.split for found, _ in ranked}))
    which = "The student that ranks" if len(known) == 1 else "The students that rank"
    text = f"{which} first on the {split} split, with the mean on the report split: "
    text += f"{'; '.join(parts)}.{_without_flags(stats, [one.arm for one in known])}"
    return Finding("For a small model", text, ("averages",))


def _without_flags(stats: Evidence, arms: Sequence[str]) -> str:
    """The same means over the cells in which no run carries a health flag; "" without flags."""
    if stats.unflagged is None:
        return ""
    sound = {one.arm: one for one in stats.unflagged}
    told = [
        f"{w.phrase(arm)} {w.points_text(sound[arm].mean)} over "
        f"{w.plural(sound[arm].n_cells, 'cell')}"
        for arm in arms
        if arm in sound
    ]
    if len(told) < len(arms):
        return " Without the runs that carry a health flag, not all of these share a cell."
    return f" Without the runs that carry a health flag: {w.join(told)}."


def cheapest(stats: Evidence) -> Finding | None:
    """Who is surest to be on the Pareto set of score and each cost."""
    uses: dict[str, list[str]] = {}
    for column, front in stats.fronts.items():
        on = [p for p in front.points if p.on_front]
        if len(on) > 1:
            cheap = min(on, key=lambda p: p.values[column])
            uses.setdefault(cheap.arm, []).append(quantity(column).noun)
    if not uses:
        return None
    parts = [f"{w.phrase(arm)} for {w.join(found)}" for arm, found in uses.items()]
    text = f"Of the encoders that no other beats in score too, the cheapest: {w.join(parts)}."
    return Finding("For little cost", text, ("pareto", "reductions"))


def controls(facts: Facts) -> Finding | None:
    """No control arm anywhere, or none for some."""
    arms = names(facts.frame, "arm")
    kd = [arm for arm in arms if Arm.read(arm).is_distilled]
    alone = uncontrolled(arms)
    if not alone:
        return None
    if len(alone) == len(kd) and not any(
        Arm.read(arm).is_student and arm not in kd for arm in arms
    ):
        text = "No control arm exists: no student was trained without distillation"
    else:
        text = f"No control arm exists for {w.join([w.phrase(arm) for arm in alone])}"
    text += (
        ", so what distillation gives cannot be told from what the smaller encoder and the "
        "adapter cost."
    )
    return Finding("No control arm", text, ("coverage",))


def errors(stats: Evidence) -> Finding | None:
    """How many findings of the checks a reader has to know."""
    n = {
        level: len([d for d in stats.doubts if d.severity == level])
        for level in ("error", "warning")
    }
    if not any(n.values()):
        return None
    found = w.join([w.plural(count, level) for level, count in n.items() if count])
    first = next((d for d in stats.doubts if d.severity == "error"), None)
    text = f"The checks of the whole study give {found}, listed below."
    if first is not None:
        text += f" The first: {first.sentence}"
    return Finding("Read with care", text, ("doubts",))


def _undecided(found: Sequence[Comparison], topic: str) -> Finding | None:
    known = [c for c in found if c.claim.difference is not None]
    if not known:
        return None
    return Finding(topic, " ".join(verdict_text(c) for c in known), ("comparisons",))


def overall_tiles(facts: Facts, stats: Evidence) -> tuple[Tile, ...]:
    """Headline numbers of a study with several pairs."""
    found = []
    lost = told_apart(stats.families.get(ON_TEACHER, ()))
    differences = [c.claim.difference for c in lost if c.claim.difference is not None]
    if differences:
        low, high = (w.fixed(v, 1, signed=True) for v in (max(differences), min(differences)))
        text = low if low == high else f"{low} to {high}"
        found.append(Tile(text, "points: the distilled student against its adapter on the teacher"))
    if (share := artefact_share(stats)) is not None:
        what = "of that gap comes from how the checkpoints were chosen"
        found.append(Tile(f"{100 * share:.0f} %", what))
    if controls(facts):
        found.append(Tile("None", "is the number of control arms without distillation"))
    if len(stats.aggregates) > 1:
        best = stats.aggregates[0]
        found.append(Tile(w.fixed(best.mean, 1), f"points: {w.phrase(best.arm)}, the highest mean"))
    return tuple(found)


def pair_tiles(facts: Facts) -> tuple[Tile, ...]:
    """The first student's headline numbers, where there is one pair to speak of."""
    pairs = names(facts.frame, "pair")
    students, _ = facts.students.get(pairs[0], ([], ""))
    if len(pairs) > 1 or not students:
        return ()
    first, tiles = students[0], []
    if first.retained is not None:
        sound = first.without_flags.retained if first.without_flags else None
        told = first if sound is None or first.without_flags is None else first.without_flags
        scope = w.share_scope(told.share_tasks, len(first.tasks))
        share = w.fixed(100 * (first.retained if sound is None else sound), 1)
        mark = f" {w.DAGGER}" if first.score.flagged and sound is None else ""
        left_out = "" if sound is None else ", flagged runs left out"
        kept = f"of the teacher's score{scope} is kept by {w.phrase(first.arm)}{left_out}"
        tiles.append(Tile(f"{share} %{mark}", kept))
    if (size := w.number(first.costs["size_mb"])).value is not None:
        whose = "is its size" if tiles else f"is the size of {w.phrase(first.arm)}"
        tiles.append(Tile(f"{size.text} MB", f"{whose} on disk"))
    if (speed := w.number(first.costs["speedup_latency"])).value is not None:
        whose = "is its speed" if tiles else f"is the speed of {w.phrase(first.arm)}"
        tiles.append(Tile(f"{speed.text}{w.TIMES}", f"{whose}, against the teacher's encoder"))
    for gain in facts.overall(pairs[0], g.DISTILLATION)[:1]:
        scale = w.scale_of(gain.metric)
        # A headline is no place for a difference that a broken run made.
        healthy = gain.flagged and gain.unflagged is not None
        change = scale.write(gain.unflagged if healthy else gain.mean, signed=True)
        change += f" {w.DAGGER}" if gain.flagged and not healthy else ""
        left_out = ", flagged pairs left out" if healthy else ""
        seeds = w.plural(len(gain.seeds), "seed")
        student = w.phrase(gain.comparison.base)
        what = f"{scale.unit} from distilling {student}{left_out}; {seeds}"
        tiles.append(Tile(change, what))
    return tuple(tiles)


def selection_table(stats: Evidence) -> Table | None:
    """How far the choice of the checkpoint explains what distilled students lose."""
    if stats.checkpoints is None:
        return None
    rows = []
    pairs = zip(stats.checkpoints.chosen, stats.checkpoints.last, strict=True)
    for chosen, last in pairs:
        a, b = chosen.claim.difference, last.claim.difference
        from_choice = None if a is None or b is None else a - b
        rows.append((
            model_cell(chosen.a), model_cell(chosen.b), points_cell(a, signed=True),
            interval_cell(chosen.claim.low, chosen.claim.high), points_cell(b, signed=True),
            interval_cell(last.claim.low, last.claim.high), points_cell(from_choice, signed=True),
            w.count(chosen.n_runs),
        ))  # fmt: skip
    if stats.checkpoints.mean_gaps is not None:
        gap, rest = stats.checkpoints.mean_gaps
        rows.append((
            Cell("Mean of those told apart"), Cell(w.NONE), points_cell(-gap, signed=True),
            Cell(w.NONE), points_cell(-rest, signed=True), Cell(w.NONE),
            Cell(w.fixed(rest - gap, 1, signed=True), rest - gap,
                 sub=f"{100 * stats.checkpoints.share:.0f} % of the gap"),
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


def summary(facts: Facts) -> Table | None:
    """Each model at a glance, over what all models have in common."""
    frame = facts.frame
    if not facts.outcomes and not facts.apart:
        return None
    lead, (metric, _) = Lead(frame, task=False), outcome_metric(frame)
    several = len(names(frame, "task")) > 1
    scale = w.scale_of(metric)
    selection = Column("selection", "On selection split", scale.unit)
    rows = []
    for pair in names(frame, "pair"):
        found = facts.outcomes.get(pair, [])
        best = {column: facts.marks.get(("summary", pair, column), {}) for column in MARKED}
        for outcome in found:
            score, *rest = outcome_cells(outcome, metric)
            score = marked(score, best["score"].get(outcome.arm))
            rest = [
                marked(cell, best.get(column.key, {}).get(outcome.arm))
                for column, cell in zip(OUTCOME_COLUMNS, rest, strict=True)
            ]
            chosen = Cell(scale.write(outcome.selection), outcome.selection)
            rows.append((*lead.cells(pair, "", outcome.arm), score, chosen, *rest))
        rows += [
            _apart(one, metric, lead.cells(pair, "", one.own.arm))
            for one in facts.apart.get(pair, ())
        ]
    what = (
        "Average over tasks, only over the blocks that all trained models share (listed below)"
        if several
        else "Mean over the seeds that all trained models share"
    )
    return Table(
        "summary",
        "The models at a glance",
        (*lead.columns, Column("score", "Score", scale.unit), selection, *OUTCOME_COLUMNS),
        tuple(rows),
        f"{what}; below the score its range over seeds. Size is that of the merged model on disk, "
        "latency that of one text; the speed-up is against the teacher's encoder, timed side by "
        "side. Shares of the teacher's score are of the same blocks.",
        (
            *mark_notes(rows),
            *dagger_notes(rows),
            *_share_notes(facts),
            *([APART_NOTE] if facts.apart else []),
        ),
        heads=len(lead.columns),
    )


def _share_notes(facts: Facts) -> list[str]:
    """Of how many tasks the shares of a pair are, where not of all."""
    found: dict[str, None] = {}
    for pair, outcomes in facts.outcomes.items():
        for one in outcomes:
            scope = w.share_scope(one.share_tasks, len(one.tasks))
            if one.retained is not None and scope:
                found[f"{pair}: shares are{scope}, those on which the teacher is {ABOVE}."] = None
    return list(found)


APART_NOTE = (
    "Models with few runs stand apart: their numbers, and their share of the teacher's score, are "
    "over the tasks and seeds that they share with the teacher, as said below their names."
)


def _apart(one: OutcomeApart, metric: str, lead: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """A model that has too few runs to be among the others."""
    own, scale = one.own, w.scale_of(metric)
    where = f"{w.plural(own.blocks, 'block')} of {w.join(own.tasks)}"
    score, *rest = outcome_cells(own, metric)
    chosen = Cell(scale.write(own.selection), own.selection)
    named = replace(
        lead[-1], sub=f"{where}; the teacher there: {scale.write(one.teacher.score.mean)}"
    )
    return (*lead[:-1], named, score, chosen, *rest)


MARKED = ("score", *SUMMARY_COSTS)
