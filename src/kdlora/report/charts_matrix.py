"""The matrix as heat maps: score, gain over training alone, agreement beyond chance, speed-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from kdlora.analysis.matrix_parts import Matrix, MatrixModel
from kdlora.report import words as w
from kdlora.report.grammar import heat_map, shades
from kdlora.report.parts import Figure, Panel


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
