"""Teachers crossed with students: the table, what is whose doing, and the tests behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from kdlora.evidence.matrix import Contrast, Matrix, MatrixModel
from kdlora.evidence.result import finite
from kdlora.evidence.sentences import scope_text
from kdlora.report import words as w
from kdlora.report.content.cells import p_cell, percent
from kdlora.report.content.verdicts import claim_text, flag_text, verdict_name, wider_text
from kdlora.report.document import Cell, Column, Figure, Finding, Panel, Table
from kdlora.report.render.panels import heat_map, shades
from kdlora.vocabulary.quantity import quantity


def heat_maps(found: Sequence[Matrix]) -> Figure:
    """Panels of every matrix; the best cell of each is darkest."""
    panels = [panel for one in found for panel in _panels(one, found)]
    caption = (
        "Teachers down, students across; the best cell of each panel is darkest. Gain is the "
        "score above the same student trained alone."
    )
    return Figure(
        "matrix", "The matrix at a glance", caption, tuple(panels), ("matrix", "matrix_tests")
    )


def _panels(one: Matrix, found: Sequence[Matrix]) -> list[Panel]:
    scale = w.scale_of(one.metric)
    gains = {
        (teacher, student): c.difference
        for c in one.of("distillation")
        for teacher in one.teachers
        for student in one.students
        if c.a == f"{teacher} to {student}"
    }
    kinds: tuple[tuple[str, Callable[[MatrixModel], float | None], Callable[[float], str], int],
                 ...] = (
        (w.sentence_case(w.metric_name(one.metric)), lambda m: m.score,
         lambda v: scale.write(v), one.direction),
        ("Gain by distillation, points", lambda m: gains.get((m.teacher, m.student)),
         lambda v: w.fixed(v, 2, signed=True), 1),
        ("Cohen's kappa with the teacher", lambda m: m.kappa, lambda v: w.fixed(v, 3), 1),
        ("Speed-up against the teacher", lambda m: m.speedup,
         lambda v: w.fixed(v, 2) + w.TIMES, 1),
    )  # fmt: skip
    where = ""
    if len(found) > 1:
        where = f" · {one.task}, {w.short_arm_name(one.arm)}"
    panels = []
    for title, value, text, direction in kinds:
        rows = _rows(one, value, text, direction)
        if rows is not None:
            alt = f"{title} of every teacher and student on {one.task}."
            panels.append(heat_map(f"matrix_{title}{where}", f"{title}{where}", alt, rows,
                                   x="Student", y="Teacher"))  # fmt: skip
    return panels


def _rows(
    one: Matrix,
    value: Callable[[MatrixModel], float | None],
    text: Callable[[float], str],
    direction: int,
) -> pd.DataFrame | None:
    cells = [(t, s, value(one.cell(t, s))) for t in one.teachers for s in one.students]
    known = [v for _, _, v in cells if v is not None]
    if len(known) < len(cells):
        return None
    rows = [
        {"column": s, "row": t, "label": text(v), "Teacher": t, "Student": s, "Value": text(v)}
        for t, s, v in cells
        if v is not None
    ]
    return pd.DataFrame(rows).assign(shade=shades(known, direction))


KINDS = {
    "teacher": "Teachers, over all students",
    "student": "Students, over all teachers",
    "interaction": "Does the teacher's edge depend on the student?",
    "same student": "One student, two teachers",
    "distillation": "Distilled against trained alone",
    "full": "Distilled against fully fine-tuned alone",
    "teacher's own": "Student against its teacher",
}

INTRO = (
    "Every teacher taught every student. An effect is a deviation from the mean of all cells; "
    "interaction is what a cell has beyond its teacher's and its student's effect. Differences are "
    "matched by seed, paired text by text, and judged as all comparisons of this report are; Holm "
    "corrects within each kind of question. All on the report split."
)


def findings(found: Sequence[Matrix]) -> list[Finding]:
    return [finding for one in found for finding in _findings(one, found)]


def _where(one: Matrix, found: Sequence[Matrix]) -> str:
    """What tells several matrices apart."""
    parts = [one.task] if len({m.task for m in found}) > 1 else []
    parts += [w.arm_name(one.arm)] if len({m.arm for m in found}) > 1 else []
    return ", ".join(parts)


def _findings(one: Matrix, found: Sequence[Matrix]) -> list[Finding]:
    where = _where(one, found)
    tail = f", {where}" if where else ""
    made = []
    for kind, topic in (("teacher", "Teacher"), ("student", "Student")):
        contrast = one.largest(kind)
        whose = "'s students" if kind == "teacher" else ""
        text = f"{contrast.a}{whose} against {contrast.b}{whose}, {_told(contrast)}"
        made.append(Finding(f"{topic} effect{tail}", text, ("matrix_tests",)))
    edge = one.largest("interaction")
    lead = (
        "The teacher's edge depends on the student"
        if edge.claim.verdict in ("superior", "inferior")
        else "The teacher's edge is not shown to depend on the student"
    )
    text = f"{lead}: {edge.a} less that {edge.b}, {_told(edge)}"
    made.append(Finding(f"Interaction{tail}", text, ("matrix_tests",)))
    gains = one.of("distillation")
    if gains:
        ordered = sorted(gains, key=lambda c: c.difference)
        text = (
            f"Distilling changes the score by {_signed(ordered[0])} to {_signed(ordered[-1])} "
            "against the same student alone: "
            f"{_counted(gains)}.{wider_text([c.comparison for c in gains])}"
        )
        made.append(Finding(f"Distillation{tail}", text, ("matrix_tests", "matrix")))
    return made


def _told(contrast: Contrast) -> str:
    """The difference with its verdict, or why there is none."""
    c = contrast.comparison
    if not c.claim.made:
        known = "" if math.isnan(contrast.difference) else f"{_signed(contrast)}, "
        return f"on average: {known}cannot be said ({c.claim.cannot}){flag_text(c)}."
    return f"on average: {claim_text(c, c.claim)}{flag_text(c)}.{wider_text([c])}"


def _signed(contrast: Contrast) -> str:
    return w.signed_difference(contrast.difference, contrast.comparison.unit)


def _counted(contrasts: Sequence[Contrast]) -> str:
    """How many of the cells have which verdict."""
    words = {"superior": "better", "inferior": "worse"}
    verdicts = [words.get(v := c.claim.verdict, v) for c in contrasts]
    counts = {v: verdicts.count(v) for v in dict.fromkeys(verdicts)}
    doubtful = len([c for c in contrasts if c.comparison.n_flagged])
    text = w.join([f"{w.plural(n, 'cell')} {v}" for v, n in counts.items()])
    return f"{text} ({w.plural(doubtful, 'cell')} with flagged runs)" if doubtful else text


def cells(found: Sequence[Matrix]) -> Table:
    """Teachers, students trained alone, and every cell: report 004's table and what it lacked."""
    rows = []
    macro = any(one.metric != "macro_f1" for one in found)  # else it is the score already
    for one in found:
        scale = w.scale_of(one.metric)
        for model in one.models:
            spread = ""
            if model.low is not None and model.high is not None:
                spread = f"{scale.write(model.low)} to {scale.write(model.high)}"
            rows.append((
                *_lead(one, found),
                Cell(_teacher(model), model.teacher or None),
                Cell(model.student or w.NONE, model.student or None),
                Cell(scale.write(model.score), model.score, spread),
                *([percent(model.macro_f1)] if macro else []),
                percent(model.positive_f1),
                Cell(w.fixed(model.speedup, 2) + (w.TIMES if model.speedup else ""),
                     model.speedup) if model.speedup is not None else Cell(w.NONE),
                w.number(model.size_mb), w.number(model.size_mib),
                percent(model.agreement),
                Cell(w.fixed(model.kappa, 3), model.kappa),
                percent(model.lower), percent(model.upper), percent(model.chance),
                w.count(len(model.seeds)),
            ))  # fmt: skip
    first = found[0]
    columns = (
        *_lead_columns(found),
        Column("teacher", "Teacher", numeric=False),
        Column("student", "Student", numeric=False),
        Column("score", w.sentence_case(w.metric_name(first.metric))),
        *([Column("macro_f1", "Macro-F1")] if macro else []),
        Column("positive_f1", f"F1 ({first.positive or 'positive'})"),
        Column("speedup", "Speed-up against its teacher"),
        w.head(quantity("size_mb")),
        Column("size_mib", "Size", "MiB"),
        Column("agreement", "Agreement", "%"),
        Column("kappa", "Cohen's kappa"),
        Column("lower", "Least possible", "%"),
        Column("upper", "Most possible", "%"),
        Column("chance", "By chance", "%"),
        Column("seeds", "Seeds"),
    )
    return Table(
        "matrix", "The matrix", columns, tuple(rows),
        "Means over seeds on the report split, scores times 100. A row without a student is the "
        "teacher itself, one without a teacher is the student trained alone. Agreement is with "
        "the cell's teacher, within what both accuracies allow; chance is that of independent "
        "guesses. Speed-up was timed side by side with the teacher.",
        heads=len(_lead_columns(found)) + 2,
    )  # fmt: skip


