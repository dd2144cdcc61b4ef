"""Reasons to doubt a run: would a reviewer believe this score?

Every check looks at what really happened and says so in one sentence with the numbers. A flag of
severity `error` means that the score does not measure what it is said to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdlora.data.splits import SHORT_SELECTION
from kdlora.measure.agreement import impossible
from kdlora.measure.quality import better
from kdlora.records.record import Agreement, Flag, Quality, TrainingFacts
from kdlora.spec.run import Run, adapter_of
from kdlora.vocabulary.task import Task

MIN_LATER_SCORES = 2  # at a plateau a single later evaluation is lower by chance
MIN_LOSS_FALL = 0.01  # share of the first loss
_SHOWN = 5  # labels that are named

History = Sequence[Mapping[str, Any]]


def find_flags(
    *,
    task: Task,
    run: Run,
    facts: TrainingFacts,
    quality: Quality | None,
    agreement: Agreement | None,
    history: History,
    floor: float | None,
    prediction_counts: dict[str, int] | None,
) -> list[Flag]:
    """All flags of one run.

    `history` rows are {"step", "epoch", "train_loss" (mean since the last row), "lr",
    "selection": {metric: value}}; `floor` is `quality.floor_score` on the report split, and
    `prediction_counts` (class name -> rows) is `quality.count_predictions` on it.
    """
    flags = [
        *_about_scores(task, run, quality, floor, prediction_counts),
        *_about_training(facts, quality, history),
        *_about_curve(task, history),
        *_about_adapter(run, facts),
        *_about_teacher(task, agreement, floor),
    ]
    rows = quality.n.get("selection", 0) if quality is not None else 0
    if quality is not None and facts.steps and rows < SHORT_SELECTION:
        flags.append(
            _flag(
                "short_selection",
                "info",
                f"the checkpoint was chosen on {rows} rows, fewer than {SHORT_SELECTION}: "
                "the choice is noisy",
            )
        )
    if facts.out_of_memory_retries:
        flags.append(
            _flag(
                "memory_retry",
                "info",
                f"memory ran out {_times(facts.out_of_memory_retries)}; the micro-batch became "
                f"{facts.micro_batch_size} (the step still sees the whole batch)",
            )
        )
    return flags


def _about_scores(
    task: Task,
    run: Run,
    quality: Quality | None,
    floor: float | None,
    counts: dict[str, int] | None,
) -> Iterator[Flag]:
    if quality is None or run.adaptation == "majority":  # the majority baseline is the floor
        return
    rows = quality.n.get("report", 0)
    report = quality.splits["report"]
    if task.kind.several:
        yield from _about_labels(quality, rows)
    elif counts is not None:
        used = [name for name, count in counts.items() if count]
        total = sum(counts.values())
        if len(used) == 1 and total > 1:
            yield _flag(
                "constant_predictions",
                "error",
                f"all {total} predictions on the report split are '{used[0]}'",
            )
    elif (
        rows > 1 and report.get("rmse") is not None and report.get("pearson", math.nan) is None
    ):  # regression whose outputs are finite and yet correlate with nothing
        yield _flag(
            "constant_predictions",
            "error",
            f"the {rows} predictions on the report split are constant: no correlation exists",
        )
    if floor is not None and rows and not better(quality.score, floor, task.direction):
        yield _flag(
            "at_or_below_majority",
            "error",
            f"{task.primary} {_number(quality.score)} on the report split is no better than "
            f"{_number(floor)}, what a model that ignores the text reaches",
        )


def _about_labels(quality: Quality, rows: int) -> Iterator[Flag]:
    """Labels that the model never or always answers with, at a probability of one half."""
    found = quality.per_label
    never = [n for n, one in found.items() if one.positives and not one.answers]
    always = [n for n, one in found.items() if one.answers == rows > one.positives]
    same = {n for n, one in found.items() if one.answers in (0, rows)}
    if rows > 1 and len(same) == len(found) > 0:
        yield _flag(
            "constant_predictions",
            "warning",
            f"all {rows} rows of the report split are answered with the same labels "
            f"({', '.join(n for n, one in found.items() if one.answers) or 'none'}) at a "
            "probability of one half; thresholds of their own may tell them apart (calibrate)",
        )
        return
    for word, labels in (("never", never), ("always", always)):
        if labels:
            shown = ", ".join(f"'{n}' ({found[n].positives} rows have it)" for n in labels[:_SHOWN])
            more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
            yield _flag(
                f"label_{word}_predicted",
                "warning",
                f"on the {rows} rows of the report split {len(labels)} of {len(found)} labels "
                f"{'is' if len(labels) == 1 else 'are'} {word} answered with: {shown}{more}",
            )


def _about_training(
    facts: TrainingFacts, quality: Quality | None, history: History
) -> Iterator[Flag]:
    if 0 < facts.steps <= facts.warmup_steps:
        yield _flag(
            "stopped_in_warmup",
            "error",
            f"training ended at step {facts.steps} of {facts.planned_steps}, within the "
            f"{facts.warmup_steps} warm-up steps: the learning rate never reached its peak",
        )
    losses = [row["train_loss"] for row in history if row.get("train_loss") is not None]
    bad_losses = sum(not math.isfinite(loss) for loss in losses)
    causes = []
    if facts.nonfinite_steps:
        causes.append(f"{_times(facts.nonfinite_steps)} a step had a loss or gradient of NaN/Inf")
    elif facts.stopped == "nonfinite":
        causes.append(f"training stopped at step {facts.steps} on a loss of NaN/Inf")
    if bad_losses:
        causes.append(f"{bad_losses} of {len(losses)} recorded losses are NaN/Inf")
    if quality is not None:
        undefined = [
            name
            for name, scores in quality.splits.items()
            if quality.n.get(name) and scores and all(value is None for value in scores.values())
        ]
        if undefined:
            causes.append(f"outputs are NaN/Inf on {', '.join(undefined)}")
    if causes:
        yield _flag("nonfinite", "error", "; ".join(causes))


def _about_curve(task: Task, history: History) -> Iterator[Flag]:
    scores = [
        (row["step"], row["selection"].get(task.primary)) for row in history if row.get("selection")
    ]
    improved = any(better(score, scores[0][1], task.direction) for _, score in scores[1:])
    if len(scores) > MIN_LATER_SCORES and not improved:
        yield _flag(
            "never_improved",
            "warning",
            f"{task.primary} on the selection split was {_number(scores[0][1])} at the first "
            f"evaluation (step {scores[0][0]}) and no better in {len(scores) - 1} later ones",
        )
    losses = [
        float(row["train_loss"])
        for row in history
        if row.get("train_loss") is not None and math.isfinite(row["train_loss"])
    ]
    if len(losses) > 1:
        third = max(1, len(losses) // 3)
        first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
        if first - last < MIN_LOSS_FALL * abs(first):
            yield _flag(
                "loss_not_falling",
                "warning",
                f"the training loss went from {_number(first)} (first {third} of {len(losses)} "
                f"records) to {_number(last)} (last {third})",
            )


def _about_adapter(run: Run, facts: TrainingFacts) -> Iterator[Flag]:
    if adapter_of(run) is None:
        return
    if facts.adapter_norm == 0:
        yield _flag(
            "adapter_unchanged",
            "error",
            f"after {facts.steps} steps the adapter's update has norm 0: it learnt nothing",
        )
    frozen = [name for name in facts.new_modules if not _covered(name, facts.modules_to_save)]
    if frozen:
        yield _flag(
            "new_modules_frozen",
            "error",
            f"new, randomly initialised modules were neither trained nor saved: "
            f"{', '.join(frozen)} (trained: {', '.join(facts.modules_to_save) or 'none'})",
        )
    if run.adaptation == "adalora" and facts.steps and not facts.rank_pattern:
        yield _flag(
            "adalora_not_pruned",
            "error",
            f"AdaLoRA's rank allocator set no rank pattern in {facts.steps} steps: "
            "this is LoRA of the initial rank",
        )


def _about_teacher(task: Task, agreement: Agreement | None, floor: float | None) -> Iterator[Flag]:
    if agreement is None:
        return
    teacher = agreement.teacher_score
    if floor is not None and not better(teacher, floor, task.direction):
        yield _flag(
            "teacher_below_baseline",
            "error",
            f"the teacher's {task.primary} is {_number(teacher)}, no better than "
            f"{_number(floor)}, what a model that ignores the text reaches",
        )
    if impossible(agreement):
        yield _flag(
            "agreement_impossible",
            "error",
            f"agreement {_number(agreement.agreement)} lies outside "
            f"[{_number(agreement.lower_bound)}, {_number(agreement.upper_bound)}], what the two "
            "accuracies allow: the rows or label maps of student and teacher do not match",
        )


def _covered(module: str, saved: Sequence[str]) -> bool:
    """Whether a saved module is `module`, holds it or lies on its dotted path."""
    return any(f".{name}." in f".{module}." for name in saved)


def _flag(name: str, severity: str, detail: str) -> Flag:
    return Flag.model_validate({"name": name, "severity": severity, "detail": detail})


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
