"""Which model to ship: the choice of each profile, how sure it is, and all candidates."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.choice.candidates import ModelForm
from kdlora.choice.formats import FORMS, MEASURED, Cost
from kdlora.choice.recommend import by_score
from kdlora.choice.recommendation import Choices, Recommendation
from kdlora.report import words as w
from kdlora.report.document import Cell, Column, Finding, Table
from kdlora.vocabulary.metric import POINTS
from kdlora.vocabulary.quantity import quantity

INTRO = (
    "Chosen on the selection split; the report split's score is shown and chooses nothing. The "
    "probability is the share of draws, of examples paired over all models and of seeds, in which "
    "the choice keeps every limit and is the best of those that do. A size or latency that was "
    "not measured on an exported artefact or by the run itself is an estimate and says "
    "so. The command kdlora recommend takes limits of your own."
)

CERTAINTIES = {
    "clear": "clear", "likely": "likely", "undecided": "undecided", "unknown": "not known",
    "nothing fits": "nothing fits",
}  # fmt: skip


def teacher_instead(made: Choices) -> list[Finding]:
    """Said on the first screen where a form of the teacher beats every student under limits."""
    found = []
    for task in dict.fromkeys(one.task for one in made.found):
        better: dict[str, list[str]] = {}
        for one in made.found:
            choice = one.choice.candidate if one.choice is not None else None
            if one.task == task and choice is not None and choice.role == "teacher":
                scale = w.scale_of(one.metric)
                text = f"{model_name(choice)} ({scale.write(choice.score)} {scale.unit}"
                text += f", {cost_text(choice.size_mb)} MB" if choice.size_mb.known else ""
                latency = choice.latency_ms(one.constraints.latency)
                text += f", {cost_text(latency)} ms a text)" if latency.known else ")"
                better.setdefault(text, []).append(str(one.profile))
        if better:
            where = f" on {task}" if _several(made.found) else ""
            parts = [f"{text} for {w.join(profiles)}" for text, profiles in better.items()]
            text = f"Under these limits a form of the teacher beats every student{where}: "
            found.append(Finding("The teacher instead", f"{text}{'; '.join(parts)}.",
                                 ("recommended",)))  # fmt: skip
    return found


def intro(made: Choices) -> list[str]:
    """How a model is chosen, and on which tasks none can be."""
    why = f"{w.sentence_case('; '.join(made.lacking.values()))}." if made.lacking else ""
    return [text for text in (INTRO if made.found else "", why) if text]


def findings(made: Choices) -> list[Finding]:
    return [_finding(one, several=_several(made.found)) for one in made.found]


def _several(found: Sequence[Recommendation]) -> bool:
    return len({one.task for one in found}) > 1


def _finding(one: Recommendation, *, several: bool) -> Finding:
    topic = w.sentence_case(one.profile or "chosen") + (f", {one.task}" if several else "")
    if one.choice is None:
        nearest = one.nearest[0]
        lacks = w.join([LIMITS[b.constraint] for b in nearest.broken])
        text = f"Nothing fits. The nearest is {model_name(nearest.candidate)}, which fails {lacks}."
        return Finding(topic, text, ("recommended",))
    return Finding(topic, sentence(one), ("recommended",))


LIMITS = {
    "max_size_mb": "the size", "max_latency_ms": "the latency", "min_score": "the score",
    "max_drop": "the drop", "runtime": "the runtime", "quantize": "the quantisation",
    "role": "the role", "licence": "the licence",
    "accuracy gate": "the accuracy gate",
}  # fmt: skip


def model_name(one: ModelForm) -> str:
    """A candidate in words, with its form."""
    extra = one.name.removeprefix(one.arm).strip()
    return f"{w.phrase(one.arm)}{f' ({extra})' if extra else ''} as {FORMS[one.form].title}"


def short_name(one: ModelForm) -> str:
    """A candidate for a narrow table: "student KD-LoRA, ONNX INT8"."""
    extra = one.name.removeprefix(one.arm).strip()
    name = f"{w.short_arm_name(one.arm)} {extra}".strip()
    return f"{name}, {FORMS[one.form].title}"


def sentence(one: Recommendation) -> str:
    """What is chosen, what it scores and costs, and how sure that is."""
    assert one.choice is not None
    chosen = one.choice.candidate
    scale = w.scale_of(one.metric)
    text = f"Ship {model_name(chosen)}: {scale.write(chosen.score)} {scale.unit}"
    if chosen.size_mb.known:
        text += f", {cost_text(chosen.size_mb)} MB"
    latency = chosen.latency_ms(one.constraints.latency)
    if latency.known:
        text += f", {cost_text(latency)} ms a text"
    if one.probability is None:
        text += ". How sure that is cannot be told without stored predictions or several seeds."
    else:
        text += f". {w.sentence_case(CERTAINTIES[one.certainty])}: best in "
        text += f"{w.fixed(100 * one.probability, 0)} % of draws."
    if one.baseline is not None and not one.beats_baseline:
        text += (
            f" But {w.phrase(one.baseline.arm)} has {scale.write(one.baseline.score)} on the "
            "selection split: nothing here is worth shipping yet."
        )
    if one.not_told_apart:
        tied = [model_name(judged.candidate) for judged in one.not_told_apart]
        text += f" Not told apart from it: {w.join(tied)}."
    return text


def cost_text(cost: Cost) -> str:
    """``≈`` before what is estimated."""
    mark = "\N{ALMOST EQUAL TO}" if cost.basis == "estimated" else ""
    return mark + w.significant(cost.value)


def _cost_cell(cost: Cost) -> Cell:
    if not cost.known:
        return Cell(w.NONE)
    basis = "" if cost.basis == MEASURED else cost.basis
    extra = {"basis": cost.basis, "source": cost.source}
    return Cell(cost_text(cost), cost.value, basis, extra=extra)


def limit_text(name: str, value: float | str | None, one: Recommendation) -> str:
    """A limit, or what a candidate has of it; a drop with its unit."""
    if value is None:
        return "unknown"
    unit = f" {one.scored_by.drop_unit}" if name == "max_drop" else ""
    return f"{value:.4g}{unit}" if isinstance(value, float | int) else value


def drop_text(drop: float | None, one: Recommendation) -> str:
    """For a table, where what has no unit is in points."""
    unit = one.scored_by.drop_unit
    return w.fixed(drop, 1) + ("" if unit == POINTS or drop is None else f" {unit}")


def limits_text(one: Recommendation) -> str:
    """The limits in words: "at most 70 MB, at most 3 points below the teacher, onnx"."""
    constraints, scored_by, parts = one.constraints, one.scored_by, []
    if constraints.max_size_mb is not None:
        parts.append(f"at most {constraints.max_size_mb:g} MB")
    if constraints.max_latency_ms is not None:
        parts.append(f"at most {constraints.max_latency_ms:g} ms a text ({constraints.latency})")
    if constraints.min_score is not None:
        end = "least" if scored_by.direction > 0 else "most"
        parts.append(f"a score of at {end} {constraints.min_score:g}")
    if constraints.max_drop is not None:
        than = "below" if scored_by.in_points else "worse than"
        most = f"{constraints.max_drop:g} {scored_by.drop_unit}"
        parts.append(f"at most {most} {than} the teacher")
    if constraints.min_coverage is not None:
        parts.append(
            f"at least {100 * constraints.min_coverage:g} % of the texts answered, "
            f"{100 * constraints.accuracy:g} % of the answers right"
        )
    if constraints.role != "any":
        parts.append(f"{constraints.role}s only")
    if constraints.runtime != "any":
        parts.append({"onnx": "ONNX Runtime", "torch": "PyTorch"}[constraints.runtime])
    if "quantize" in constraints.limits():
        given = ", ".join(q for q in constraints.quantize if q != "none")
        parts.append(f"quantised to {given} at most" if given else "not quantised")
    if constraints.licence:
        parts.append(f"of an encoder under {w.join(list(constraints.licence), 'or')}")
    wish = {"score": "best score", "latency": "fastest", "size": "smallest"}[constraints.prefer]
    return f"{wish}: {', '.join(parts)}" if parts else wish


def recommended(found: Sequence[Recommendation], *, most_open: int | None = None) -> Table:
    """One row a profile (and task): the choice or the nearest that fails.

    A table of more than `most_open` rows starts closed.
    """
    several, rows = _several(found), []
    for one in found:
        judged = one.choice or one.nearest[0]
        chosen, scale = judged.candidate, w.scale_of(one.metric)
        sure = "" if one.probability is None else w.fixed(100 * one.probability, 0)
        spread = ""
        if judged.score_low is not None and judged.score_high is not None:
            ends = f"{scale.write(judged.score_low)} to {scale.write(judged.score_high)}"
            spread = f"{ends}, {judged.score_over}"
        rows.append((
            *_task_cell(one.task, several),
            Cell(w.sentence_case(one.profile or w.NONE), one.profile,
                 sub=limits_text(one), extra={"limits": limits_text(one)}),
            Cell(w.sentence_case(model_name(chosen)), chosen.title),
            Cell(scale.write(chosen.score), chosen.score, spread),
            Cell(drop_text(judged.drop, one), judged.drop,
                 extra={"drop_unit": one.scored_by.drop_unit}),
            _cost_cell(chosen.size_mb),
            _cost_cell(chosen.latency_ms(one.constraints.latency)),
            Cell(w.sentence_case(CERTAINTIES[one.certainty]), one.certainty,
                 sub=f"best in {sure} % of draws" if sure else "",
                 extra={"probability": one.probability}),
            Cell(scale.write(chosen.report_score), chosen.report_score),
        ))  # fmt: skip
    columns = (
        *_task_column(several),
        Column("profile", "For", numeric=False),
        Column("choice", "Ship", numeric=False),
        Column("score", "Score"),
        Column("drop", "Below the best teacher"),
        w.head(quantity("size_mb")),
        Column("latency_ms", "Latency", "ms"),
        Column("standing", "How sure", numeric=False),
        Column("report_score", "On the report split"),
    )
    notes = tuple(dict.fromkeys(w.sentence_case(n) + "." for one in found for n in one.notes))
    return Table(
        "recommended", "Which model for which use", columns, tuple(rows),
        "Scores are those of the selection split, which chooses; where nothing fits, the row is "
        f"the nearest candidate. Latency of one text at the 95th percentile{_tokens(found)}.",
        notes=notes, heads=2 if several else 1,
        folded=most_open is not None and len(rows) > most_open,
    )  # fmt: skip


def _task_column(several: bool) -> tuple[Column, ...]:
    return (Column("task", "Task", numeric=False),) if several else ()


def _task_cell(task: str, several: bool) -> tuple[Cell, ...]:
    return (Cell(task, task),) if several else ()


def _tokens(found: Sequence[Recommendation]) -> str:
    lengths = {one.length for one in found}
    only = lengths.pop() if len(lengths) == 1 else None
    return f", {only} tokens" if only else ""


def next_steps(found: Sequence[Recommendation]) -> Table | None:
    """What to measure next; the same step of several profiles stands once."""
    steps: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        for step in one.next_steps:
            steps.setdefault((one.task, step.text, step.command), []).append(one.profile or "")
    if not steps:
        return None
    several = _several(found)
    rows = tuple(
        (
            *_task_cell(task, several),
            Cell(w.join(profiles)), Cell(text), Cell(command or w.NONE, command or None),
        )
        for (task, text, command), profiles in steps.items()
    )  # fmt: skip
    columns = (
        *_task_column(several),
        Column("profile", "For", numeric=False),
        Column("step", "What would make it surer", numeric=False),
        Column("command", "Command", numeric=False),
    )
    return Table("next_steps", "What to measure next", columns, rows, folded=True,
                 heads=2 if several else 1)  # fmt: skip


def candidates(found: Sequence[Recommendation]) -> Table:
    """Every model in every form, with where its numbers come from."""
    several, rows, seen = _several(found), [], set()
    for one in found:
        if one.task in seen:
            continue
        seen.add(one.task)
        scale = w.scale_of(one.metric)
        for c in by_score([judged.candidate for judged in one.considered], one.direction):
            rows.append((
                *_task_cell(one.task, several),
                Cell(w.sentence_case(model_name(c)), c.title),
                Cell(str(len(c.seeds)), len(c.seeds)),
                Cell(scale.write(c.score), c.score),
                Cell(scale.write(c.report_score), c.report_score),
                Cell(scale.write(c.artefact_score), c.artefact_score),
                _cost_cell(c.size_mb), _cost_cell(c.latency_p50_ms), _cost_cell(c.latency_p95_ms),
                Cell(c.gate),
            ))  # fmt: skip
    columns = (
        *_task_column(several),
        Column("candidate", "Candidate", numeric=False),
        Column("seeds", "Seeds"),
        Column("score", "Selection split"),
        Column("report_score", "Report split"),
        Column("artefact_score", "Artefact, report split"),
        w.head(quantity("size_mb")),
        Column("latency_p50_ms", "Latency p50", "ms"),
        Column("latency_p95_ms", "Latency p95", "ms"),
        Column("gate", "Accuracy gate", numeric=False),
    )
    return Table(
        "candidates", "Candidates", columns, tuple(rows),
        "Every trained model in every form it can be shipped in. The CSV says of each size and "
        "latency where it comes from.",
        heads=2 if several else 1, folded=True,
    )  # fmt: skip