def _teacher(model: MatrixModel) -> str:
    alone = {"vanilla": "none (alone)", "full": "none (alone, full fine-tuning)"}
    return alone.get(model.kind, model.teacher)


def _lead(one: Matrix, found: Sequence[Matrix]) -> tuple[Cell, ...]:
    cells_ = ((Cell(one.task, one.task), len({m.task for m in found}) > 1),
              (Cell(w.arm_name(one.arm), one.arm), len({m.arm for m in found}) > 1))  # fmt: skip
    return tuple(cell for cell, used in cells_ if used)


def _lead_columns(found: Sequence[Matrix]) -> tuple[Column, ...]:
    made = ((Column("task", "Task", numeric=False), len({m.task for m in found}) > 1),
            (Column("arm", "Model", numeric=False), len({m.arm for m in found}) > 1))  # fmt: skip
    return tuple(column for column, used in made if used)


def effects(found: Sequence[Matrix]) -> Table:
    """Teacher, student and interaction effects with their intervals."""
    rows = []
    for one in found:
        for effect in (one.mean, *one.effects):
            share = None if effect is one.mean else one.shares.get(effect.kind)
            rows.append((
                *_lead(one, found),
                Cell(effect.kind), Cell(effect.name or "all cells"),
                Cell(w.fixed(effect.value, 2, signed=effect is not one.mean), effect.value),
                _number(effect.low), _number(effect.high),
                Cell(w.NONE) if share is None else Cell(w.fixed(100 * share, 0), share),
            ))  # fmt: skip
    columns = (
        *_lead_columns(found),
        Column("kind", "Effect of", numeric=False),
        Column("name", "Which", numeric=False),
        Column("points", "Points"),
        Column("low", "Low"),
        Column("high", "High"),
        Column("share", "Share between cells", "%"),
    )
    return Table(
        "matrix_effects", "Whose doing it is", columns, tuple(rows),
        "Deviations from the mean of all cells; 95 % intervals, of which those of single effects "
        "are judged as the differences below are. The share is that of the "
        "kind in the sum of squares between cells, noise among it.",
        heads=len(_lead_columns(found)) + 2,
    )  # fmt: skip


