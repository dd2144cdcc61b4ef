"""The sentences about one pair of encoders: what a student keeps, and at which cost.

None claims a significant difference, or an equality: nothing is tested here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from kdlora.evidence.coverage import flagged_runs
from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import Outcome, Spread, WithoutFlags, outcome_metric
from kdlora.evidence.teacher import teacher_arm, why_untaught
from kdlora.records.tidy import metric_of, names
from kdlora.report import words as w
from kdlora.report.content.cells import ABOVE
from kdlora.report.content.gains import (
    adapter,
    distillation,
    gain_text,
    smaller_encoder,
)
from kdlora.report.document import Finding
from kdlora.vocabulary.arm import EMBEDDINGS, MAJORITY, TFIDF, Arm, uncontrolled
from kdlora.vocabulary.metric import metric

Sentence = Callable[[Facts, str], Finding | None]


def sentences(facts: Facts, wanted: Sequence[Sentence]) -> list[Finding]:
    """What a reader in a hurry wants to know, pair by pair."""
    pairs = names(facts.frame, "pair")
    return [
        Finding(
            f"{pair}: {found.topic}" if len(pairs) > 1 else found.topic, found.text, found.tables
        )
        for pair in pairs
        for make in wanted
        if (found := make(facts, pair))
    ]


def _averaged_over(frame: pd.DataFrame, tasks: Sequence[str]) -> str:
    """What a mean over these tasks is a mean of."""
    if len(tasks) == 1:
        metric, direction = metric_of(frame, tasks[0])
        lower = "" if direction > 0 else ", lower is better"
        return f"{w.metric_name(metric)} on {tasks[0]}{lower}"
    return f"average over {w.join(tasks)}"


def to_ship(facts: Facts) -> Finding | None:
    """The student that is saved and recommended; none where the first sentence says so."""
    pairs, chosen, unsound = names(facts.frame, "pair"), [], []
    alone = len(pairs) == 1 and len(facts.rankings) == 1
    for task, ranking in facts.rankings.items():
        where = f" on {task}" if len(facts.rankings) > 1 else ""
        if ranking.first is None:
            unsound += [f"{w.join([w.phrase(a) for a in ranking.left_out])}{where}"] * bool(
                ranking.left_out
            )
            continue
        if alone and teacher_share(facts, pairs[0]) is not None:
            return None
        scale = w.scale_of(metric_of(facts.frame, task)[0])
        of = f" of {ranking.first.pairs[0]}" if len(pairs) > 1 else ""
        score = f"{scale.sentence(ranking.first.score)} on the {ranking.split} split"
        chosen.append(f"{w.phrase(ranking.first.arm)}{of}{where} ({score})")
    text = f"First of the students: {'; '.join(chosen)}." if chosen else ""
    if unsound:
        text += " No student can be chosen where every run carries an error flag: "
        text += f"{'; '.join(unsound)}."
    return Finding("The student to ship", text.strip(), ("runs",)) if text else None


def _is_first(facts: Facts, pair: str, arm: str) -> bool:
    """Whether no student ranks before it that lacks a score in the blocks compared."""
    if len(facts.rankings) > 1:
        return True
    (ranking,) = facts.rankings.values()
    found = ranking.of_pair(pair)
    return bool(found) and found[0].arm == arm


def _unsound(facts: Facts, pair: str) -> list[str]:
    """Students of a pair of which runs are left out of the choice."""
    left_out = {arm for ranking in facts.rankings.values() for arm in ranking.left_out}
    return [w.phrase(arm) for arm in names(facts.frame, "arm", pair=pair) if arm in left_out]


def teacher_share(facts: Facts, pair: str) -> Finding | None:
    """How much of the teacher's score the first student keeps, at which size and latency."""
    frame = facts.frame
    teacher = {o.arm: o for o in facts.outcomes.get(pair, [])}.get(teacher_arm(frame, pair) or "")
    students, split = facts.students.get(pair, ([], ""))
    first = students[0] if students and _is_first(facts, pair, students[0].arm) else None
    for one in facts.apart.get(pair, ()):  # few runs, and yet the one to ship
        if first is None and len(facts.rankings) == 1 and _is_first(facts, pair, one.own.arm):
            first, teacher = one.own, one.teacher
    if first is None or teacher is None:
        return None
    metric, direction = outcome_metric(frame)
    scale = w.scale_of(metric)
    scores = f"{scale.write(first.score.mean)} against {scale.sentence(teacher.score.mean)}"
    where = f"{_averaged_over(frame, first.tasks)}; {w.plural(first.score.n, 'run')}"
    name = w.sentence_case(w.phrase(first.arm))
    if first.retained is None:
        text = f"{name} scores {scores} of the teacher ({where})."
        floor = {o.arm: o for o in facts.outcomes.get(pair, [])}.get(str(MAJORITY))
        told_in_points = direction > 0 and scale.unit == w.POINTS
        if floor is not None and teacher.score.mean > 0 and told_in_points:
            text += (
                " No share of the teacher's score is told: it is not clearly above the majority "
                f"baseline ({scale.sentence(floor.score.mean)})."
            )
    else:
        share = w.fixed(100 * first.retained, 1)
        text = f"{name} keeps {share} % of the teacher's score"
        if scope := w.share_scope(first.share_tasks, len(first.tasks)):
            text += f"{scope}, those on which the teacher is {ABOVE}. It scores"
        else:
            text += ":"
        text += f" {scores} ({where})."
        if first.above_floor is not None:
            above = w.fixed(100 * first.above_floor, 1)
            text += f" Of what the teacher gains over the majority baseline it keeps {above} %."
    if why := why_untaught(frame[frame["pair"] == pair]):
        text += f" {w.sentence_case(why)}; it is compared with {w.phrase(teacher.arm)}."
    text += _cost_sentence(first, teacher)
    if first.without_flags is not None:
        text += _flags_sentence(first.without_flags, scale, len(first.tasks))
    if unsound := _unsound(facts, pair):
        text += f" Left out of the choice: runs with an error flag of {w.join(unsound)}."
    if len(students) > 1 and split == "selection":
        text += " It is named because it ranks first among the students on the selection split."
    elif len(students) > 1:
        text += " It is named for this very score, which flatters it: no selection score is known."
    return Finding("The student", text, ("summary",))


