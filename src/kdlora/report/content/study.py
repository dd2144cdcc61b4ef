"""The report's sections in the order in which someone in a hurry reads them: the answer, whether to
trust it, quality, efficiency, the trade-off, statistics, single tasks, methods, provenance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from kdlora.evidence.mistakes import lacking_mistakes
from kdlora.evidence.study import Evidence
from kdlora.evidence.teacher import reference_arm
from kdlora.records.tidy import (
    UNNUMBERED,
    StudyFrame,
    names,
    plain_strings,
    seeds_of,
    tidy,
)
from kdlora.report import words as w
from kdlora.report.content import (
    answer,
    cost,
    data_checks,
    explorer,
    few_rows,
    first_screen,
    gains,
    labels,
    learning,
    matrix,
    methods,
    mistakes,
    pair_answer,
    predictions,
    quality,
    statistics,
    task_by_task,
    trade_off,
    trust,
    which_to_ship,
)
from kdlora.report.content.coverage import coverage
from kdlora.report.content.parts import Part, ReportData, ReportInputs, SectionPlan
from kdlora.report.document import Explorer, Figure, Finding, Report, Section, Source, Table


@plain_strings()
def build(frame: pd.DataFrame, inputs: ReportInputs) -> Report:
    """Everything that a report shows, from the tidy frame.

    Raises InputError for a frame that is no study, or whose task is scored by two metrics.
    """
    if frame.empty and "arm" in frame:
        nothing = "The study has no runs: there is nothing to report."
        return Report(inputs.title, "", (Section("answer", "The answer", (nothing,)),))
    data = ReportData(frame, inputs)
    made = []
    for plan in PLANS:
        inputs.on_section(plan.title)
        made.append(plan.make(data))
    inputs.on_section("drawing and writing")
    subtitle = " · ".join(filter(None, (_subtitle(data.study), inputs.part.rstrip("."))))
    return Report(inputs.title, subtitle, tuple(filter(None, made)))


def sections() -> int:
    """How often `build` tells `on_section`."""
    return len(PLANS) + 1


def _subtitle(study: StudyFrame) -> str:
    frame = tidy(study)
    pairs = [
        f"{teacher} to {student}"
        for teacher, student in dict.fromkeys(zip(frame["teacher"], frame["student"], strict=True))
        if pd.notna(teacher) and pd.notna(student) and teacher and student
    ]
    known = "seed" not in study.assumed
    seeds = [str(seed) for seed in seeds_of(frame) if known and seed != UNNUMBERED]
    parts = [w.join(names(frame, "task")), w.join(pairs)]
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {w.join(seeds)}")
    return " · ".join(part for part in parts if part)


def _tested(make: Callable[[Evidence], Any]) -> Callable[[ReportData], Any]:
    """Parts that are made of what was tested; there is nothing to test without scores."""
    return lambda d: make(d.stats) if d.stats else None


def _reference(d: ReportData) -> str:
    return d.stats.reference if d.stats else reference_arm(d.frame)


def _either(
    several: Callable[[ReportData], Any], one: Callable[[ReportData], Any]
) -> Callable[[ReportData], Any]:
    """A part of studies with several pairs, and the one that stands there with one pair."""
    return lambda d: several(d) if d.several else one(d)


def _nothing(d: ReportData) -> None:
    return None


def _gain_of_pair(d: ReportData) -> Finding | None:
    return answer.gain_of_pair(d.facts, d.stats) if d.stats else None


def _of_only_pair(d: ReportData) -> list[Finding]:
    """The first sentences about the only pair; what distillation adds is among them or tested."""
    try:
        tested = _gain_of_pair(d) is not None
    except Exception:  # the part that shows the test says why there is none
        tested = False
    described = () if tested else (gains.distillation,)
    return pair_answer.sentences(d.facts, (*pair_answer.FIRST, *described))


def _of_every_pair(d: ReportData) -> list[Finding]:
    """All sentences of each of several pairs; of the only one what the first screen leaves out."""
    wanted = pair_answer.ALL if d.several else pair_answer.MORE
    return pair_answer.sentences(d.facts, wanted)


def _crossed(make: Callable[[Any], Any]) -> Callable[[ReportData], Any]:
    """Parts of studies that cross several teachers with several students."""
    return lambda d: make(d.matrices) if d.matrices else None


def _chosen(make: Callable[[Any], Any]) -> Callable[[ReportData], Any]:
    """Parts of studies in which there is a model to choose."""
    return lambda d: make(d.choices.found) if d.choices.found else None


def _kept_models(make: Callable[[ReportData], Any]) -> Callable[[ReportData], Any]:
    """Parts about models that can be taken, where there are some."""
    return lambda d: make(d) if d.keeps_models else None


def _coverage(d: ReportData) -> Table:
    return d.once("coverage", lambda: coverage(d.frame))


def _explorer(d: ReportData) -> Explorer | None:
    return d.once("explorer", lambda: explorer.explorer(d.facts, d.stats))


def _trade_offs(d: ReportData) -> list[Figure]:
    return d.once("trade offs", lambda: trade_off.trade_offs(d.facts))


def _stills(d: ReportData) -> Figure | None:
    return explorer.stills(d.facts, _explorer(d), "trade_off" in [f.key for f in _trade_offs(d)])


PLANS = (
    SectionPlan("answer", "The answer", (
        Part("The headline numbers",
             _either(lambda d: answer.overall_tiles(d.facts, d.evidence),
                     lambda d: answer.pair_tiles(d.facts))),
        Part("The student to ship", _kept_models(lambda d: pair_answer.to_ship(d.facts))),
        Part("The first sentences",
             _either(lambda d: answer.headlines(d.facts, d.evidence),
                     _of_only_pair)),
        Part("Whether the student is worse than its teacher",
             _either(_nothing, lambda d: answer.against_teacher(d.facts, d.stats)
                     if d.stats else None)),
        Part("What was tested of distillation",
             _either(_nothing, _gain_of_pair)),
        Part("What is not known yet", lambda d: pair_answer.no_answer(d.facts)),
        Part("What few rows can tell", lambda d: few_rows.few_rows(d.frame)),
        Part("What to doubt", first_screen.care),
        Part("Score against cost", lambda d: explorer.score_against_cost(d.facts, _explorer(d)),
             ("first_cost",)),
        Part("Which model for which use", first_screen.table,
             ("recommended", "selection", "summary")),
        Part("What to do next", first_screen.commands),
    ), folded=False),
    SectionPlan("trust", "Can it be trusted?", (
        Part("Doubts about the data", lambda d: data_checks.doubts_about_data(d.looks)),
        Part("What to know first", lambda d: trust.trust(d.facts)),
        Part("What a reader must know before believing it", _tested(trust.doubts),
             ("doubts",)),
        Part("What is in the data", lambda d: data_checks.data_findings(d.looks),
             ("data_findings",)),
        Part("Health flags by name", lambda d: trust.flags_by_name(d.frame), ("flag_counts",)),
        Part("Health flags", lambda d: trust.flags(d.frame), ("flags",)),
        Part("Runs without a result", lambda d: trust.unfinished(d.frame), ("unfinished",)),
        Part("Runs by model and task", _coverage, ("coverage",)),
        Part("What is done", lambda d: trust.completion(_coverage(d), d.facts),
             ("completion",)),
        Part("Blocks that all trained models share", lambda d: trust.shared(d.facts),
             ("shared",)),
        Part("How each model was trained", lambda d: trust.settings(d.frame), ("settings",)),
        Part("Rows of each task", lambda d: trust.splits(d.frame), ("splits",)),
    )),
    SectionPlan("quality", "Quality", (
        Part("What each pair shows", _of_every_pair),
        Part("What the choice of the checkpoint did",
             _either(lambda d: first_screen.unless_first(d, answer.selection_table(d.evidence)),
                     _nothing), ("selection",)),
        Part("The models at a glance",
             lambda d: first_screen.unless_first(d, answer.summary(d.facts)), ("summary",)),
        Part("What each step gains or costs",
             _either(_nothing, lambda d: gains.effects(d.facts)), ("effects",)),
        Part("Average score of each pair and model", _tested(quality.averages_figure),
             ("averages",)),
        Part("Average scores with intervals", _tested(quality.averages_table), ("averages",)),
        Part("Scores by task and model", lambda d: quality.by_task(d.facts), ("by_task",)),
        Part("Score on the report split", lambda d: quality.quality(d.facts), ("quality",)),
    )),
    SectionPlan("matrix", "Teachers and students", (
        Part("How to read it", lambda d: matrix.INTRO if d.matrices else None),
        Part("Whose doing it is, in words", lambda d: matrix.findings(d.matrices)),
        Part("The matrix", _crossed(matrix.cells), ("matrix",)),
        Part("The matrix at a glance", _crossed(matrix.heat_maps), ("matrix",)),
        Part("Whose doing it is", _crossed(matrix.effects), ("matrix_effects",)),
        Part("Differences in the matrix", _crossed(matrix.contrasts), ("matrix_tests",)),
    )),
    SectionPlan("cost", "Efficiency", (
        Part("How few parameters are trained", lambda d: cost.trained_share(d.facts)),
        Part("What each model costs", lambda d: cost.efficiency(d.facts), ("efficiency",)),
        Part("What each model costs, drawn", lambda d: cost.costs_figure(d.facts), ("costs",)),
        Part("Costs of each pair and model", lambda d: cost.costs_table(d.facts), ("costs",)),
        Part("What models save", lambda d: cost.savings_figure(d.facts, _reference(d)),
             ("reductions",)),
        Part("What each model saves", lambda d: cost.savings_table(d.facts, _reference(d)),
             ("reductions",)),
        Part("Trained parameters by rank", lambda d: cost.by_rank(d.facts), ("by_rank",)),
        Part("What each model costs, task by task", lambda d: cost.efficiency_by_task(d.facts),
             ("efficiency_by_task",)),
        Part("How cost was measured", lambda d: methods.conditions(d.frame), ("protocol",)),
    ), "No run is done yet: nothing is known of what models cost."),
    SectionPlan("trade-off", "Trade-off", (
        Part("Explore the trade-off", _explorer, ("explorer",)),
        Part("Quality against size and latency", _trade_offs,
             ("trade_off", "quality_size", "quality_latency")),
        Part("Score against cost", _stills, ("score_costs",)),
        Part("Score and costs side by side", lambda d: trade_off.normalised(d.facts),
             ("normalised",)),
        Part("Score per million trained parameters", _tested(trade_off.per_parameter),
             ("per_parameter",)),
        Part("Score for what it costs", _tested(trade_off.per_cost), ("per_cost",)),
        Part("The cheapest that nothing beats", _either(_tested(answer.cheapest), _nothing)),
        Part("On the Pareto set of score and cost", _tested(trade_off.pareto), ("pareto",)),
    ), "No two models have both a score and a cost yet: there is nothing to weigh."),
    SectionPlan("recommend", "Which model to ship", (
        Part("How a model is chosen", lambda d: which_to_ship.intro(d.choices)),
        Part("Whether the teacher is the better choice",
             lambda d: which_to_ship.teacher_instead(d.choices)),
        Part("The choice of each profile", lambda d: which_to_ship.findings(d.choices)),
        Part("What to measure next", _chosen(which_to_ship.next_steps), ("next_steps",)),
        Part("Candidates", _chosen(which_to_ship.candidates), ("candidates",)),
    )),
    SectionPlan("statistics", "Statistics", (
        Part("The comparisons in words", _tested(statistics.tests)),
        Part("Paired differences", _tested(statistics.forest), ("forest",)),
        Part("Paired comparisons and their verdicts", _tested(statistics.comparisons),
             ("comparisons",)),
        Part("Ranks over tasks", _tested(statistics.critical_difference),
             ("critical_difference",)),
        Part("Average ranks", _tested(statistics.ranks), ("ranks",)),
    ), "No two models have a score yet: nothing can be tested."),
    SectionPlan("tasks", "Task by task", (
        Part("Models across tasks", lambda d: task_by_task.task_trends(d.facts), ("task_trends",)),
        Part("What each step gains or costs",
             _either(lambda d: gains.effects(d.facts), _nothing), ("effects",)),
        Part("What each step gains or costs, task by task",
             lambda d: gains.effects_by_task(d.facts), ("effects_by_task",)),
        Part("Learning curves", lambda d: learning.learning(d.frame, d.histories),
             ("learning",)),
        Part("Calibration", lambda d: predictions.reliability(d.frame, d.bins), ("reliability",)),
        Part("If unsure answers were withheld",
             lambda d: predictions.risk_coverage(d.frame, d.bins), ("risk_coverage",)),
        Part("Confusion matrices", lambda d: predictions.confusion(d.frame), ("confusion",)),
        Part("Agreement with the teacher, drawn", lambda d: predictions.agreement_figure(d.frame),
             ("agreement",)),
        Part("Agreement with the teacher", lambda d: predictions.agreement_table(d.frame),
             ("agreement",)),
        Part("Every metric on the report split", lambda d: task_by_task.metrics(d.frame),
             ("metrics",)),
        Part("Each label by itself", lambda d: labels.per_label(d.frame), ("per_label",)),
        Part("F1 of each class", lambda d: task_by_task.per_class(d.frame), ("per_class",)),
        Part("Precision and recall of each class",
             lambda d: task_by_task.precision_and_recall(d.frame), ("precision_and_recall",)),
    ), "No run is done yet: there is nothing to show of single tasks."),
    SectionPlan("mistakes", "Where it is wrong", (
        Part("The mistakes in words", lambda d: mistakes.findings(d.mistakes)),
        Part("Tasks whose students are left out", lambda d: mistakes.lacking(_left_out(d))),
        Part("The page of mistakes", lambda d: mistakes.page(d.mistakes)),
        Part("The most certain mistakes", lambda d: mistakes.mistakes(d.mistakes),
             ("mistakes",)),
        Part("Labels that may be wrong", lambda d: mistakes.label_errors(d.mistakes),
             ("label_errors",)),
        Part("Scores by slice", lambda d: mistakes.slices(d.mistakes), ("slices",)),
    ), "No student has stored its predictions: there is no mistake to show."),
    SectionPlan("methods", "Methods", (Part("How it was done", methods.methods),)),
    SectionPlan("provenance", "Provenance and rerun", (
        Part("To rerun", lambda d: Source("rerun", "To rerun", d.rerun, "sh")),
        Part("Where the runs happened", lambda d: methods.environment(d.frame),
             ("environment",)),
        Part("The study file", methods.study_file),
        Part("Every run", lambda d: methods.runs(d.frame), ("runs",)),
    )),
)  # fmt: skip


def _left_out(data: ReportData) -> dict[str, str]:
    """Why there are no mistakes of the tasks whose students are all left out of the choice."""
    lacking, rankings = lacking_mistakes(data.frame, data.mistakes), data.facts.rankings
    return {
        task: why
        for task, why in lacking.items()
        if task in rankings and rankings[task].left_out and rankings[task].first is None
    }


# Every file that a report may have, so that one of an earlier report is known as such.
FILES = tuple(dict.fromkeys(name for plan in PLANS for part in plan.parts for name in part.files))