def contrasts(found: Sequence[Matrix]) -> Table:
    """Every difference with its interval, corrected p, verdict, and McNemar's of single runs."""
    rows = []
    for one in found:
        for c in one.contrasts:
            exact = "; ".join(f"{seed}: {p_cell(p).text}" for seed, p in c.mcnemar)
            claim = c.claim
            rows.append((
                *_lead(one, found),
                Cell(KINDS[c.kind], c.kind), Cell(_plain(c.a)), Cell(_plain(c.b)),
                Cell(w.fixed(c.difference, 2, signed=True), finite(c.difference)),
                _number(claim.low), _number(claim.high),
                p_cell(claim.p), p_cell(claim.p_corrected),
                Cell(verdict_name(c.comparison), claim.verdict),
                Cell(exact or w.NONE),
            ))  # fmt: skip
    columns = (
        *_lead_columns(found),
        Column("kind", "Question", numeric=False),
        Column("a", "A", numeric=False),
        Column("b", "B", numeric=False),
        Column("difference", "A minus B", "points"),
        Column("low", "Low"),
        Column("high", "High"),
        Column("p", "p"),
        Column("p_holm", "p, Holm"),
        Column("verdict", "Verdict", numeric=False),
        Column("mcnemar", "McNemar p by seed", numeric=False),
    )
    return Table(
        "matrix_tests", "Differences in the matrix", columns, tuple(rows),
        "Over the seeds that both sides have, with 95 % intervals; McNemar's exact test "
        "compares the accuracies of single runs and is not corrected.",
        notes=_scope_notes([c for one in found for c in one.contrasts]),
        heads=len(_lead_columns(found)) + 3, folded=True,
    )  # fmt: skip


def _scope_notes(contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """For what the verdicts hold, and why nothing is said where nothing is."""
    found = []
    for c in contrasts:
        if c.claim.made:
            wider = wider_text([c.comparison])
            found.append(f"Verdicts and intervals hold {scope_text(c.claim)}.{wider}")
        else:
            found.append(f"Cannot be said: {c.claim.cannot}.")
    return tuple(dict.fromkeys(found))


def _plain(side: str) -> str:
    """ "vanilla to minilm-l3" is "minilm-l3 alone"; "teacher to mpnet" the teacher itself."""
    first, arrow, second = side.partition(" to ")
    if not arrow:
        return side
    alone = {"vanilla": f"{second} alone", "full": f"{second} alone, full fine-tuning"}
    return {**alone, "teacher": f"{second} itself"}.get(first, side)


def _number(value: float | None) -> Cell:
    return Cell(w.fixed(value, 2, signed=False), value) if value is not None else Cell(w.NONE)