def _flags_sentence(sound: WithoutFlags, scale: w.Scale, tasks: int) -> str:
    if sound.score is None or sound.teacher is None:
        return " Every seed behind these numbers has a run that carries a health flag."
    text = f" Without runs that carry a health flag: {scale.write(sound.score)} against "
    text += scale.sentence(sound.teacher)
    if sound.retained is not None:
        scope = w.share_scope(sound.share_tasks, tasks)
        told = f"; the share{scope} is" if scope else ", which is"
        text += f"{told} {w.fixed(100 * sound.retained, 1)} %"
    return f"{text} ({w.plural(sound.blocks, 'task and seed', 'tasks and seeds')})."


def _cost_sentence(first: Outcome, teacher: Outcome) -> str:
    size, its_size = (w.number(o.costs["size_mb"]) for o in (first, teacher))
    latency, speed = (w.number(first.costs[c]) for c in ("latency_p50_ms", "speedup_latency"))
    parts = []
    if size.value is not None and its_size.value is not None:
        parts.append(f"takes {size.text} MB against {its_size.text} MB")
    if latency.value is not None:
        beside = f", {speed.text} times as fast as the teacher's encoder timed beside it"
        parts.append(f"answers in {latency.text} ms{beside if speed.value is not None else ''}")
    return f" It {w.join(parts)}." if parts else ""


def runner_up(facts: Facts, pair: str) -> Finding | None:
    """The student that comes next, and by how much."""
    students, split = facts.students.get(pair, ([], ""))
    if len(students) < 2:
        return None
    first, second = students[:2]
    scale = w.scale_of(outcome_metric(facts.frame)[0])
    score = scale.sentence(second.score.mean)
    text = f"Next on the {split} split comes {w.phrase(second.arm)} at {score}"
    for gain in facts.overall(pair):
        if (gain.comparison.arm, gain.comparison.base) == (first.arm, second.arm):
            text += f"; the first minus it is {gain_text(gain)}"
        elif (gain.comparison.arm, gain.comparison.base) == (second.arm, first.arm):
            text += f"; it minus the first is {gain_text(gain)}"
    return Finding("Runner-up", f"{text}.", ("summary", "effects"))


