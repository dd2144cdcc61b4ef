"""Which model to ship under constraints, how sure that is, and what would have to give.

Chosen on the selection split alone; the report split's score is shown beside it. Costs are taken as
known, scores are drawn again (`draw_candidates`): in each draw the constraints are applied and the
best is picked anew. The probability of a choice is the share of draws in which it keeps all limits
and is the best of those that do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.choice.candidates import (
    Candidates,
    ModelForm,
    draw_candidates,
    gather_candidates,
    run_scores,
)
from kdlora.choice.constraints import DEFAULT, PROFILES, Constraints, worst_scores
from kdlora.choice.formats import MEASURED, MeasuredForm
from kdlora.choice.next_steps import what_next
from kdlora.choice.recommendation import (
    BrokenLimit,
    Choices,
    EasedLimit,
    JudgedForm,
    LimitEffect,
    Recommendation,
)
from kdlora.errors import InputError
from kdlora.evidence.abstention import choose_cut
from kdlora.evidence.score_draws import ScoreDraws, quantiles, score_ends
from kdlora.evidence.students import bands
from kdlora.records.predictions import SplitOutputs
from kdlora.records.tidy import names
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import Metric, metric
from kdlora.vocabulary.task import CLASSIFICATION


def _costs(candidates: Sequence[ModelForm], constraints: Constraints) -> dict[str, np.ndarray]:
    latency = [c.latency_ms(constraints.latency).value for c in candidates]
    return {"latency": bands(latency), "size": bands([c.size_mb.value for c in candidates])}


def cost_ranks(candidates: Sequence[ModelForm], constraints: Constraints) -> np.ndarray:
    """What comes before the score [candidates]: the rank of the preferred cost; 0 for the score."""
    if constraints.prefer == "score":
        return np.zeros(len(candidates), int)
    return _costs(candidates, constraints)[constraints.prefer]


def tie_order(candidates: Sequence[ModelForm], constraints: Constraints) -> np.ndarray:
    """What decides between equal scores [candidates]: latency, size, what was measured, and then
    the reading order of the arms, as between students."""
    costs = _costs(candidates, constraints)
    keys = [
        (
            costs["latency"][i], costs["size"][i], c.latency_p95_ms.basis != MEASURED,
            Arm.read(c.arm).sort_key(), i,
        )
        for i, c in enumerate(candidates)
    ]  # fmt: skip
    order = np.empty(len(keys), int)
    order[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return order


def pick(scores: np.ndarray, fits: np.ndarray, levels: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """The best candidate of each draw [draws], -1 where none fits.

    scores [draws, candidates], more being better; fits of the same shape; `levels` before scores,
    `ties` after them (both [candidates], less is better).
    """
    size = 1.0 + 2 * np.abs(scores).max()
    smallest = 1e-9 * size / (len(ties) + 1)
    keys = scores - size * levels[None] - smallest * ties[None]
    keys = np.where(fits, keys, -np.inf)
    return np.where(fits.any(1), keys.argmax(1), -1)


def by_score(candidates: Sequence[ModelForm], direction: int) -> list[ModelForm]:
    """The best score first, whatever the limits; of equal ones the cheaper, failed gates last."""
    ties = tie_order(candidates, Constraints())
    keys = [(-direction * c.score, c.gate == "failed", ties[i]) for i, c in enumerate(candidates)]
    return [candidates[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]


CLEAR, LIKELY = 0.95, 0.8  # probabilities from which a choice is called so
RUNNERS_UP = 3
DRAWS, SEED = 2_000, 0  # of the bootstrap: a report and `kdlora recommend` say the same


def recommend_profiles(
    frame: pd.DataFrame, outputs: Mapping[str, SplitOutputs], exports: Sequence[MeasuredForm]
) -> Choices:
    """Every profile on every task that has a trained student.

    `outputs` are those of the selection split by run id.
    """
    asked = [(name, profile.constraints) for name, profile in PROFILES.items()]
    found, lacking = [], {}
    for task in names(frame, "task"):
        done = frame[(frame["task"] == task) & (frame["status"] == "done")]
        if not (done["role"] == "student").any():
            lacking[task] = f"no student is trained yet on '{task}'"
            continue
        try:
            pool = gather_candidates(frame, task, exports=exports)
        except InputError as error:
            lacking[task] = str(error)
            continue
        found += recommend_each(pool, frame, outputs, asked)
    return Choices(tuple(found), lacking)


def recommend_each(
    pool: Candidates,
    frame: pd.DataFrame,
    outputs: Mapping[str, SplitOutputs],
    asked: Sequence[tuple[str | None, Constraints]],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> list[Recommendation]:
    """One recommendation for each of `asked` (a profile's name and constraints), of one drawing."""
    drawn = draw_candidates(pool, frame, outputs, rng=np.random.default_rng(seed), draws=draws)
    scores = run_scores(frame)
    return [
        recommend(
            pool, constraints, drawn, run_scores=scores, profile=profile,
            coverages=coverages_of(pool.candidates, constraints, outputs),
        )
        for profile, constraints in asked
    ]  # fmt: skip


def coverages_of(
    candidates: Sequence[ModelForm],
    constraints: Constraints,
    outputs: Mapping[str, SplitOutputs],
) -> tuple[float | None, ...]:
    """The share of selection rows that each candidate answers at the accuracy asked for.

    It is that of the run that ships, as `kdlora calibrate --abstain` chooses it. None
    without predictions; () where nobody asks. Raises InputError where a text has no one answer
    with a probability.
    """
    if constraints.min_coverage is None:
        return ()
    kind = next((outputs[c.ship].kind for c in candidates if c.ship in outputs), CLASSIFICATION)
    if kind is not CLASSIFICATION:
        what = "answers are numbers" if kind.numeric else "a text may have several labels"
        raise InputError(
            f"min_coverage is the share of texts whose one answer is sure enough to be given, but "
            f"here {what}: leave it out"
        )
    known = {
        run: _coverage(outputs[run], constraints.accuracy) if run in outputs else None
        for run in dict.fromkeys(candidate.ship for candidate in candidates)
    }
    return tuple(known[candidate.ship] for candidate in candidates)


def _coverage(own: SplitOutputs, accuracy: float) -> float:
    shares = own.kind.probabilities(own.outputs)
    assert shares is not None
    cut = choose_cut(shares.max(axis=1), own.kind.right(own.outputs, own.labels), aim=accuracy)
    return 0.0 if cut is None else cut.coverage


def recommend(
    pool: Candidates,
    constraints: Constraints,
    drawn: ScoreDraws,
    *,
    run_scores: Mapping[str, float],
    profile: str | None = None,
    coverages: Sequence[float | None] = (),
) -> Recommendation:
    """Choose among the candidates of a task; `drawn` is what `draw_candidates` gave for it.

    `coverages` are those of `coverages_of`, where the constraints ask for one.
    """
    candidates = pool.candidates
    scored_by = metric(pool.metric).directed(pool.direction)
    scale = scored_by.upward
    k = len(candidates)
    u = scale * drawn.scores[:k]
    top = float(scale * drawn.scores[k]) if pool.reference is not None else float(u.max())
    values = tops = None
    if drawn.draws is not None:
        everything = scale * drawn.draws
        values = everything[:, :k]
        tops = everything[:, k] if pool.reference is not None else values.max(1)
    answered = dict(zip(candidates, coverages, strict=True)) if coverages else {}
    static = [_static_broken(c, constraints, answered.get(c)) for c in candidates]
    broken = [
        (*found, *_score_broken(own, top, constraints, scored_by))
        for own, found in zip(u, static, strict=True)
    ]
    fits = np.array([not b for b in broken])
    levels, ties = cost_ranks(candidates, constraints), tie_order(candidates, constraints)
    best = pick(u[None], fits[None], levels, ties)[0]
    if constraints == DEFAULT and pool.default is not None:
        best = pool.default  # chosen once, for the report and for what is saved too
    meets = p_best = None
    if values is not None and tops is not None:
        keeps = np.array([not found for found in static])[None] & _keeps_score(
            values, tops, constraints, scored_by
        )
        picked = pick(values, keeps, levels, ties)
        meets = keeps.mean(0)
        p_best = np.bincount(picked[picked >= 0], minlength=k) / len(values)
    drawn_scores = _Drawn(scored_by, u, top, values, tops, meets, p_best, drawn.over)
    judged = [
        _judged(i, candidate, broken[i], best, drawn_scores)
        for i, candidate in enumerate(candidates)
    ]
    choice = judged[best] if best >= 0 else None
    order = _ordered(judged, levels, ties, u, best)
    runners_up = _runners_up(order, choice)
    alike = [one for one, level in zip(judged, levels, strict=True) if level == levels[best]]
    result = Recommendation(
        task=pool.task,
        metric=pool.metric,
        direction=pool.direction,
        profile=profile,
        constraints=constraints,
        reference=pool.reference,
        length=pool.length,
        choice=choice,
        runners_up=runners_up,
        nearest=() if choice else _nearest(judged),
        exclusions=_exclusions(judged, constraints),
        eased=() if choice else _eased_limits(judged, constraints),
        probability=choice.p_best if choice else None,
        certainty=_certainty(choice),
        next_steps=(),
        notes=(*pool.notes, *_notes(pool, drawn)),
        n_candidates=k,
        n_fitting=int(fits.sum()),
        n_examples=drawn.n_examples,
        draws=0 if values is None else len(values),
        considered=tuple(order),
        baseline=pool.baseline,
        not_told_apart=tuple(
            one for one in runners_up if one.may_be_as_good and any(one is x for x in alike)
        ),
    )
    if pool.baseline is not None and not result.beats_baseline:
        told = (
            f"{pool.baseline.arm} scores {scored_by.shown(pool.baseline.score):g} on the "
            f"selection split of {pool.task}, the model named here no more: none is worth shipping "
            "yet"
        )
        result = replace(result, notes=(told, *result.notes))
    if constraints.licence:
        data = ", ".join(dict.fromkeys(c.data_licence for c in candidates))
        told = (
            f"the licence asked for is that of the encoder whose weights ship; the data's ({data}) "
            "and the teacher's are not judged"
        )
        result = replace(result, notes=(*result.notes, told))
    steps = what_next(result, run_scores, can_export=pool.can_export)
    return replace(result, next_steps=steps)


def _static_broken(
    candidate: ModelForm, constraints: Constraints, coverage: float | None
) -> tuple[BrokenLimit, ...]:
    """Limits that no draw of scores can change."""
    found = []
    least = constraints.min_coverage
    if least is not None and (coverage is None or coverage < least):
        excess = 1.0 if coverage is None else 1 - coverage / least
        found.append(BrokenLimit("min_coverage", least, coverage, excess))
    latency = candidate.latency_ms(constraints.latency).value
    for name, limit, value in (
        ("max_size_mb", constraints.max_size_mb, candidate.size_mb.value),
        ("max_latency_ms", constraints.max_latency_ms, latency),
    ):
        if limit is not None and (value is None or value > limit):
            excess = 1.0 if value is None else value / limit - 1
            found.append(BrokenLimit(name, limit, value, excess))
    if constraints.runtime not in ("any", candidate.runtime):
        found.append(BrokenLimit("runtime", constraints.runtime, candidate.runtime, 1.0))
    if constraints.role not in ("any", candidate.role):
        found.append(BrokenLimit("role", constraints.role, candidate.role, 1.0))
    if candidate.quantization not in constraints.quantize:
        allowed = ", ".join(constraints.quantize)
        found.append(BrokenLimit("quantize", allowed, candidate.quantization, 1.0))
    if constraints.licence and candidate.licence not in constraints.licence:
        allowed = ", ".join(constraints.licence)
        found.append(BrokenLimit("licence", allowed, candidate.licence, 1.0))
    if candidate.gate == "failed":
        found.append(BrokenLimit("accuracy gate", "passed", "failed", 1.0))
    return tuple(found)


def _score_broken(
    u: float, top: float, constraints: Constraints, scored_by: Metric
) -> list[BrokenLimit]:
    scale = scored_by.upward
    said = {"min_score": u / scale, "max_drop": float(scored_by.drop(u / scale, top / scale))}
    found = []
    for name, worst in worst_scores(constraints, scored_by, top / scale).items():
        floor = scale * float(worst)
        if u < floor - 1e-9:
            excess = (floor - u) / max(abs(floor), 1e-9)
            found.append(BrokenLimit(name, getattr(constraints, name), said[name], excess))
    return found


def _keeps_score(
    values: np.ndarray, tops: np.ndarray, constraints: Constraints, scored_by: Metric
) -> np.ndarray:
    """Whether each candidate keeps the limits of the score [draws, candidates]."""
    scale = scored_by.upward
    keeps = np.ones(values.shape, bool)
    for worst in worst_scores(constraints, scored_by, tops[:, None] / scale).values():
        keeps &= values >= scale * worst - 1e-9
    return keeps


@dataclass(frozen=True)
class _Drawn:
    """The scores of k candidates as measured and as drawn again, more being better.

    In points, or in the unit of a metric that is not shown so.

    u [k] and top (the reference); values [draws, k] and tops [draws], or None without draws; meets
    and p_best [k]: the share of draws in which a candidate keeps all limits, and is the choice.
    """

    scored_by: Metric
    u: np.ndarray
    top: float
    values: np.ndarray | None
    tops: np.ndarray | None
    meets: np.ndarray | None
    p_best: np.ndarray | None
    over: Callable[..., str]  # the places of candidates -> what varies in an interval of them


def _judged(
    i: int, candidate: ModelForm, broken: tuple[BrokenLimit, ...], best: int, drawn: _Drawn
) -> JudgedForm:
    """The candidate at place `i` against the one at place `best`, -1 where nothing fits."""
    values, tops, scored_by = drawn.values, drawn.tops, drawn.scored_by
    scale = scored_by.upward
    ends = score_ends(None if values is None else values[:, i] / scale, scored_by.name)
    drop = float(scored_by.drop(drawn.u[i] / scale, drawn.top / scale))
    drops = None
    if values is not None and tops is not None:
        drops = scored_by.drop(values[:, i] / scale, tops / scale)
    difference = None if best < 0 else float(drawn.u[i] - drawn.u[best])
    differences = quantiles(None if values is None or best < 0 else values[:, i] - values[:, best])
    return JudgedForm(
        candidate, broken, *ends, drop, *quantiles(drops),
        None if drawn.meets is None else float(drawn.meets[i]),
        None if drawn.p_best is None else float(drawn.p_best[i]), difference, *differences,
        drawn.over(i), drawn.over(i, best) if best >= 0 else "",
    )  # fmt: skip


def _ordered(
    judged: list[JudgedForm], levels: np.ndarray, ties: np.ndarray, u: np.ndarray, best: int
) -> list[JudgedForm]:
    """The choice, then the others that fit, best first."""
    keys = [(i != best, len(j.broken), levels[i], -u[i], ties[i]) for i, j in enumerate(judged)]
    return [judged[i] for i in sorted(range(len(judged)), key=keys.__getitem__)]


def _runners_up(order: list[JudgedForm], choice: JudgedForm | None) -> tuple[JudgedForm, ...]:
    """The best form of every other model that fits."""
    seen = {choice.candidate.model} if choice else set()
    found = []
    for one in order:
        if one.fits and one.candidate.model not in seen:
            seen.add(one.candidate.model)
            found.append(one)
    return tuple(found[:RUNNERS_UP])


def _nearest(judged: list[JudgedForm]) -> tuple[JudgedForm, ...]:
    """Those that break fewest limits, and those least."""
    order = sorted(judged, key=lambda j: (len(j.broken), max(b.excess for b in j.broken)))
    return tuple(order[:RUNNERS_UP])


def _exclusions(judged: list[JudgedForm], constraints: Constraints) -> tuple[LimitEffect, ...]:
    found = []
    limits = _limits(constraints)
    if any(b.constraint == "accuracy gate" for j in judged for b in j.broken):
        limits["accuracy gate"] = "passed"
    for name, limit in limits.items():
        out = [j for j in judged if any(b.constraint == name for b in j.broken)]
        without = sum(all(b.constraint == name for b in j.broken) for j in judged)
        found.append(LimitEffect(name, limit, tuple(j.candidate.title for j in out), without))
    return tuple(found)


def _limits(constraints: Constraints) -> dict[str, float | str]:
    return {
        name: ", ".join(limit) if isinstance(limit, tuple) else limit
        for name, limit in constraints.limits().items()
    }


def _eased_limits(judged: list[JudgedForm], constraints: Constraints) -> tuple[EasedLimit, ...]:
    found = []
    for name, limit in _limits(constraints).items():
        only = [j for j in judged if {b.constraint for b in j.broken} == {name}]
        only = [j for j in only if j.broken[0].value is not None]
        if not only:
            found.append(EasedLimit(name, limit, None, None))
            continue
        nearest = min(only, key=lambda j: j.broken[0].excess)
        found.append(EasedLimit(name, limit, nearest.broken[0].value, nearest.candidate.title))
    return tuple(found)


def _certainty(choice: JudgedForm | None) -> str:
    if choice is None:
        return "nothing fits"
    if choice.p_best is None:
        return "unknown"
    if choice.p_best >= CLEAR:
        return "clear"
    return "likely" if choice.p_best >= LIKELY else "undecided"


def _notes(pool: Candidates, drawn: ScoreDraws) -> list[str]:
    notes = []
    if pool.reference is None:
        notes.append(
            "what taught has no sound score here: drops are counted from the best candidate"
        )
    if drawn.draws is None:
        notes.append(
            "no predictions on the selection split and one seed: how sure the choice is cannot be "
            "told"
        )
    elif drawn.n_examples == 0:
        notes.append(
            "some runs stored no predictions on the selection split: only the seeds vary in the "
            "probability"
        )
    if max(drawn.n_seeds) == 1:
        notes.append(
            "one seed each: the probability speaks of these trained models, not of methods"
        )
    estimated = [c for c in pool.candidates if c.estimated]
    if estimated:
        notes.append(
            f"{len(estimated)} of {len(pool.candidates)} candidates have an estimated size or "
            "latency; each number says where it comes from"
        )
    return notes