def no_control(facts: Facts, pair: str) -> Finding | None:
    """Distilled students whose gain cannot be told, for want of the same without distillation."""
    arms = names(facts.frame, "arm", pair=pair)
    distilled = [arm for arm in arms if Arm.read(arm).is_distilled]
    alone = [w.phrase(arm) for arm in uncontrolled(arms)]
    if not alone:
        return None
    whom = "any distilled student" if len(alone) == len(distilled) else w.join(alone)
    text = (
        f"There is no control without distillation for {whom}: what distillation adds cannot be "
        "told from what the smaller encoder and the adapter cost."
    )
    return Finding("No control", text, ("coverage",))


# how each is called, and what goes with the name
_LINEAR = {
    TFIDF: ("TF-IDF with a linear model", "is", "it scores"),
    EMBEDDINGS: ("the student's untrained embeddings", "are", "they score"),
}


def linear_baseline(facts: Facts, pair: str) -> Finding | None:
    """Encoders whose mean is not above a linear baseline, task by task; or that none is.

    On the report split, as scores are shown.
    """
    parts = [part for base in _LINEAR if (part := _against(facts, pair, base))]
    return Finding("Against a linear baseline", " ".join(parts), ("quality",)) if parts else None


def _against(facts: Facts, pair: str, baseline: Arm) -> str | None:
    (what, are, score), beaten, compared = _LINEAR[baseline], [], []
    for task in names(facts.frame, "task"):
        base = facts.spreads.get((pair, task, str(baseline)))
        own = {
            arm: found
            for (p, t, arm), found in facts.spreads.items()
            if (p, t) == (pair, task) and not Arm.read(arm).is_baseline
        }
        if base is None or not own:
            continue
        compared.append(task)
        name, direction = metric_of(facts.frame, task)
        scale, scored_by = w.scale_of(name), metric(name).directed(direction)
        below = [
            f"{w.phrase(arm)} ({scale.write(found.mean)}{_sound_mean(found, scale)})"
            for arm, found in own.items()
            if not scored_by.is_above(found.mean, base.mean)
        ]
        if below:
            beaten.append(f"{w.join(below)} on {task}, where {score} {scale.write(base.mean)}")
    if not compared:
        return None
    if not beaten:
        on = w.join(compared)
        return f"On the report split every encoder's mean is above {what} on {on}."
    return f"On the report split {what} {are} not beaten by {'; '.join(beaten)}."


def _sound_mean(found: Spread, scale: w.Scale) -> str:
    """The mean of the runs without a health flag behind one that has some."""
    if not found.flagged:
        return ""
    if found.unflagged is None:
        return ", every run flagged"
    return f", {scale.write(found.unflagged)} without flagged runs"


def no_answer(facts: Facts) -> Finding | None:
    """Said where models cannot be compared yet."""
    if facts.outcomes:
        return None
    text = "No task and seed has a score of every trained model yet"
    text += (
        "; each is compared with the teacher where both have one."
        if facts.apart
        else ", so nothing is compared."
    )
    return Finding("Not yet", text, ("coverage",))


def doubtful(facts: Facts) -> Finding | None:
    """How many of the scored runs behind the numbers carry a flag."""
    n = flagged_runs(facts.frame[facts.frame["score"].notna()])
    if not n:
        return None
    runs = w.plural(n, "run that carries", "runs that carry")
    text = f"The numbers above include {runs} a health flag, marked {w.DAGGER} in the tables."
    return Finding("Read with care", text, ("flag_counts", "flags"))


# What is said of each pair, in this order: first what decides, then the rest.
FIRST: tuple[Sentence, ...] = (teacher_share, no_control, linear_baseline)
MORE: tuple[Sentence, ...] = (runner_up, smaller_encoder, adapter)
ALL: tuple[Sentence, ...] = (*FIRST, distillation, *MORE)
